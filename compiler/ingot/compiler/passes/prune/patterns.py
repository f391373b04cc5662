"""Patterns: which weights may become zero together, and masks that keep those of the best scores.

A weight is seen as matrices [groups, K, N] (`Product.matrices`): K is summed, N are the output channels. Of a
convolution the rows K are its input channels times taps; patterns count them channel by channel within a tap, the order
in which convolutions of channels-last images read them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.passes.prune.errors import PruningError

Array: TypeAlias = NDArray[Any]
Mask: TypeAlias = NDArray[np.bool_]

_SIZES = re.compile(r"([1-9]\d{0,3})([x:])([1-9]\d{0,3})")


@dataclass(frozen=True)
class Pattern:
    """Which weights form a *unit*, of which all or none become zero.

    `columns` output channels by `rows` inputs ("4x1": four output channels of one input); with `kernel` all taps of a
    filter that belong to one input channel; with `keep` every `keep` of each `rows` inputs of an output channel stay
    (N:M, "Accelerating Sparse Deep Neural Networks", Mishra et al. 2021), whatever rate is asked for.
    """

    columns: int = 1
    rows: int = 1
    kernel: bool = False
    keep: int | None = None

    @staticmethod
    def parse(text: str) -> Pattern:
        """``unstructured``, ``kernel``, ``4x1`` (output channels x inputs) or ``2:4``. Raises PruningError."""
        if text == "unstructured":
            return Pattern()
        if text == "kernel":
            return Pattern(kernel=True)
        match = _SIZES.fullmatch(text)
        if match is None:
            raise PruningError(f"there is no pattern {text!r}: take unstructured, 4x1, 1x4, kernel or 2:4 (any sizes)")
        first, second = int(match[1]), int(match[3])
        if match[2] == "x":
            return Pattern(first, second)
        if first >= second:
            raise PruningError(f"{text} keeps everything: give fewer weights to keep than there are, such as 2:4")
        return Pattern(1, second, keep=first)

    def __str__(self) -> str:
        if self.keep is not None:
            return f"{self.keep}:{self.rows}"
        if self.kernel:
            return "kernel"
        return "unstructured" if self.columns == self.rows == 1 else f"{self.columns}x{self.rows}"

    @property
    def rate(self) -> float | None:
        """The rate that the pattern fixes, if it does."""
        return None if self.keep is None else 1 - self.keep / self.rows

    def order(self, rows: int, taps: int = 1) -> tuple[Array, int]:
        """The rows of a matrix in the order in which units follow on each other, and how many rows a unit has. With a
        kernel's taps together, else channel by channel within a tap."""
        if self.kernel:
            return np.arange(rows), taps
        return np.arange(rows).reshape(-1, taps).T.reshape(-1), self.rows

    def units(self, scores: Array, taps: int = 1) -> Array:
        """The mean score of each unit [groups, rows of units, columns of units] of scores [groups, K, N]."""
        order, height = self.order(scores.shape[1], taps)
        blocks = _padded(scores[:, order], height, self.columns, np.nan)
        groups, depth, width = blocks.shape
        return np.nanmean(blocks.reshape(groups, depth // height, height, width // self.columns, self.columns), (2, 4))

    def spread(self, units: Mask, shape: tuple[int, ...], taps: int = 1) -> Mask:
        """The mask [groups, K, N] of a mask of `units`."""
        order, height = self.order(shape[1], taps)
        whole = np.repeat(np.repeat(units, height, axis=1), self.columns, axis=2)[:, : shape[1], : shape[2]]
        return whole[:, np.argsort(order)]

    def keeps(self, scores: Array, rate: float, *, taps: int = 1, by_column: bool = False) -> Mask:
        """Which weights stay: scores [groups, K, N] are finite, or -inf for weights that go first. Of the units the
        nearest whole number to `rate` times their number goes, the lowest scores first, those earlier in order among
        equal ones: of the whole weight, or `by_column` of each column of units."""
        if self.keep is not None:
            return self._kept_of_each(scores, taps)
        # What goes first must not take the unit's other weights with it: it counts as a little less than all others.
        above = scores - np.min(scores, where=np.isfinite(scores), initial=0) + np.finfo(np.float64).tiny
        low = np.where(np.isneginf(scores), 0, above)
        units = self.units(low, taps)
        groups, depth, width = units.shape
        lists = units.transpose(0, 2, 1).reshape(groups * width, depth) if by_column else units.reshape(1, -1)
        kept = lowest(lists, round(rate * lists.shape[1]))
        found = kept.reshape(groups, width, depth).transpose(0, 2, 1) if by_column else kept.reshape(units.shape)
        return self.spread(found, scores.shape, taps)

    def _kept_of_each(self, scores: Array, taps: int) -> Mask:
        """Which weights stay of each `rows` inputs: `keep` of them."""
        assert self.keep is not None
        order, _ = self.order(scores.shape[1], taps)
        blocks = _padded(scores[:, order], self.rows, 1, -np.inf)
        groups, depth, width = blocks.shape
        lists = blocks.reshape(groups, depth // self.rows, self.rows, width).swapaxes(2, 3)
        kept = lowest(lists.reshape(-1, self.rows), self.rows - self.keep)
        mask = kept.reshape(lists.shape).swapaxes(2, 3).reshape(blocks.shape)[:, : scores.shape[1]]
        return mask[:, np.argsort(order)]


def lowest(scores: Array, count: int) -> Mask:
    """All but the `count` lowest of each row of scores [rows, n]; of equal ones the earlier go first."""
    mask = np.ones(scores.shape, bool)
    order = np.argsort(scores, axis=1, kind="stable")[:, :count]
    np.put_along_axis(mask, order, False, axis=1)
    return mask


def _padded(data: Array, rows: int, columns: int, value: float) -> Array:
    """`data` [groups, K, N] up to whole units."""
    _, depth, width = data.shape
    more = ((0, 0), (0, -depth % rows), (0, -width % columns))
    return np.pad(data.astype(np.float64), more, constant_values=value)
