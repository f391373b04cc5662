"""Axes that depend on data.

Which axes an operator is about says where elements come from and what the shape of the result is. Both can be computed
when the model runs: elements are gathered from the flat operand in an order in which the axes are known ones, and
shapes are sizes that come from data. That is slower than axes known beforehand, which models nearly always have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.indexing import Compact
from ingot.compiler.ops.movement import Concat, Gather, Reshape
from ingot.compiler.ops.reduction import CumSum, ReduceProd, ReduceSum
from ingot.runtime.dtypes import i64

FARTHEST = 2**31 - 1  # a step this long leaves every axis


@dataclass(frozen=True)
class Axes:
    """Some of `rank` axes: `mask` (bool [rank]) says which, `match` (bool [count, rank]) which is named where."""

    rank: int
    count: int
    mask: Value
    match: Value

    def positions(self, ctx: Context, *, chosen: bool) -> Value:
        """i64: the axes that are (not) among them, ascending."""
        if chosen:
            return ctx.build(Compact, self.mask, self.count)
        return ctx.build(Compact, ctx.build(ops.Not, self.mask), self.rank - self.count)

    def spread(self, ctx: Context, values: Value, others: Value) -> Value:
        """i64 [rank]: of a named axis its element of `values` (i64 [count]), else that of `others` (i64 [rank])."""
        column = ctx.build(Reshape, values, (self.count, 1))
        named = ctx.build(ops.Where, self.match, column, ctx.constant(0, i64))
        return ctx.build(ops.Where, self.mask, ctx.build(ReduceSum, named, (0,), False), others)


def axes_from_data(ctx: Context, value: Value, rank: int) -> Axes:
    """The axes that the elements of `value` name when the model runs; how many must be known. A run in which one is
    out of range or named twice ends."""
    count = value.type.size
    if value.rank > 1 or not isinstance(count, int) or not value.dtype.is_integer:
        raise ctx.unsupported(f"axes that are {value.type}", "give a list of integers of fixed length")
    named = ctx.build(Reshape, ctx.cast(value, i64), (count, 1))
    negative = ctx.build(ops.Less, named, ctx.constant(0, i64))
    named = ctx.build(ops.Where, negative, ctx.build(ops.Add, named, ctx.constant(rank, i64)), named)
    match = ctx.build(ops.Equal, named, ctx.constant(np.arange(rank)))
    times = ctx.build(ReduceSum, ctx.build(ops.Cast, match, i64), (0,), False)
    mask = ctx.build(ops.Greater, times, ctx.constant(0, i64))
    found = ctx.build(ReduceSum, ctx.build(ops.Cast, mask, i64), (0,), False)
    ctx.require(
        ctx.build(ops.Equal, found, ctx.constant(count, i64)),
        f"{count} different axes of {rank} are needed: one is out of range or named twice",
    )
    return Axes(rank, count, *ctx.checked(mask, match))


def reduced(ctx: Context, reduction: Callable[..., Value], x: Value, axes: Value, keepdims: bool) -> Value:
    """x reduced over the axes that `axes` names; `reduction` is called as ``reduction(ctx, x, axes, keepdims)``."""
    chosen = axes_from_data(ctx, axes, x.rank)
    one = ctx.constant(1, i64)
    extents = ctx.dim_values(x.shape, False)
    strides = ctx.dim_values(tuple(dims.product(x.shape[axis + 1 :]) for axis in range(x.rank)), False)
    rest = chosen.positions(ctx, chosen=False)
    order = (rest, chosen.positions(ctx, chosen=True))
    most = _most(x.shape)
    rows, columns = (
        _offsets(ctx, ctx.build(Gather, extents, part, 0), ctx.build(Gather, strides, part, 0), most) for part in order
    )
    index = ctx.build(ops.Add, ctx.build(Reshape, rows, (rows.shape[0], 1)), columns)
    table = ctx.build(Gather, ctx.build(Reshape, x, (x.type.size,)), index, 0)
    result = reduction(ctx, table, (1,), False)
    if keepdims:
        return shaped(ctx, result, ctx.build(ops.Where, chosen.mask, one, extents), most)
    return shaped(ctx, result, ctx.build(Gather, extents, rest, 0), most)


def _most(shape: Sequence[dims.Dim]) -> int | None:
    """A bound on the product of any of these extents, None where there is none. With it what computes places can be
    made for the little work that it nearly always is."""
    total = dims.product(dims.maximum(extent, 1) for extent in shape)
    return total if isinstance(total, int) else None


def _offsets(ctx: Context, extents: Value, strides: Value, most: int | None) -> Value:
    """i64: where the elements of a tensor of these extents lie, in order, when its axes have these strides; there are
    at most `most`."""
    total = ctx.build(ReduceProd, extents, (0,), False)
    position = counted(ctx, ctx.size(total, "the number of elements along the axes", most), i64)
    offset: Value = ctx.build(ops.Mul, position, ctx.constant(0, i64))
    for axis in reversed(range(int(extents.shape[0]))):
        extent = ctx.build(ops.Max, ctx.element(extents, axis), ctx.constant(1, i64))
        along = ctx.build(ops.Mul, ctx.build(ops.Mod, position, extent), ctx.element(strides, axis))
        offset = ctx.build(ops.Add, offset, along)
        position = ctx.build(ops.Div, position, extent)
    return offset


def shaped(ctx: Context, x: Value, shape: Value, most: int | None = None) -> Value:
    """x reshaped to the elements of `shape` (i64 [rank]), which have as many elements as x and are at most `most`."""
    extents = ctx.elements(shape, "the shape")
    own = ctx.dim_values((x.type.size,), True)
    total: Value = ctx.constant(1, i64)
    for extent in extents:
        total = ctx.build(ops.Mul, total, extent)
    found = tuple(ctx.size(extent, "an extent", most) for extent in extents)
    ctx.require(ctx.build(ops.Equal, total, own), f"{x.type} has not the number of elements of its new shape")
    return ctx.build(Reshape, ctx.checked(x)[0], found)


def squeezed(ctx: Context, x: Value, axes: Value) -> Value:
    """x without the axes that `axes` names, whose extents are 1."""
    chosen = axes_from_data(ctx, axes, x.rank)
    extents = ctx.build(Gather, ctx.dim_values(x.shape, False), chosen.positions(ctx, chosen=False), 0)
    return shaped(ctx, x, extents, _most(x.shape))


def unsqueezed(ctx: Context, x: Value, axes: Value) -> Value:
    """x with axes of extent 1 where `axes` says, counted in the result."""
    more = axes.type.size
    if not isinstance(more, int):
        raise ctx.unsupported(f"axes that are {axes.type}", "give a list of fixed length")
    chosen = axes_from_data(ctx, axes, x.rank + more)
    one = ctx.constant(1, i64)
    if x.rank == 0:
        return ctx.build(Reshape, ctx.checked(x)[0], (1,) * chosen.count)
    kept = ctx.build(ops.Cast, ctx.build(ops.Not, chosen.mask), i64)
    before = ctx.build(ops.Sub, ctx.build(CumSum, kept, 0, False, False), one)
    place = ctx.build(ops.Max, before, ctx.constant(0, i64))
    extents = ctx.build(Gather, ctx.dim_values(x.shape, False), place, 0)
    return shaped(ctx, x, ctx.build(ops.Where, chosen.mask, one, extents), _most(x.shape))


def by_axis(ctx: Context, axis: Value, rank: int, along: Callable[[int], Value]) -> Value:
    """``along(axis)``, whose type is the same for all axes: each is computed, the one meant is taken."""
    chosen = axes_from_data(ctx, axis, rank)
    if chosen.count != 1:
        raise ctx.error(f"one axis is needed, not {chosen.count}")
    if rank == 1:  # no choice that would depend on the axis
        ctx.require(ctx.element(chosen.mask, 0), "the axis is out of range")
    result = along(0)
    for number in range(1, rank):
        other = along(number)
        if other.type != result.type:
            raise ctx.unsupported(
                f"an axis that is computed from data and decides whether the result is {result.type} or {other.type}",
                "make the axis constant",
            )
        result = ctx.build(ops.Where, ctx.element(chosen.mask, number), other, result)
    return result


def span(ctx: Context, start: Value, end: Value, step: Value | int, extent: Value) -> tuple[Value, Value]:
    """i64: the first element, not counted from the end, and the number of elements of ``[start:end:step]`` of an axis,
    or of many: the operands broadcast. A step is no further than `FARTHEST`, and not 0."""
    zero, one = ctx.constant(0, i64), ctx.constant(1, i64)
    forward = step > 0 if isinstance(step, int) else ctx.build(ops.Greater, step, zero)
    last = ctx.build(ops.Sub, extent, one)

    def either(ahead: Value, back: Value) -> Value:
        if isinstance(forward, bool):
            return ahead if forward else back
        return ctx.build(ops.Where, forward, ahead, back)

    low, high = either(zero, ctx.constant(-1, i64)), either(extent, last)

    def clamped(place: Value) -> Value:
        from_end = ctx.build(ops.Add, place, extent)
        place = ctx.build(ops.Where, ctx.build(ops.Less, place, zero), from_end, place)
        return ctx.build(ops.Min, ctx.build(ops.Max, place, low), high)

    begin, finish = clamped(start), clamped(end)
    nearest = ctx.build(ops.Min, ctx.build(ops.Max, begin, zero), last)  # the standard's bounds, not Python's
    begin = either(begin, nearest)
    covered = either(ctx.build(ops.Sub, finish, begin), ctx.build(ops.Sub, begin, finish))
    covered = ctx.build(ops.Max, covered, zero)
    if step in (1, -1):
        return begin, covered
    size = ctx.constant(abs(step), i64) if isinstance(step, int) else ctx.build(ops.Abs, step)
    # Not (covered + size - 1) / size: that many elements are counted without a sum that is larger than either.
    beyond = ctx.build(ops.Div, ctx.build(ops.Max, ctx.build(ops.Sub, covered, one), zero), size)
    some = ctx.build(ops.Greater, covered, zero)
    return begin, ctx.build(ops.Where, some, ctx.build(ops.Add, beyond, one), zero)


def sliced(ctx: Context, x: Value, starts: Value, ends: Value, axes: Value | None, steps: Value | None) -> Value:
    """Slice by values that all may depend on data. An axis that is not named is copied whole."""
    zero, one = ctx.constant(0, i64), ctx.constant(1, i64)
    count = starts.type.size
    if not isinstance(count, int) or count > x.rank:
        raise ctx.unsupported(f"starts that are {starts.type} for {x.type}", "give a list of fixed length")
    chosen = axes_from_data(ctx, axes if axes is not None else ctx.constant(np.arange(count)), x.rank)
    lists = [starts, ends, *([steps] if steps is not None else [])]
    if any(v.rank != 1 or v.shape != (chosen.count,) or not v.dtype.is_integer for v in lists):
        raise ctx.error(f"starts, ends and steps are {', '.join(str(v.type) for v in lists)} for {chosen.count} axes")
    length = ctx.dim_values(x.shape, False)
    step: Value = ctx.expand(one, (x.rank,))
    if steps is not None:
        limits = ctx.constant(-FARTHEST, i64), ctx.constant(FARTHEST, i64)
        step = ctx.build(ops.Clip, chosen.spread(ctx, ctx.cast(steps, i64), step), *limits)
        nonzero = ctx.build(ops.Cast, ctx.build(ops.Not, ctx.build(ops.Equal, step, zero)), i64)
        every = ctx.build(ReduceSum, nonzero, (0,), False)
        ctx.require(ctx.build(ops.Equal, every, ctx.constant(x.rank, i64)), "a step is 0")
        (step,) = ctx.checked(step)
    begin = chosen.spread(ctx, ctx.cast(starts, i64), ctx.expand(zero, (x.rank,)))
    begin, counts = span(ctx, begin, chosen.spread(ctx, ctx.cast(ends, i64), length), step, length)
    for axis in range(x.rank):
        extent = x.shape[axis]
        most = extent if isinstance(extent, int) else None
        count = ctx.size(ctx.element(counts, axis), "the extent of a slice", most)
        offset = ctx.build(ops.Mul, counted(ctx, count, i64), ctx.element(step, axis))
        x = ctx.build(Gather, x, ctx.build(ops.Add, offset, ctx.element(begin, axis)), axis)
    return x


def padding(ctx: Context, pads: Sequence[Value], axes: Value, rank: int) -> tuple[Value, ...]:
    """Pads (begins, then ends; i64 scalars) of all axes, given those of the axes that `axes` names."""
    chosen = axes_from_data(ctx, axes, rank)
    if len(pads) != 2 * chosen.count:
        raise ctx.error(f"{len(pads)} pads do not fit {chosen.count} axes")
    none = ctx.constant(np.zeros(rank, np.int64))
    halves: list[Value] = []
    for part in (pads[: chosen.count], pads[chosen.count :]):
        listed = ctx.build(Concat, tuple(ctx.build(Reshape, v, (1,)) for v in part), 0)
        halves.append(chosen.spread(ctx, listed, none))
    return ctx.elements(ctx.build(Concat, tuple(halves), 0), "the pads")
