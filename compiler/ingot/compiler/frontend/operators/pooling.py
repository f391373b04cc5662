"""Pooling over windows and over whole channels, and its inverse."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as cartesian

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.contraction import Window, window
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Row, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.indexing import Scatter
from ingot.compiler.ops.linear import AveragePool, MaxPool, window_count
from ingot.compiler.ops.movement import Concat, Expand, Gather, Pad, Reshape, Slice
from ingot.compiler.ops.reduction import ArgMax, ReduceMax, ReduceMean, ReduceSum, lowest
from ingot.runtime.dtypes import i64

TABLE = Table()
onnx_op = TABLE.onnx_op


def _window(ctx: Context, x: Value) -> tuple[tuple[int, ...], Window, bool]:
    kernel = ctx.required_ints("kernel_shape")
    if len(kernel) != x.rank - 2 or not kernel:
        raise ctx.error(f"kernel_shape {list(kernel)} does not fit {x.type}: one entry for each spatial axis is needed")
    ceil_mode = bool(ctx.attribute("ceil_mode", 0))
    return kernel, window(ctx, x, kernel, ceil_mode), ceil_mode


@onnx_op("MaxPool")
def max_pool(ctx: Context) -> Results:
    x = ctx.operand(0)
    kernel, w, ceil_mode = _window(ctx, x)
    columns_first = bool(ctx.attribute("storage_order", 0))  # it concerns the indices alone
    whole, pads = w.padded(ctx, x, _bottom(ctx, x))
    pooled = ctx.build(MaxPool, whole, kernel, w.strides, pads, w.dilations, ceil_mode, False)
    if len(ctx.node.output) < 2 or not ctx.node.output[1]:
        return pooled
    return pooled, _places_of_largest(ctx, x, kernel, w, pooled.type.shape[2:], columns_first)


def _bottom(ctx: Context, x: Value) -> Value:
    """What is below all elements of x."""
    return ctx.constant(np.asarray(lowest(x.dtype.to_numpy()), x.dtype.to_numpy()))


def _places_of_largest(
    ctx: Context, x: Value, kernel: tuple[int, ...], w: Window, out: tuple[Dim, ...], columns_first: bool
) -> Value:
    """The position in the flattened x of the first largest element of each window.

    The windows' elements are laid out along a new axis, tap by tap; the tap of the largest gives the rest.
    """
    n, spatial = len(kernel), x.shape[2:]
    ends: list[Dim] = []
    for i, extent in enumerate(spatial):
        reach = (out[i] - 1) * w.strides[i] + (kernel[i] - 1) * w.dilations[i] + 1
        ends.append(ctx.assumptions.largest(reach - extent - w.pads[i], 0))
    padded = ctx.build(Pad, x, (0, 0, *w.pads[:n], 0, 0, *ends), "constant", _bottom(ctx, x))
    parts: list[Value] = []
    offsets: list[Value] = []
    steps = _flat_steps(spatial, columns_first)
    for tap in cartesian(*map(range, kernel)):
        starts = (0, 0, *(t * d for t, d in zip(tap, w.dilations, strict=True)))
        seen = ctx.build(Slice, padded, starts, (*x.shape[:2], *out), (1, 1, *w.strides))
        parts.append(ctx.build(Reshape, seen, (*seen.shape, 1)))
        place: Dim = 0
        for t, d, step in zip(tap, w.dilations, steps, strict=True):
            place = place + step * (t * d)
        offsets.append(ctx.dim_values((place,), False))
    tap_number = ctx.build(ArgMax, ctx.build(Concat, tuple(parts), n + 2), n + 2, False, False)
    total: Value = ctx.build(Gather, ctx.build(Concat, tuple(offsets), 0), tap_number, 0)
    for i, step in enumerate(steps):
        first = ctx.build(ops.Mul, counted(ctx, out[i], i64), ctx.dim_values((step * w.strides[i],), True))
        first = ctx.build(ops.Sub, first, ctx.dim_values((step * w.pads[i],), True))
        total = ctx.build(ops.Add, total, ctx.build(Reshape, first, (out[i], *(1,) * (n - 1 - i))))
    return ctx.build(ops.Add, total, _plane_starts(ctx, x, n))


def _flat_steps(spatial: tuple[Dim, ...], columns_first: bool) -> list[Dim]:
    """How far apart neighbours along each spatial axis lie."""
    if columns_first:
        return [dims.product(spatial[:i]) for i in range(len(spatial))]
    return [dims.product(spatial[i + 1 :]) for i in range(len(spatial))]


def _plane_starts(ctx: Context, x: Value, n: int) -> Value:
    """Where the plane of each image and channel begins: [N, C, 1, ..]."""
    images, channels = x.shape[:2]
    planes = ctx.build(Reshape, counted(ctx, images * channels, i64), (images, channels, *(1,) * n))
    return ctx.build(ops.Mul, planes, ctx.dim_values((dims.product(x.shape[2:]),), True))


@onnx_op("MaxUnpool", since=9)
def max_unpool(ctx: Context) -> Results:
    """Zeros with the elements at the positions that MaxPool gave."""
    x, places = ctx.operand(0), ctx.operand(1)
    kernel = ctx.required_ints("kernel_shape")
    n = len(kernel)
    strides, pads = ctx.ints("strides") or (1,) * n, ctx.ints("pads") or (0,) * (2 * n)
    if n != x.rank - 2 or len(strides) != n or len(pads) != 2 * n:
        raise ctx.error(f"kernel_shape {list(kernel)} does not fit {x.type}")
    if ctx.optional(2) is not None:
        shape = ctx.dims(2, "the output shape")
    else:
        spatial = ((d - 1) * strides[i] + kernel[i] - pads[i] - pads[n + i] for i, d in enumerate(x.shape[2:]))
        shape = (*x.shape[:2], *spatial)
    if len(shape) != x.rank:
        raise ctx.error(f"the output shape has {len(shape)} entries for {x.type}")
    nothing = ctx.build(Expand, ctx.constant(0, x.dtype), (dims.product(shape),))
    flat = (x.type.size,)
    written = ctx.build(Scatter, nothing, ctx.build(Reshape, places, flat), ctx.build(Reshape, x, flat), 0, "none")
    return ctx.build(Reshape, written, shape)


@onnx_op("AveragePool")
def average_pool(ctx: Context) -> Results:
    x = ctx.operand(0)
    kernel, w, ceil_mode = _window(ctx, x)
    include_pad = bool(ctx.attribute("count_include_pad", 0))

    def mean(of: Value, with_pads: bool) -> Value:
        whole, pads = w.padded(ctx, of)
        return ctx.build(AveragePool, whole, kernel, w.strides, pads, w.dilations, ceil_mode, with_pads, False)

    if include_pad or all(isinstance(p, int) for p in w.pads):
        return mean(x, include_pad)
    ones = ctx.expand(ctx.constant(1.0, x.dtype), (1, 1, *x.shape[2:]))
    return ctx.build(ops.Div, mean(x, True), mean(ones, True))


def _power(ctx: Context) -> float:
    """The exponent: a float before opset 2, then an integer."""
    power = ctx.attribute("p", 2.0) if ctx.opset < 2 else float(ctx.attribute("p", 2))
    if power <= 0:
        raise ctx.error(f"p is {power}, a positive number is needed")
    return power


def _powers(ctx: Context, x: Value, power: float) -> Value:
    """``|x| ** p``"""
    if power == 2:
        return ctx.build(ops.Mul, x, x)
    size = ctx.build(ops.Abs, x)
    return size if power == 1 else ctx.build(ops.Pow, size, ctx.constant(power, x.dtype))


def _root(ctx: Context, x: Value, power: float) -> Value:
    if power == 2:
        return ctx.build(ops.Sqrt, x)
    return x if power == 1 else ctx.build(ops.Pow, x, ctx.constant(1 / power, x.dtype))


@onnx_op("LpPool")
def lp_pool(ctx: Context) -> Results:
    """The sum of a window is its mean times its size; end pads stand for what `ceil_mode` adds."""
    x = ctx.operand(0)
    kernel, w, ceil_mode = _window(ctx, x)
    (x, fixed), n = w.padded(ctx, x), len(kernel)
    pads = list(fixed)
    if ceil_mode:
        for i, extent in enumerate(x.shape[2:]):
            begin, end, dilation = fixed[i], fixed[n + i], w.dilations[i]
            count = window_count(extent, kernel[i], w.strides[i], begin, end, dilation, True)
            beyond = (count - 1) * w.strides[i] + (kernel[i] - 1) * dilation + 1 - extent - begin
            if not isinstance(beyond, int):
                raise ctx.unsupported(f"LpPool of {x.type} with ceil_mode", "pin its extents with shapes")
            pads[n + i] = max(beyond, end)
    power = _power(ctx)
    mean = ctx.build(
        AveragePool, _powers(ctx, x, power), kernel, w.strides, tuple(pads), w.dilations, False, True, False
    )
    total = ctx.build(ops.Mul, mean, ctx.constant(float(np.prod(kernel)), x.dtype))
    return _root(ctx, total, power)


@onnx_op("GlobalLpPool")
def global_lp_pool(ctx: Context) -> Results:
    x, power = ctx.operand(0), _power(ctx)
    return _root(ctx, ctx.build(ReduceSum, _powers(ctx, x, power), tuple(range(2, x.rank)), True), power)


def _global(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        x = ctx.operand(0)
        if x.rank < 3:
            raise ctx.error(f"global pooling needs spatial axes, the operand is {x.type}")
        return ctx.build(op, x, tuple(range(2, x.rank)), True)

    return row


TABLE.add("GlobalAveragePool", _global(ReduceMean))
TABLE.add("GlobalMaxPool", _global(ReduceMax))
