"""Bits for each weight under a budget of bytes, where they save the most error for a byte.

Options of a weight that another one beats, and those above the line between two others, are left out; of what remains
each step up saves less for a byte than the one before, so that taking the best step everywhere until the budget is used
gives the least error that its bytes allow (Fox, "Discrete Optimization Via Marginal Analysis", 1966), but for the last
step that no longer fits.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ingot.compiler.passes.quantize.errors import QuantisationError

Form = TypeVar("Form")


@dataclass(frozen=True)
class Option(Generic[Form]):
    """A way to store a weight: its form, what it costs (such as bytes), and the error that it causes."""

    form: Form
    cost: float
    error: float


def allocate(options: Mapping[str, Sequence[Option[Form]]], budget: float) -> dict[str, Option[Form]]:
    """An option for each weight, of `budget` bytes together at most, with a small sum of errors. Raises
    QuantisationError where even the smallest ones take more."""
    lines = {name: frontier(each) for name, each in options.items()}
    used = sum(line[0].cost for line in lines.values())
    if used > budget:
        raise QuantisationError(f"the weights take {used} bytes at least, {budget} are allowed: allow more")
    places = dict.fromkeys(lines, 0)
    steps: list[tuple[float, str]] = []

    def offer(name: str) -> None:
        line, place = lines[name], places[name]
        if place + 1 < len(line):
            now, then = line[place : place + 2]
            heapq.heappush(steps, ((then.error - now.error) / (then.cost - now.cost), name))

    for name in lines:
        offer(name)
    while steps:
        _, name = heapq.heappop(steps)
        line, place = lines[name], places[name]
        more = line[place + 1].cost - line[place].cost
        if used + more <= budget:  # else a smaller weight may still have room
            used += more
            places[name] += 1
            offer(name)
    return {name: line[places[name]] for name, line in lines.items()}


def frontier(options: Sequence[Option[Form]]) -> list[Option[Form]]:
    """The options on the lower convex hull of error over cost, the cheapest first. Raises QuantisationError without
    options."""
    if not options:
        raise QuantisationError("a weight without options: give the bits that it may have")
    hull: list[Option[Form]] = []
    for option in sorted(options, key=lambda each: (each.cost, each.error)):
        if hull and (option.cost == hull[-1].cost or option.error >= hull[-1].error):
            continue
        while len(hull) > 1 and _slope(hull[-2], option) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Option[Form], b: Option[Form]) -> float:
    return (b.error - a.error) / (b.cost - a.cost)
