"""Rotary embeddings, squeeze-and-excite, resize chains and shapes that are computed."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the corpus is made.

from __future__ import annotations

import torch
from tests.compiler.corpus.sources.snippet import DYNAMO, IMAGE, TOKENS, TORCHSCRIPT, Snippet
from tests.compiler.corpus.sources.snippet import Tensor as Input
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, SIZE = 2, 8


def rotate_half(x: Tensor) -> Tensor:
    low, high = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-high, low), dim=-1)


class Rotary(nn.Module):
    """Su et al. 2021: pairs half a head apart (Llama), chunked (GPT-NeoX) or neighbours (GPT-J)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("rate", 100.0 ** (-torch.arange(0, SIZE, 2).float() / SIZE), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = x.view(batch, tokens, HEADS, SIZE).transpose(1, 2)
        angle = torch.outer(torch.arange(tokens, dtype=torch.float32), self.rate)
        if self.kind == "half":
            angle = torch.cat((angle, angle), dim=-1)
            q = q * angle.cos() + rotate_half(q) * angle.sin()
        elif self.kind == "chunk":
            low, high = q.chunk(2, dim=-1)
            cos, sin = angle.cos(), angle.sin()
            q = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
        else:
            even, odd = q[..., ::2], q[..., 1::2]
            cos, sin = angle.cos(), angle.sin()
            q = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
        return q.transpose(1, 2).reshape(batch, tokens, HEADS * SIZE)


class Placed(nn.Module):
    """Rotary embedding at given positions, the angles as a product of matrices (Llama in transformers)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", 100.0 ** (-torch.arange(0, SIZE, 2).float() / SIZE), persistent=False)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = x.view(batch, tokens, HEADS, SIZE).transpose(1, 2)
        rate = self.rate[None, :, None].expand(batch, -1, 1)
        angle = (rate @ ids[:, None, :].float()).transpose(1, 2)
        angle = torch.cat((angle, angle), dim=-1).unsqueeze(1)
        q = q * angle.cos() + rotate_half(q) * angle.sin()
        return q.transpose(1, 2).reshape(batch, tokens, HEADS * SIZE)


class SqueezeExcite(nn.Module):
    """Hu et al. 2018: a convolution whose channels are weighed by what all pixels say."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(8, 8, 3, padding=1)
        layer = nn.Linear if kind == "flatten" else lambda a, b: nn.Conv2d(a, b, 1)
        self.down, self.up = layer(8, 4), layer(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.kind == "flatten":
            y = F.adaptive_avg_pool2d(x, 1).view(x.shape[0], -1)
            y = torch.sigmoid(self.up(F.relu(self.down(y))))
            return x * y.view(*y.shape, 1, 1)
        if self.kind == "hard":
            return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Upsample(nn.Module):
    """A convolution, resized, joined with what a skip connection brings, convolved again."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.first, self.second = mode, nn.Conv2d(8, 6, 1), nn.Conv2d(9, 4, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        if self.mode == "nearest":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.mode == "bilinear":
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
        else:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.second(torch.cat([x, skip], 1))


class Crossed(nn.Module):
    """Channels cut in two and joined again, then padded by an operator of its own before a convolution."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.first, self.second = mode, nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([x[:, :4], x[:, 4:]], 1)
        return self.second(F.pad(x, (1, 2, 0, 1), self.mode))


class PixelShuffle(nn.Module):
    """Shi et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(F.pixel_shuffle(self.conv(x), 2), 0.0, 1.0)


class ChannelShuffle(nn.Module):
    """ShuffleNet (Zhang et al. 2018): groups are mixed by a transpose between two reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.second(x.view(batch, -1, height, width))


class Shapes(nn.Module):
    """Reshapes whose targets the graph computes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(8 * 30 if kind in ("view", "flatten") else 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        match self.kind:
            case "view":
                return self.linear(x.view(x.size(0), -1))
            case "flatten":
                return self.linear(torch.flatten(F.relu(x), 1))
            case "tokens":  # [N, C, H, W] as a sequence of pixels and back
                y = self.linear(x.flatten(2).transpose(1, 2))
                return y.transpose(1, 2).reshape(batch, 10, height, width)
            case "expand":  # each pixel with its coordinates
                rows = torch.arange(height, dtype=x.dtype).view(1, 1, height, 1).expand(batch, 1, height, width)
                columns = torch.arange(width, dtype=x.dtype).view(1, 1, 1, width).expand(batch, 1, height, width)
                return torch.cat([x, rows / height, columns / width], 1)
            case _:  # halves by a computed slice, joined the other way round
                half = channels // 2
                return torch.cat([x[:, half:] * 2.0, x[:, :half]], 1).reshape(batch * 2, -1, height * width)


class Pooled(nn.Module):
    """The mean of valid tokens, at length one (Sentence-BERT)."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        valid = mask.unsqueeze(-1).expand(x.shape).to(x.dtype)
        mean = torch.sum(x * valid, 1) / torch.clamp(valid.sum(1), min=1e-9)
        return F.normalize(mean, p=2.0, dim=1)


class Embedded(nn.Module):
    """Words and positions, positions counted in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.norm = nn.Embedding(20, 16), nn.Embedding(32, 16), nn.LayerNorm(16)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1]).unsqueeze(0).expand_as(ids)
        return self.norm(self.words(ids) + self.positions(places))


ANY_IMAGE = Input("x", ("batch", 8, "height", "width"))
SKIP = Input("skip", ("batch", 3, 12, 10))
LATEST = ("torchscript-13", "torchscript-17", *DYNAMO)
FEW = ("torchscript-11", "torchscript-17", "dynamo-18")

SNIPPETS = (
    Snippet("rotary_half", lambda: Rotary("half"), (TOKENS,), LATEST),
    Snippet("rotary_chunk", lambda: Rotary("chunk"), (TOKENS,), LATEST),
    Snippet("rotary_neighbours", lambda: Rotary("neighbours"), (TOKENS,), LATEST),
    Snippet("rotary_positions", Placed, (TOKENS, Input("ids", ("batch", "tokens"), "int64")), LATEST),
    Snippet("squeeze_excite", lambda: SqueezeExcite("mean"), (IMAGE,)),
    Snippet("squeeze_excite_flatten", lambda: SqueezeExcite("flatten"), (IMAGE,)),
    Snippet("squeeze_excite_hard", lambda: SqueezeExcite("hard"), (IMAGE,), FEW),
    Snippet("upsample_nearest", lambda: Upsample("nearest"), (IMAGE, SKIP)),
    Snippet("upsample_bilinear", lambda: Upsample("bilinear"), (IMAGE, SKIP)),
    Snippet("upsample_corners", lambda: Upsample("corners"), (IMAGE, SKIP), FEW),
    Snippet("padded", lambda: Crossed("constant"), (IMAGE,), FEW),
    Snippet("padded_reflect", lambda: Crossed("reflect"), (IMAGE,), FEW),
    Snippet("pixel_shuffle", PixelShuffle, (IMAGE,), FEW),
    Snippet("channel_shuffle", ChannelShuffle, (IMAGE,), FEW),
    Snippet("view", lambda: Shapes("view"), (IMAGE,), FEW),
    Snippet("flatten", lambda: Shapes("flatten"), (IMAGE,), FEW),
    Snippet("tokens", lambda: Shapes("tokens"), (ANY_IMAGE,), (*TORCHSCRIPT, "dynamo-18")),
    Snippet("coordinates", lambda: Shapes("expand"), (ANY_IMAGE,), FEW),
    Snippet("halves", lambda: Shapes("halves"), (ANY_IMAGE,), FEW),
    Snippet("mean_pooling", Pooled, (TOKENS, Input("mask", ("batch", "tokens"), "int64"))),
    Snippet("embedding", Embedded, (Input("ids", ("batch", "tokens"), "int64"),), FEW),
)
