"""Activations as libraries spell them, after a linear layer that they belong to."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the corpus is made.

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tests.compiler.corpus.sources.snippet import TOKENS, TORCHSCRIPT, Snippet
from torch import Tensor, nn
from torch.nn import functional as F


class Activated(nn.Module):
    """A function of a linear layer's result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(16, 24), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


def gelu_parts(x: Tensor) -> Tensor:
    """As BERT's first code had it."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_new(x: Tensor) -> Tensor:
    """GPT-2's."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def gelu_fast(x: Tensor) -> Tensor:
    """As Megatron and ALBERT write it: x outside of the polynomial."""
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's."""
    return x * torch.sigmoid(1.702 * x)


def hard_swish_parts(x: Tensor) -> Tensor:
    """MobileNetV3 before torch had it."""
    return x * F.relu6(x + 3.0) / 6.0


class GatedMlp(nn.Module):
    """Llama's feed-forward layer; `function` silu is SwiGLU, gelu GeGLU (Shazeer 2020)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(16, 40, bias=False), nn.Linear(16, 40, bias=False)
        self.down, self.function = nn.Linear(40, 16, bias=False), function

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.function(self.gate(x)) * self.up(x))


class PackedGatedMlp(nn.Module):
    """One product for gate and value, cut in two (Phi-3, ModernBERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(16, 80, bias=False), nn.Linear(40, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_parts": gelu_parts,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hard_swish": F.hardswish,
    "hard_swish_parts": hard_swish_parts,
    "hard_sigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "elu": F.elu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "relu6": F.relu6,
}

SNIPPETS = (
    *(Snippet(name, lambda f=f: Activated(f), (TOKENS,)) for name, f in FUNCTIONS.items()),
    Snippet("swiglu", lambda: GatedMlp(F.silu), (TOKENS,)),
    Snippet("geglu", lambda: GatedMlp(F.gelu), (TOKENS,)),
    Snippet("swiglu_packed", PackedGatedMlp, (TOKENS,), (*TORCHSCRIPT[1:], "dynamo-18")),
)
