"""Language models that generate: GPT-2 and a Llama-like one with a key-value cache, T5."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Module):
    """GPT-2's linear layer, whose weight is stored [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class GptLayer(nn.Module):
    def __init__(self, width: int, heads: int, positions: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = Projection(width, 3 * width), Projection(width, width)
        self.expand, self.project = Projection(width, 4 * width), Projection(4 * width, width)
        causal = torch.ones(positions, positions, dtype=torch.bool).tril()
        self.register_buffer("causal", causal.view(1, 1, positions, positions), persistent=False)

    def attend(self, x: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            part.view(*part.shape[:-1], self.heads, self.size).permute(0, 2, 1, 3)
            for part in self.qkv(x).split(x.shape[-1], dim=2)
        )
        if past is not None:
            k, v = torch.cat([past[0], k], -2), torch.cat([past[1], v], -2)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.size)
        total = k.shape[-2]
        lowest = torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype)
        scores = torch.where(self.causal[:, :, total - q.shape[-2] : total, :total], scores, lowest) + mask
        context = torch.matmul(F.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        return self.output(context.view(*context.shape[:-2], -1)), k, v

    def feed_forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        x = 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
        return self.project(x)


class Gpt(nn.Module):
    """GPT-2 (Radford et al. 2019). With keys and values of earlier tokens it continues, without it starts.

    Inputs: token ids [batch, sequence], mask [batch, past + sequence], position ids, then per layer key and value
    [batch, heads, past, size]. Results: logits, then per layer key and value of all tokens.
    """

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, positions: int, cached: bool) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.layers = nn.ModuleList([GptLayer(width, heads, positions) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.words.weight
        self.cached = cached

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> list[Tensor]:
        x = self.words(input_ids) + self.positions(position_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        cache: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            earlier = (past[2 * index], past[2 * index + 1]) if self.cached else None
            context, k, v = layer.attend(layer.norm1(x), mask, earlier)
            cache += [k, v]
            x = x + context
            x = x + layer.feed_forward(layer.norm2(x))
        return [self.head(self.norm(x)), *cache]


class RmsNorm(nn.Module):
    """Zhang and Sennrich 2019; no mean is subtracted."""

    def __init__(self, width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.empty(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) that pairs element k with element k + size / 2."""
    low, high = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class LlamaLayer(nn.Module):
    """Grouped-query attention: `heads` queries share `groups` keys and values."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key = nn.Linear(width, groups * self.size, bias=False)
        self.value = nn.Linear(width, groups * self.size, bias=False)
        self.output = nn.Linear(heads * self.size, width, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def repeat(self, x: Tensor) -> Tensor:
        batch, groups, tokens, size = x.shape
        times = self.heads // self.groups
        expanded = x[:, :, None, :, :].expand(batch, groups, times, tokens, size)
        return expanded.reshape(batch, groups * times, tokens, size)

    def attend(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, _ = x.shape
        q = rotate(self.query(x).view(batch, tokens, -1, self.size).transpose(1, 2), cos, sin)
        k = rotate(self.key(x).view(batch, tokens, -1, self.size).transpose(1, 2), cos, sin)
        v = self.value(x).view(batch, tokens, -1, self.size).transpose(1, 2)
        if past is not None:
            k, v = torch.cat([past[0], k], -2), torch.cat([past[1], v], -2)
        context = F.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v), attn_mask=mask)
        return self.output(context.transpose(1, 2).reshape(batch, tokens, -1)), k, v

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Llama(nn.Module):
    """Touvron et al. 2023; inputs and results as those of `Gpt`."""

    def __init__(
        self, vocabulary: int, width: int, layers: int, heads: int, groups: int, hidden: int, cached: bool
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList([LlamaLayer(width, heads, groups, hidden) for _ in range(layers)])
        self.norm, self.head = RmsNorm(width), nn.Linear(width, vocabulary, bias=False)
        size = width // heads
        self.register_buffer("rate", 10000.0 ** (-torch.arange(0, size, 2).float() / size), persistent=False)
        self.cached = cached

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor) -> list[Tensor]:
        x = self.words(input_ids)
        rate = self.rate[None, :, None].expand(position_ids.shape[0], -1, 1)
        angle = (rate @ position_ids[:, None, :].float()).transpose(1, 2)
        angle = torch.cat((angle, angle), dim=-1).unsqueeze(1)
        cos, sin = angle.cos(), angle.sin()
        keys = torch.arange(attention_mask.shape[1])
        causal = keys[None, :] <= position_ids[:, :, None]
        mask = (causal & attention_mask[:, None, :].bool()).unsqueeze(1)
        cache: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            earlier = (past[2 * index], past[2 * index + 1]) if self.cached else None
            context, k, v = layer.attend(layer.norm1(x), cos, sin, mask, earlier)
            cache += [k, v]
            x = x + context
            x = x + layer.feed_forward(layer.norm2(x))
        return [self.head(self.norm(x)), *cache]


class T5Attention(nn.Module):
    """Scores are not scaled; a bias per head and relative position is added."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.query, self.key, self.value = (nn.Linear(width, heads * size, bias=False) for _ in range(3))
        self.output = nn.Linear(heads * size, width, bias=False)
        self.query.gain = 1.0 / size  # the scores' scale is in the weights

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(y.shape[0], -1, self.heads, self.size).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(memory)), split(self.value(memory))
        scores = torch.matmul(q, k.transpose(3, 2)) + bias
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        context = torch.matmul(weights, v).transpose(1, 2).contiguous()
        return self.output(context.view(x.shape[0], -1, self.heads * self.size))


class T5Layer(nn.Module):
    def __init__(self, width: int, heads: int, size: int, hidden: int, decoder: bool) -> None:
        super().__init__()
        self.norm1, self.attention = RmsNorm(width), T5Attention(width, heads, size)
        self.norm2 = RmsNorm(width) if decoder else None
        self.cross = T5Attention(width, heads, size) if decoder else None
        self.norm3 = RmsNorm(width)
        self.expand, self.project = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, bias)
        if self.norm2 is not None and self.cross is not None and memory is not None and mask is not None:
            x = x + self.cross(self.norm2(x), memory, mask)
        return x + self.project(F.relu(self.expand(self.norm3(x))))


class RelativeBias(nn.Module):
    """T5's bias [1, heads, queries, keys]: near distances have a bucket each, far ones logarithmic buckets."""

    def __init__(self, heads: int, buckets: int = 32, farthest: int = 128) -> None:
        super().__init__()
        self.buckets, self.farthest = buckets, farthest
        self.table = nn.Embedding(buckets, heads)

    def forward(self, length: int, bidirectional: bool) -> Tensor:
        relative = torch.arange(length)[None, :] - torch.arange(length)[:, None]
        buckets, offset = self.buckets, torch.zeros_like(relative)
        if bidirectional:
            buckets //= 2
            offset = (relative > 0).to(torch.long) * buckets
            relative = torch.abs(relative)
        else:
            relative = -torch.min(relative, torch.zeros_like(relative))
        exact = buckets // 2
        growth = torch.log(relative.float() / exact) / math.log(self.farthest / exact) * (buckets - exact)
        far = torch.min(exact + growth.to(torch.long), torch.full_like(relative, buckets - 1))
        return self.table(offset + torch.where(relative < exact, relative, far)).permute(2, 0, 1).unsqueeze(0)


class T5(nn.Module):
    """Raffel et al. 2019: encoder and decoder of one call in one graph."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, size: int, hidden: int) -> None:
        super().__init__()
        self.scale = width**-0.5
        self.words = nn.Embedding(vocabulary, width)
        self.encoder_bias, self.decoder_bias = RelativeBias(heads), RelativeBias(heads)
        self.encoder = nn.ModuleList([T5Layer(width, heads, size, hidden, False) for _ in range(layers)])
        self.decoder = nn.ModuleList([T5Layer(width, heads, size, hidden, True) for _ in range(layers)])
        self.encoder_norm, self.decoder_norm = RmsNorm(width), RmsNorm(width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        memory = self.words(input_ids)
        lowest = torch.finfo(memory.dtype).min
        mask = (1.0 - attention_mask[:, None, None, :].to(memory.dtype)) * lowest
        bias = self.encoder_bias(input_ids.shape[1], True) + mask
        for layer in self.encoder:
            memory = layer(memory, bias)
        memory = self.encoder_norm(memory)
        x = self.words(decoder_input_ids)
        length = decoder_input_ids.shape[1]
        steps = torch.arange(length)
        causal = (steps[None, :] <= steps[:, None]).to(x.dtype)
        bias = self.decoder_bias(length, False) + (1.0 - causal[None, None]) * lowest
        for layer in self.decoder:
            x = layer(x, bias, memory, mask)
        return F.linear(self.decoder_norm(x) * self.scale, self.words.weight)
