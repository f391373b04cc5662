"""Rates: which part of each layer's weights goes, so that a given part of all of them does; and schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.patterns import Array

Distribution: TypeAlias = Literal["uniform", "erk", "global", "sensitivity"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("uniform", "erk", "global", "sensitivity")
Schedule: TypeAlias = Literal["one-shot", "linear", "cubic", "exponential"]
SCHEDULES: tuple[Schedule, ...] = ("one-shot", "linear", "cubic", "exponential")
GRID = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
HIGHEST = 0.99  # of a layer whose rate is not asked for as such


def require_rate(rate: float) -> float:
    """`rate`, from 0 to below 1. Raises PruningError."""
    if not 0 <= rate < 1:
        raise PruningError(f"a rate of {rate} leaves nothing to compute with: give one from 0 to below 1, such as 0.8")
    return rate


def erk(shapes: Mapping[str, Sequence[int]], rate: float) -> dict[str, float]:
    """Rates by which layers keep in proportion to the sum of their extents over their product, so that small ones keep
    more (Erdős-Rényi-Kernel: "Rigging the Lottery", Evci et al. 2020): `shapes` are those of the weights. Layers that
    would keep more than all keep all."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = (1 - rate) * sum(sizes.values())
    whole: set[str] = set()
    while len(whole) < len(shapes):
        wanted = {name: sum(shapes[name]) for name in shapes if name not in whole}
        factor = (budget - sum(sizes[name] for name in whole)) / max(sum(wanted.values()), 1)
        over = {name for name in wanted if factor * wanted[name] > sizes[name]}
        if not over:
            return {name: 0.0 if name in whole else 1 - factor * wanted[name] / sizes[name] for name in shapes}
        whole |= over
    return dict.fromkeys(shapes, 0.0)


def by_threshold(scores: Mapping[str, tuple[Array, int]], rate: float) -> dict[str, float]:
    """Rates by which the units of the lowest scores go wherever they are: `scores` are those of a layer's units, with
    the number of weights in one."""
    every = np.concatenate([each.reshape(-1) for each, _ in scores.values()])
    sizes = np.concatenate([np.full(each.size, size) for each, size in scores.values()])
    owner = np.concatenate([np.full(each.size, i) for i, (each, _) in enumerate(scores.values())])
    order = np.argsort(every, kind="stable")
    count = np.count_nonzero(sizes[order].cumsum() <= rate * sizes.sum() + 1e-9)
    gone = np.bincount(owner[order[:count]], minlength=len(scores))
    return {name: min(gone[i] / each.size, HIGHEST) for i, (name, (each, _)) in enumerate(scores.items())}


def by_sensitivity(
    sizes: Mapping[str, int], error: Callable[[str, float], float], rate: float, grid: Sequence[float] = GRID
) -> dict[str, float]:
    """Rates by which the sum over the layers of ``error(layer, rate)`` is small: layers go up the `grid` one step at a
    time, that one first whose error grows least for the weights that go, until `rate` of all are gone. Errors that fall
    with the rate count as level."""
    place = dict.fromkeys(sizes, 0)
    found = {name: [error(name, grid[0])] for name in sizes}
    total = rate * sum(sizes.values())
    gone = 0.0

    def at(name: str, step: int) -> float:
        while len(found[name]) <= step:
            found[name].append(max(found[name][-1], error(name, grid[len(found[name])])))
        return found[name][step]

    while gone < total:
        open_ = [name for name in sizes if place[name] + 1 < len(grid)]
        if not open_:
            break

        def price(name: str) -> float:
            step = place[name]
            return (at(name, step + 1) - at(name, step)) / ((grid[step + 1] - grid[step]) * max(sizes[name], 1))

        name = min(open_, key=price)
        place[name] += 1
        gone += (grid[place[name]] - grid[place[name] - 1]) * sizes[name]
    rates = {name: grid[step] for name, step in place.items()}
    if gone > total and gone:
        rates = {name: each * total / gone for name, each in rates.items()}
    return rates


def ramp(schedule: Schedule, rate: float, steps: int) -> tuple[float, ...]:
    """The rates of `steps` steps that end at `rate`: evenly ("linear"), fast at first and slower towards the end
    ("cubic": "To prune, or not to prune", Zhu and Gupta 2017), or by removing the same part of what is left each time
    ("exponential": Han et al. 2015). "one-shot" has one step."""
    if schedule == "one-shot" or steps <= 1:
        return (rate,)
    parts = [i / steps for i in range(1, steps + 1)]
    match schedule:
        case "linear":
            return tuple(rate * part for part in parts)
        case "cubic":
            return tuple(rate * (1 - (1 - part) ** 3) for part in parts)
        case "exponential":
            return tuple(1 - (1 - rate) ** part for part in parts)
