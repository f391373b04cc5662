"""Transformer encoders, with attention in the ways that the libraries write it: step by step with an added mask (BERT),
one product for q, k and v with `scaled_dot_product_attention` (ViT), scaled queries over folded heads (Whisper).
"""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BertAttention(nn.Module):
    """Scores, scale, additive mask, softmax and weighted sum spelled out; the norm comes after the residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dropout, self.output, self.norm = nn.Dropout(0.1), nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.size) + mask
        context = torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v).permute(0, 2, 1, 3).contiguous()
        context = context.view(*context.shape[:-2], self.heads * self.size)
        return self.norm(self.output(context) + x)


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = BertAttention(width, heads)
        self.expand, self.project = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        return self.norm(self.project(F.gelu(self.expand(x))) + x)


class Bert(nn.Module):
    """Devlin et al. 2018. With `sentence`, the mean over valid tokens scaled to length one (Sentence-BERT)."""

    def __init__(
        self, vocabulary: int, width: int, layers: int, heads: int, hidden: int, positions: int, sentence: bool
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions, self.types = nn.Embedding(positions, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList([BertLayer(width, heads, hidden) for _ in range(layers)])
        self.sentence = sentence
        self.pooler = None if sentence else nn.Linear(width, width)
        self.register_buffer("position_ids", torch.arange(positions).unsqueeze(0), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, ...]:
        position_ids = self.position_ids[:, : input_ids.shape[1]]
        x = self.words(input_ids) + self.types(token_type_ids) + self.positions(position_ids)
        x = self.norm(x)
        mask = attention_mask[:, None, None, :].to(x.dtype)
        mask = (1.0 - mask) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        if self.pooler is not None:
            return x, torch.tanh(self.pooler(x[:, 0]))
        valid = attention_mask.unsqueeze(-1).expand(x.shape).to(x.dtype)
        mean = torch.sum(x * valid, 1) / torch.clamp(valid.sum(1), min=1e-9)
        return x, F.normalize(mean, p=2.0, dim=1)


class VitLayer(nn.Module):
    """The norm comes first; one product makes q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.project(F.gelu(self.expand(self.norm2(x))))


class Vit(nn.Module):
    """Dosovitskiy et al. 2020; with `distilled` the second token and head of DeiT (Touvron et al. 2020)."""

    def __init__(
        self, image: int, patch: int, width: int, layers: int, heads: int, classes: int, distilled: bool
    ) -> None:
        super().__init__()
        extra = 2 if distilled else 1
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.tokens = nn.Parameter(torch.empty(1, extra, width))
        self.positions = nn.Parameter(torch.empty(1, (image // patch) ** 2 + extra, width))
        self.layers = nn.Sequential(*[VitLayer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.ModuleList([nn.Linear(width, classes) for _ in range(extra)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = self.norm(self.layers(x))
        logits = [head(x[:, index]) for index, head in enumerate(self.heads)]
        return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


class WhisperLayer(nn.Module):
    """Queries are scaled, heads folded into the batch; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        batch, frames, width = x.shape

        def fold(y: Tensor) -> Tensor:
            y = y.view(batch, -1, self.heads, self.size).transpose(1, 2).contiguous()
            return y.view(batch * self.heads, -1, self.size)

        q, k, v = fold(self.query(x) * self.size**-0.5), fold(self.key(x)), fold(self.value(x))
        context = torch.bmm(F.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1), v)
        context = context.view(batch, self.heads, frames, self.size).transpose(1, 2)
        return self.output(context.reshape(batch, frames, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.project(F.gelu(self.expand(self.norm2(x))))


class WhisperEncoder(nn.Module):
    """Radford et al. 2022: two convolutions over mel frames, the second of stride 2, and sinusoidal positions."""

    def __init__(self, mels: int, frames: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, 2, padding=1)
        self.layers = nn.ModuleList([WhisperLayer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        rate = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
        angle = torch.arange(frames // 2)[:, None] * rate
        self.register_buffer("positions", torch.cat([angle.sin(), angle.cos()], 1))

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).permute(0, 2, 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)
