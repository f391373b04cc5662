"""Activation functions. Those that are missing here come from the standard's function bodies."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ops import composite
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Reshape

TABLE = Table()
onnx_op = TABLE.onnx_op

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875  # the standard rounds them to f32


@onnx_op("LeakyRelu")
def leaky_relu(ctx: Context) -> Results:
    ctx.ignore("consumed_inputs")
    return ctx.build(composite.LeakyRelu, ctx.operand(0), ctx.attribute("alpha", 0.01))


@onnx_op("Elu")
def elu(ctx: Context) -> Results:
    ctx.ignore("consumed_inputs")
    return ctx.build(composite.Elu, ctx.operand(0), ctx.attribute("alpha", 1.0))


@onnx_op("Celu")
def celu(ctx: Context) -> Results:
    """``max(x, 0) + alpha * elu(min(x, 0) / alpha)``; the standard's own function gives a scalar an axis."""
    x = ctx.operand(0)
    alpha, zero = ctx.constant(ctx.attribute("alpha", 1.0), x.dtype), ctx.constant(0.0, x.dtype)
    negative = ctx.build(ops.Div, ctx.build(ops.Min, x, zero), alpha)
    bent = ctx.build(ops.Mul, ctx.build(composite.Elu, negative, 1.0), alpha)
    return ctx.build(ops.Add, ctx.build(ops.Max, x, zero), bent)


@onnx_op("Shrink", since=9)
def shrink(ctx: Context) -> Results:
    """x pulled towards 0 by `bias` where it is further from 0 than `lambd`, else 0; for integers both are whole."""
    x = ctx.operand(0)
    limit, bias = ctx.attribute("lambd", 0.5), ctx.attribute("bias", 0.0)
    if not x.dtype.is_float:
        limit, bias = int(limit), int(bias)
    step = ctx.constant(abs(bias), x.dtype)
    down, up = (ops.Sub, ops.Add) if bias >= 0 else (ops.Add, ops.Sub)
    result = ctx.constant(0, x.dtype)
    if limit >= 0 or x.dtype.kind != "unsigned":
        above = ctx.build(ops.Greater, x, ctx.constant(limit, x.dtype))
        result = ctx.build(ops.Where, above, ctx.build(down, x, step), result)
    else:
        result = ctx.build(down, x, step)
    if x.dtype.kind == "unsigned":
        return result
    below = ctx.build(ops.Less, x, ctx.constant(-limit, x.dtype))
    return ctx.build(ops.Where, below, ctx.build(up, x, step), result)


@onnx_op("Selu")
def selu(ctx: Context) -> Results:
    """``gamma * elu(x, alpha)``"""
    ctx.ignore("consumed_inputs")
    x = ctx.operand(0)
    body = ctx.build(composite.Elu, x, ctx.attribute("alpha", SELU_ALPHA))
    return ctx.build(ops.Mul, body, ctx.constant(ctx.attribute("gamma", SELU_GAMMA), x.dtype))


@onnx_op("HardSigmoid")
def hard_sigmoid(ctx: Context) -> Results:
    ctx.ignore("consumed_inputs")
    return ctx.build(composite.HardSigmoid, ctx.operand(0), ctx.attribute("alpha", 0.2), ctx.attribute("beta", 0.5))


@onnx_op("HardSwish", since=14)
def hard_swish(ctx: Context) -> Results:
    return ctx.build(composite.HardSwish, ctx.operand(0))


@onnx_op("Gelu", since=20)
def gelu(ctx: Context) -> Results:
    approximate = ctx.attribute("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise ctx.error(f"approximate is {approximate!r}, 'none' or 'tanh' is needed")
    return ctx.build(composite.Gelu, ctx.operand(0), approximate == "tanh")


@onnx_op("Swish", since=24)
def swish(ctx: Context) -> Results:
    x, alpha = ctx.operand(0), ctx.attribute("alpha", 1.0)
    if alpha == 1.0:
        return ctx.build(composite.Silu, x)
    return ctx.build(ops.Mul, x, ctx.build(ops.Sigmoid, ctx.build(ops.Mul, x, ctx.constant(alpha, x.dtype))))


@onnx_op("PRelu")
def prelu_channels(ctx: Context) -> Results:
    """Before opset 7 the slope holds one element, or one a channel."""
    ctx.ignore("consumed_inputs")
    x, slope = ctx.operand(0), ctx.operand(1)
    if slope.rank == 1 and slope.shape[0] != 1 and x.rank > 1:
        slope = ctx.build(Reshape, slope, (slope.shape[0], *(1,) * (x.rank - 2)))
    below = ctx.build(ops.Less, x, ctx.constant(0, x.dtype))
    return ctx.build(ops.Where, below, ctx.pointwise(ops.Mul, x, slope), x)


@onnx_op("PRelu", since=7)
def prelu(ctx: Context) -> Results:
    x, slope = ctx.operand(0), ctx.operand(1)
    ctx.broadcast_to(x.shape, slope.shape)
    scaled = ctx.pointwise(ops.Mul, x, slope)
    if scaled.shape != x.shape:
        raise ctx.error(f"the slope {slope.type} does not broadcast to {x.type}")
    return ctx.build(ops.Where, ctx.build(ops.Less, x, ctx.constant(0, x.dtype)), scaled, x)
