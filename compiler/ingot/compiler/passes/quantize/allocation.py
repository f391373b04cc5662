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

from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.groups import WeightForm


@dataclass(frozen=True)
class Option:
    """A way to store a weight: its form, the bytes that it takes, and the error that it causes."""

    form: WeightForm
    bytes: int
    error: float


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option]:
    """An option for each weight, of `budget` bytes together at most, with a small sum of errors. Raises
    QuantisationError where even the smallest ones take more."""
    lines = {name: frontier(each) for name, each in options.items()}
    used = sum(line[0].bytes for line in lines.values())
    if used > budget:
        raise QuantisationError(f"the weights take {used} bytes at least, {budget} are allowed: allow more")
    places = dict.fromkeys(lines, 0)
    steps: list[tuple[float, str]] = []

    def offer(name: str) -> None:
        line, place = lines[name], places[name]
        if place + 1 < len(line):
            now, then = line[place : place + 2]
            heapq.heappush(steps, ((then.error - now.error) / (then.bytes - now.bytes), name))

    for name in lines:
        offer(name)
    while steps:
        _, name = heapq.heappop(steps)
        line, place = lines[name], places[name]
        more = line[place + 1].bytes - line[place].bytes
        if used + more <= budget:  # else a smaller weight may still have room
            used += more
            places[name] += 1
            offer(name)
    return {name: line[places[name]] for name, line in lines.items()}


def frontier(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of error over bytes, the smallest first. Raises QuantisationError without
    options."""
    if not options:
        raise QuantisationError("a weight without options: give the bits that it may have")
    hull: list[Option] = []
    for option in sorted(options, key=lambda each: (each.bytes, each.error)):
        if hull and (option.bytes == hull[-1].bytes or option.error >= hull[-1].error):
            continue
        while len(hull) > 1 and _slope(hull[-2], option) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Option, b: Option) -> float:
    return (b.error - a.error) / (b.bytes - a.bytes)
