"""Softmax with masks, and attention in every head layout that libraries use."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the corpus is made.

from __future__ import annotations

import math

import torch
from tests.compiler.corpus.sources.snippet import DYNAMO, TOKENS, TORCHSCRIPT, Snippet
from tests.compiler.corpus.sources.snippet import Tensor as Input
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, SIZE, WIDTH = 2, 8, 16


class Softmax(nn.Module):
    """Scores [batch, heads, tokens, tokens] under one or two masks."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, *masks: Tensor) -> Tensor:
        length, mask = x.shape[-1], masks[0] if masks else x
        if "additive" in self.kind:
            x = x + (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        if "fill" in self.kind:
            x = x.masked_fill(mask[:, None, None, :] == 0, -math.inf)
        if "causal" in self.kind:
            later = torch.triu(torch.full((length, length), -math.inf, dtype=x.dtype), diagonal=1)
            x = x + later
        return F.softmax(x, dim=-1)


class Projected(nn.Module):
    """Linear layers for q, k, v and the result."""

    def __init__(self, groups: int = HEADS) -> None:
        super().__init__()
        self.query, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = (nn.Linear(WIDTH, groups * SIZE) for _ in range(2))

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, x.shape[-1] // SIZE, SIZE).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).contiguous()
        return self.output(x.view(x.shape[0], -1, WIDTH))


class Bert(Projected):
    """Scores, scale, additive mask; `permute` of four axes."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        lowest = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(SIZE) + lowest
        return self.join(torch.matmul(F.softmax(scores, dim=-1), v))


class Gpt2(nn.Module):
    """One addmm for q, k and v, split; a causal buffer sliced and `where`d; then the padding mask."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(WIDTH, 3 * WIDTH)), nn.Parameter(torch.empty(3 * WIDTH))
        self.output, self.padded = nn.Linear(WIDTH, WIDTH), padded
        causal = torch.ones(12, 12, dtype=torch.bool).tril().view(1, 1, 12, 12)
        self.register_buffer("causal", causal, persistent=False)

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        packed = torch.addmm(self.bias, x.view(-1, WIDTH), self.weight).view(*x.shape[:-1], -1)
        q, k, v = (part.view(*part.shape[:-1], HEADS, SIZE).permute(0, 2, 1, 3) for part in packed.split(WIDTH, dim=2))
        scores = torch.matmul(q, k.transpose(-1, -2)) / SIZE**0.5
        queries, keys = q.shape[-2], k.shape[-2]
        lowest = torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype)
        scores = torch.where(self.causal[:, :, keys - queries : keys, :keys], scores, lowest)
        if self.padded:
            scores = scores + (1.0 - mask[0][:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        context = torch.matmul(F.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return self.output(context.view(*context.shape[:-2], WIDTH))


class T5(Projected):
    """No scale; a bias per head and relative position, which holds the mask already."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, HEADS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        places = torch.arange(x.shape[1])
        distance = torch.clamp(torch.abs(places[None, :] - places[:, None]), max=7)
        bias = self.table(distance).permute(2, 0, 1).unsqueeze(0)
        bias = bias + (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        scores = torch.matmul(q, k.transpose(3, 2)) + bias
        return self.join(torch.matmul(F.softmax(scores.float(), dim=-1).type_as(scores), v))


class Vit(nn.Module):
    """One product for q, k, v, reshaped to five axes, permuted and unbound; scaled_dot_product_attention."""

    def __init__(self, spelled_out: bool) -> None:
        super().__init__()
        self.qkv, self.output, self.spelled_out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), spelled_out

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
        if self.spelled_out:
            weights = ((q * SIZE**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
            context = weights @ v
        else:
            context = F.scaled_dot_product_attention(q, k, v)
        return self.output(context.transpose(1, 2).reshape(batch, tokens, width))


class Fused(Projected):
    """scaled_dot_product_attention under the masks it knows."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        match self.kind:
            case "causal":
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            case "bool":
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[0][:, None, None, :] != 0)
            case "float":
                lowest = torch.finfo(x.dtype).min
                y = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=(1.0 - mask[0][:, None, None, :].float()) * lowest
                )
            case "both":  # what transformers makes of a padding mask in a decoder
                places = torch.arange(x.shape[1])
                causal = places[None, :] <= places[:, None]
                y = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=causal[None, None] & (mask[0] != 0)[:, None, None]
                )
            case _:
                y = F.scaled_dot_product_attention(q, k, v, scale=0.25)
        return self.join(y)


class Guarded(Projected):
    """Rows without any key give zeros instead of NaN."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) * SIZE**-0.5
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -math.inf)
        weights = F.softmax(scores, dim=-1)
        weights = torch.where(torch.isnan(weights), torch.zeros_like(weights), weights)
        return self.join(torch.matmul(weights, v))


class Grouped(nn.Module):
    """Four query heads over two (or one) heads of keys and values."""

    def __init__(self, kind: str, groups: int = 2) -> None:
        super().__init__()
        self.kind, self.groups = kind, groups
        self.query, self.output = nn.Linear(WIDTH, 32, bias=False), nn.Linear(32, WIDTH, bias=False)
        self.key, self.value = (nn.Linear(WIDTH, groups * SIZE, bias=False) for _ in range(2))

    def repeat(self, x: Tensor) -> Tensor:
        batch, groups, tokens, size = x.shape
        x = x[:, :, None, :, :].expand(batch, groups, 4 // groups, tokens, size)
        return x.reshape(batch, 4, tokens, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.query(x).view(batch, tokens, 4, SIZE).transpose(1, 2)
        k = self.key(x).view(batch, tokens, self.groups, SIZE).transpose(1, 2)
        v = self.value(x).view(batch, tokens, self.groups, SIZE).transpose(1, 2)
        match self.kind:
            case "expand":
                y = F.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v))
            case "parts":
                weights = torch.matmul(q, self.repeat(k).transpose(2, 3)) * SIZE**-0.5
                y = torch.matmul(F.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype), self.repeat(v))
            case "interleave":
                times = 4 // self.groups
                y = F.scaled_dot_product_attention(q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1))
            case _:
                y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.output(y.transpose(1, 2).reshape(batch, tokens, 32))


class Folded(Projected):
    """Heads folded into the batch and bmm, as in fairseq, BART and Whisper."""

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape

        def fold(y: Tensor) -> Tensor:
            return self.split(y).contiguous().view(batch * HEADS, -1, SIZE)

        q, k, v = fold(self.query(x) * SIZE**-0.5), fold(self.key(x)), fold(self.value(x))
        context = torch.bmm(F.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1), v)
        return self.join(context.view(batch, HEADS, tokens, SIZE))


class Cross(Projected):
    """Queries of one sequence over keys of another."""

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(memory)), self.split(self.value(memory))
        return self.join(F.scaled_dot_product_attention(q, k, v))


class Einsum(Projected):
    """The scores and the weighted sum as einsum, heads not transposed (Flax, T5X)."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(x.shape[0], -1, HEADS, SIZE) for p in (self.query, self.key, self.value))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(SIZE)
        context = torch.einsum("bhqk,bkhd->bqhd", F.softmax(scores, dim=-1), v)
        return self.output(context.reshape(x.shape[0], -1, WIDTH))


class Cached(Projected):
    """A step of decoding: keys and values join those of earlier tokens."""

    def forward(self, x: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        return self.join(F.scaled_dot_product_attention(q, k, v)), k, v


class Windowed(nn.Module):
    """Swin: windows of four tokens, a relative bias per head, a mask per window."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.output = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.empty(HEADS, 4, 4))
        mask = torch.zeros(3, 4, 4)
        mask[1, :2, 2:] = mask[1, 2:, :2] = mask[2, 0, 1:] = -100.0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.shape[0]
        qkv = self.qkv(x).reshape(windows, 4, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * SIZE**-0.5) @ k.transpose(-2, -1) + self.bias.unsqueeze(0)
        scores = scores.view(windows // 3, 3, HEADS, 4, 4) + self.mask.unsqueeze(1).unsqueeze(0)
        weights = F.softmax(scores.view(-1, HEADS, 4, 4), dim=-1)
        return self.output((weights @ v).transpose(1, 2).reshape(windows, 4, WIDTH))


class MultiHead(nn.Module):
    """nn.MultiheadAttention, sequence first."""

    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.attention, self.padded = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), padded

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        padding = mask[0] == 0 if self.padded else None
        return self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]


SCORES = Input("x", ("batch", HEADS, "tokens", "tokens"))
MASK = Input("mask", ("batch", "tokens"), "int64")
CACHE = ("batch", HEADS, "keys", SIZE)
NEWER = (*TORCHSCRIPT[1:], *DYNAMO)
LATEST = ("torchscript-17", *DYNAMO)

SNIPPETS = (
    Snippet("softmax_additive", lambda: Softmax("additive"), (SCORES, MASK)),
    Snippet("softmax_fill", lambda: Softmax("fill"), (SCORES, MASK)),
    Snippet("softmax_causal", lambda: Softmax("causal"), (SCORES,), LATEST),
    Snippet("softmax_two_masks", lambda: Softmax("additive causal"), (SCORES, MASK), LATEST),
    Snippet("bert", Bert, (TOKENS, MASK)),
    Snippet("gpt2", lambda: Gpt2(False), (TOKENS,), NEWER),
    Snippet("gpt2_padded", lambda: Gpt2(True), (TOKENS, MASK), NEWER),
    Snippet("t5", T5, (TOKENS, MASK), NEWER),
    Snippet("vit", lambda: Vit(False), (Input("x", ("batch", 7, 16)),), LATEST),
    Snippet("vit_parts", lambda: Vit(True), (Input("x", ("batch", 7, 16)),)),
    Snippet("sdpa", lambda: Fused(""), (TOKENS,), LATEST),
    Snippet("sdpa_causal", lambda: Fused("causal"), (TOKENS,), LATEST),
    Snippet("sdpa_bool", lambda: Fused("bool"), (TOKENS, MASK), LATEST),
    Snippet("sdpa_float", lambda: Fused("float"), (TOKENS, MASK), LATEST),
    Snippet("sdpa_both", lambda: Fused("both"), (TOKENS, MASK), LATEST),
    Snippet("guarded", Guarded, (TOKENS, MASK), NEWER),
    Snippet("grouped", lambda: Grouped("expand"), (TOKENS,), LATEST),
    Snippet("grouped_parts", lambda: Grouped("parts"), (TOKENS,), NEWER),
    Snippet("grouped_interleave", lambda: Grouped("interleave"), (TOKENS,), LATEST),
    Snippet("grouped_enabled", lambda: Grouped("enabled"), (TOKENS,), DYNAMO),
    Snippet("multi_query", lambda: Grouped("expand", 1), (TOKENS,), LATEST),
    Snippet("folded", Folded, (TOKENS,)),
    Snippet("cross", Cross, (TOKENS, Input("memory", ("batch", "keys", 16))), LATEST),
    Snippet("einsum", Einsum, (TOKENS,), NEWER),
    Snippet("cached", Cached, (TOKENS, Input("past_key", CACHE), Input("past_value", CACHE)), LATEST),
    Snippet("windowed", Windowed, (Input("x", (6, 4, 16)),), NEWER),
    Snippet("multi_head", lambda: MultiHead(False), (TOKENS,), DYNAMO),
    Snippet("multi_head_padded", lambda: MultiHead(True), (TOKENS, MASK), DYNAMO),
)
