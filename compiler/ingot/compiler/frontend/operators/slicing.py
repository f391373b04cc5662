"""Slice: starts and ends clamped to the operand, symbolically where the extent is symbolic."""

from __future__ import annotations

from ingot.compiler.frontend.assumptions import Assumptions
from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.axes import clamped, sliced
from ingot.compiler.frontend.table import Results, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ir.types import show_shape
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Slice
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op

FAR = 2**31 - 1  # starts and ends from here on mean "as far as possible" whatever the extent


@onnx_op("Slice")
def slice_attributes(ctx: Context) -> Results:
    x = ctx.operand(0)
    starts, ends, axes = ctx.required_ints("starts"), ctx.required_ints("ends"), ctx.ints("axes")
    return slice_by(ctx, x, starts, ends, axes, None)


@onnx_op("Slice", since=10)
def slice_inputs(ctx: Context) -> Results:
    x = ctx.operand(0)
    listed = [ctx.optional(i) for i in (3, 4)]
    if any(value is not None and ctx.known(value) is None for value in listed):
        return sliced(ctx, x, ctx.operand(1), ctx.operand(2), *listed)
    axes = ctx.fixed(3, "the axes") if ctx.optional(3) is not None else None
    steps = ctx.fixed(4, "the steps") if ctx.optional(4) is not None else None
    starts, ends = (ctx.known(ctx.operand(i)) for i in (1, 2))
    if starts is None or ends is None:
        return _slice_by_values(ctx, x, ctx.operand(1), ctx.operand(2), axes, steps)
    return slice_by(ctx, x, starts, ends, axes, steps)


def slice_by(
    ctx: Context, x: Value, starts: Dims, ends: Dims, axes: tuple[int, ...] | None, steps: tuple[int, ...] | None
) -> Value:
    """x from `starts` to before `ends` in `steps` along `axes` (default: the first ones), by numpy's rules."""
    chosen = ctx.axes(axes if axes is not None else range(len(starts)), x.rank)
    steps = steps or (1,) * len(chosen)
    if not len(starts) == len(ends) == len(chosen) == len(steps):
        raise ctx.error(
            f"starts {show_shape(starts)}, ends {show_shape(ends)}, axes {list(chosen)} and steps {list(steps)} need "
            "one length"
        )
    if 0 in steps:
        raise ctx.error("a step is 0")
    first: list[Dim] = [0] * x.rank
    sizes: list[Dim] = list(x.shape)
    strides = [1] * x.rank
    for start, end, axis, step in zip(starts, ends, chosen, steps, strict=True):
        strides[axis] = step
        first[axis], sizes[axis] = clamp(ctx.assumptions, start, end, step, x.shape[axis])
    if tuple(sizes) == x.shape and all(s == 1 for s in strides):
        return x
    return ctx.build(Slice, x, tuple(first), tuple(sizes), tuple(strides))


def clamp(known: Assumptions, start: Dim, end: Dim, step: int, extent: Dim) -> tuple[Dim, Dim]:
    """(first element, number of elements) of ``[start:end:step]`` of an axis; exact for every value of the symbols."""
    if step > 0:
        first = _position(known, start, extent, 0, extent)
        last = _position(known, end, extent, 0, extent)
        size = dims.ceil_divide(known.largest(last - first, 0), step)
    else:
        first = _position(known, start, extent, 0, extent - 1)  # the standard's bounds, not Python's
        last = _position(known, end, extent, -1, extent - 1)
        size = dims.ceil_divide(known.largest(first - last, 0), -step)
    return first, size


def _position(known: Assumptions, place: Dim, extent: Dim, low: Dim, high: Dim) -> Dim:
    """`place` counted from the front and kept within low..high."""
    if isinstance(place, int) and place >= FAR:
        return high
    if isinstance(place, int) and place <= -FAR:
        return known.smallest(low, high)
    if known.at_least(-1, place):
        place = place + extent
    elif not known.at_least(place, 0):  # of either sign: add the extent where it is negative
        place = place + extent * dims.maximum(dims.minimum(-place, 1), 0)
    return known.smallest(known.largest(place, low), high)


def _slice_by_values(
    ctx: Context, x: Value, starts: Value, ends: Value, axes: tuple[int, ...] | None, steps: tuple[int, ...] | None
) -> Value:
    """As `slice_by`, for starts or ends that depend on data: they are clamped when the model runs."""
    begin, finish = ctx.elements(starts, "the starts"), ctx.elements(ends, "the ends")
    chosen = ctx.axes(axes if axes is not None else range(len(begin)), x.rank)
    steps = steps or (1,) * len(chosen)
    if not len(begin) == len(finish) == len(chosen) == len(steps):
        raise ctx.error(f"starts {starts.type}, ends {ends.type}, axes {list(chosen)} and {len(steps)} steps differ")
    if 0 in steps:
        raise ctx.error("a step is 0")
    first: list[Dim] = [0] * x.rank
    sizes: list[Dim] = list(x.shape)
    strides = [1] * x.rank
    for start, end, axis, step in zip(begin, finish, chosen, steps, strict=True):
        strides[axis] = step
        known = ctx.known(start), ctx.known(end)
        if known[0] is not None and known[1] is not None:
            first[axis], sizes[axis] = clamp(ctx.assumptions, known[0][0], known[1][0], step, x.shape[axis])
        else:
            first[axis], sizes[axis] = _clamped(ctx, start, end, step, x.shape[axis])
    return ctx.build(Slice, ctx.checked(x)[0], tuple(first), tuple(sizes), tuple(strides))


def _clamped(ctx: Context, start: Value, end: Value, step: int, extent: Dim) -> tuple[Dim, Dim]:
    """What `clamp` gives, computed from i64 scalars."""
    zero, length = ctx.constant(0, dtypes.i64), ctx.dim_values((extent,), True)
    last = ctx.build(ops.Sub, length, ctx.constant(1, dtypes.i64))
    low, high = (zero, length) if step > 0 else (ctx.constant(-1, dtypes.i64), last)
    begin, finish = (clamped(ctx, place, length, low, high) for place in (start, end))
    if step < 0:  # the standard's bounds, not Python's: nothing lies before the first element to start from
        begin = ctx.build(ops.Min, ctx.build(ops.Max, begin, zero), last)
    span = ctx.build(ops.Sub, finish, begin) if step > 0 else ctx.build(ops.Sub, begin, finish)
    padded = ctx.build(ops.Add, ctx.build(ops.Max, span, zero), ctx.constant(abs(step) - 1, dtypes.i64))
    count = ctx.build(ops.Div, padded, ctx.constant(abs(step), dtypes.i64)) if abs(step) > 1 else padded
    first = ctx.size(ctx.build(ops.Max, begin, zero), "the start of a slice")
    return first, ctx.size(count, "the extent of a slice", extent if isinstance(extent, int) else None)
