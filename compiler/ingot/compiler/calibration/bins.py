"""Histograms that grow and merge exactly.

Bins are as wide as a power of two and begin at multiples of their width, so that bin k holds ``k <= x / width < k + 1``
whatever was seen before: 0 is always the edge of a bin, scaling by the width is exact in floats, and two neighbours are
one bin of twice the width. How wide the bins end up depends on the smallest and the largest value alone, not on the
order in which samples came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

NARROWEST = -120  # the exponent of the narrowest bins: a width and its reciprocal are normal numbers in f32
WIDEST = 128
DEPTH = 20  # a value lies less than 2**DEPTH bins away from 0: places are exact in f32 with room to spare
FARTHEST = (1 << DEPTH) + (1 << 16)  # from bin 0: where a window may begin


@dataclass(frozen=True)
class Window:
    """`bins` bins of width ``2**exponent``, the first of which is bin `first`."""

    exponent: int
    first: int
    bins: int

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The bins + 1 edges."""
        return (self.first + np.arange(self.bins + 1, dtype=np.float64)) * self.width

    def covers(self, low: float, high: float) -> bool:
        """Whether values from `low` to `high` lie inside."""
        return self.first <= place(low, self.exponent) and place(high, self.exponent) < self.first + self.bins


def place(x: float, exponent: int) -> int:
    """The bin of width ``2**exponent`` in which `x` lies."""
    return math.floor(math.ldexp(x, -exponent))


def window_of(low: float, high: float, bins: int) -> Window:
    """The window of the narrowest bins that holds values from `low` to `high`, finite and in that order. What room is
    left lies on both sides, above alone where nothing is negative."""
    largest = max(abs(low), abs(high))
    exponent = max(NARROWEST, math.frexp(largest)[1] - DEPTH if largest else NARROWEST)
    while place(high, exponent) - place(low, exponent) >= bins:
        exponent += 1
    first, last = place(low, exponent), place(high, exponent)
    if low >= 0 and last < bins:
        return Window(exponent, 0, bins)
    return Window(exponent, first - (bins - 1 - (last - first)) // 2, bins)


def moved(counts: Counts, old: Window, new: Window) -> Counts:
    """The counts of `old` in the bins of `new`, which are as wide or wider and cover all that is counted."""
    result = np.zeros(new.bins, np.int64)
    held = np.flatnonzero(counts)
    places = ((held + old.first) >> (new.exponent - old.exponent)) - new.first
    np.add.at(result, places, counts[held])
    return result


def count(x: NDArray[Any], window: Window) -> Counts:
    """How many elements of `x` lie in each bin; those outside count in the first and the last one."""
    places = np.floor(np.ldexp(np.asarray(x, np.float64).reshape(-1), -window.exponent)) - window.first
    return np.bincount(np.clip(places, 0, window.bins - 1).astype(np.int64), minlength=window.bins)
