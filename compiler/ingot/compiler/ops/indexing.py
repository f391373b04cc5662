"""Writing at indices, choosing the largest elements and finding the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ingot.compiler.ir.dims import Dim, show
from ingot.compiler.ir.graph import Array, Node, Value, op
from ingot.compiler.ir.types import IrError, TensorType, broadcast_shapes
from ingot.compiler.ops.checks import fail, ints, require_axis, require_kind, same_dtype
from ingot.compiler.ops.pointwise import NUMBER
from ingot.runtime.dtypes import boolean, i64

Combination: TypeAlias = Literal["none", "add", "mul", "max", "min"]
_COMBINE: Mapping[str, np.ufunc] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@op("scatter")
class Scatter(Node):
    """`data` with ``data[.., indices[i], ..] = updates[i]`` along `axis` for every i, in the order of that axis.

    The indices broadcast to the shape of the updates, whose other extents are at most the data's; negative ones count
    from the end. Any other `reduction` than "none" combines with what is there, one update after the other.
    """

    data: Value
    indices: Value
    updates: Value
    axis: int
    reduction: Combination

    def infer(self) -> Sequence[TensorType]:
        data, indices, updates = self.data, self.indices, self.updates
        same_dtype(self, data, updates)
        if not indices.dtype.is_integer:
            fail(self, f"indices are {indices.type}: integers are needed")
        require_axis(self, self.axis, data.rank)
        if self.reduction not in ("none", *_COMBINE):
            fail(self, f"unknown reduction {self.reduction!r}: use none, add, mul, max or min")
        if self.reduction != "none":
            require_kind(self, data, NUMBER, "the data")
        if indices.rank != data.rank or updates.rank != data.rank:
            fail(self, f"indices {indices.type} and updates {updates.type} need the rank of {data.type}")
        try:
            common = broadcast_shapes((indices.type.shape, updates.type.shape))
        except IrError as error:
            fail(self, f"indices {indices.type} do not broadcast to the updates {updates.type}: {error}")
        if common != updates.type.shape:
            fail(self, f"indices {indices.type} do not broadcast to the updates {updates.type}")
        for a, (have, most) in enumerate(zip(updates.shape, data.shape, strict=True)):
            if a != self.axis and isinstance(beyond := have - most, int) and beyond > 0:
                fail(self, f"updates {updates.type} are larger than {data.type} along axis {a}")
        return (data.type,)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        data, indices, updates = operands
        extent = data.shape[self.axis]
        places = np.broadcast_to(indices, updates.shape).astype(np.int64)
        outside = (places < -extent) | (places >= extent)
        if outside.any():
            first = int(places[outside].ravel()[0])
            fail(self, f"index {first} is outside -{extent}..{extent - 1} of axis {self.axis}")
        places = np.where(places < 0, places + extent, places)
        result = data.copy()
        others = np.ogrid[tuple(slice(d) for a, d in enumerate(updates.shape) if a != self.axis)]
        combine = _COMBINE.get(self.reduction)
        with np.errstate(all="ignore"):
            for i in range(updates.shape[self.axis]):
                index: list[Any] = list(others)
                index.insert(self.axis, np.take(places, i, self.axis))
                update = np.take(updates, i, self.axis)
                place = tuple(index)
                result[place] = update if combine is None else combine(result[place], update).astype(data.dtype)
        return (result,)


@op("top_k")
class TopK(Node):
    """The `k` largest (or smallest) elements along `axis` in order, and their i64 positions.

    Of equal elements the first comes first. NaN comes before everything, in both directions. ONNX TopK.
    """

    x: Value
    k: Dim
    axis: int
    largest: bool

    def infer(self) -> Sequence[TensorType]:
        x = self.x
        require_kind(self, x, NUMBER, "the operand")
        require_axis(self, self.axis, x.rank)
        extent = x.shape[self.axis]
        beyond = self.k - extent
        if (isinstance(self.k, int) and self.k < 0) or (isinstance(beyond, int) and beyond > 0):
            fail(self, f"{show(self.k)} elements cannot be chosen from axis {self.axis} of {x.type}")
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return (TensorType(x.dtype, shape), TensorType(i64, shape))

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        x = operands[0]
        (k,) = ints((self.k,))
        ranks = np.unique(x, return_inverse=True, equal_nan=True)[1].reshape(x.shape).astype(np.int64)
        if self.largest:
            ranks = -ranks
        if self.x.dtype.is_float:
            ranks = np.where(np.isnan(x), np.iinfo(np.int64).min, ranks)
        order = np.argsort(ranks, axis=self.axis, kind="stable")
        chosen = np.take(order, range(k), self.axis).astype(np.int64)
        return np.take_along_axis(x, chosen, self.axis), chosen


@op("compact")
class Compact(Node):
    """The i64 positions of the true elements of `x`, a list of bools, in order: [count].

    `count` is how many there are, a dim that is bound to their number.
    """

    x: Value
    count: Dim

    def infer(self) -> Sequence[TensorType]:
        if self.x.dtype != boolean or self.x.rank != 1:
            fail(self, f"the operand is {self.x.type}: a list of bools is needed")
        if isinstance(self.count, int) and self.count < 0:
            fail(self, f"{self.count} elements cannot be found")
        return (TensorType(i64, (self.count,)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (np.flatnonzero(operands[0]).astype(np.int64),)
