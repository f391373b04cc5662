"""Networks of linear layers: a perceptron and mixtures of experts."""
# pyright: basic, reportMissingImports=false
# torch is installed only where the zoo is exported.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DenseExperts(nn.Module):
    """All experts as one batched product, weighted by the router; the weights of all but `chosen` experts are zero."""

    def __init__(self, width: int, hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.norm, self.router = nn.LayerNorm(width), nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, width, hidden))
        self.gate = nn.Parameter(torch.empty(experts, width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).reshape(-1, x.shape[-1])
        probabilities = F.softmax(self.router(tokens), dim=-1)
        top, which = torch.topk(probabilities, self.chosen, dim=-1)
        top = top / top.sum(-1, keepdim=True)
        weights = torch.zeros_like(probabilities).scatter(1, which, top)
        hidden = F.silu(torch.einsum("td,edh->eth", tokens, self.gate)) * torch.matmul(tokens, self.up)
        mixed = torch.einsum("eth,ehd,te->td", hidden, self.down, weights)
        return x + mixed.reshape(x.shape)


class GatheredExperts(nn.Module):
    """Every token gathers the weights of its experts: what is done where few tokens meet many experts."""

    def __init__(self, width: int, hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, hidden, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        top, which = torch.topk(self.router(tokens), self.chosen, dim=-1)
        weights = F.softmax(top, dim=-1)
        hidden = F.gelu(torch.einsum("td,tkhd->tkh", tokens, self.up[which]))
        outputs = torch.einsum("tkh,tkdh->tkd", hidden, self.down[which])
        return x + (outputs * weights.unsqueeze(-1)).sum(1).reshape(x.shape)


class Expert(nn.Module):
    """The gated feed-forward layer of Mixtral."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class RoutedExperts(nn.Module):
    """Every expert sees only its tokens, whose number is known only at run time (as in Mixtral)."""

    def __init__(self, width: int, hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList([Expert(width, hidden) for _ in range(experts)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = F.softmax(self.router(tokens), dim=-1)
        top, which = torch.topk(probabilities, self.chosen, dim=-1)
        top = top / top.sum(-1, keepdim=True)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, slot = torch.where(which == index)
            mixed = mixed.index_add(0, token, expert(tokens[token]) * top[token, slot, None])
        return x + mixed.reshape(x.shape)
