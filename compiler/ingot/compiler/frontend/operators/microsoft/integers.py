"""Operators on quantised tensors, each with a scale and a zero point: dequantised, computed, quantised again.

What is exact in integers, products and convolutions, is written as differences from the zero points, as the standard's
operators are. ONNX Runtime's kernels round some sums in another order, so results may differ from its by one step.
"""

from __future__ import annotations

from collections.abc import Callable

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.contraction import matrix_product
from ingot.compiler.frontend.operators.microsoft.operands import given, plus
from ingot.compiler.frontend.operators.pooling import average_pool, max_pool
from ingot.compiler.frontend.operators.quantised import (
    dequantize_linear,
    difference,
    q_linear_conv,
    quantise,
    quantize_linear,
    requantise,
    single,
)
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import MICROSOFT, Row, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops import composite
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceMin
from ingot.runtime.dtypes import f32, u8

TABLE = Table(domain=MICROSOFT)
onnx_op = TABLE.onnx_op


TABLE.add("QuantizeLinear", quantize_linear)
TABLE.add("DequantizeLinear", dequantize_linear)


def real(ctx: Context, first: int) -> Value:
    """Operands `first`, with its scale, with its zero point, as a float tensor."""
    x, scale, zero = ctx.operand(first), ctx.operand(first + 1), ctx.optional(first + 2)
    return _real(ctx, x, scale, zero)


def _real(ctx: Context, x: Value, scale: Value, zero: Value | None) -> Value:
    return ctx.build(Dequantize, x, ctx.scalar(scale), None if zero is None else ctx.scalar(zero))


def stored(ctx: Context, x: Value, first: int, like: Value) -> Value:
    """x quantised by the scale that is operand `first` and the zero point after it; in the type of `like` without."""
    zero = ctx.optional(first + 1)
    to = like.dtype if zero is None else zero.dtype
    return quantise(ctx, x, ctx.scalar(ctx.operand(first)), None if zero is None else ctx.scalar(zero), to)


def _binary(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        return stored(ctx, ctx.pointwise(op, real(ctx, 0), real(ctx, 3)), 6, ctx.operand(0))

    return row


TABLE.add("QLinearAdd", _binary(ops.Add))
TABLE.add("QLinearMul", _binary(ops.Mul))


@onnx_op("QLinearSigmoid")
def q_linear_sigmoid(ctx: Context) -> Results:
    return stored(ctx, ctx.build(ops.Sigmoid, real(ctx, 0)), 3, ctx.operand(0))


@onnx_op("QLinearLeakyRelu")
def q_linear_leaky_relu(ctx: Context) -> Results:
    x = ctx.build(composite.LeakyRelu, real(ctx, 0), ctx.attribute("alpha", 0.01))
    return stored(ctx, x, 3, ctx.operand(0))


@onnx_op("QLinearSoftmax")
def q_linear_softmax(ctx: Context) -> Results:
    """Softmax as the standard has it in opset `opset`: before 13 over all axes from `axis` on."""
    x, opset = real(ctx, 0), ctx.attribute("opset", 13)
    axis = ctx.axis(ctx.attribute("axis", -1), x.rank)
    if opset >= 13:
        return stored(ctx, ctx.build(composite.Softmax, x, axis), 3, ctx.operand(0))
    rows = ctx.build(Reshape, x, (dims.product(x.shape[:axis]), dims.product(x.shape[axis:])))
    whole = ctx.build(Reshape, ctx.build(composite.Softmax, rows, 1), x.shape)
    return stored(ctx, whole, 3, ctx.operand(0))


@onnx_op("QLinearReduceMean")
def q_linear_reduce_mean(ctx: Context) -> Results:
    x = real(ctx, 0)
    axes = ctx.axes(ctx.required_ints("axes"), x.rank) or tuple(range(x.rank))
    return stored(ctx, ctx.build(ReduceMean, x, axes, bool(ctx.attribute("keepdims", 1))), 3, ctx.operand(0))


@onnx_op("QLinearConcat")
def q_linear_concat(ctx: Context) -> Results:
    """Operands: the result's scale and zero point, then a tensor with its own, again and again."""
    parts = len(ctx.operands) - 2
    if parts < 3 or parts % 3:
        raise ctx.error(f"QLinearConcat has {parts + 2} inputs: 2 and 3 for each tensor are needed")
    axis = ctx.axis(ctx.attribute("axis", 0), ctx.operand(2).rank)
    found: list[Value] = []
    for first in range(2, parts + 2, 3):
        x = ctx.operand(first)
        same = all(ctx.operand(first + 1 + i) is ctx.operand(i) for i in range(2))
        found.append(x if same else stored(ctx, real(ctx, first), 0, x))
    return ctx.concat(found, axis)


@onnx_op("QLinearWhere")
def q_linear_where(ctx: Context) -> Results:
    chosen = ctx.pointwise(ops.Where, ctx.operand(0), real(ctx, 1), real(ctx, 4))
    return stored(ctx, chosen, 7, ctx.operand(1))


# -- windows ----------------------------------------------------------------------------------------------------------


def _turned(ctx: Context, x: Value, *, first: bool) -> Value:
    """[N, *spatial, C] as [N, C, *spatial], or, with `first` False, the other way round."""
    rest = range(1, x.rank - 1) if first else range(2, x.rank)
    return ctx.build(Transpose, x, (0, x.rank - 1, *rest) if first else (0, *rest, 1))


def _single_result(ctx: Context, results: Results) -> Value:
    if not isinstance(results, Value):
        raise ctx.error("one result is needed")
    return results


@onnx_op("QLinearConv")
def q_linear_conv_layout(ctx: Context) -> Results:
    """The standard's, or with `channels_last` on [N, *spatial, C]; the weight is [out, in/group, *kernel] in both."""
    if not ctx.attribute("channels_last", 0):
        return q_linear_conv(ctx)
    operands = [ctx.optional(i) for i in range(len(ctx.operands))]
    turned = given(ctx, _turned(ctx, ctx.operand(0), first=True), *operands[1:])
    return _turned(ctx, _single_result(ctx, q_linear_conv(turned)), first=False)


@onnx_op("NhwcMaxPool")
def nhwc_max_pool(ctx: Context) -> Results:
    x = _turned(ctx, ctx.operand(0), first=True)
    return _turned(ctx, _single_result(ctx, max_pool(given(ctx, x))), first=False)


@onnx_op("QLinearAveragePool")
def q_linear_average_pool(ctx: Context) -> Results:
    x, last = real(ctx, 0), bool(ctx.attribute("channels_last", 0))
    x = _turned(ctx, x, first=True) if last else x
    pooled = _single_result(ctx, average_pool(given(ctx, x)))
    return stored(ctx, _turned(ctx, pooled, first=False) if last else pooled, 3, ctx.operand(0))


@onnx_op("QLinearGlobalAveragePool")
def q_linear_global_average_pool(ctx: Context) -> Results:
    x, last = real(ctx, 0), bool(ctx.attribute("channels_last", 0))
    if x.rank < 3:
        raise ctx.error(f"global pooling needs spatial axes, the operand is {ctx.operand(0).type}")
    axes = tuple(range(1, x.rank - 1)) if last else tuple(range(2, x.rank))
    return stored(ctx, ctx.build(ReduceMean, x, axes, True), 3, ctx.operand(0))


# -- products ---------------------------------------------------------------------------------------------------------


@onnx_op("QGemm")
def q_gemm(ctx: Context) -> Results:
    """``alpha * (a - a_zero) @ (b - b_zero) + c`` of integers, times both scales; quantised where a scale is given for
    the result. The bias c is i32 with the product of the scales as its own."""
    a, b = ctx.operand(0), ctx.operand(3)
    if ctx.attribute("transA", 0):
        a = ctx.build(Transpose, a, (1, 0))
    if ctx.attribute("transB", 0):
        b = ctx.build(Transpose, b, (1, 0))
    product = matrix_product(ctx, difference(ctx, a, ctx.optional(2)), difference(ctx, b, ctx.optional(5)))
    total = plus(ctx, product, ctx.optional(6))
    scale = ctx.pointwise(ops.Mul, ctx.scalar(ctx.operand(1)), single(ctx, ctx.operand(4)))
    alpha = ctx.attribute("alpha", 1.0)
    scale = scale if alpha == 1.0 else ctx.build(ops.Mul, scale, ctx.constant(alpha, scale.dtype))
    y_scale, y_zero = ctx.optional(7), ctx.optional(8)
    if y_scale is None:
        return ctx.pointwise(ops.Mul, ctx.build(ops.Cast, total, f32), scale)
    zero = ctx.constant(0, ctx.operand(0).dtype) if y_zero is None else ctx.scalar(y_zero)
    return requantise(ctx, total, scale, ctx.scalar(y_scale), zero)


def integer_product(
    ctx: Context, a: Value, b: Value, zeros: tuple[Value | None, Value | None], scales: tuple[Value, Value]
) -> Value:
    """``(a - a_zero) @ (b - b_zero)`` times both scales in f32; b's scale and zero point may have one a column."""
    total = matrix_product(ctx, difference(ctx, a, zeros[0], along_rows=True), difference(ctx, b, zeros[1]))
    scale = ctx.pointwise(ops.Mul, single(ctx, scales[0]), single(ctx, scales[1]))
    return ctx.pointwise(ops.Mul, ctx.build(ops.Cast, total, f32), scale)


@onnx_op("MatMulIntegerToFloat")
def mat_mul_integer_to_float(ctx: Context) -> Results:
    a, b, a_scale, b_scale = (ctx.operand(i) for i in range(4))
    product = integer_product(ctx, a, b, (ctx.optional(4), ctx.optional(5)), (a_scale, b_scale))
    return plus(ctx, product, ctx.optional(6))


@onnx_op("DynamicQuantizeMatMul")
def dynamic_quantize_mat_mul(ctx: Context) -> Results:
    a, b, b_scale = (ctx.operand(i) for i in range(3))
    narrow, scale, zero = dynamically_quantised(ctx, a)
    return plus(ctx, integer_product(ctx, narrow, b, (zero, ctx.optional(3)), (scale, b_scale)), ctx.optional(4))


def dynamically_quantised(ctx: Context, x: Value) -> tuple[Value, Value, Value]:
    """x as u8, the scale and the zero point: the range of its elements and 0 in 255 steps (DynamicQuantizeLinear)."""
    axes, zero = tuple(range(x.rank)), ctx.constant(0.0, f32)
    high = ctx.build(ops.Max, ctx.build(ReduceMax, x, axes, False), zero)
    low = ctx.build(ops.Min, ctx.build(ReduceMin, x, axes, False), zero)
    steps = ctx.build(ops.Div, ctx.build(ops.Sub, high, low), ctx.constant(255.0, f32))
    scale = ctx.build(ops.Where, ctx.build(ops.Equal, steps, zero), ctx.constant(1.0, f32), steps)
    place = ctx.build(ops.Div, ctx.build(ops.Neg, low), scale)
    place = ctx.build(ops.Clip, place, zero, ctx.constant(255.0, f32))
    zero_point = ctx.build(ops.Cast, ctx.build(ops.Round, place), u8)
    return quantise(ctx, x, scale, zero_point, u8), scale, zero_point
