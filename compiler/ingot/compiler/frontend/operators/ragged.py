"""Sequences whose length depends on data: what the sequence operators do with the data and the table of shapes.

Where an element begins is a running sum over the table, so elements of one shape and of different ones are the same
thing. Positions are checked when the model runs: one that is out of range ends the run.
"""

from __future__ import annotations

import numpy as np

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.errors import UnsupportedError
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.sequences import RaggedSequence, TensorSequence
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.indexing import Scatter
from ingot.compiler.ops.movement import Concat, Expand, Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import CumSum, ReduceMax, ReduceMin, ReduceProd, ReduceSum
from ingot.runtime.dtypes import DType, i64

Known = tuple[Dim | None, ...]


# -- making -----------------------------------------------------------------------------------------------------------


def common(first: Known, second: Known) -> Known:
    """The extents that two lists of extents have in common."""
    return tuple(a if a == b else None for a, b in zip(first, second, strict=True))


def ragged(ctx: Context, item: TensorSequence | RaggedSequence, dtype: DType | None = None) -> RaggedSequence:
    """The sequence with a length of its own; `dtype` is that of an empty one, which tells none itself."""
    if isinstance(item, RaggedSequence):
        return item
    tensors = [e for e in item.elements if isinstance(e, Value)]
    if len(tensors) != len(item.elements):
        raise ctx.unsupported("a sequence of sequences or optionals whose length depends on data")
    kind = tensors[0].dtype if tensors else dtype
    if kind is None:
        raise ctx.error("the sequence is empty, and nothing says what its elements would be")
    ranks = {t.rank for t in tensors}
    width = max(ranks, default=0)
    known: Known = tensors[0].shape if len(ranks) == 1 else ()
    for tensor in tensors if len(ranks) == 1 else ():
        known = common(known, tensor.shape)
    if not tensors:
        data: Value = ctx.expand(ctx.constant(0, kind), (0,))
        return RaggedSequence(data, ctx.constant(np.zeros((0, 1), np.int64)), 0, ())
    parts = tuple(flat(ctx, t) for t in tensors)
    table = tuple(d for t in tensors for d in _row(t, width))
    shapes = ctx.build(Reshape, ctx.dim_values(table, False), (len(tensors), 1 + width))
    return RaggedSequence(ctx.concat(parts, 0), shapes, ranks.pop() if len(ranks) == 1 else None, known)


def _row(x: Value, width: int) -> Dims:
    """A row of the table of shapes."""
    return (x.rank, *x.shape, *(1,) * (width - x.rank))


def flat(ctx: Context, x: Value) -> Value:
    """The elements of x in a list."""
    return ctx.build(Reshape, x, (x.type.size,))


def widened(ctx: Context, shapes: Value, width: int) -> Value:
    """A table of shapes with columns for `width` axes."""
    more = width + 1 - int(shapes.shape[1])
    if more <= 0:
        return shapes
    return ctx.build(Concat, (shapes, ctx.expand(ctx.constant(1, i64), (shapes.shape[0], more))), 1)


# -- asking -----------------------------------------------------------------------------------------------------------


def _column(ctx: Context, sequence: RaggedSequence, axis: int) -> Value:
    """i64 [length]: the extents along an axis."""
    part = ctx.build(Slice, sequence.shapes, (0, 1 + axis), (sequence.length, 1), (1, 1))
    return ctx.build(Reshape, part, (sequence.length,))


def _starts(ctx: Context, sequence: RaggedSequence) -> Value:
    """i64 [length + 1]: where each element begins in the data, and where the last one ends."""
    count, width = sequence.length, sequence.width
    extents = ctx.build(Slice, sequence.shapes, (0, 1), (count, width), (1, 1))
    sizes = ctx.build(ReduceProd, extents, (1,), False) if width else ctx.expand(ctx.constant(1, i64), (count,))
    return ctx.build(Concat, (ctx.constant([0]), ctx.build(CumSum, sizes, 0, False, False)), 0)


def located(
    ctx: Context, sequence: RaggedSequence, position: Value, *, inserting: bool = False
) -> tuple[RaggedSequence, Value]:
    """The sequence and the place (i64 []) in it that `position` names, from the front. Both are checked: what is made
    of the sequence is only computed where there is such a place."""
    place, number = ctx.cast(ctx.scalar(position), i64), ctx.dim_values((sequence.length,), True)
    zero = ctx.constant(0, i64)
    place = ctx.build(ops.Where, ctx.build(ops.Less, place, zero), ctx.build(ops.Add, place, number), place)
    below = ctx.build(ops.LessOrEqual if inserting else ops.Less, place, number)
    inside = ctx.build(ops.And, ctx.build(ops.GreaterOrEqual, place, zero), below)
    ctx.require(inside, "the position is outside the sequence")
    data, shapes, place = ctx.checked(sequence.data, sequence.shapes, place)
    return RaggedSequence(data, shapes, sequence.rank, sequence.known), place


def _place(ctx: Context, value: Value, what: str) -> Dim:
    """A place as a dim: sizes are evaluated before checks are made, so none may be negative where a check fails."""
    return ctx.assumptions.largest(ctx.size(value, what), 0)


def _unlike(ctx: Context, what: str) -> UnsupportedError:
    problem = f"{what} of a sequence whose elements have different numbers of axes"
    return ctx.unsupported(problem, "give all elements of the sequence one rank")


def at(ctx: Context, sequence: RaggedSequence, place: Value) -> Value:
    """The element at a place that `located` gave."""
    if sequence.rank is None:
        raise _unlike(ctx, "an element")
    known = tuple(d for d in sequence.known if d is not None)
    if len(known) == sequence.rank:
        table = ctx.build(Reshape, sequence.data, (sequence.length, *known))
        return ctx.build(Gather, table, place, 0)
    row = ctx.build(Gather, sequence.shapes, place, 0)
    shape = tuple(
        ctx.size(ctx.element(row, 1 + axis), "an extent of an element") if extent is None else extent
        for axis, extent in enumerate(sequence.known)
    )
    start = ctx.size(ctx.build(Gather, _starts(ctx, sequence), place, 0), "the start of an element")
    part = ctx.build(Slice, sequence.data, (start,), (dims.product(shape),), (1,))
    return ctx.build(Reshape, part, shape)


# -- changing ---------------------------------------------------------------------------------------------------------


def inserted(ctx: Context, sequence: RaggedSequence, x: Value, place: Value | None) -> RaggedSequence:
    """The sequence with x before a place that `located` gave, or at its end."""
    if sequence.dtype != x.dtype:
        raise ctx.error(f"the elements of a sequence have different types: {sequence.dtype} and {x.dtype}")
    empty = sequence.length == 0
    alike = sequence.rank == x.rank
    known: Known = x.shape if empty else common(sequence.known, x.shape) if alike else ()
    rank = x.rank if empty or alike else None
    width = max(x.rank, 0 if empty else sequence.width)
    table = widened(ctx, sequence.shapes, width)
    row = ctx.build(Reshape, ctx.dim_values(_row(x, width), False), (1, 1 + width))
    if place is None:
        data = ctx.build(Concat, (sequence.data, flat(ctx, x)), 0)
        return RaggedSequence(data, ctx.build(Concat, (table, row), 0), rank, known)
    start = _place(ctx, ctx.build(Gather, _starts(ctx, sequence), place, 0), "the start of an element")
    before, after = _cut(ctx, sequence.data, start, start)
    data = ctx.build(Concat, (before, flat(ctx, x), after), 0)
    number = _place(ctx, place, "the position")
    before, after = _cut(ctx, table, number, number)
    return RaggedSequence(data, ctx.build(Concat, (before, row, after), 0), rank, known)


def erased(ctx: Context, sequence: RaggedSequence, place: Value) -> RaggedSequence:
    """The sequence without the element at a place that `located` gave."""
    starts, one = _starts(ctx, sequence), ctx.constant(1, i64)
    bounds = (ctx.build(Gather, starts, p, 0) for p in (place, ctx.build(ops.Add, place, one)))
    start, end = (_place(ctx, b, "the start of an element") for b in bounds)
    number = _place(ctx, place, "the position")
    data = ctx.build(Concat, _cut(ctx, sequence.data, start, end), 0)
    table = ctx.build(Concat, _cut(ctx, sequence.shapes, number, number + 1), 0)
    return RaggedSequence(data, table, sequence.rank, sequence.known)


def _cut(ctx: Context, x: Value, end: Dim, start: Dim) -> tuple[Value, Value]:
    """The rows of x before `end` and those from `start` on."""
    rest, steps = x.shape[1:], (1,) * x.rank
    zeros = (0,) * len(rest)
    left = ctx.assumptions.largest(x.shape[0] - start, 0)
    before = ctx.build(Slice, x, (0, *zeros), (end, *rest), steps)
    return before, ctx.build(Slice, x, (start, *zeros), (left, *rest), steps)


# -- joining and splitting --------------------------------------------------------------------------------------------


def concatenated(ctx: Context, sequence: RaggedSequence, axis: int, stacked: bool) -> Value:
    """All elements one after another along `axis`, a new one with `stacked`."""
    if sequence.rank is None:
        raise _unlike(ctx, "a concatenation")
    axis = ctx.axis(axis, sequence.rank + stacked)
    some = ctx.build(ops.Greater, ctx.dim_values((sequence.length,), True), ctx.constant(0, i64))
    ctx.require(some, "ConcatFromSequence of an empty sequence")
    shape: list[Dim] = []
    for number, extent in enumerate(sequence.known):
        if extent is None and (stacked or number != axis):
            extent = ctx.size(_same(ctx, _column(ctx, sequence, number), number), "an extent of the elements")
        shape.append(0 if extent is None else extent)
    data, count = ctx.checked(sequence.data)[0], sequence.length
    if stacked or sequence.known[axis] is not None:
        whole: Value = ctx.build(Reshape, data, (count, *shape))
        order = [*range(1, len(shape) + 1)]
        order.insert(axis, 0)
        turned = ctx.build(Transpose, whole, tuple(order)) if axis else whole
        if stacked:
            return turned
        return ctx.build(Reshape, turned, (*shape[:axis], count * shape[axis], *shape[axis + 1 :]))
    total = ctx.build(ReduceSum, _column(ctx, sequence, axis), (0,), False)
    shape[axis] = ctx.size(total, "the extent of a concatenation")
    before = dims.product(shape[:axis])
    if before == 1:  # the elements lie one after another as they are
        return ctx.build(Reshape, data, tuple(shape))
    found = ctx.build(Gather, data, _order(ctx, sequence, axis, tuple(shape)), 0)
    return ctx.build(Reshape, found, tuple(shape))


def _same(ctx: Context, column: Value, axis: int) -> Value:
    """The number (i64 []) that all elements of a column are; checked. Of an empty one 0."""
    high, low = (ctx.build(reduction, column, (0,), False) for reduction in (ReduceMax, ReduceMin))
    ctx.require(ctx.build(ops.Equal, high, low), f"the elements of a sequence differ along axis {axis}")
    return ctx.checked(high)[0]


def _order(ctx: Context, sequence: RaggedSequence, axis: int, shape: Dims) -> Value:
    """i64 [before, total, after]: where in the data the elements of the concatenation lie. Its shape is `shape`; the
    three parts are its extents before `axis`, along it and after it."""
    before, total, after = dims.product(shape[:axis]), shape[axis], dims.product(shape[axis + 1 :])
    lengths = _column(ctx, sequence, axis)
    first = ctx.build(CumSum, lengths, 0, True, False)
    # Which element a place belongs to: one more behind each place at which one begins.
    none = ctx.expand(ctx.constant(0, i64), (total + 1,))
    begun = ctx.build(Scatter, none, first, ctx.expand(ctx.constant(1, i64), first.shape), 0, "add")
    number = ctx.build(CumSum, ctx.build(Slice, begun, (0,), (total,), (1,)), 0, False, False)
    which = ctx.build(ops.Sub, number, ctx.constant(1, i64))
    local = ctx.build(ops.Sub, counted(ctx, total, i64), ctx.build(Gather, first, which, 0))
    base = ctx.build(Gather, _starts(ctx, sequence), which, 0)
    own = ctx.build(Gather, lengths, which, 0)
    rows = ctx.build(Reshape, counted(ctx, before, i64), (before, 1, 1))
    row = ctx.build(ops.Add, ctx.build(ops.Mul, rows, _middle(ctx, own)), _middle(ctx, local))
    place = ctx.build(ops.Add, ctx.build(ops.Mul, row, ctx.dim_values((after,), True)), _middle(ctx, base))
    return ctx.build(ops.Add, place, counted(ctx, after, i64))


def _middle(ctx: Context, x: Value) -> Value:
    return ctx.build(Reshape, x, (1, x.shape[0], 1))


def divided(ctx: Context, x: Value, axis: int, lengths: Value, known: Dim | None, keepdims: bool) -> RaggedSequence:
    """x cut along `axis` into parts of the given lengths (i64 [n], which add up to its extent), all of the length
    `known` where that is not None. Without `keepdims` the parts, which have length 1, lose the axis."""
    count = lengths.shape[0]
    columns: list[Value] = [ctx.expand(ctx.constant(x.rank, i64), (count, 1))]
    for number, extent in enumerate(x.shape):
        if number == axis:
            columns.append(ctx.build(Reshape, lengths, (count, 1)))
        else:
            columns.append(ctx.build(Expand, ctx.dim_values((extent,), True), (count, 1)))
    extents = (*x.shape[:axis], known, *x.shape[axis + 1 :])
    data = flat(ctx, x)
    parts = RaggedSequence(data, ctx.build(Concat, tuple(columns), 1), x.rank, extents)
    if dims.product(x.shape[:axis]) != 1:
        places = flat(ctx, _order(ctx, parts, axis, x.shape))
        none = ctx.expand(ctx.constant(0, x.dtype), data.shape)
        data = ctx.build(Scatter, none, places, data, 0, "none")
    if keepdims:
        return RaggedSequence(data, parts.shapes, x.rank, extents)
    columns = [ctx.expand(ctx.constant(x.rank - 1, i64), (count, 1)), *columns[1 : 1 + axis], *columns[2 + axis :]]
    table = ctx.concat(columns, 1)
    return RaggedSequence(data, table, x.rank - 1, (*x.shape[:axis], *x.shape[axis + 1 :]))


