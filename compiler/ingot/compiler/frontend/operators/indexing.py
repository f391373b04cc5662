"""Gather and its relatives: elements chosen by an index tensor.

GatherElements and GatherND become one Gather from the flattened data at linear positions.
"""

from __future__ import annotations

from collections.abc import Iterable

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Gather, Reshape, Slice
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
    sizes, steps = (*indices.shape[:-1], 1), (1,) * indices.rank
    for i in range(depth):
        part = ctx.build(Slice, indices, (*(0,) * rank, i), sizes, steps)
        part = ctx.build(Reshape, part, indices.shape[:-1])
        places.append(_from_front(ctx, part, data.shape[batch + i]))
    rows = ctx.build(Reshape, data, (dims.product(data.shape[:addressed]), *data.shape[addressed:]))
    return ctx.build(Gather, rows, _linear(ctx, places, data.shape[:addressed]), 0)


def _column(extent: Dim, axis: int, rank: int) -> Dims:
    """The shape that lays a vector along `axis` of `rank` axes."""
    return (extent, *(1,) * (rank - 1 - axis))


def _from_front(ctx: Context, indices: Value, extent: Dim) -> Value:
    """i64 indices with negative ones counted from the end."""
    wide = indices if indices.dtype == dtypes.i64 else ctx.build(ops.Cast, indices, dtypes.i64)
    from_end = ctx.build(ops.Add, wide, ctx.dim_values((extent,), True))
    return ctx.build(ops.Where, ctx.build(ops.Less, wide, ctx.constant(0, dtypes.i64)), from_end, wide)


def _linear(ctx: Context, places: Iterable[Value], shape: Dims) -> Value:
    """The row-major position of one place an axis of `shape`."""
    total: Value = ctx.constant(0, dtypes.i64)
    for axis, place in enumerate(places):
        stride = dims.product(shape[axis + 1 :])
        step = place if stride == 1 else ctx.build(ops.Mul, place, ctx.dim_values((stride,), True))
        total = step if axis == 0 else ctx.build(ops.Add, total, step)
    return total
