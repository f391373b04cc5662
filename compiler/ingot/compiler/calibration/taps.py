"""What observers read of a value, as operators of the graph: each made once, however many observers want it.

Everything is computed in f32; sums are accumulated in f64, as reductions are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from ingot.compiler.ir.dims import Dim, product
from ingot.compiler.ir.graph import Value, constant
from ingot.compiler.ops.bitwise import BitCast
from ingot.compiler.ops.indexing import Scatter
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import DimValues, Expand, Reshape, Slice, Transpose
from ingot.compiler.ops.pointwise import Abs, Add, Cast, Floor, GreaterOrEqual, Min, Mul, Sub, Where
from ingot.compiler.ops.reduction import ReduceMax, ReduceMin, ReduceSum, Reduction
from ingot.runtime.dtypes import f32, i32

INTEGERS = 2.0**23  # the smallest f32 above which all are integers, and its bits
INTEGERS_BITS = 0x4B000000
LANES = 8  # parts in which large values are counted, so that several threads can
LARGE = 1 << 17
WORDS = 2  # of a histogram's window: the reciprocal of the width, and the place of the first bin


class Tap:
    """A value to be observed, `tensor` holding its elements in any order. `windows` gives the windows of its
    histograms, f32 [2], by their number of bins."""

    def __init__(self, value: Value, tensor: Value, windows: Callable[[int], Value]) -> None:
        self.value = value
        self.tensor = tensor
        self._windows = windows
        self._made: dict[Hashable, Value] = {}

    def _once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def channels(self, axis: int | None) -> int:
        """How many there are along `axis`, 1 for None; a CalibrationError was raised where that is not known."""
        extent = 1 if axis is None else self.value.shape[axis]
        assert isinstance(extent, int)
        return extent

    def elements(self, axis: int | None) -> Value | int:
        """How many elements a channel has: a number, or an i64 scalar."""
        shape = self.value.shape
        count = product(d for a, d in enumerate(shape) if a != axis)
        return count if isinstance(count, int) else self._once(("count", axis), lambda: DimValues((count,), True))

    def lowest(self, axis: int | None) -> Value:
        """The smallest element, f32 [channels]; inf over none, NaN where one is."""
        return self._reduced("lowest", ReduceMin, axis)

    def highest(self, axis: int | None) -> Value:
        """The largest element, f32 [channels]; -inf over none, NaN where one is."""
        return self._reduced("highest", ReduceMax, axis)

    def largest(self, axis: int | None) -> Value:
        """The largest magnitude, f32 [channels]; -inf over none, NaN where one is NaN."""
        return self._reduced("largest", ReduceMax, axis, Abs)

    def magnitudes(self, axis: int | None) -> Value:
        """The sum of the magnitudes, f32 [channels]."""
        return self._reduced("magnitudes", ReduceSum, axis, Abs)

    def total(self, axis: int | None) -> Value:
        """The sum, f32 [channels]."""
        return self._reduced("total", ReduceSum, axis)

    def squares(self, axis: int | None) -> Value:
        """The sum of squares, f32 [channels]."""
        return self._reduced("squares", ReduceSum, axis, lambda x: Mul(x, x))

    def counts(self, bins: int) -> Value:
        """How many elements lie in each of `bins` bins, i32 [bins]; what lies outside counts at the ends, NaN in the
        first bin."""
        return self._once(("counts", bins), lambda: self._counted(bins))

    def second_moment(self, axis: int) -> Value:
        """XᵀX, f32 [channels, channels], where the rows of X are what lies along `axis`."""
        return self._once(("second moment", axis), lambda: self._product(axis))

    def _reduced(
        self, name: str, reduction: type[Reduction], axis: int | None, of: Callable[[Value], Value] | None = None
    ) -> Value:
        def make() -> Value:
            x, axes = (self._plane(), (0, 1)) if axis is None else self._by_channel(axis)
            found = reduction(x if of is None else of(x), axes, False)
            return Reshape(found, (self.channels(axis),))

        return self._once((name, axis), make)

    def _plane(self) -> Value:
        """All elements, f32 [rows, columns]: the last two axes are one, as they are in memory even where there is a
        border around them."""
        shape = self.tensor.shape
        rows, columns = product(shape[:-2]), product(shape[-2:])
        return self._once("plane", lambda: _as_f32(_reshaped(self.tensor, (rows, columns))))

    def _by_channel(self, axis: int) -> tuple[Value, tuple[int, ...]]:
        """f32 [outer, channels, inner] without the axes of extent 1 around the channels, and the axes around them."""
        source, at = _untransposed(self.value, axis)
        outer, inner = product(source.shape[:at]), product(source.shape[at + 1 :])
        shape: tuple[Dim, ...] = (outer, self.channels(axis))
        axes: tuple[int, ...] = (0,)
        if inner != 1:
            shape, axes = ((*shape, inner), (0, 2)) if outer != 1 else ((shape[1], inner), (1,))
        return self._once(("channels", axis), lambda: _as_f32(_reshaped(source, shape))), axes

    def _counted(self, bins: int) -> Value:
        window = self._windows(bins)
        scale, first = (Reshape(Slice(window, (i,), (1,), (1,)), ()) for i in range(WORDS))
        place = Sub(Floor(Mul(self._plane(), scale)), first)
        # False for NaN. An integer added to `INTEGERS` lies in the lowest bits of the sum: conversion takes longer.
        inside = Where(GreaterOrEqual(place, constant(0, f32)), Min(place, constant(bins - 1, f32)), constant(0, f32))
        index = Sub(BitCast(Add(inside, constant(INTEGERS, f32)), i32), constant(INTEGERS_BITS, i32))
        size = product(self.tensor.shape)
        lanes = LANES if isinstance(size, int) and size >= LARGE and size % LANES == 0 else 1
        each = Reshape(index, (lanes, size // lanes))
        counted = Scatter(
            Expand(constant(np.zeros((1, 1), np.int32)), (lanes, bins)),
            each,
            Expand(constant(np.ones((1, 1), np.int32)), each.shape),
            1,
            "add",
        )
        return ReduceSum(counted, (0,), False) if lanes > 1 else Reshape(counted, (bins,))

    def _product(self, axis: int) -> Value:
        source, at = _untransposed(self.value, axis)
        order = (*(a for a in range(source.rank) if a != at), at)
        moved = source if order == tuple(range(source.rank)) else Transpose(source, order)
        rows = product(d for a, d in enumerate(source.shape) if a != at)
        x = _as_f32(_reshaped(moved, (rows, self.channels(axis))))
        return MatMul(Transpose(x, (1, 0)), x)


def _as_f32(x: Value) -> Value:
    return x if x.dtype == f32 else Cast(x, f32)


def _reshaped(x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if x.shape == shape else Reshape(x, shape)


def _untransposed(x: Value, axis: int) -> tuple[Value, int]:
    """What `x` is a transposed form of, and where its `axis` is there."""
    while isinstance(x, Transpose):
        x, axis = x.x, x.perm[axis]
    return x, axis
