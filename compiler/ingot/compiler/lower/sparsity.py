"""Where the elements of sparse matrices lie, and how a kernel reads them (`ir.sparse`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Sparse: TypeAlias = Literal["auto", "on", "off"]
"""Where sparse weights are multiplied as such: where that is expected to be faster, wherever it can be done, never."""

SAMPLED = 4096  # elements that tell whether it is worth looking at all of them
LEAST_ZEROS = 0.2  # of elements, for a matrix that is called sparse
TOGETHER = (1, 2, 4)  # columns of a visit: four keep the multiply-add units busy, whatever the pattern

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def is_sparse(data: NDArray[Any]) -> bool:
    """Whether many elements are zero, going by some of them, and then by all."""
    flat = data.reshape(-1)
    if not flat.size:
        return False
    step = max(1, flat.size // SAMPLED) | 1  # an odd one, as patterns are even
    if np.count_nonzero(flat[::step]) > (1 - LEAST_ZEROS / 2) * len(flat[::step]):
        return False
    return bool(np.count_nonzero(flat) <= (1 - LEAST_ZEROS) * flat.size)


@dataclass(frozen=True, eq=False)
class Sparsity:
    """The pattern of a matrix of this shape [depth, columns]: which share of its elements is zero, and for visits of
    `TOGETHER` columns which of them have an element where [visits, depth], and how many do."""

    shape: tuple[int, int]
    zeros: float
    masks: dict[int, Mask]
    steps: dict[int, int]

    @staticmethod
    def of(matrix: Floats) -> Sparsity | None:
        """The pattern of a matrix, None for one that is not sparse."""
        if not is_sparse(matrix):
            return None
        own = np.ascontiguousarray(matrix.T != 0)
        masks = {count: joined(own, count) for count in TOGETHER}
        steps = {count: int(np.count_nonzero(mask)) for count, mask in masks.items()}
        return Sparsity(matrix.shape, 1 - steps[1] / own.size, masks, steps)

    @property
    def described(self) -> str:
        """The shares of elements, and of blocks of neighbouring columns, that are zero, in words: to a twentieth."""
        shares = {count: 1 - self.steps[count] / mask.size for count, mask in self.masks.items()}
        return ", ".join(f"{round(20 * share) * 5} % of {count}" for count, share in shares.items())

    def counts(self, together: int, block: int) -> NDArray[np.int64]:
        """The steps of each visit [visits of a step, blocks of the depth]."""
        mask = self.masks[together]
        return np.add.reduceat(mask, range(0, mask.shape[1], block), 1, dtype=np.int64)

    def visits(self, together: int, block: int) -> int:
        """How many lists of steps there are, about: of the first block of the depth all, of others those with any."""
        mask = self.masks[together]
        others = -(-mask.shape[1] // block) - 1
        empty = (1 - self.steps[together] / mask.size) ** block
        return round(mask.shape[0] * (1 + others * (1 - empty)))


def joined(mask: Mask, count: int) -> Mask:
    """Where any of `count` neighbouring rows of a mask is true."""
    if count == 1:
        return mask
    filled = np.pad(mask, ((0, -mask.shape[0] % count), (0, 0)))
    return np.logical_or.reduce(filled.reshape(-1, count, mask.shape[1]), 1)


@dataclass(frozen=True, eq=False)
class Pattern:
    """The buffers of a `SparseProduct`, as it describes them; `columns` is what the largest panel has."""

    starts: NDArray[np.int32]
    bounds: NDArray[np.int32]
    slots: NDArray[np.int32]
    ends: NDArray[np.int32]
    offsets: NDArray[np.int32]
    values: Floats
    depths: int
    columns: int

    @staticmethod
    def of(
        matrix: Floats, sparsity: Sparsity, together: int, block: int, starts: Sequence[int], x: Sequence[int]
    ) -> Pattern:
        """The buffers for a matrix [depth, columns] with visits of `together` columns and blocks of the depth of so
        many steps; `starts` are those of panels, and in the end their end, `x` the offsets of the steps of the
        depth."""
        mask, counts = sparsity.masks[together], sparsity.counts(together, block)
        rows, depths = counts.shape
        visits, blocks = np.nonzero(counts)
        empty = np.flatnonzero(counts[:, 0] == 0)
        visits, blocks = np.concatenate([visits, empty]), np.concatenate([blocks, np.zeros_like(empty)])
        panel_of = np.searchsorted(starts[1:-1], np.asarray(range(rows), np.int64) * together, "right")
        own = counts[visits, blocks]
        places = panel_of[visits] * depths + blocks
        order = np.lexsort((visits, -own, places))
        visits, own, places = visits[order], own[order], places[order]
        ends = np.concatenate([[0], np.cumsum(own)])
        # Elements in the order of columns, then of the depth: those of a list lie together.
        columns, depth = np.nonzero(mask)
        before = (np.cumsum(counts.reshape(-1)) - counts.reshape(-1)).reshape(counts.shape)
        taken = np.repeat(before[visits, blocks[order]] - ends[:-1], own) + np.asarray(range(ends[-1]), np.int64)
        columns, depth = columns[taken], depth[taken]
        filled = np.pad(matrix, ((0, 0), (0, rows * together - matrix.shape[1])))
        values = filled.reshape(matrix.shape[0], rows, together)[depth, columns]
        first = np.asarray(starts)[panel_of[visits]]
        return Pattern(
            np.asarray(starts, np.int32),
            np.searchsorted(places, range((len(starts) - 1) * depths + 1)).astype(np.int32),
            (visits * together - first).astype(np.int32),
            ends.astype(np.int32),
            np.asarray(x, np.int64)[depth].astype(np.int32),
            np.ascontiguousarray(values, np.float32),
            depths,
            int(np.diff(starts).max()),
        )


def balanced(costs: NDArray[np.float64], width: int, count: int, most: int) -> list[int]:
    """Where `count` panels of about the same cost start, and the last one ends; `costs` are those of `width` columns
    each, of which a panel has `most` at most. There are panels enough, and no more than there are costs."""
    sums = np.concatenate([[0.0], np.cumsum(costs)])
    starts = [0]
    for left in range(count - 1, -1, -1):
        begin = starts[-1]
        low = max(begin + 1, len(costs) - left * most)
        high = max(low, min(begin + most, len(costs) - left))
        target = sums[begin] + (sums[-1] - sums[begin]) / (left + 1)
        starts.append(int(low + np.argmin(np.abs(sums[low : high + 1] - target))))
    return [start * width for start in starts]


@dataclass(frozen=True, eq=False)
class VectorPattern:
    """The buffers of a `SparseVector`, as it describes them."""

    bounds: NDArray[np.int32]
    bases: NDArray[np.int32]
    ends: NDArray[np.int32]
    indices: NDArray[np.int8]
    values: Floats

    @staticmethod
    def of(matrix: Floats, sparsity: Sparsity, table: int, width: int) -> VectorPattern:
        """The buffers for a matrix [depth, columns], at least `table` deep, in panels of `width` columns."""
        depth, columns = matrix.shape
        mask, counts = sparsity.masks[1], sparsity.counts(1, table)
        most = steps_of_panels(counts, width)
        panels, parts = np.nonzero(most)
        order = np.lexsort((parts, -most[panels, parts], panels))
        panels, parts = panels[order], parts[order]
        ends = np.concatenate([[0], np.cumsum(most[panels, parts])])
        first = np.zeros(most.shape, np.int64)
        first[panels, parts] = ends[:-1]
        bases = np.minimum(parts * table, depth - table)
        # Elements in the order of columns, then of the depth: those of a column and part lie together.
        column, k = np.nonzero(mask)
        before = (np.cumsum(counts.reshape(-1)) - counts.reshape(-1)).reshape(counts.shape)
        number = np.asarray(range(len(column)), np.int64) - before[column, k // table]
        places = (first[column // width, k // table] + number) * width + column % width
        indices, values = np.full(ends[-1] * width, -1, np.int8), np.zeros(ends[-1] * width, np.float32)
        indices[places] = k - np.minimum(k // table * table, depth - table)
        values[places] = matrix[k, column]
        bounds = np.searchsorted(panels, range(-(-columns // width) + 1))
        return VectorPattern(bounds.astype(np.int32), bases.astype(np.int32), ends.astype(np.int32), indices, values)


def steps_of_panels(counts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Of elements by column and part of the depth, the most that a column of each panel of `width` has."""
    filled = np.pad(counts, ((0, -counts.shape[0] % width), (0, 0)))
    return np.maximum.reduce(filled.reshape(-1, width, counts.shape[1]), 1)
