"""Quantised operators: conversions, and products of integers with and without requantisation.

Products are exact: i32 sums of differences from the zero points.
"""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.contraction import matrix_product, window
from ingot.compiler.frontend.operators.narrow import INTEGERS, converted, readable
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.frontend.weights import dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.movement import Expand, Reshape, Slice
from ingot.compiler.ops.quantised import Dequantize, Quantize, working_type
from ingot.runtime.dtypes import DType, f4e2m1, f32, i32, u8

TABLE = Table()
onnx_op = TABLE.onnx_op


def _spread(ctx: Context, parameter: Value, x: Value, axis: int, block: int) -> Value:
    """A scale or zero point as it broadcasts to x: one a tensor, one for each index of `axis`, or one a block."""
    if parameter.rank == 0 or parameter.shape == (1,):
        return ctx.scalar(parameter)
    if parameter.rank == 1 and not block:
        axis = ctx.axis(axis, x.rank)
        ctx.equal(parameter.shape[0], x.shape[axis])
        return ctx.build(Reshape, parameter, (parameter.shape[0], *(1,) * (x.rank - 1 - axis)))
    if not block or parameter.rank != x.rank:
        raise ctx.error(f"the parameter {parameter.type} does not fit {x.type} with block_size {block}")
    axis = ctx.axis(axis, x.rank)
    extent, blocks = x.shape[axis], parameter.shape[axis]
    ctx.equal(blocks, dims.ceil_divide(extent, block))
    before, after = parameter.shape[:axis], parameter.shape[axis + 1 :]
    column = ctx.build(Reshape, parameter, (*before, blocks, 1, *after))
    spread = ctx.build(Expand, column, (*before, blocks, block, *after))
    whole = ctx.build(Reshape, spread, (*before, blocks * block, *after))
    if blocks * block == extent:
        return whole
    return ctx.build(Slice, whole, (0,) * x.rank, (*before, extent, *after), (1,) * x.rank)


def quantise(ctx: Context, x: Value, scale: Value, zero_point: Value | None, to: DType) -> Value:
    """x in the integer type `to`; scale and zero point broadcast to it already."""
    if to.kind == "opaque":
        return quantise_narrow(ctx, x, scale, zero_point, to)
    if x.dtype != scale.dtype:  # opset 19 lets integers in, opset 23 a scale of another float type
        kind = scale.dtype if scale.dtype.is_float else f32
        x, scale = (ctx.cast(v, kind) for v in (x, scale))
    if not x.dtype.is_float:
        x, scale = ctx.build(ops.Cast, x, f32), ctx.build(ops.Cast, scale, f32)
    ctx.broadcast_to(x.shape, scale.shape)
    return ctx.build(Quantize, x, scale, zero_point, to)


@onnx_op("QuantizeLinear", since=10)
def quantize_linear(ctx: Context) -> Results:
    ctx.ignore("precision", "saturate")  # the type of the division; what is beyond the range, of floats of 8 bits alone
    x, scale, zero_point = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    axis, block = ctx.attribute("axis", 1), ctx.attribute("block_size", 0)
    code = ctx.attribute("output_dtype", 0)
    to = zero_point.dtype if zero_point is not None else dtype_of(code, "the result") if code else u8
    spread = None if zero_point is None else _spread(ctx, zero_point, x, axis, block)
    return quantise(ctx, x, _spread(ctx, _number(ctx, scale), x, axis, block), spread, to)


def _number(ctx: Context, scale: Value) -> Value:
    """A scale, also one of f8e8m0, which is a power of two, as something to compute with."""
    return readable(ctx, scale) if scale.dtype.kind == "opaque" else scale


@onnx_op("DequantizeLinear", since=10)
def dequantize_linear(ctx: Context) -> Results:
    x, scale, zero_point = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    axis, block = ctx.attribute("axis", 1), ctx.attribute("block_size", 0)
    code = ctx.attribute("output_dtype", 0)
    spread = None if zero_point is None else _spread(ctx, zero_point, x, axis, block)
    scale = _spread(ctx, _number(ctx, scale), x, axis, block)
    ctx.broadcast_to(x.shape, scale.shape)
    to = dtype_of(code, "the result") if code else scale.dtype
    if x.dtype.kind == "opaque":
        if zero_point is not None and zero_point.dtype != x.dtype:
            raise ctx.error(f"the zero point {zero_point.type} has not the element type of {x.type}")
        x, spread = readable(ctx, x), None if spread is None else readable(ctx, spread)
    if x.dtype.is_float:
        wide = working_type(scale.dtype)
        x, scale = (ctx.cast(v, wide) for v in (x, scale))
        if spread is not None:
            x = ctx.pointwise(ops.Sub, x, ctx.cast(spread, wide))
        result: Value = ctx.pointwise(ops.Mul, x, scale)
    else:
        result = ctx.build(Dequantize, x, scale, spread)
    return ctx.cast(result, to)


def quantise_narrow(ctx: Context, x: Value, scale: Value, zero_point: Value | None, to: DType) -> Value:
    """`quantise` to an opaque type: integers by way of bytes with a narrower range, floats by division alone."""
    bounds = INTEGERS.get(to)
    if bounds is not None:
        byte = bounds.byte
        wide = None if zero_point is None else readable(ctx, zero_point)
        x = quantise(ctx, x, scale, wide, byte)
        return converted(ctx, ctx.build(ops.Clip, x, *(ctx.constant(b, byte) for b in (bounds.low, bounds.high))), to)
    kind = f32 if scale.dtype.bits < 32 else scale.dtype
    x, scale = (ctx.cast(v, kind) for v in (x, scale))
    quotient = ctx.pointwise(ops.Div, x, scale)
    if zero_point is not None and to == f4e2m1:
        quotient = ctx.pointwise(ops.Add, quotient, ctx.build(ops.Cast, readable(ctx, zero_point), kind))
    return converted(ctx, quotient, to)


def difference(ctx: Context, x: Value, zero_point: Value | None, along_rows: bool = False) -> Value:
    """x - zero_point in i32. A zero point with several elements has one a row, or (else) one for each last index."""
    wide = ctx.build(ops.Cast, x, i32)
    if zero_point is None:
        return wide
    if zero_point.shape == (1,):
        zero_point = ctx.scalar(zero_point)
    elif along_rows and zero_point.rank == 1:
        zero_point = ctx.build(Reshape, zero_point, (zero_point.shape[0], 1))
    return ctx.pointwise(ops.Sub, wide, ctx.build(ops.Cast, zero_point, i32))


@onnx_op("MatMulInteger", since=10)
def mat_mul_integer(ctx: Context) -> Results:
    """i32 ``(a - a_zero_point) @ (b - b_zero_point)``; a's zero point may have one element a row, b's one a column."""
    a = difference(ctx, ctx.operand(0), ctx.optional(2), along_rows=True)
    return matrix_product(ctx, a, difference(ctx, ctx.operand(1), ctx.optional(3)))


@onnx_op("QLinearMatMul", since=10)
def q_linear_mat_mul(ctx: Context) -> Results:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (ctx.operand(i) for i in range(8))
    for operand in (a, b, y_zero):
        if not operand.dtype.is_integer:
            remedy = "write DequantizeLinear, MatMul, QuantizeLinear"
            raise ctx.unsupported(f"QLinearMatMul of {operand.dtype.name}", remedy)

    def rows(scale: Value) -> Value:
        """One scale a row, where there are several."""
        several = scale.rank == 1 and scale.shape != (1,)
        return ctx.build(Reshape, scale, (scale.shape[0], 1)) if several else single(ctx, scale)

    total = matrix_product(ctx, difference(ctx, a, a_zero, True), difference(ctx, b, b_zero))
    scale = ctx.pointwise(ops.Mul, rows(a_scale), single(ctx, b_scale))
    return requantise(ctx, total, scale, rows(y_scale), rows(y_zero))


def single(ctx: Context, value: Value) -> Value:
    """A list of one element as a scalar, anything else as it is."""
    return ctx.scalar(value) if value.shape == (1,) else value


def requantise(ctx: Context, total: Value, scale: Value, y_scale: Value, y_zero: Value) -> Value:
    """``saturate(round(total * scale / y_scale) + y_zero)``"""
    kind = f32 if scale.dtype.bits < 32 else scale.dtype  # halves cannot hold an i32
    scale, y_scale = (ctx.cast(v, kind) for v in (scale, y_scale))
    real = ctx.pointwise(ops.Mul, ctx.build(ops.Cast, total, kind), scale)
    return quantise(ctx, real, y_scale, y_zero, y_zero.dtype)


def _integer_conv(ctx: Context, x: Value, w: Value, bias: Value | None) -> Value:
    """The i32 convolution of differences from the zero points; padding adds nothing."""
    if w.rank != x.rank or x.rank < 3 or not all(isinstance(d, int) for d in w.shape[2:]):
        raise ctx.error(f"the weight {w.type} does not fit {x.type}")
    kernel = tuple(d for d in w.shape[2:] if isinstance(d, int))
    given = ctx.ints("kernel_shape")
    if given is not None and given != kernel:
        raise ctx.error(f"kernel_shape {list(given)} does not agree with the weight {w.type}")
    shared = window(ctx, x, kernel)
    group = ctx.attribute("group", 1)
    ctx.equal(x.shape[1], w.shape[1] * group)
    x, pads = shared.padded(ctx, x)
    return ctx.build(Conv, x, w, bias, shared.strides, pads, shared.dilations, group, False)


def _filter_difference(ctx: Context, w: Value, zero_point: Value | None) -> Value:
    """Filters minus their zero point, one for all or one for each output channel."""
    if zero_point is not None and zero_point.rank == 1 and zero_point.shape != (1,):
        zero_point = ctx.build(Reshape, zero_point, (zero_point.shape[0], *(1,) * (w.rank - 1)))
    return difference(ctx, w, zero_point)


@onnx_op("ConvInteger", since=10)
def conv_integer(ctx: Context) -> Results:
    x, w = difference(ctx, ctx.operand(0), ctx.optional(2)), ctx.operand(1)
    return _integer_conv(ctx, x, _filter_difference(ctx, w, ctx.optional(3)), None)


@onnx_op("QLinearConv", since=10)
def q_linear_conv(ctx: Context) -> Results:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (ctx.operand(i) for i in range(8))
    filters = _filter_difference(ctx, w, w_zero)
    total = _integer_conv(ctx, difference(ctx, x, x_zero), filters, ctx.optional(8))
    scale = ctx.pointwise(ops.Mul, single(ctx, x_scale), single(ctx, w_scale))
    if scale.rank == 1:
        scale = ctx.build(Reshape, scale, (scale.shape[0], *(1,) * (x.rank - 2)))
    return requantise(ctx, total, scale, single(ctx, y_scale), single(ctx, y_zero))
