"""Normalisations: layer, group, instance, root mean square, in the spellings that libraries use."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the corpus is made.

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.compiler.corpus.sources.snippet import DYNAMO, IMAGE, TOKENS, Snippet
from tests.compiler.corpus.sources.snippet import Tensor as Input
from torch import Tensor, nn
from torch.nn import functional as F


class Scaled(nn.Module):
    """A function of x, a scale and a shift."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.scale, self.shift)


def flax_layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Flax: the variance is E[x**2] - E[x]**2, never below 0."""
    mean = x.mean(-1, keepdim=True)
    variance = torch.clamp((x * x).mean(-1, keepdim=True) - mean * mean, min=0.0)
    return (x - mean) * (torch.rsqrt(variance + 1e-6) * scale) + shift


def parts_layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Google's BERT in torch: the epsilon inside the root, the scale first."""
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).pow(2).mean(-1, keepdim=True)
    return scale * ((x - mean) / torch.sqrt(variance + 1e-12)) + shift


def std_layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The Annotated Transformer: divided by std + epsilon, and the unbiased std at that."""
    return scale * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + shift


def llama_rms_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Llama in transformers."""
    wide = x.to(torch.float32)
    variance = wide.pow(2).mean(-1, keepdim=True)
    return scale * (wide * torch.rsqrt(variance + 1e-6)).to(x.dtype)


def gemma_rms_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Gemma: the scale is kept as its distance from one."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + scale)


def length_rms_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x over its length, times the root of the width (lucidrains)."""
    return F.normalize(x, dim=-1) * 16**0.5 * scale


def divided_rms_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The paper's code: x over the root."""
    return x / torch.sqrt(torch.mean(x * x, dim=-1, keepdim=True) + 1e-8) * scale


class ChannelNorm(nn.Module):
    """ConvNeXt's norm of the channels of [N, C, H, W], written out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.scale, self.shift = nn.Parameter(torch.empty(8)), nn.Parameter(torch.empty(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.scale[:, None, None] * x + self.shift[:, None, None]


class Residual(nn.Module):
    """The norm after a residual addition, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(16, 16), nn.LayerNorm(16, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x) + x)


class Convolved(nn.Module):
    """A norm after a convolution, before an activation."""

    def __init__(self, norm: nn.Module, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = nn.Conv2d(8, 8, 3, padding=1, bias=False), norm, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


SNIPPETS = (
    Snippet("layer_norm", lambda: nn.LayerNorm(16), (TOKENS,)),
    Snippet("layer_norm_plain", lambda: nn.LayerNorm(16, elementwise_affine=False), (TOKENS,)),
    Snippet("layer_norm_no_bias", lambda: nn.LayerNorm(16, bias=False), (TOKENS,)),
    Snippet("layer_norm_two_axes", lambda: nn.LayerNorm((6, 5)), (IMAGE,)),
    Snippet("layer_norm_residual", Residual, (TOKENS,)),
    Snippet("layer_norm_parts", lambda: Scaled(parts_layer_norm), (TOKENS,)),
    Snippet("layer_norm_flax", lambda: Scaled(flax_layer_norm), (TOKENS,)),
    Snippet("layer_norm_std", lambda: Scaled(std_layer_norm), (TOKENS,)),
    Snippet("layer_norm_channels", ChannelNorm, (IMAGE,)),
    Snippet("group_norm", lambda: Convolved(nn.GroupNorm(2, 8)), (IMAGE,)),
    Snippet("group_norm_silu", lambda: Convolved(nn.GroupNorm(4, 8, affine=False), F.silu), (IMAGE,)),
    Snippet("instance_norm", lambda: Convolved(nn.InstanceNorm2d(8, affine=True)), (IMAGE,)),
    Snippet("instance_norm_plain", lambda: nn.InstanceNorm2d(8), (IMAGE,)),
    Snippet("batch_norm", lambda: Convolved(nn.BatchNorm2d(8)), (IMAGE,)),
    Snippet("batch_norm_alone", lambda: nn.BatchNorm1d(8), (Input("x", ("batch", 8, "tokens")),)),
    Snippet("rms_norm", lambda: nn.RMSNorm(16, eps=1e-6), (TOKENS,), DYNAMO),
    Snippet("rms_norm_llama", lambda: Scaled(llama_rms_norm), (TOKENS,)),
    Snippet("rms_norm_gemma", lambda: Scaled(gemma_rms_norm), (TOKENS,)),
    Snippet("rms_norm_length", lambda: Scaled(length_rms_norm), (TOKENS,)),
    Snippet("rms_norm_divided", lambda: Scaled(divided_rms_norm), (TOKENS,)),
)
