"""Gather, Scatter and their relatives: elements chosen by an index tensor; the largest elements.

GatherElements and GatherND become one Gather from the flattened data at linear positions.
"""

from __future__ import annotations

from collections.abc import Iterable

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.indexing import Compact, Scatter, TopK
from ingot.compiler.ops.movement import Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import ReduceSum
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("Gather")
def gather(ctx: Context) -> Results:
    data = ctx.operand(0)
    return ctx.build(Gather, data, ctx.operand(1), ctx.axis(ctx.attribute("axis", 0), data.rank))


@onnx_op("GatherElements", since=11)
def gather_elements(ctx: Context) -> Results:
    """result[i, j, ...] = data[i, ..., indices[i, j, ...], ...] with the index on `axis`."""
    data, indices = ctx.operand(0), ctx.operand(1)
    axis = ctx.axis(ctx.attribute("axis", 0), data.rank)
    if indices.rank != data.rank:
        raise ctx.error(f"indices {indices.type} must have the rank of the data {data.type}")
    places: list[Value] = []
    for i, extent in enumerate(indices.shape):
        if i == axis:
            places.append(_from_front(ctx, indices, data.shape[axis]))
        else:
            places.append(ctx.build(Reshape, counted(ctx, extent, dtypes.i64), _column(extent, i, data.rank)))
    flat = ctx.build(Reshape, data, (data.type.size,))
    return ctx.build(Gather, flat, _linear(ctx, places, data.shape), 0)


@onnx_op("GatherND", since=11)
def gather_nd(ctx: Context) -> Results:
    """The last axis of `indices` addresses the first axes of the data after `batch_dims` common ones."""
    data, indices, batch = ctx.operand(0), ctx.operand(1), ctx.attribute("batch_dims", 0)
    depth = indices.shape[-1] if indices.rank else 0
    if not isinstance(depth, int):
        raise ctx.unsupported(f"GatherND with indices {indices.type}: the last dim must be constant")
    addressed = batch + depth
    if indices.rank < 1 or not 0 <= batch < indices.rank or addressed > data.rank:
        raise ctx.error(f"indices {indices.type} with batch_dims {batch} do not fit the data {data.type}")
    rank = indices.rank - 1
    places: list[Value] = []
    for i in range(batch):
        ctx.equal(data.shape[i], indices.shape[i])
        places.append(ctx.build(Reshape, counted(ctx, data.shape[i], dtypes.i64), _column(data.shape[i], i, rank)))
    places += _addressed(ctx, data, indices, batch)
    rows = ctx.build(Reshape, data, (dims.product(data.shape[:addressed]), *data.shape[addressed:]))
    return ctx.build(Gather, rows, _linear(ctx, places, data.shape[:addressed]), 0)


def _scattered(ctx: Context, data: Value, indices: Value, updates: Value, axis: int) -> Value:
    """`Scatter` by the node's `reduction`; sums of bools are their maximum, products their minimum."""
    found = ctx.attribute("reduction", "none")
    if found not in ("none", "add", "mul", "max", "min"):
        raise ctx.error(f"unknown reduction {found!r}")
    if found != "none" and data.dtype.kind in ("string", "opaque"):
        what = f"{ctx.node.op_type} of {data.dtype.name} with the reduction {found!r}"
        raise ctx.unsupported(what, "scatter numbers")
    if found == "none" or data.dtype != dtypes.boolean:
        return ctx.build(Scatter, data, indices, updates, axis, found)
    data, updates = (ctx.build(ops.Cast, v, dtypes.u8) for v in (data, updates))
    joined = ctx.build(Scatter, data, indices, updates, axis, {"add": "max", "mul": "min"}.get(found, found))
    return ctx.build(ops.Cast, joined, dtypes.boolean)


@onnx_op("Scatter", since=9)
@onnx_op("ScatterElements", since=11)
def scatter_elements(ctx: Context) -> Results:
    data, indices, updates = ctx.operand(0), ctx.operand(1), ctx.operand(2)
    for a, b in zip(indices.shape, updates.shape, strict=False):
        ctx.equal(a, b)
    axis = ctx.axis(ctx.attribute("axis", 0), data.rank)
    return _scattered(ctx, data, indices, updates, axis)


@onnx_op("ScatterND", since=11)
def scatter_nd(ctx: Context) -> Results:
    """The last axis of `indices` addresses the first axes of the data: rows of the data are scattered."""
    data, indices, updates = ctx.operand(0), ctx.operand(1), ctx.operand(2)
    depth = indices.shape[-1] if indices.rank else 0
    if not isinstance(depth, int):
        raise ctx.unsupported(f"ScatterND with indices {indices.type}: the last dim must be constant")
    if indices.rank < 1 or depth > data.rank:
        raise ctx.error(f"indices {indices.type} do not fit the data {data.type}")
    count, inner = dims.product(indices.shape[:-1]), dims.product(data.shape[depth:])
    places = _linear(ctx, _addressed(ctx, data, indices, 0), data.shape[:depth])
    rows = ctx.build(Reshape, data, (dims.product(data.shape[:depth]), inner))
    column = ctx.build(Reshape, ctx.expand(places, indices.shape[:-1]), (count, 1))
    ctx.equal(updates.type.size, count * inner)
    written = _scattered(ctx, rows, column, ctx.build(Reshape, updates, (count, inner)), 0)
    return ctx.build(Reshape, written, data.shape)


@onnx_op("TopK")
def top_k_attribute(ctx: Context) -> Results:
    return _top_k(ctx, ctx.attribute("k", 0))


@onnx_op("TopK", since=10)
def top_k_input(ctx: Context) -> Results:
    x = ctx.operand(0)
    found = ctx.elements(ctx.operand(1), "the number of elements")
    if len(found) != 1:
        raise ctx.error(f"TopK needs one number of elements, not {len(found)}")
    extent = x.shape[ctx.axis(ctx.attribute("axis", -1), x.rank)]
    return _top_k(ctx, ctx.size(found[0], "the number of elements", extent))


def _top_k(ctx: Context, k: Dim) -> Results:
    """The results are in order whether the model asks for that or not."""
    ctx.ignore("sorted")
    x = ctx.operand(0)
    axis = ctx.axis(ctx.attribute("axis", -1), x.rank)
    extent = x.shape[axis]
    left = extent - k
    # two numbers are compared by the operator, and one that is computed was where it got its name
    if not (isinstance(left, int) or ctx.bound(k) or ctx.assumptions.at_least(extent, k)):
        need = f"TopK needs {dims.show(k)} elements on axis {axis} of {x.type}"
        ctx.at_least(left, 0, need)
        demanded = ctx.assumptions.ranges if ctx.scope.is_closed else ctx.assumptions.demand_at_least(left, 0)
        if dims.bounds(left, demanded)[0] < 0:
            short = ctx.build(ops.Less, ctx.dim_values((extent,), True), ctx.dim_values((k,), True))
            ctx.require(ctx.build(ops.Not, short), f"{need}, and there are fewer")
    return ctx.build(TopK, x, k, axis, bool(ctx.attribute("largest", 1))).results()


@onnx_op("NonZero", since=9)
def non_zero(ctx: Context) -> Results:
    """Positions of the elements other than 0, one row an axis; a scalar counts as a list of one."""
    x = ctx.operand(0)
    shape = x.shape or (1,)
    places = true_places(ctx, ctx.build(Reshape, _as_condition(ctx, x), (x.type.size,)))
    rows: list[Value] = []
    for axis, extent in enumerate(shape):
        stride = dims.product(shape[axis + 1 :])
        row = places if stride == 1 else ctx.build(ops.Div, places, ctx.dim_values((stride,), True))
        row = row if axis == 0 else ctx.build(ops.Mod, row, ctx.dim_values((extent,), True))
        rows.append(ctx.build(Reshape, row, (1, *places.shape)))
    return ctx.concat(rows, 0)


@onnx_op("Compress", since=9)
def compress(ctx: Context) -> Results:
    """The elements along an axis, or of the flattened input, where the condition holds."""
    x, condition, axis = ctx.operand(0), ctx.operand(1), ctx.maybe("axis", int)
    if condition.rank != 1 or condition.dtype != dtypes.boolean:
        raise ctx.error(f"the condition is {condition.type}: a list of bools is needed")
    if axis is None:
        x, axis = ctx.build(Reshape, x, (x.type.size,)), 0
    axis = ctx.axis(axis, x.rank)
    return ctx.build(Gather, x, true_places(ctx, condition), axis)


def _as_condition(ctx: Context, x: Value) -> Value:
    """Whether each element is other than 0."""
    if x.dtype == dtypes.boolean:
        return x
    return ctx.build(ops.Not, ctx.build(ops.Equal, x, ctx.constant(0, x.dtype)))


def true_places(ctx: Context, mask: Value) -> Value:
    """The i64 positions of the true elements of a list of bools: as many as there are."""
    count = ctx.build(ReduceSum, ctx.build(ops.Cast, mask, dtypes.i64), (0,), False)
    (extent,) = mask.shape
    most = extent if isinstance(extent, int) else None
    return ctx.build(Compact, mask, ctx.size(count, "the number of elements found", most))


@onnx_op("TensorScatter", since=24)
def tensor_scatter(ctx: Context) -> Results:
    """Updates written into a cache from a place of each batch element's own on, round and round if circular."""
    cache, updates, starts = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    axis, mode = ctx.axis(ctx.attribute("axis", -2), cache.rank), ctx.attribute("mode", "linear")
    if axis == 0 or mode not in ("linear", "circular") or updates.rank != cache.rank:
        raise ctx.error(f"updates {updates.type} of {cache.type} along axis {axis} with mode {mode!r}")
    rest = (1,) * (cache.rank - axis - 1)
    length = updates.shape[axis]
    places: Value = ctx.build(Reshape, counted(ctx, length, dtypes.i64), (*(1,) * axis, length, *rest))
    if starts is not None:
        first = ctx.cast(starts, dtypes.i64)
        first = ctx.build(Reshape, first, (starts.shape[0], *(1,) * (cache.rank - 1)))
        places = ctx.build(ops.Add, places, first)
    if mode == "circular":
        places = ctx.build(ops.Mod, places, ctx.dim_values((cache.shape[axis],), True))
    return ctx.build(Scatter, cache, places, updates, axis, "none")


@onnx_op("ReverseSequence", since=10)
def reverse_sequence(ctx: Context) -> Results:
    """The first steps of each sequence backwards: rows of [time * batch] gathered at computed places."""
    x, lengths = ctx.operand(0), ctx.operand(1)
    time, batch = ctx.attribute("time_axis", 0), ctx.attribute("batch_axis", 1)
    if {time, batch} != {0, 1} or x.rank < 2:
        raise ctx.error(f"time_axis {time} and batch_axis {batch} of {x.type}: they must be 0 and 1")
    turn = (1, 0, *range(2, x.rank))
    if time == 1:
        x = ctx.build(Transpose, x, turn)
    steps, count = x.shape[:2]
    ctx.equal(lengths.shape[0], count)
    if lengths.dtype != dtypes.i64:
        lengths = ctx.build(ops.Cast, lengths, dtypes.i64)
    step = ctx.build(Reshape, counted(ctx, steps, dtypes.i64), (steps, 1))
    last = ctx.build(ops.Sub, lengths, ctx.constant(1, dtypes.i64))
    inside = ctx.build(ops.Less, step, lengths)
    taken = ctx.build(ops.Where, inside, ctx.build(ops.Sub, last, step), step)
    places = _linear(ctx, (taken, counted(ctx, count, dtypes.i64)), (steps, count))
    result = ctx.build(Gather, ctx.build(Reshape, x, (steps * count, *x.shape[2:])), places, 0)
    return result if time == 0 else ctx.build(Transpose, result, turn)


def _column(extent: Dim, axis: int, rank: int) -> Dims:
    """The shape that lays a vector along `axis` of `rank` axes."""
    return (extent, *(1,) * (rank - 1 - axis))


def _addressed(ctx: Context, data: Value, indices: Value, first: int) -> list[Value]:
    """The places along the axes of the data from `first` on that the last axis of `indices` lists."""
    rank = indices.rank - 1
    sizes, steps = (*indices.shape[:-1], 1), (1,) * indices.rank
    places: list[Value] = []
    for i in range(int(indices.shape[-1])):
        part = ctx.build(Slice, indices, (*(0,) * rank, i), sizes, steps)
        places.append(_from_front(ctx, ctx.build(Reshape, part, indices.shape[:-1]), data.shape[first + i]))
    return places


def _from_front(ctx: Context, indices: Value, extent: Dim) -> Value:
    """i64 indices with negative ones counted from the end."""
    wide = ctx.cast(indices, dtypes.i64)
    from_end = ctx.build(ops.Add, wide, ctx.dim_values((extent,), True))
    return ctx.build(ops.Where, ctx.build(ops.Less, wide, ctx.constant(0, dtypes.i64)), from_end, wide)


def _linear(ctx: Context, places: Iterable[Value], shape: Dims) -> Value:
    """The row-major position of one place an axis of `shape`: beyond the end where a place is outside its axis, so that
    it does not become one in another row."""
    total: Value = ctx.constant(0, dtypes.i64)
    inside: Value | None = None
    for axis, place in enumerate(places):
        fits = ctx.build(
            ops.And,
            ctx.build(ops.LessOrEqual, ctx.constant(0, dtypes.i64), place),
            ctx.build(ops.Less, place, ctx.dim_values((shape[axis],), True)),
        )
        inside = fits if inside is None else ctx.build(ops.And, inside, fits)
        stride = dims.product(shape[axis + 1 :])
        step = place if stride == 1 else ctx.build(ops.Mul, place, ctx.dim_values((stride,), True))
        total = step if axis == 0 else ctx.build(ops.Add, total, step)
    if inside is None:
        return total
    return ctx.build(ops.Where, inside, total, ctx.dim_values((dims.product(shape),), True))
