"""Unique, made of a stable sort, comparisons with the element before, and running counts."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.operators.indexing import true_places
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.host import StringRank
from ingot.compiler.ops.indexing import Scatter, TopK
from ingot.compiler.ops.movement import Expand, Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import CumSum, ReduceSum
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op

MOST_COLUMNS = 64  # elements of a slice that is compared with others: each is a sort of its own


@onnx_op("Unique", since=11)
def unique(ctx: Context) -> Results:
    """Values, places of the first of each, the place of every element's value, and how often each occurs.

    All NaN are one value, after all others; slices along an axis that hold NaN are different from all.
    """
    x, given = ctx.operand(0), ctx.maybe("axis", int)
    if given is None:
        x, axis = ctx.build(Reshape, x, (x.type.size,)), 0
    else:
        axis = ctx.axis(given, x.rank)
    columns = _columns(ctx, _ordered(ctx, x), axis)
    length = x.shape[axis]
    order = counted(ctx, length, dtypes.i64)
    for column in reversed(columns):
        order = ctx.build(Gather, order, _sorted_places(ctx, ctx.build(Gather, column, order, 0)), 0)
    begins = _begins(ctx, columns, order, same_nan=given is None)
    starts = true_places(ctx, begins)
    size = starts.shape[0]
    one = ctx.constant(1, dtypes.i64)
    running = ctx.build(CumSum, ctx.build(ops.Cast, begins, dtypes.i64), 0, False, False)
    group = ctx.build(ops.Sub, running, one)
    first = ctx.build(Gather, order, starts, 0)
    inverse = ctx.build(Scatter, _zeros(ctx, length), order, group, 0, "none")
    counts = ctx.build(Scatter, _zeros(ctx, size), group, ctx.build(Expand, one, (length,)), 0, "add")
    if not ctx.attribute("sorted", 1):
        first, places = ctx.build(TopK, first, size, 0, False).results()
        counts = ctx.build(Gather, counts, places, 0)
        rank = ctx.build(Scatter, _zeros(ctx, size), places, counted(ctx, size, dtypes.i64), 0, "none")
        inverse = ctx.build(Gather, rank, inverse, 0)
    return ctx.build(Gather, x, first, axis), first, inverse, counts


def _ordered(ctx: Context, x: Value) -> Value:
    """Numbers that are equal and in order as the elements of x are."""
    if x.dtype == dtypes.string:
        return ctx.build(StringRank, x)
    return ctx.build(ops.Cast, x, dtypes.u8) if x.dtype == dtypes.boolean else x


def _zeros(ctx: Context, length: Dim) -> Value:
    return ctx.build(Expand, ctx.constant(0, dtypes.i64), (length,))


def _columns(ctx: Context, x: Value, axis: int) -> list[Value]:
    """The elements of each slice along `axis`: one list for every place within the slices."""
    order = (axis, *(a for a in range(x.rank) if a != axis))
    moved = ctx.build(Transpose, x, order) if axis else x
    length, size = x.shape[axis], 1
    for d in moved.shape[1:]:
        if not isinstance(d, int) or (size := size * d) > MOST_COLUMNS:
            raise ctx.unsupported(
                f"unique slices of {x.type} along axis {axis}",
                f"slices of at most {MOST_COLUMNS} elements are compared",
            )
    flat = ctx.build(Reshape, moved, (length, size))
    parts = (ctx.build(Slice, flat, (0, i), (length, 1), (1, 1)) for i in range(size))
    return [ctx.build(Reshape, part, (length,)) for part in parts]


def _sorted_places(ctx: Context, x: Value) -> Value:
    """The places of the elements of a list from the smallest up, of equal ones the first first; NaN last."""
    (length,) = x.shape
    places = ctx.build(TopK, x, length, 0, False).result(1)
    if not x.dtype.is_float:
        return places
    # TopK has NaN first: they go round to the end.
    count = ctx.build(ReduceSum, ctx.build(ops.Cast, ctx.build(ops.IsNaN, x), dtypes.i64), (0,), False)
    turned = ctx.build(ops.Add, counted(ctx, length, dtypes.i64), count)
    wrapped = ctx.build(
        ops.Mod, turned, ctx.build(ops.Max, ctx.dim_values((length,), True), ctx.constant(1, dtypes.i64))
    )
    return ctx.build(Gather, places, wrapped, 0)


def _begins(ctx: Context, columns: list[Value], order: Value, same_nan: bool) -> Value:
    """Which elements in sorted order differ from the one before; the first does."""
    (length,) = order.shape
    place = counted(ctx, length, dtypes.i64)
    zero = ctx.constant(0, dtypes.i64)
    before = ctx.build(ops.Max, ctx.build(ops.Sub, place, ctx.constant(1, dtypes.i64)), zero)
    found = ctx.build(ops.Equal, place, zero)
    for column in columns:
        here = ctx.build(Gather, column, order, 0)
        there = ctx.build(Gather, here, before, 0)
        same = ctx.build(ops.Equal, here, there)
        if same_nan and column.dtype.is_float:
            same = ctx.build(ops.Or, same, ctx.build(ops.And, ctx.build(ops.IsNaN, here), ctx.build(ops.IsNaN, there)))
        found = ctx.build(ops.Or, found, ctx.build(ops.Not, same))
    return found
