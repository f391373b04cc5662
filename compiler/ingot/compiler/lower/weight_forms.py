"""In which forms the weights of a program may lie: the one place that decides between speed and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Value
from ingot.compiler.lower.tiles import WIDTHS
from ingot.runtime.dtypes import DType, bf16, f16, f32

Memory: TypeAlias = Literal["fast", "small"]
Weights: TypeAlias = Literal["default", "f32", "keep", "f16", "bf16"]

NARROW_WIDTHS = (4, 2, 1)  # of matrices that these would fill up
MANY_ROWS = 32  # of a product: arithmetic sets the pace, not the reading of weights
LARGE = 4096  # elements of a weight whose type matters
CHUNK = 1 << 18  # elements looked at together: they stay in the caches
PADDING = 64  # columns for each one of filling that is not worth another width


@dataclass(frozen=True)
class WeightForms:
    """With `memory` "small" no form is chosen that is larger than the weights as the model has them, and each lies in
    one form whoever reads it; "fast" takes what runs fastest.

    `weights` says in which type elements lie: "f32" as they are computed, "keep" in the narrowest that holds all
    elements of a weight exactly, which for those that a model has as f16 and casts is f16. The others are "keep" for
    weights that have been rounded (`rounding`). The default is "keep" in small programs, and for products of few rows
    in all.
    """

    memory: Memory = "fast"
    weights: Weights = "default"

    @property
    def may_grow(self) -> bool:
        """Whether forms that are larger than the model's weights may be chosen: transformed filters, wider integers."""
        return self.memory == "fast"

    @property
    def keeps_blocks(self) -> bool:
        """Whether the quantised weights of f32 products stay as narrow as the model has them."""
        return self.weights != "f32"

    @property
    def rounds_to(self) -> str | None:
        """The type that weights are rounded to before they are laid out, None for none."""
        return self.weights if self.weights in ("f16", "bf16") else None

    def element_type(self, w: Constant, wide: DType, most_rows: int | None = None) -> DType:
        """The type of the elements of `w` in memory where they are computed in `wide`: kernels widen what they load.

        By default large matrices of products of few rows, `most_rows`, lie in the narrowest type: there it is memory
        that sets the pace.
        """
        few_rows = most_rows is not None and most_rows < MANY_ROWS and w.data.size >= LARGE
        if self.weights == "f32" or (self.weights == "default" and self.memory == "fast" and not few_rows):
            return wide
        if w.dtype.bits < wide.bits:
            return w.dtype
        halves = (bf16, f16) if self.weights == "bf16" else (f16, bf16)
        return exact_type(w.data, halves) if w.dtype == wide == f32 else wide

    def widths(self, b: Value, columns: Dim, dot: int = 1, among: tuple[int, ...] = WIDTHS) -> tuple[int, ...]:
        """The panel widths of `among` that the second operand `b` of a contraction, matrices of `columns` columns, may
        have.

        For a small program's weights it is a single one, which depends on nothing else, so that all readers of a matrix
        agree: the first that fills up little, else the one that fills up least. Sums of `dot` products need a vector.
        """
        if self.may_grow or not isinstance(b, Constant) or not isinstance(columns, int):
            return among
        candidates = (*WIDTHS, *(width for width in NARROW_WIDTHS if dot == 1 or width >= 4))
        filled = {width: -columns % width for width in candidates}
        return (next((w for w in WIDTHS if filled[w] * PADDING <= columns), min(candidates, key=filled.__getitem__)),)


FAST = WeightForms()


def exact_type(data: NDArray[np.float32], halves: tuple[DType, ...] = (f16, bf16)) -> DType:
    """The first of `halves` that holds all elements of `data` exactly, to the last bit of NaNs, f32 if none does."""
    flat = data.ravel(order="K")
    chunks = range(0, flat.size, CHUNK)
    return next((dtype for dtype in halves if all(_holds(dtype, flat[i : i + CHUNK]) for i in chunks)), f32)


def _holds(dtype: DType, data: NDArray[np.float32]) -> bool:
    bits = data.view(np.uint32)
    if dtype == f16:  # normal numbers, which most are, are seen to be f16's by their bits
        if (bits & 0x1FFF).any():
            return False
        data = data[(bits & 0x7FFFFFFF) - np.uint32(0x38800000) > np.uint32(0x477FE000 - 0x38800000)]
    with np.errstate(over="ignore", invalid="ignore"):
        back = data.astype(dtype.to_numpy()).astype(np.float32)
    return np.array_equal(back.view(np.uint32), data.view(np.uint32))
