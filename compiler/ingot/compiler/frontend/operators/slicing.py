"""Slice: starts and ends clamped to the operand, symbolically where the extent is symbolic."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.frontend.assumptions import Assumptions
from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.axes import FARTHEST, sliced, span
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
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
    starts, ends = _places(ctx, ctx.operand(1), "the starts"), _places(ctx, ctx.operand(2), "the ends")
    return slice_by(ctx, x, starts, ends, axes, steps)


def _places(ctx: Context, value: Value, what: str) -> Sequence[Dim | Value]:
    """The elements of `value`, i64 scalars where they depend on data."""
    known = ctx.known(value)
    if known is not None:
        return known
    elements = ctx.elements(value, what)
    return [each if (dim := ctx.known(each)) is None else dim[0] for each in elements]


def slice_by(
    ctx: Context,
    x: Value,
    starts: Sequence[Dim | Value],
    ends: Sequence[Dim | Value],
    axes: tuple[int, ...] | None,
    steps: tuple[int, ...] | None,
) -> Value:
    """x from `starts` to before `ends` in `steps` along `axes` (default: the first ones), by numpy's rules. Where
    starts or ends depend on data, they are clamped when the model runs."""
    chosen = ctx.axes(axes if axes is not None else range(len(starts)), x.rank)
    steps = steps or (1,) * len(chosen)
    if not len(starts) == len(ends) == len(chosen) == len(steps):
        raise ctx.error(
            f"{len(starts)} starts, {len(ends)} ends, axes {list(chosen)} and steps {list(steps)} need one length"
        )
    if 0 in steps:
        raise ctx.error("a step is 0")
    first: list[Dim] = [0] * x.rank
    sizes: list[Dim] = list(x.shape)
    strides = [1] * x.rank
    for start, end, axis, step in zip(starts, ends, chosen, steps, strict=True):
        strides[axis] = step
        first[axis], sizes[axis] = _range(ctx, start, end, step, x.shape[axis])
    if tuple(sizes) == x.shape and all(s == 1 for s in strides):
        return x
    return ctx.build(Slice, ctx.checked(x)[0], tuple(first), tuple(sizes), tuple(strides))


def _range(ctx: Context, start: Dim | Value, end: Dim | Value, step: int, extent: Dim) -> tuple[Dim, Dim]:
    """(first element, number of elements) of ``[start:end:step]`` of an axis."""
    if not isinstance(start, Value) and not isinstance(end, Value):
        return clamp(ctx.assumptions, start, end, step, extent)
    begin, finish = (x if isinstance(x, Value) else ctx.dim_values((x,), True) for x in (start, end))
    step = max(-FARTHEST, min(step, FARTHEST))
    low, count = span(ctx, begin, finish, step, ctx.dim_values((extent,), True))
    low = ctx.build(ops.Max, low, ctx.constant(0, dtypes.i64))  # of an axis without elements
    most = extent if isinstance(extent, int) else None
    return ctx.size(low, "the start of a slice"), ctx.size(count, "the extent of a slice", most)


def clamp(known: Assumptions, start: Dim, end: Dim, step: int, extent: Dim) -> tuple[Dim, Dim]:
    """(first element, number of elements) of ``[start:end:step]`` of an axis; exact for every value of the symbols."""
    if step > 0:
        first = _position(known, start, extent, 0, extent)
        last = _position(known, end, extent, 0, extent)
        places = _counted(known, start, extent), _counted(known, end, extent)
        size = dims.ceil_divide(_distance(known, *places, extent), step)
    else:
        first = _position(known, start, extent, 0, extent - 1)  # the standard's bounds, not Python's
        last = _position(known, end, extent, -1, extent - 1)
        size = dims.ceil_divide(known.largest(first - last, 0), -step)
    return first, size


def _distance(known: Assumptions, start: Dim, end: Dim, extent: Dim) -> Dim:
    """Number of elements from `start` to before `end` that lie on the axis, in few operations: slices that are equally
    long are so in the same words."""
    if known.at_least(start, 0):
        return known.largest(known.smallest(end, extent) - start, 0)
    if known.at_least(extent, start) and known.at_least(end, extent):
        return known.smallest(extent - start, extent)
    first, last = (known.smallest(known.largest(place, 0), extent) for place in (start, end))
    return known.largest(last - first, 0)


def _position(known: Assumptions, place: Dim, extent: Dim, low: Dim, high: Dim) -> Dim:
    """`place` counted from the front and kept within low..high."""
    return known.smallest(known.largest(_counted(known, place, extent), low), high)


def _counted(known: Assumptions, place: Dim, extent: Dim) -> Dim:
    """`place` counted from the front."""
    if isinstance(place, int) and abs(place) >= FAR:  # beyond the axis, wherever it ends
        return extent if place > 0 else -1
    if known.at_least(-1, place):
        place = place + extent
    elif not known.at_least(place, 0):  # of either sign: add the extent where it is negative
        place = place + extent * dims.maximum(dims.minimum(-place, 1), 0)
    return place
