"""Random numbers: uniform and normal ones, choices by probability, and Dropout where it drops.

All come from the bits of `ops.random`, four words a block. Which bits a node gets is told in `frontend.streams`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.streams import bits
from ingot.compiler.frontend.table import Table
from ingot.compiler.frontend.weights import dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.bitwise import BitCast, ShiftRight
from ingot.compiler.ops.composite import Softmax
from ingot.compiler.ops.movement import Concat, Reshape, Slice
from ingot.compiler.ops.reduction import CumSum, ReduceSum
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType, boolean, f32, f64, i32, i64, u32

TABLE = Table()
onnx_op = TABLE.onnx_op

SIGNIFICANT = {dtypes.f32: 24, dtypes.f16: 11, dtypes.bf16: 8}  # bits of a number in [0, 1) that are all random


def _fractions(ctx: Context, words: Sequence[Value], dtype: DType) -> list[Value]:
    """Uniform numbers in [0, 1), multiples of the same power of two, in `dtype`; f64 takes two words for one."""
    if dtype != f64:
        kept = SIGNIFICANT[dtype]
        found: list[Value] = []
        for word in words:
            top = ctx.build(BitCast, ctx.build(ShiftRight, word, ctx.constant(32 - kept, u32)), i32)
            real = ctx.build(ops.Mul, ctx.build(ops.Cast, top, f32), ctx.constant(2.0**-kept, f32))
            found.append(ctx.cast(real, dtype))
        return found
    pairs: list[Value] = []
    for high, low in zip(words[::2], words[1::2], strict=True):
        parts = [
            ctx.build(ops.Mul, ctx.build(ops.Cast, ctx.build(BitCast, top, i32), f64), ctx.constant(unit, f64))
            for word, kept, unit in ((high, 27, 2.0**-27), (low, 26, 2.0**-53))
            for top in (ctx.build(ShiftRight, word, ctx.constant(32 - kept, u32)),)
        ]
        pairs.append(ctx.build(ops.Add, *parts))
    return pairs


def _blocks(ctx: Context, size: dims.Dim, dtype: DType) -> tuple[Value, ...]:
    """The words for `size` numbers of `dtype`."""
    seed = ctx.maybe("seed", int if ctx.node.op_type == "Dropout" else float)
    return bits(ctx.scope, seed, dims.ceil_divide(size, 2 if dtype == f64 else 4))


def _joined(ctx: Context, parts: Sequence[Value], shape: Dims) -> Value:
    """The first elements of the parts, one after the other, in `shape`."""
    size = dims.product(shape)
    whole: Value = ctx.build(Concat, tuple(parts), 0)
    if whole.shape != (size,):
        whole = ctx.build(Slice, whole, (0,), (size,), (1,))
    return ctx.build(Reshape, whole, shape)


def uniform(ctx: Context, shape: Dims, dtype: DType) -> Value:
    """Numbers in [0, 1) of the float type `dtype` from the stream of this node, which may be taken from only once."""
    return _joined(ctx, _fractions(ctx, _blocks(ctx, dims.product(shape), dtype), dtype), shape)


def normal(ctx: Context, shape: Dims, mean: float, scale: float, dtype: DType) -> Value:
    """Numbers of a normal distribution: Box and Muller, "A note on the generation of random normal deviates", 1958.

    Of each pair of uniform numbers the first, made to lie in (0, 1], gives the distance and the other the angle.
    """
    kind = f64 if dtype == f64 else f32
    fractions = _fractions(ctx, _blocks(ctx, dims.product(shape), kind), kind)
    unit = 2.0**-53 if kind == f64 else 2.0**-24
    parts: list[Value] = []
    for first, second in zip(fractions[::2], fractions[1::2], strict=True):
        logarithm = ctx.build(ops.Log, ctx.build(ops.Add, first, ctx.constant(unit, kind)))
        distance = ctx.build(ops.Sqrt, ctx.build(ops.Mul, logarithm, ctx.constant(-2.0, kind)))
        angle = ctx.build(ops.Mul, second, ctx.constant(2 * math.pi, kind))
        for turn in (ops.Cos, ops.Sin):
            value = ctx.build(ops.Mul, distance, ctx.build(turn, angle))
            value = ctx.build(ops.Mul, value, ctx.constant(scale, kind))
            value = ctx.build(ops.Add, value, ctx.constant(mean, kind))
            parts.append(ctx.cast(value, dtype))
    return _joined(ctx, parts, shape)


def _float_type(ctx: Context, like: Value | None) -> DType:
    """The element type that the node asks for, else that of `like`, else f32."""
    code = ctx.maybe("dtype", int)
    dtype = dtype_of(code, "the result") if code is not None else f32 if like is None else like.dtype
    if not dtype.is_float:
        raise ctx.error(f"random numbers of type {dtype.name}: a float type is needed", "give the attribute dtype")
    return dtype


def _shape(ctx: Context) -> Dims:
    shape = ctx.required_ints("shape")
    if any(d < 0 for d in shape):
        raise ctx.error(f"the shape {list(shape)} has a negative extent")
    return shape


def _normal(ctx: Context, shape: Dims, like: Value | None) -> Results:
    return normal(ctx, shape, ctx.attribute("mean", 0.0), ctx.attribute("scale", 1.0), _float_type(ctx, like))


def _uniform(ctx: Context, shape: Dims, like: Value | None) -> Results:
    low, high, dtype = ctx.attribute("low", 0.0), ctx.attribute("high", 1.0), _float_type(ctx, like)
    fraction = uniform(ctx, shape, dtype)
    if (low, high) == (0.0, 1.0):
        return fraction
    spread = ctx.build(ops.Mul, fraction, ctx.constant(high - low, dtype))
    return ctx.build(ops.Add, spread, ctx.constant(low, dtype))


@onnx_op("RandomNormal")
def random_normal(ctx: Context) -> Results:
    return _normal(ctx, _shape(ctx), None)


@onnx_op("RandomNormalLike")
def random_normal_like(ctx: Context) -> Results:
    x = ctx.operand(0)
    return _normal(ctx, x.shape, x)


@onnx_op("RandomUniform")
def random_uniform(ctx: Context) -> Results:
    return _uniform(ctx, _shape(ctx), None)


@onnx_op("RandomUniformLike")
def random_uniform_like(ctx: Context) -> Results:
    x = ctx.operand(0)
    return _uniform(ctx, x.shape, x)


@onnx_op("Bernoulli", since=15)
def bernoulli(ctx: Context) -> Results:
    """1 with the probability that each element says."""
    x = ctx.operand(0)
    code = ctx.maybe("dtype", int)
    to = x.dtype if code is None else dtype_of(code, "the result")
    kind = f64 if x.dtype == f64 else f32
    chance = ctx.cast(x, kind)
    return ctx.build(ops.Cast, ctx.build(ops.Less, uniform(ctx, x.shape, kind), chance), to)


@onnx_op("Multinomial", since=7)
def multinomial(ctx: Context) -> Results:
    """Classes drawn by unnormalised log-probabilities [batch, classes]: how many classes' shares, added up, a uniform
    number is not below."""
    x, count = ctx.operand(0), ctx.attribute("sample_size", 1)
    code = ctx.maybe("dtype", int)
    to = i32 if code is None else dtype_of(code, "the result")
    if x.rank != 2 or count < 0 or to not in (i32, i64):
        raise ctx.error(f"Multinomial of {x.type}, {count} samples of {to.name}: a matrix, and i32 or i64 are needed")
    batch, classes = x.shape
    ctx.at_least(classes, 1, "Multinomial draws from the classes of axis 1")
    kind = f64 if x.dtype == f64 else f32
    wide = ctx.cast(x, kind)
    shares = ctx.build(CumSum, ctx.build(Softmax, wide, 1), 1, False, False)
    # All but the last: rounding may leave the sum below the number drawn.
    bounds = ctx.build(Slice, shares, (0, 0), (batch, classes - 1), (1, 1))
    drawn = ctx.build(Reshape, uniform(ctx, (batch, count), kind), (batch, count, 1))
    beyond = ctx.build(ops.GreaterOrEqual, drawn, ctx.build(Reshape, bounds, (batch, 1, classes - 1)))
    return ctx.build(ReduceSum, ctx.build(ops.Cast, beyond, to), (2,), False)


# -- Dropout ----------------------------------------------------------------------------------------------------------


@onnx_op("Dropout")
def dropout_test_flag(ctx: Context) -> Results:
    """Before opset 7 nodes say whether they are tested; the mask has the data's type."""
    ctx.ignore("consumed_inputs")
    x, ratio = ctx.operand(0), ctx.attribute("ratio", 0.5)
    if ctx.attribute("is_test", 0):
        return x, None
    kept, mask = _dropped(ctx, x, ctx.constant(ratio, f32), None)
    return kept, ctx.build(ops.Cast, mask, x.dtype)


@onnx_op("Dropout", since=7)
def dropout_inference(ctx: Context) -> Results:
    """Opsets 7 to 11 know inference only; the mask is bool from opset 10 on."""
    ctx.ignore("ratio")
    x = ctx.operand(0)
    return x, _all_true(ctx, x) if ctx.opset >= 10 else None


@onnx_op("Dropout", since=12)
def dropout(ctx: Context) -> Results:
    x, ratio, training = ctx.operand(0), ctx.optional(1), ctx.optional(2)
    ctx.ignore("seed")
    on = False if training is None else ctx.decided(ctx.scalar(training))
    share = None if ratio is None else ctx.array(ratio)
    if on is False or (share is not None and not share.any()):
        return x, _all_true(ctx, x)
    given = ctx.constant(0.5, f32) if ratio is None else ctx.scalar(ratio)
    return _dropped(ctx, x, given, None if on or training is None else ctx.scalar(training))


def _dropped(ctx: Context, x: Value, ratio: Value, training: Value | None) -> tuple[Value, Value]:
    """x where it is kept, made larger by what is dropped, and where that is; `training` (bool []) may turn it off."""
    kind = f64 if ratio.dtype == f64 else f32
    wide = ctx.cast(ratio, kind)
    if training is not None:
        wide = ctx.build(ops.Where, training, wide, ctx.constant(0, kind))
    mask = ctx.build(ops.GreaterOrEqual, uniform(ctx, x.shape, kind), wide)
    rest = ctx.build(ops.Sub, ctx.constant(1, kind), wide)
    scale: Value = ctx.build(ops.Div, ctx.constant(1, kind), rest)
    scale = ctx.cast(scale, x.dtype)
    return ctx.build(ops.Where, mask, ctx.build(ops.Mul, x, scale), ctx.constant(0, x.dtype)), mask


def _all_true(ctx: Context, x: Value) -> Value:
    return ctx.expand(ctx.constant(True, boolean), x.shape)
