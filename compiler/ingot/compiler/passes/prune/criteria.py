"""Criteria: how much each weight matters.

A criterion gives scores [groups, K, N] in f64 for the matrices of a weight [groups, K, N]; what scores least goes
first. It may need statistics of the activations (`Statistics`), and says so. What chooses step by step is in
`second_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.patterns import Array
from ingot.compiler.passes.quantize.statistics import Statistics

Scope: TypeAlias = Literal["layer", "output", "global"]
"""Where weights compete: within a layer, within each output channel, or in the whole model."""


@dataclass(frozen=True)
class Situation:
    """What a criterion may look at beside the weight: statistics of the activations where there are any, the rate that
    is wanted, and the seed of what is random."""

    statistics: Statistics | None = None
    rate: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Criterion:
    """A criterion by name. `scope`: where weights compete unless something else is asked for."""

    name: str
    source: str
    scores: Callable[[Array, Situation], Array]
    needs_data: bool = False
    scope: Scope = "layer"


def magnitude(w: Array, situation: Situation) -> Array:
    """|w|."""
    return np.abs(w.astype(np.float64))


def channel_magnitude(w: Array, situation: Situation) -> Array:
    """|w| over the root mean square of its output channel, so that channels of small weights keep their share."""
    size = np.abs(w.astype(np.float64))
    scale = np.sqrt(np.square(size).mean(1, keepdims=True))
    return np.divide(size, scale, out=np.zeros_like(size), where=scale > 0)


def soft_shrinkage(w: Array, situation: Situation) -> Array:
    """What is left of |w| after w·(1 - exp(-|w| / τ)) has been applied again and again with a τ that grows.

    τ is a multiple of the mean magnitude of the weight's output channel and doubles from round to round, until the
    weights that have fallen below a thousandth of that mean are as many as the rate asks for, in 32 rounds at most. A
    weight's way to zero depends on its neighbours in the channel, not on the layer's scale.
    """
    size = np.abs(w.astype(np.float64))
    mean = size.mean(1, keepdims=True)
    mean = np.where(mean > 0, mean, 1)
    left = size / mean
    tau = 1 / 16
    for _ in range(32):
        if np.mean(left < 1e-3) >= situation.rate:
            break
        left = left * -np.expm1(-left / tau)
        tau *= 1.25
    return left


def literal_shrinkage(w: Array, situation: Situation) -> Array:
    """|w · exp(-w)|: a control, which takes large positive weights for small ones."""
    wide = w.astype(np.float64)
    return np.abs(wide) * np.exp(-np.clip(wide, -700, 700))


def random_scores(w: Array, situation: Situation) -> Array:
    """Chance: a control."""
    return np.random.default_rng(situation.seed).random(w.shape)


def wanda(w: Array, situation: Situation) -> Array:
    """|w| times the root mean square of the activations that it multiplies."""
    assert situation.statistics is not None
    seen = np.einsum("gkk->gk", situation.statistics.moment)
    return np.abs(w.astype(np.float64)) * np.sqrt(np.maximum(seen, 0))[..., None]


def taylor(w: Array, situation: Situation) -> Array:
    """|w · dL/dw|, which needs gradients."""
    raise PruningError(
        "taylor needs the gradient of a loss, which this version cannot compute: take wanda, sparsegpt or greedy, "
        "which need samples alone"
    )


_EVERY = (
    Criterion("magnitude", "Han et al. 2015, Learning both Weights and Connections", magnitude),
    Criterion("channel-magnitude", "Han et al. 2015, with the scale of each channel taken out", channel_magnitude),
    Criterion("shrinkage", "w (1 - exp(-|w| / t)) with a growing t: soft thresholding, smoothly", soft_shrinkage),
    Criterion("shrinkage-literal", "w exp(-w): a control", literal_shrinkage),
    Criterion("random", "a control", random_scores),
    Criterion("wanda", "Sun et al. 2023, A Simple and Effective Pruning Approach", wanda, True, "output"),
    Criterion("taylor", "Molchanov et al. 2017, Pruning Convolutional Neural Networks", taylor),
)
CRITERIA: Mapping[str, Criterion] = MappingProxyType({each.name: each for each in _EVERY})
"""All criteria that give scores, by name."""
METHODS = ("sparsegpt", "greedy")
"""Those that choose and change weights in one; see `second_order` and `greedy`."""


def criterion(name: str) -> Criterion:
    """The criterion of a name. Raises PruningError."""
    if name not in CRITERIA:
        raise PruningError(f"there is no criterion {name!r}: take {', '.join((*CRITERIA, *METHODS))}")
    return CRITERIA[name]
