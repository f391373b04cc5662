"""Sums of byte products in 16 bits, which saturate, made exact: a proof on the weights, and a list of what is over.

Where a processor has no instruction for four products at a time, `vpmaddubsw` sums two, u8 by i8, in 16 bits, and two
such sums are added before they are widened: half the instructions of products that are 16 bits wide from the start.
Elements are at most 255, so four products fit if the positive weights among the four come to 128 at most, and the
negative ones to -128 at least. Of weights that do not fit a part is taken off, and summed apart: for each panel there
is a list of steps of four elements with what was taken off their weights. Weights of seven bits never need more than
one such step for two; for large sums of well spread weights it is one for fifty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 16  # columns of a panel
STEP = 4  # elements that are summed by one instruction, two in each half of a lane
TOGETHER = 2  # steps whose halves are added before they are widened
BOUND = 128  # of weights that share a half: 255 * 128 fits 16 bits
SHARE = 0.4  # of steps in lists, at most, to all: beyond, products of 16 bits take less
BLOCK = 1 << 20  # weights that are looked at together

Matrix = NDArray[np.int8]
Wide = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class ShortSums:
    """A matrix [K, N] of weights as `main` [K, N], whose products can be summed in 16 bits, and the rest: for each
    panel of `WIDTH` columns `count` steps, the first element of each in `places` [panels, count] and its weights in
    `rest` [panels, count, WIDTH, STEP]. Panels with fewer have steps of zeros at the end."""

    main: Matrix
    places: NDArray[np.int64]
    rest: Matrix

    @property
    def count(self) -> int:
        """Steps in the list of a panel."""
        return self.places.shape[1]

    @staticmethod
    def of(matrix: Matrix) -> ShortSums | None:
        """The parts of a matrix whose depth is a multiple of `STEP` * `TOGETHER`; None where the lists were long."""
        depth, columns = matrix.shape
        most = int(SHARE * (depth // STEP))
        together = max(1, BLOCK // (depth * WIDTH)) * WIDTH
        main, lists = np.empty_like(matrix), list[tuple[NDArray[np.int64], Matrix]]()
        for first in range(0, columns, together):
            part = matrix[:, first : first + together]
            excess = _excess(part)
            found = _lists(excess, most)
            if found is None:
                return None
            lists.append(found)
            main[:, first : first + together] = part - _as_matrix(excess)[:, : part.shape[1]].astype(np.int8)
        count = max(places.shape[1] for places, _ in lists)
        places = [np.pad(each, ((0, 0), (0, count - each.shape[1]))) for each, _ in lists]
        rest = [np.pad(each, ((0, 0), (0, count - each.shape[1]), (0, 0), (0, 0))) for _, each in lists]
        return ShortSums(main, np.concatenate(places), np.concatenate(rest))


def _grouped(matrix: Matrix) -> Wide:
    """[panels, WIDTH, groups, TOGETHER, 2 halves, 2], filled up with columns of zeros."""
    depth, columns = matrix.shape
    filled = np.pad(matrix.astype(np.int16), ((0, 0), (0, -columns % WIDTH)))
    by_column = np.ascontiguousarray(filled.T)
    return by_column.reshape(-1, WIDTH, depth // (STEP * TOGETHER), TOGETHER, 2, 2)


def _as_matrix(grouped: Wide) -> Wide:
    """What `_grouped` made, as a matrix."""
    return grouped.reshape(grouped.shape[0] * WIDTH, -1).T


def _within(magnitudes: Wide, axis: int | tuple[int, int]) -> Wide:
    """Of numbers that are not negative, taken in order along the axes, as much as comes to `BOUND` together."""
    axes = (axis,) if isinstance(axis, int) else axis
    ends = tuple(range(-len(axes), 0))
    turned = np.moveaxis(magnitudes, axes, ends)
    flat = turned.reshape(*turned.shape[: turned.ndim - len(axes)], -1)
    sums = np.minimum(np.cumsum(flat, -1, dtype=np.int16), BOUND)
    kept = np.diff(sums, axis=-1, prepend=np.int16(0))
    return np.moveaxis(kept.reshape(turned.shape), ends, axes)


def _fitting(weights: Wide, axis: int | tuple[int, int]) -> Wide:
    """Of weights, along the axes, the part whose positive and whose negative sums are within `BOUND`."""
    return _within(np.maximum(weights, 0), axis) - _within(np.maximum(-weights, 0), axis)


def _excess(matrix: Matrix) -> Wide:
    """What is taken off the weights, as `_grouped`."""
    weights = _grouped(matrix)
    return weights - _fitting(weights, (3, 5))


def _lists(excess: Wide, most: int) -> tuple[NDArray[np.int64], Matrix] | None:
    """The lists of steps whose sums fit by themselves; None where one has more than `most`."""
    panels, _, groups = excess.shape[:3]
    left = np.moveaxis(excess, 1, 3).copy().reshape(panels, groups * TOGETHER, WIDTH, 2, 2)
    found: list[tuple[NDArray[Any], NDArray[Any], Wide]] = []
    counts = np.zeros(panels, np.int64)
    while True:
        where, steps = np.nonzero(left.any((2, 3, 4)))
        if not where.size:
            break
        counts += np.bincount(where, minlength=panels)
        if counts.max() > most:
            return None
        part = _fitting(left[where, steps], 3)
        left[where, steps] -= part
        found.append((where, steps, part))
    count = int(counts.max(initial=0))
    places, rest = np.zeros((panels, count), np.int64), np.zeros((panels, count, WIDTH, STEP), np.int8)
    filled = np.zeros(panels, np.int64)
    for where, steps, part in found:
        order = np.arange(where.size) - np.searchsorted(where, where)  # `where` ascends
        at = filled[where] + order
        places[where, at] = steps * STEP
        rest[where, at] = part.reshape(-1, WIDTH, STEP)
        filled += np.bincount(where, minlength=panels)
    return places, rest
