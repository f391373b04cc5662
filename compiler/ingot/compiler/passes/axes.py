"""Which axes of two shapes of one size correspond: reading reshapes as axes that are split, merged or kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.compiler.ir.dims import Dim, equal_products
from ingot.compiler.ir.types import Shape


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring axes of the one shape and of the other that hold the same elements, but for axes of extent 1."""

    old: tuple[int, ...]
    new: tuple[int, ...]


def runs(old: Shape, new: Shape) -> tuple[Run, ...] | None:
    """The smallest runs from left to right; None where sizes are 0 or cannot be matched."""
    if 0 in old or 0 in new:
        return None
    left = [a for a, d in enumerate(old) if d != 1]
    right = [a for a, d in enumerate(new) if d != 1]
    found: list[Run] = []
    i = j = 0
    while i < len(left) and j < len(right):
        match = equal_products([old[a] for a in left[i:]], [new[a] for a in right[j:]])
        if match is None:
            return None
        a, b = match
        found.append(Run(tuple(left[i : i + a]), tuple(right[j : j + b])))
        i, j = i + a, j + b
    return tuple(found) if i == len(left) and j == len(right) else None


def carried(shape: Shape, old: Shape, new: Shape) -> Shape | None:
    """The shape that a value of `shape`, which broadcasts to `old`, must be reshaped to so as to broadcast to `new`.

    None where an axis of a run is broadcast and another is not.
    """
    found = runs(old, new)
    if found is None or len(shape) > len(old):
        return None
    full = (1,) * (len(old) - len(shape)) + tuple(shape)
    result: list[Dim] = [1] * len(new)
    for run in found:
        have = [full[a] for a in run.old]
        if have == [old[a] for a in run.old]:
            for a in run.new:
                result[a] = new[a]
        elif any(d != 1 for d in have):
            return None
    while result and len(result) > 1 and result[0] == 1:
        del result[0]
    return tuple(result) if shape else ()


def kept_in_order(perm: Sequence[int], shape: Shape) -> bool:
    """Whether permuting axes of `shape` so moves only axes of extent 1."""
    order = [p for p in perm if shape[p] != 1]
    return order == sorted(order)
