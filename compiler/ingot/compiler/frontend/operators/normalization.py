"""Softmax and the normalisations, at inference."""

from __future__ import annotations

from collections.abc import Callable

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Row, Table
from ingot.compiler.frontend.weights import dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops import composite
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import AveragePool
from ingot.compiler.ops.movement import Reshape
from ingot.compiler.ops.quantised import working_type
from ingot.compiler.ops.reduction import ArgMax, ReduceMean, ReduceSum
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op


def _along_axis(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        x = ctx.operand(0)
        return ctx.build(op, x, ctx.axis(ctx.attribute("axis", -1), x.rank))

    return row


def flattened(ctx: Context, apply: Callable[[Value], Value]) -> Value:
    """`apply` to x as a matrix whose columns are the axes from `axis` (default 1) on, then x's shape again.

    How Softmax, LogSoftmax and Hardmax worked before opset 13.
    """
    x = ctx.operand(0)
    axis = ctx.attribute("axis", 1)
    axis = ctx.axis(axis, x.rank) if axis != x.rank else axis
    if axis == x.rank - 1:
        return apply(x)
    matrix = ctx.build(Reshape, x, (dims.product(x.shape[:axis]), dims.product(x.shape[axis:])))
    return ctx.build(Reshape, apply(matrix), x.shape)


def _along_columns(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        return flattened(ctx, lambda x: ctx.build(op, x, x.rank - 1))

    return row


for _name, _op in (("Softmax", composite.Softmax), ("LogSoftmax", composite.LogSoftmax)):
    TABLE.add(_name, _along_columns(_op), since=1)
    TABLE.add(_name, _along_axis(_op), since=13)


def _one_hot_of_largest(ctx: Context, x: Value, axis: int) -> Value:
    largest = ctx.build(ArgMax, x, axis, True, False)
    count = counted(ctx, x.shape[axis], dtypes.i64)
    places = ctx.build(Reshape, count, (x.shape[axis], *(1,) * (x.rank - 1 - axis)))
    return ctx.build(ops.Cast, ctx.build(ops.Equal, places, largest), x.dtype)


@onnx_op("Hardmax")
def hardmax_columns(ctx: Context) -> Results:
    return flattened(ctx, lambda x: _one_hot_of_largest(ctx, x, x.rank - 1))


@onnx_op("Hardmax", since=13)
def hardmax(ctx: Context) -> Results:
    x = ctx.operand(0)
    return _one_hot_of_largest(ctx, x, ctx.axis(ctx.attribute("axis", -1), x.rank))


@onnx_op("BatchNormalization")
def batch_normalization(ctx: Context) -> Results:
    ctx.ignore("consumed_inputs")
    momentum = ctx.attribute("momentum", 0.9)
    x, scale, bias, mean, var = (ctx.operand(i) for i in range(5))
    training = ctx.attribute("training_mode", 0) or (ctx.opset < 7 and not ctx.attribute("is_test", 0))
    ctx.ignore("is_test")
    spatial = bool(ctx.attribute("spatial", 1))
    if not ctx.attribute("training_mode", 0) and training and sum(1 for name in ctx.node.output if name) > 1:
        raise ctx.unsupported("BatchNormalization in training mode", "export the model for inference")
    if not spatial and tuple(scale.shape) != tuple(x.shape[1:]):
        raise ctx.error(f"statistics {scale.type} do not fit {x.type}: without spatial, one for each element is needed")
    if not spatial:  # as with spatial = 1 if every element were a channel
        flat = (dims.product(x.shape[1:]),)
        statistics = [ctx.build(Reshape, v, flat) for v in (scale, bias, mean, var)]
        rows = ctx.build(Reshape, x, (x.shape[0], *flat))
        normal = ctx.build(composite.BatchNorm, rows, *statistics, ctx.attribute("epsilon", 1e-5))
        return ctx.build(Reshape, normal, x.shape)
    for value in (scale, bias, mean, var):
        if x.rank < 2 or value.rank != 1:
            raise ctx.error(f"statistics {value.type} do not fit {x.type}: one element a channel is needed")
        ctx.equal(value.shape[0], x.shape[1])
    epsilon = ctx.attribute("epsilon", 1e-5)
    statistics = [ctx.cast(v, x.dtype) for v in (scale, bias, mean, var)]
    if ctx.attribute("training_mode", 0):
        return _of_this_batch(ctx, x, scale, bias, mean, var, momentum, epsilon)
    return ctx.build(composite.BatchNorm, x, *statistics, epsilon)


def _of_this_batch(
    ctx: Context, x: Value, scale: Value, bias: Value, mean: Value, var: Value, momentum: float, epsilon: float
) -> Results:
    """Training: normalised by the batch's own statistics; they move the running ones, which are results too."""
    axes = tuple(a for a in range(x.rank) if a != 1)
    wide = ctx.cast(x, working_type(x.dtype))
    own_mean = ctx.build(ReduceMean, wide, axes, True)
    centred = ctx.build(ops.Sub, wide, own_mean)
    own_var = ctx.build(ReduceMean, ctx.build(ops.Mul, centred, centred), axes, True)
    flat: list[Value] = [ctx.build(Reshape, v, (x.shape[1],)) for v in (own_mean, own_var)]

    def moved(running: Value, own: Value) -> Value:
        own = ctx.cast(own, running.dtype)
        kept = ctx.build(ops.Mul, running, ctx.constant(momentum, running.dtype))
        return ctx.build(ops.Add, kept, ctx.build(ops.Mul, own, ctx.constant(1 - momentum, running.dtype)))

    parameters = [ctx.cast(v, x.dtype) for v in (scale, bias, *flat)]
    normal = ctx.build(composite.BatchNorm, x, *parameters, epsilon)
    return normal, moved(mean, flat[0]), moved(var, flat[1])


@onnx_op("LayerNormalization")
def layer_normalization(ctx: Context) -> Results:
    """The standard has it since opset 17; ONNX Runtime's optimiser writes it into older models too. Statistics are
    computed in a type that is at least as wide as `stash_type`, which the optimiser makes f64 for data of f64."""
    x, scale, bias = ctx.operand(0), ctx.operand(1), ctx.optional(2)
    axis, epsilon = ctx.axis(ctx.attribute("axis", -1), x.rank), ctx.attribute("epsilon", 1e-5)
    stash = dtype_of(ctx.attribute("stash_type", 1), "stash_type")
    if not stash.is_float:
        raise ctx.error(f"stash_type is {stash}, no type of floats")
    kind = dtypes.f64 if stash == dtypes.f64 else working_type(x.dtype)
    ctx.broadcast_to(x.shape, scale.shape, *([bias.shape] if bias is not None else []))
    data = [v if v is None or kind != dtypes.f64 else ctx.cast(v, kind) for v in (x, scale, bias)]
    normal = ctx.cast(ctx.build(composite.LayerNorm, *data, axis, epsilon), x.dtype)
    if not any(ctx.node.output[1:]):
        return normal
    wide = ctx.cast(x, kind)
    axes = tuple(range(axis, x.rank))
    mean = ctx.build(ReduceMean, wide, axes, True)
    centred = ctx.build(ops.Sub, wide, mean)
    variance = ctx.build(ReduceMean, ctx.build(ops.Mul, centred, centred), axes, True)
    deviation = ctx.build(ops.Sqrt, ctx.build(ops.Add, variance, ctx.constant(epsilon, wide.dtype)))
    return normal, *(ctx.cast(v, stash) for v in (mean, ctx.build(ops.Reciprocal, deviation)))


@onnx_op("InstanceNormalization")
def instance_normalization(ctx: Context) -> Results:
    """(x - mean) / sqrt(var + epsilon) * scale + bias with statistics of each channel of each sample."""
    ctx.ignore("consumed_inputs")
    x, scale, bias = ctx.operand(0), ctx.operand(1), ctx.operand(2)
    if x.rank < 3:
        raise ctx.error(f"InstanceNormalization needs spatial axes, the operand is {x.type}")
    axes, wide = tuple(range(2, x.rank)), ctx.cast(x, working_type(x.dtype))
    centred = ctx.build(ops.Sub, wide, ctx.build(ReduceMean, wide, axes, True))
    variance = ctx.build(ReduceMean, ctx.build(ops.Mul, centred, centred), axes, True)
    epsilon = ctx.constant(ctx.attribute("epsilon", 1e-5), wide.dtype)
    normal = ctx.build(ops.Div, centred, ctx.build(ops.Sqrt, ctx.build(ops.Add, variance, epsilon)))
    normal = ctx.cast(normal, x.dtype)
    scale, bias = (ctx.build(Reshape, v, (v.shape[0], *(1,) * (x.rank - 2))) for v in (scale, bias))
    return ctx.pointwise(ops.Add, ctx.pointwise(ops.Mul, normal, scale), bias)


@onnx_op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(ctx: Context) -> Results:
    """(x - mean) / (deviation + 1e-9) over `axes`; the standard's own function fits f32 alone."""
    x = ctx.operand(0)
    axes, wide = ctx.axes(ctx.ints("axes") or (0, 2, 3), x.rank), ctx.cast(x, working_type(x.dtype))
    centred = ctx.build(ops.Sub, wide, ctx.build(ReduceMean, wide, axes, True))
    variance = ctx.build(ReduceMean, ctx.build(ops.Mul, centred, centred), axes, True)
    deviation = ctx.build(ops.Add, ctx.build(ops.Sqrt, variance), ctx.constant(1e-9, wide.dtype))
    return ctx.cast(ctx.build(ops.Div, centred, deviation), x.dtype)


@onnx_op("LpNormalization")
def lp_normalization(ctx: Context) -> Results:
    x = ctx.operand(0)
    axis, power = ctx.axis(ctx.attribute("axis", -1), x.rank), ctx.attribute("p", 2)
    if power not in (1, 2):
        raise ctx.error(f"LpNormalization with p = {power}: 1 or 2 is needed")
    wide = ctx.cast(x, working_type(x.dtype))
    if power == 1:
        norm: Value = ctx.build(ReduceSum, ctx.build(ops.Abs, wide), (axis,), True)
    else:
        norm = ctx.build(ops.Sqrt, ctx.build(ReduceSum, ctx.build(ops.Mul, wide, wide), (axis,), True))
    zero = ctx.constant(0, wide.dtype)  # where the norm is 0 the result is 0, not NaN
    normal = ctx.build(ops.Where, ctx.build(ops.Equal, norm, zero), zero, ctx.build(ops.Div, wide, norm))
    return ctx.cast(normal, x.dtype)


@onnx_op("LRN")
def local_response_normalization(ctx: Context) -> Results:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta (Krizhevsky et al. 2012).

    The sum is an average pool along the channels, whose divisor is always its extent: `size`, or less where there are
    not that many channels to either side.
    """
    x, size = ctx.operand(0), ctx.attribute("size", 0)
    if x.rank < 3 or size < 1:
        raise ctx.error(f"LRN of {x.type} over {size} channels: rank 3 or more and a size of 1 or more are needed")
    squares = ctx.build(ops.Mul, x, x)
    flat = ctx.build(Reshape, squares, (x.shape[0], 1, x.shape[1], dims.product(x.shape[2:])))
    before, behind = (size - 1) // 2, size - 1 - (size - 1) // 2
    if isinstance(x.shape[1], int):
        before, behind = min(before, x.shape[1]), min(behind, x.shape[1])
    taps = before + 1 + behind
    mean = ctx.build(AveragePool, flat, (taps, 1), (1, 1), (before, 0, behind, 0), (1, 1), False, True, False)
    mean = ctx.build(Reshape, mean, x.shape)
    scaled = ctx.build(ops.Mul, mean, ctx.constant(ctx.attribute("alpha", 1e-4) * (taps / size), x.dtype))
    divisor = ctx.build(ops.Add, scaled, ctx.constant(ctx.attribute("bias", 1.0), x.dtype))
    power = ctx.build(ops.Pow, divisor, ctx.constant(ctx.attribute("beta", 0.75), x.dtype))
    return ctx.build(ops.Div, x, power)
