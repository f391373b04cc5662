"""Reductions along axes. Sums and means of floats are accumulated in f64 and rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Node, Value, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import fail, require_axis, require_kind
from ingot.compiler.ops.numeric import cast
from ingot.compiler.ops.pointwise import ANY, NUMBER
from ingot.runtime.dtypes import Kind, i64


def reduced_shape(shape: tuple[Dim, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[Dim, ...]:
    """`shape` with the axes made 1, or removed."""
    if keepdims:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


@dataclass(frozen=True, eq=False, repr=False)
class Reduction(Node):
    """A reduction of `x` over `axes` (distinct, non-negative; the empty tuple reduces nothing).

    Reduced axes become 1 with `keepdims`, else disappear; the element type stays.
    """

    x: Value
    axes: tuple[int, ...]
    keepdims: bool
    accepts: ClassVar[frozenset[Kind]] = NUMBER

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, self.accepts, "the operand")
        for axis in self.axes:
            require_axis(self, axis, self.x.rank)
        if len(set(self.axes)) != len(self.axes):
            fail(self, f"axes {self.axes} name one axis twice")
        return (TensorType(self.x.dtype, reduced_shape(self.x.shape, self.axes, self.keepdims)),)

    def compute(self, x: Array) -> Array:
        """The reduced array, possibly in a wider dtype."""
        raise NotImplementedError(type(self).__name__)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            return (cast(np.asarray(self.compute(operands[0])), self.x.dtype),)


@op("reduce_sum")
class ReduceSum(Reduction):
    """The sum; 0 over no elements. Integers wrap."""

    def compute(self, x: Array) -> Array:
        wide = x.astype(np.float64) if self.x.dtype.is_float else x
        return np.asarray(np.sum(wide, axis=self.axes, keepdims=self.keepdims, dtype=wide.dtype))


@op("reduce_mean")
class ReduceMean(Reduction):
    """The mean; NaN over no elements. Integers: the quotient truncates towards 0 (over no elements: undefined, 0)."""

    def compute(self, x: Array) -> Array:
        count = int(np.prod([x.shape[a] for a in self.axes], dtype=np.int64))
        if self.x.dtype.is_float:
            total: Array = np.asarray(np.sum(x.astype(np.float64), axis=self.axes, keepdims=self.keepdims))
            return np.asarray(total / np.float64(count))
        wide = np.uint64 if x.dtype.kind == "u" else np.int64
        total = np.asarray(np.sum(x, axis=self.axes, keepdims=self.keepdims, dtype=wide))
        if count == 0:
            return np.zeros_like(total)
        quotient = total // wide(count)
        return np.where((total < 0) & (total % wide(count) != 0), quotient + wide(1), quotient)


def lowest(dtype: np.dtype[Any]) -> object:
    """The identity of the maximum: -inf, the smallest integer or False."""
    if dtype.kind in "iu":
        return np.iinfo(dtype).min
    return False if dtype.kind == "b" else -np.inf


def highest(dtype: np.dtype[Any]) -> object:
    """The identity of the minimum: inf, the largest integer or True."""
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return True if dtype.kind == "b" else np.inf


@op("reduce_max")
class ReduceMax(Reduction):
    """The maximum; NaN if any element is; over no elements -inf or the type's smallest value. bool: any."""

    accepts = ANY

    def compute(self, x: Array) -> Array:
        start = np.asarray(lowest(x.dtype), x.dtype)[()]
        return np.maximum.reduce(x, axis=self.axes, keepdims=self.keepdims, initial=start)


@op("reduce_min")
class ReduceMin(Reduction):
    """The minimum; NaN if any element is; over no elements inf or the type's largest value. bool: all."""

    accepts = ANY

    def compute(self, x: Array) -> Array:
        start = np.asarray(highest(x.dtype), x.dtype)[()]
        return np.minimum.reduce(x, axis=self.axes, keepdims=self.keepdims, initial=start)


@op("reduce_prod")
class ReduceProd(Reduction):
    """The product; 1 over no elements. Integers wrap."""

    def compute(self, x: Array) -> Array:
        wide = x.astype(np.float64) if self.x.dtype.is_float else x
        return np.asarray(np.prod(wide, axis=self.axes, keepdims=self.keepdims, dtype=wide.dtype))


@dataclass(frozen=True, eq=False, repr=False)
class ArgReduction(Node):
    """The i64 position of an extreme element of `x` along `axis`: the first such, or the last with `last`.

    The first (last) NaN counts as the extreme. `axis` becomes 1 with `keepdims`, else disappears.
    """

    x: Value
    axis: int
    keepdims: bool
    last: bool

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, NUMBER, "the operand")
        require_axis(self, self.axis, self.x.rank)
        if self.x.shape[self.axis] == 0:
            fail(self, f"axis {self.axis} of {self.x.type} has no elements to choose from")
        return (TensorType(i64, reduced_shape(self.x.shape, (self.axis,), self.keepdims)),)

    def compute(self, x: Array) -> Array:
        """Positions of the first extreme along `axis`, which is kept."""
        raise NotImplementedError(type(self).__name__)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x = operands[0]
        if self.last:
            found = x.shape[self.axis] - 1 - self.compute(np.flip(x, self.axis))
        else:
            found = self.compute(x)
        found = found.astype(np.int64)
        return (found if self.keepdims else np.squeeze(found, self.axis),)


@op("arg_max")
class ArgMax(ArgReduction):
    """Position of the maximum."""

    def compute(self, x: Array) -> Array:
        return np.argmax(x, axis=self.axis, keepdims=True)


@op("arg_min")
class ArgMin(ArgReduction):
    """Position of the minimum."""

    def compute(self, x: Array) -> Array:
        return np.argmin(x, axis=self.axis, keepdims=True)


@dataclass(frozen=True, eq=False, repr=False)
class Cumulative(Node):
    """What each element of `x` makes with all before it along `axis`, behind it with `reverse`; `exclusive` leaves out
    the element itself. Integers wrap."""

    x: Value
    axis: int
    exclusive: bool
    reverse: bool
    combine: ClassVar[np.ufunc]

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, NUMBER, "the operand")
        require_axis(self, self.axis, self.x.rank)
        return (self.x.type,)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x = operands[0]
        wide = x.astype(np.float64) if self.x.dtype.is_float else x
        if self.reverse:
            wide = np.flip(wide, self.axis)
        with np.errstate(all="ignore"):
            total = self.combine.accumulate(wide, self.axis, wide.dtype)
            if self.exclusive and total.shape[self.axis]:
                total = np.roll(total, 1, self.axis)
                total[(slice(None),) * self.axis + (0,)] = self.combine.identity
            if self.reverse:
                total = np.flip(total, self.axis)
            return (cast(np.ascontiguousarray(total), self.x.dtype),)


@op("cum_sum")
class CumSum(Cumulative):
    """Running sums; the first `exclusive` one is 0."""

    combine = np.add


@op("cum_prod")
class CumProd(Cumulative):
    """Running products; the first `exclusive` one is 1."""

    combine = np.multiply
