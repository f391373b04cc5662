"""Ranges of values and the grids of integers that stand for them.

A grid is ``(q - zero_point) * scale`` (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, section 2.1). Zero is on every grid: padding, and what activations cut off,
must come out exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ingot.compiler.ir.graph import Array, Value, constant
from ingot.compiler.ops.quantised import Dequantize, Quantize, integer_range
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.runtime.dtypes import DType, i8, i16, u8, u16

TYPES = (u8, i8, u16, i16)
"""The element types of grids."""
TINY = float(np.finfo(np.float32).tiny)  # below, floats may be taken for zeros


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, both included. Raises QuantisationError where these are not finite or not in
    order."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise QuantisationError(
                f"a range from {self.low} to {self.high} cannot be quantised: leave the samples out that give "
                "infinities or NaN, or exclude the layer"
            )
        if self.low > self.high:
            raise QuantisationError(f"a range cannot go from {self.low} to {self.high}: swap its ends")

    def union(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def width(self) -> float:
        """The distance of the ends."""
        return self.high - self.low


@dataclass(frozen=True, eq=False)
class Grid:
    """``(q - zero_point) * scale`` for integers q of `dtype`, of which `bits` are used.

    `scale` (f32) and `zero_point` (of `dtype`) have the same shape, which broadcasts to what lies on the grid: [] for
    a whole tensor, [C, 1, 1, 1] for one grid a filter.
    """

    scale: Array
    zero_point: Array
    dtype: DType
    bits: int

    @staticmethod
    def of(range: Range, dtype: DType = u8, *, symmetric: bool = False, bits: int | None = None) -> Grid:
        """The grid of a whole tensor whose values lie in `range`."""
        return Grid.spanning(np.asarray(range.low), np.asarray(range.high), dtype, symmetric=symmetric, bits=bits)

    @staticmethod
    def spanning(
        low: Array, high: Array, dtype: DType = u8, *, symmetric: bool = False, bits: int | None = None
    ) -> Grid:
        """The grids of ranges from `low` to `high`, one for each element.

        With `symmetric` as many steps lie below zero as above; else zero lies where the range has it, or at its nearer
        end. Ranges without width are represented too. `bits` below those of the type leave its ends unused.

        Raises QuantisationError for a type that is no element type of grids, too many bits and ends that are not
        finite or not in order.
        """
        if dtype not in TYPES:
            raise QuantisationError(f"grids of {dtype} are not known: take {', '.join(t.name for t in TYPES)}")
        used = dtype.bits if bits is None else bits
        if not 2 <= used <= dtype.bits:
            raise QuantisationError(f"{dtype} has no grid of {used} bits: take 2 to {dtype.bits}")
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise QuantisationError("the ends of a range to be quantised are not finite, or not in order")
        least, most = limits(dtype, used)
        if symmetric:
            centre = (least + most + 1) // 2
            width, steps = np.maximum(np.abs(low), np.abs(high)), most - centre
        else:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            centre, width, steps = least, high - low, most - least
        scale = np.where(width > 0, np.maximum(width / steps, TINY), 1.0).astype(np.float32)
        zero = np.full(scale.shape, centre)
        if not symmetric:
            zero = np.clip(np.rint(least - low / scale.astype(np.float64)), least, most)
        return Grid(scale, zero.astype(dtype.to_numpy()), dtype, used)

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer that is used."""
        return limits(self.dtype, self.bits)

    @property
    def range(self) -> Range:
        """The smallest and the largest value on the grid, of all grids."""
        ends = [self.dequantised(np.asarray(end, self.dtype.to_numpy())).astype(np.float64) for end in self.limits]
        return Range(float(ends[0].min()), float(ends[1].max()))

    def quantised(self, data: Array) -> Array:
        """The integers nearest to f32 `data`, halves to even, those beyond the ends at the ends."""
        q = np.rint(data.astype(np.float32, copy=False) / self.scale) + self.zero_point.astype(np.float32)
        return np.clip(q, *self.limits).astype(self.dtype.to_numpy())

    def dequantised(self, data: Array) -> Array:
        """What the integers stand for, f32."""
        return (data.astype(np.float32) - self.zero_point.astype(np.float32)) * self.scale

    def quantise(self, value: Value) -> Quantize:
        """`value` as integers. `bits` must be those of the type: the operator knows no other ends."""
        if self.bits != self.dtype.bits:
            raise QuantisationError(f"values are quantised to all {self.dtype.bits} bits of {self.dtype}")
        return Quantize(value, constant(self.scale), constant(self.zero_point), self.dtype)

    def dequantise(self, value: Value) -> Dequantize:
        """The integers `value` as numbers."""
        return Dequantize(value, constant(self.scale), constant(self.zero_point))


def limits(dtype: DType, bits: int) -> tuple[int, int]:
    """The smallest and the largest integer of `dtype` of which the lowest `bits` bits are used, sign included."""
    low, high = integer_range(dtype)
    unused = dtype.bits - bits
    return low >> unused, high >> unused
