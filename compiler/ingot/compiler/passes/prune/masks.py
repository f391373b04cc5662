"""Weights of a graph with zeros: chosen by a criterion, in a pattern, and what is left put right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ingot.compiler.ir.graph import Graph, Value, constant, node_of
from ingot.compiler.ops.linear import Conv
from ingot.compiler.passes.prune.criteria import METHODS, Scope, Situation, criterion
from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.patterns import Array, Mask, Pattern
from ingot.compiler.passes.prune.rates import Distribution, Schedule, by_sensitivity, by_threshold, erk, ramp
from ingot.compiler.passes.prune.second_order import greedy, least_squares, output_error, sparsegpt
from ingot.compiler.passes.quantize.products import Product, products
from ingot.compiler.passes.quantize.statistics import Statistics
from ingot.compiler.rewrite import rebuild

STEPS = 8  # of schedules that have more than one


@dataclass(frozen=True)
class PruneOptions:
    """How weights are chosen: `scope` None is the criterion's own; `repair`: weights that stay make up for those that
    went, by least squares, where there are statistics; `steps`: of a schedule other than one-shot, each of which is
    repaired before the next."""

    criterion: str = "magnitude"
    pattern: Pattern = field(default_factory=Pattern)
    scope: Scope | None = None
    distribution: Distribution = "uniform"
    schedule: Schedule = "one-shot"
    steps: int = STEPS
    repair: bool = True
    damping: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.criterion not in METHODS:
            criterion(self.criterion)
        if self.distribution == "global" and (self.criterion in METHODS or self.pattern.keep is not None):
            what = f"pattern {self.pattern}" if self.pattern.keep is not None else self.criterion
            raise PruningError(f"{what} chooses within a layer: take rates that are uniform, erk or by sensitivity")
        if self.scope == "output" and (self.criterion in METHODS or self.pattern.keep is not None):
            what = f"pattern {self.pattern}" if self.pattern.keep is not None else self.criterion
            raise PruningError(f"{what} knows by itself where weights compete: leave scope {self.scope} out")

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without statistics."""
        by_criterion = self.criterion in METHODS or criterion(self.criterion).needs_data
        return by_criterion or self.distribution == "sensitivity"


@dataclass(frozen=True, eq=False)
class PrunedWeight:
    """What became of the weight of some layers: its elements, those that are zero before and after, and the part of the
    output's energy (without statistics: of the weight's own) that is error."""

    names: tuple[str, ...]
    size: int
    zeros_before: int
    zeros: int
    error: float


@dataclass(frozen=True, eq=False)
class _Weight:
    """A weight with the products that read it and what is known of what they multiply it by."""

    names: tuple[str, ...]
    product: Product
    statistics: Statistics | None
    scores: dict[str, Array] = field(default_factory=dict[str, Array])

    @property
    def taps(self) -> int:
        """Rows of the matrices that belong to one input channel."""
        node = self.product.node
        return int(np.prod(node.kernel)) if isinstance(node, Conv) else 1

    def moment(self, depth: int, groups: int) -> Array:
        """[groups, K, K]: without statistics that of independent activations."""
        if self.statistics is None:
            return np.broadcast_to(np.eye(depth), (groups, depth, depth))
        return self.statistics.moment


def prune_weights(
    graph: Graph,
    rate: float | Mapping[str, float],
    options: PruneOptions | None = None,
    *,
    statistics: Mapping[str, Statistics] | None = None,
    only: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, tuple[PrunedWeight, ...]]:
    """`graph` with zeros in the weights of the products called `only` (default: all, see `products`), and what became
    of each. `rate`: which part of all their weights goes, or of each layer's by name. Zeros that are there stay and
    count.

    Raises PruningError for unknown names, weights that are not finite, and a criterion without the statistics it needs.
    """
    options = options or PruneOptions()
    tell = progress or _silent
    every = products(graph)
    weights = _weights(every, only, statistics or {}, options)
    rates = _rates(weights, rate, options)
    changed: dict[Value, Value] = {}
    found: list[PrunedWeight] = []
    for weight, own in zip(weights, rates, strict=True):
        before = weight.product.matrices().astype(np.float64)
        if not np.isfinite(before).all():
            raise PruningError(f"the weights of {weight.names[0]} have NaN or infinities: mend them or exclude it")
        after = _pruned(weight, before, own, options)
        w = weight.product.w
        data = weight.product.weight_of(after).astype(w.dtype.to_numpy())
        made = constant(data, w.dtype, origin=node_of(w).origin)
        for name in weight.names:
            product = every[name]
            changed[product.node] = product.with_operands(product.x, made)
        moment = weight.moment(before.shape[1], before.shape[0])
        error = output_error(before, after, moment)
        found.append(PrunedWeight(weight.names, before.size, _zeros(before), _zeros(after), error))
        tell(f"{weight.names[0]}: {found[-1].zeros / max(before.size, 1):.1%} zeros, error {error:.2e}")
    return rebuild(graph, changed), tuple(found)


def _weights(
    every: Mapping[str, Product],
    only: Sequence[str] | None,
    statistics: Mapping[str, Statistics],
    options: PruneOptions,
) -> list[_Weight]:
    if unknown := [name for name in only or () if name not in every]:
        raise PruningError(f"no product with constant weights is called {unknown[0]!r}")
    wanted = every if only is None else {name: every[name] for name in only}
    readers: dict[Value, list[str]] = {}
    for name, product in wanted.items():
        readers.setdefault(product.w, []).append(name)
    found: list[_Weight] = []
    for names in readers.values():
        seen = list({id(each): each for name in names if (each := statistics.get(name)) is not None}.values())
        if options.needs_data and len(seen) == 0:
            raise PruningError(f"{options.criterion} needs samples to know what {names[0]} multiplies: give data")
        merged = seen[0] if seen else None
        for other in seen[1:]:
            assert merged is not None
            merged = merged.merged(other)
        found.append(_Weight(tuple(names), every[names[0]], merged))
    return found


def _rates(weights: Sequence[_Weight], rate: float | Mapping[str, float], options: PruneOptions) -> list[float]:
    """The rate of each weight."""
    if options.pattern.rate is not None:
        return [options.pattern.rate] * len(weights)
    if isinstance(rate, Mapping):
        return [max((rate[name] for name in weight.names if name in rate), default=0.0) for weight in weights]
    named = {weight.names[0]: weight for weight in weights}
    match options.distribution:
        case "uniform":
            return [rate] * len(weights)
        case "erk":
            shapes = {name: each.product.w.type.static_shape() for name, each in named.items()}
            rates = erk(shapes, rate)
        case "global":
            units = {name: _units(each, rate, options) for name, each in named.items()}
            rates = by_threshold(units, rate)
        case "sensitivity":
            sizes = {name: each.product.weight().size for name, each in named.items()}
            rates = by_sensitivity(sizes, lambda name, own: _error_at(named[name], own, options), rate)
    return [rates[weight.names[0]] for weight in weights]


def _units(weight: _Weight, rate: float, options: PruneOptions) -> tuple[Array, int]:
    """The scores of a weight's units, and how many weights one has."""
    matrices = weight.product.matrices()
    # Zeros that are there do not take the other weights of their units with them.
    scores = np.maximum(_scores(weight, matrices, rate, options), 0)
    units = options.pattern.units(scores, weight.taps)
    return units, max(matrices.size // max(units.size, 1), 1)


def _error_at(weight: _Weight, rate: float, options: PruneOptions) -> float:
    before = weight.product.matrices().astype(np.float64)
    return output_error(before, _pruned(weight, before, rate, options), weight.moment(before.shape[1], len(before)))


def _scores(weight: _Weight, matrices: Array, rate: float, options: PruneOptions) -> Array:
    found = criterion(options.criterion).scores(matrices, Situation(weight.statistics, rate, options.seed))
    return np.where(matrices == 0, -np.inf, found)


def _pruned(weight: _Weight, before: Array, rate: float, options: PruneOptions) -> Array:
    """The matrices with zeros, step by step of the schedule."""
    current = before
    for own in ramp(options.schedule, rate, options.steps):
        current = _step(weight, before, current, own, options)
    return current


def _step(weight: _Weight, before: Array, current: Array, rate: float, options: PruneOptions) -> Array:
    moment = weight.moment(before.shape[1], len(before))
    pattern, taps = options.pattern, weight.taps
    if options.criterion == "sparsegpt":
        pairs = zip(current, moment, strict=True)
        made = [sparsegpt(w, seen, pattern, rate, taps=taps, damping=options.damping) for w, seen in pairs]
        after, mask = np.stack([each for each, _ in made]), np.stack([each for _, each in made])
    else:
        mask = _mask(weight, current, rate, options)
        after = np.where(mask, current, 0)
    mask &= before != 0  # repair leaves the zeros of units that stay
    if options.repair and weight.statistics is not None:
        triples = zip(before, moment, mask, strict=True)
        after = np.stack([least_squares(w, seen, kept) for w, seen, kept in triples])
    return after


def _mask(weight: _Weight, current: Array, rate: float, options: PruneOptions) -> Mask:
    if options.criterion == "greedy":
        moment = weight.moment(current.shape[1], len(current))
        pairs = zip(current, moment, strict=True)
        return np.stack([greedy(w, seen, options.pattern, rate, taps=weight.taps) for w, seen in pairs])
    scope = options.scope or criterion(options.criterion).scope
    scores = _scores(weight, current, rate, options)
    by_column = scope == "output" and options.distribution != "global"
    return options.pattern.keeps(scores, rate, taps=weight.taps, by_column=by_column)


def _zeros(data: Array) -> int:
    return int(data.size - np.count_nonzero(data))


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""
