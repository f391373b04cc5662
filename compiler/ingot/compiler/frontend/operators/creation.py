"""Values that come from shapes, attributes and counting instead of data."""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.frontend.weights import dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Iota, Reshape
from ingot.compiler.ops.shape_arithmetic import contents
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("Constant")
def constant(ctx: Context) -> Results:
    data = ctx.tensor("value")
    if data is None:
        data = ctx.sparse_tensor("sparse_value")
    if data is not None:
        return Constant(data, origin=ctx.origin)
    real, integer = ctx.maybe("value_float", float), ctx.maybe("value_int", int)
    if real is not None:
        return ctx.constant(real, dtypes.f32)
    if integer is not None:
        return ctx.constant(integer, dtypes.i64)
    integers = ctx.ints("value_ints")
    if integers is not None:
        return ctx.constant(np.array(integers, np.int64))
    reals = ctx.floats("value_floats")
    if reals is not None:
        return ctx.constant(np.array(reals, np.float32))
    text = ctx.maybe("value_string", str)
    texts = ctx.strings("value_strings") if text is None else (text,)
    if texts is None:
        raise ctx.error("a Constant without a value")
    array = np.array(texts, object)
    return ctx.constant(array if text is None else array.reshape(()))


@onnx_op("ConstantOfShape", since=9)
def constant_of_shape(ctx: Context) -> Results:
    shape = ctx.dims(0, "the shape")
    value = ctx.tensor("value")
    if value is not None and value.size != 1:
        raise ctx.error(f"the value has {value.size} elements, one is needed")
    single = ctx.constant(0.0, dtypes.f32) if value is None else ctx.constant(value.reshape(()))
    return ctx.expand(single, shape)


@onnx_op("Shape")
def shape(ctx: Context) -> Results:
    x = ctx.operand(0)
    start, end = ctx.attribute("start", 0), ctx.maybe("end", int)
    return ctx.dim_values(x.shape[slice(start, end)], False)


@onnx_op("Size")
def size(ctx: Context) -> Results:
    return ctx.dim_values((ctx.operand(0).type.size,), True)


@onnx_op("Range", since=11)
def range_(ctx: Context) -> Results:
    start, limit, step = (ctx.scalar(ctx.operand(i)) for i in range(3))
    return ctx.build(Iota, start, step, _range_length(ctx, start, limit, step))


def _range_length(ctx: Context, start: Value, limit: Value, step: Value) -> Dim:
    """max(ceil((limit - start) / step), 0)"""
    known = [_whole(v) for v in (start, limit, step)]
    if all(k is not None for k in known):
        first, last, delta = (k for k in known if k is not None)
        if delta == 0:
            raise ctx.error("a Range with step 0")
        if isinstance(delta, int):
            span = last - first if delta > 0 else first - last
            return dims.ceil_divide(ctx.assumptions.largest(span, 0), abs(delta))
    arrays = [ctx.array(v) for v in (start, limit, step)]
    if any(a is None for a in arrays):
        return _computed_length(ctx, start, limit, step)
    first, last, delta = (a.item() for a in arrays if a is not None)
    count = (last - first) / delta if delta else math.nan
    if not math.isfinite(count):
        raise ctx.error(f"a Range from {first} to {last} in steps of {delta}")
    return max(math.ceil(count), 0)


def _computed_length(ctx: Context, start: Value, limit: Value, step: Value) -> Dim:
    """The length of a range whose bounds depend on data."""
    zero = ctx.constant(0, start.dtype)
    ctx.require(ctx.build(ops.Not, ctx.build(ops.Equal, step, zero)), "a Range has step 0")
    span = ctx.build(ops.Sub, limit, start)
    if start.dtype.is_integer:
        whole = ctx.build(ops.Div, span, step)
        rest = ctx.build(ops.Sub, span, ctx.build(ops.Mul, whole, step))
        ahead = ctx.build(ops.Equal, ctx.build(ops.Less, span, zero), ctx.build(ops.Less, step, zero))
        partial = ctx.build(ops.And, ctx.build(ops.Not, ctx.build(ops.Equal, rest, zero)), ahead)
        count = ctx.build(ops.Add, ctx.cast(whole, dtypes.i64), ctx.build(ops.Cast, partial, dtypes.i64))
    else:
        wide = [ctx.cast(v, dtypes.f64) for v in (span, step)]
        count = ctx.build(ops.Cast, ctx.build(ops.Ceil, ctx.build(ops.Div, *wide)), dtypes.i64)
    (count,) = ctx.checked(ctx.build(ops.Max, count, ctx.constant(0, dtypes.i64)))
    return ctx.size(count, "the length of a Range")


def _whole(value: Value) -> Dim | None:
    """A scalar as a dim: an integer, or a float that is a whole number wherever it comes from."""
    found = contents(value)
    element: object = None if found is None else found.item()
    return element if isinstance(element, int | dims.Expr) and not isinstance(element, bool) else None


def counted(ctx: Context, length: Dim, dtype: DType) -> Value:
    """0, 1, 2, ... below `length`."""
    return ctx.build(Iota, ctx.constant(0, dtype), ctx.constant(1, dtype), length)


@onnx_op("EyeLike", since=9)
def eye_like(ctx: Context) -> Results:
    x = ctx.operand(0)
    if x.rank != 2:
        raise ctx.error(f"EyeLike needs a matrix, the operand is {x.type}")
    code = ctx.maybe("dtype", int)
    dtype = x.dtype if code is None else dtype_of(code, "the result of EyeLike")
    distance = _diagonals(ctx, x)
    on = ctx.build(ops.Equal, distance, ctx.constant(ctx.attribute("k", 0), dtypes.i64))
    return ctx.build(ops.Cast, on, dtype)


def _diagonals(ctx: Context, x: Value) -> Value:
    """column - row for the last two axes."""
    rows, columns = x.shape[-2:]
    row = ctx.build(Reshape, counted(ctx, rows, dtypes.i64), (rows, 1))
    return ctx.build(ops.Sub, counted(ctx, columns, dtypes.i64), row)


@onnx_op("Trilu", since=14)
def trilu(ctx: Context) -> Results:
    x, k = ctx.operand(0), ctx.optional(1)
    if x.rank < 2:
        raise ctx.error(f"Trilu needs a matrix, the operand is {x.type}")
    diagonal = ctx.scalar(k) if k is not None else ctx.constant(0, dtypes.i64)
    compare = ops.GreaterOrEqual if ctx.attribute("upper", 1) else ops.LessOrEqual
    kept = ctx.build(compare, _diagonals(ctx, x), diagonal)
    return ctx.build(ops.Where, kept, x, ctx.constant(0, x.dtype))


@onnx_op("OneHot", since=9)
def one_hot(ctx: Context) -> Results:
    """[off, on] chosen by whether an index (negative ones counted from the end) is the place on the new axis."""
    indices, values = ctx.operand(0), ctx.operand(2)
    depth = ctx.scalar(ctx.operand(1))
    folded = ctx.known(depth) if depth.dtype.is_integer else None
    if folded is None:
        array = ctx.array(depth)
        folded = (int(array.item()) if array is not None else ctx.size(ctx.cast(depth, dtypes.i64), "the depth"),)
    axis = ctx.axis(ctx.attribute("axis", -1), indices.rank + 1)
    wide: Value = ctx.cast(indices, dtypes.i64)
    wide = ctx.build(Reshape, wide, (*wide.shape[:axis], 1, *wide.shape[axis:]))
    from_end = ctx.build(ops.Add, wide, ctx.dim_values(folded, True))
    wide = ctx.build(ops.Where, ctx.build(ops.Less, wide, ctx.constant(0, dtypes.i64)), from_end, wide)
    places = ctx.build(Reshape, counted(ctx, folded[0], dtypes.i64), (folded[0], *(1,) * (indices.rank - axis)))
    off, on = (ctx.element(values, i) for i in range(2))
    return ctx.build(ops.Where, ctx.build(ops.Equal, places, wide), on, off)
