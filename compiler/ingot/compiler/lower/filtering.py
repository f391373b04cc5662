"""Minimal filtering along one axis: the transforms of F(m, r), m results of a filter of r taps.

The results are ``A^T ((G g) * (B^T d))`` for the filter g and the inputs d that it meets (S. Winograd, "Arithmetic
Complexity of Computations", 1980): as many products as there are inputs, m + r - 1, where the sums have m r. The
transforms are those of Toom and Cook: polynomials are multiplied by their values at points.

A filter of stride s is the sum of its s *phases*, of every s-th tap on every s-th input, each of which is one of stride
1. What is said of one axis holds of several: the transforms follow on each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# The finite points, by the products of a phase; infinity is one more. Of pairs p, -p and q, -q the error is least about
# q = 2p, pq = 1 (B. Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
# Networks", 2020): the usual points 0, 1, -1, 2, -2 lose three to four times as much accuracy. All coefficients of
# the transforms of data and results are exact.
POINTS: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {
        3: (0.0, 1.0),
        4: (0.0, 1.0, -1.0),
        5: (0.0, 1.0, -1.0, 0.5),
        6: (0.0, 0.75, -0.75, 1.5, -1.5),
        8: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0),
        10: (0.0, 0.375, -0.375, 0.75, -0.75, 1.25, -1.25, 2.5, -2.5),
    }
)


@dataclass(frozen=True)
class Phase:
    """The transforms of a filter of stride 1: of as many inputs as there are products."""

    data: Matrix  # B^T, [m+r-1, m+r-1]
    filters: Matrix  # G, [m+r-1, r]
    output: Matrix  # A^T, [m, m+r-1]


@dataclass(frozen=True)
class Filtering:
    """F(m, r): `size` results a tile of a filter of `taps`, one every `stride` inputs, by its phases."""

    size: int
    taps: int
    stride: int
    phases: tuple[Phase, ...]

    @property
    def points(self) -> int:
        """Products a tile."""
        return sum(len(phase.data) for phase in self.phases)

    @property
    def step(self) -> int:
        """Inputs from one tile to the next."""
        return self.size * self.stride

    @property
    def reach(self) -> int:
        """Inputs a tile."""
        return (self.size - 1) * self.stride + self.taps

    @property
    def filters(self) -> Matrix:
        """[points, taps]: what transforms a filter as a whole."""
        made = np.zeros((self.points, self.taps))
        first = 0
        for number, phase in enumerate(self.phases):
            after = first + len(phase.filters)
            made[first:after, number :: self.stride] = phase.filters
            first = after
        return made

    def tiles(self, results: int) -> int:
        """Tiles that so many results take."""
        return -(-results // self.size)


@cache
def filtering(size: int, taps: int, stride: int = 1) -> Filtering | None:
    """F(`size`, `taps`), None where there are no points for it. A single tap is a product as it is."""
    size = 1 if taps == 1 else size
    phases = [_phase(size, len(range(first, taps, stride))) for first in range(min(stride, taps))]
    found = tuple(phase for phase in phases if phase is not None)
    return Filtering(size, taps, stride, found) if len(found) == len(phases) else None


def _phase(size: int, taps: int) -> Phase | None:
    if taps == 1:
        return Phase(np.eye(size), np.ones((size, 1)), np.eye(size))
    points = POINTS.get(size + taps - 1)
    return None if points is None else toom_cook(size, taps, points)


def toom_cook(size: int, taps: int, points: Sequence[float]) -> Phase:
    """F(size, taps) from its size + taps - 2 finite points; the last point is infinity.

    Data are the coefficients of the products of (x - q) over the other points q, which makes them integers or short
    binary fractions when the points are; the filters take the divisors, at compile time.
    """
    finite = np.array(points, np.float64)
    others = [np.delete(finite, i) for i in range(len(finite))]
    data = [[*np.poly(rest)[::-1], 0.0] for rest in others]
    data.append([*np.poly(finite)[::-1]])
    filters: list[list[float]] = [
        [1 / np.prod(p - rest) * p**k for k in range(taps)] for p, rest in zip(finite, others, strict=True)
    ]
    output = [[*finite**k, float(k == size - 1)] for k in range(size)]
    return Phase(np.array(data), np.array([*filters, [*np.eye(taps)[-1]]]), np.array(output))
