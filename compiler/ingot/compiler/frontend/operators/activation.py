"""Activation functions. Those that are missing here come from the standard's function bodies."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.table import Results, Table
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
    """``alpha * elu(x / alpha)``; the standard's own function gives a scalar an axis."""
    x = ctx.operand(0)
    alpha = ctx.constant(ctx.attribute("alpha", 1.0), x.dtype)
    return ctx.build(ops.Mul, ctx.build(composite.Elu, ctx.build(ops.Div, x, alpha), 1.0), alpha)


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
