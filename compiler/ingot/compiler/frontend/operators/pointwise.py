"""Arithmetic, comparison, logic, Cast, Where and Clip."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.narrow import readable
from ingot.compiler.frontend.operators.strings import converted
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Row, Table
from ingot.compiler.frontend.weights import PACKED, dtype_of
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops import bitwise
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Reshape
from ingot.runtime.dtypes import f64

TABLE = Table()
onnx_op = TABLE.onnx_op

LARGEST_F32 = float(np.finfo(np.float32).max)

UNARY: dict[str, Callable[..., Node]] = {
    "Abs": ops.Abs,
    "Neg": ops.Neg,
    "Sign": ops.Sign,
    "Reciprocal": ops.Reciprocal,
    "Sqrt": ops.Sqrt,
    "Exp": ops.Exp,
    "Log": ops.Log,
    "Tanh": ops.Tanh,
    "Sigmoid": ops.Sigmoid,
    "Softplus": ops.Softplus,
    "Relu": ops.Relu,
    "Sin": ops.Sin,
    "Cos": ops.Cos,
    "Tan": ops.Tan,
    "Asin": ops.Asin,
    "Acos": ops.Acos,
    "Atan": ops.Atan,
    "Sinh": ops.Sinh,
    "Cosh": ops.Cosh,
    "Asinh": ops.Asinh,
    "Acosh": ops.Acosh,
    "Atanh": ops.Atanh,
    "Floor": ops.Floor,
    "Ceil": ops.Ceil,
    "Round": ops.Round,
    "Not": ops.Not,
}
BINARY: dict[str, Callable[..., Node]] = {
    "Add": ops.Add,
    "Sub": ops.Sub,
    "Mul": ops.Mul,
    "Div": ops.Div,
    "Pow": ops.Pow,
    "And": ops.And,
    "Or": ops.Or,
    "Xor": ops.Xor,
    "Equal": ops.Equal,
    "Less": ops.Less,
    "Greater": ops.Greater,
    "LessOrEqual": ops.LessOrEqual,
    "GreaterOrEqual": ops.GreaterOrEqual,
}
VARIADIC: dict[str, Callable[..., Node]] = {"Sum": ops.Add, "Max": ops.Max, "Min": ops.Min}


def _unary(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        ctx.ignore("consumed_inputs")
        return ctx.build(op, ctx.operand(0))

    return row


def _binary(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        return ctx.pointwise(op, ctx.operand(0), ctx.operand(1))

    return row


def _binary_before_7(op: Callable[..., Node]) -> Row:
    """Broadcasting by attribute: the second operand's axes are matched from `axis` on."""

    def row(ctx: Context) -> Results:
        ctx.ignore("consumed_inputs")
        a, b = ctx.operand(0), ctx.operand(1)
        axis = ctx.maybe("axis", int)
        if ctx.attribute("broadcast", 0) and axis is not None:
            trailing = a.rank - ctx.axis(axis, a.rank) - b.rank
            if trailing < 0:
                raise ctx.error(f"{b.type} does not fit into {a.type} at axis {axis}")
            b = ctx.build(Reshape, b, (*b.shape, *(1,) * trailing))
        return ctx.pointwise(op, a, b)

    return row


def _variadic(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        ctx.ignore("consumed_inputs")
        return accumulate(ctx, op)

    return row


def accumulate(ctx: Context, op: Callable[..., Node]) -> Value:
    """All operands of the node joined by `op` from the left."""
    first, *rest = ctx.variadic()
    for value in rest:
        first = ctx.pointwise(op, first, value)
    return first


for _name, _op in UNARY.items():
    TABLE.add(_name, _unary(_op))
for _name, _op in BINARY.items():
    TABLE.add(_name, _binary_before_7(_op), since=1)
    TABLE.add(_name, _binary(_op), since=7)
for _name, _op in VARIADIC.items():
    TABLE.add(_name, _variadic(_op))


@onnx_op("Mean")
def mean(ctx: Context) -> Results:
    ctx.ignore("consumed_inputs")
    total = accumulate(ctx, ops.Add)
    return ctx.build(ops.Div, total, ctx.constant(len(ctx.variadic()), total.dtype))


@onnx_op("Mod", since=10)
def mod(ctx: Context) -> Results:
    a, b = ctx.operand(0), ctx.operand(1)
    truncated = ctx.attribute("fmod", 0)
    if not truncated and a.dtype.is_float and ctx.opset < 28:
        raise ctx.error("Mod of floats needs fmod = 1 before opset 28")
    return ctx.pointwise(ops.Fmod if truncated else ops.Mod, a, b)


for _name, _op in (("BitwiseAnd", bitwise.BitAnd), ("BitwiseOr", bitwise.BitOr), ("BitwiseXor", bitwise.BitXor)):
    TABLE.add(_name, _binary(_op), since=18)
TABLE.add("BitwiseNot", _unary(bitwise.BitNot), since=18)


@onnx_op("BitShift", since=11)
def bit_shift(ctx: Context) -> Results:
    direction = ctx.attribute("direction", "")
    if direction not in ("LEFT", "RIGHT"):
        raise ctx.error(f"direction is {direction!r}, 'LEFT' or 'RIGHT' is needed")
    shift = bitwise.ShiftLeft if direction == "LEFT" else bitwise.ShiftRight
    return ctx.pointwise(shift, ctx.operand(0), ctx.operand(1))


@onnx_op("Erf", since=9)
def erf(ctx: Context) -> Results:
    """Of integers too: computed in f64, its fraction dropped."""
    x = ctx.operand(0)
    if x.dtype.is_float:
        return ctx.build(ops.Erf, x)
    return ctx.build(ops.Cast, ctx.build(ops.Erf, ctx.build(ops.Cast, x, f64)), x.dtype)


def _numbers(ctx: Context) -> Value:
    """The operand; floats of 8 bits and less as f32."""
    x = ctx.operand(0)
    return readable(ctx, x) if x.dtype.kind == "opaque" else x


@onnx_op("IsNaN", since=9)
def is_nan(ctx: Context) -> Results:
    return ctx.build(ops.IsNaN, _numbers(ctx))


@onnx_op("IsInf", since=10)
def is_inf(ctx: Context) -> Results:
    x = _numbers(ctx)
    negative, positive = ctx.attribute("detect_negative", 1), ctx.attribute("detect_positive", 1)
    infinite = ctx.build(ops.IsInf, x)
    if negative and positive:
        return infinite
    if not negative and not positive:
        return ctx.build(ops.And, infinite, ctx.constant(False))
    sign = ops.Greater if positive else ops.Less
    return ctx.build(ops.And, infinite, ctx.build(sign, x, ctx.constant(0, x.dtype)))


@onnx_op("Where", since=9)
def where(ctx: Context) -> Results:
    return ctx.pointwise(ops.Where, ctx.operand(0), ctx.operand(1), ctx.operand(2))


@onnx_op("Clip")
def clip_attributes(ctx: Context) -> Results:
    """Before opset 11 the bounds default to the largest finite f32, so that infinities become finite."""
    ctx.ignore("consumed_inputs")
    x = ctx.operand(0)
    low, high = (ctx.attribute(name, bound) for name, bound in (("min", -LARGEST_F32), ("max", LARGEST_F32)))
    return clip(ctx, x, ctx.constant(low, x.dtype), ctx.constant(high, x.dtype))


@onnx_op("Clip", since=11)
def clip_inputs(ctx: Context) -> Results:
    return clip(ctx, ctx.operand(0), ctx.optional(1), ctx.optional(2))


def clip(ctx: Context, x: Value, low: Value | None, high: Value | None) -> Value:
    """x within bounds that hold one element each."""
    if low is None and high is None:
        return x
    bounds = [ctx.scalar(v) if v is not None else None for v in (low, high)]
    return ctx.build(ops.Clip, x, *bounds)


@onnx_op("Cast", since=1)
def cast_to_name(ctx: Context) -> Results:
    name = ctx.attribute("to", "")
    codes = onnx.TensorProto.DataType
    if name.upper() not in codes.keys():  # noqa: SIM118 - a protobuf enum, no mapping
        raise ctx.error(f"Cast to the unknown element type {name!r}")
    return converted(ctx, ctx.operand(0), dtype_of(codes.Value(name.upper()), "the result of Cast"))


@onnx_op("Cast", since=6)
def cast(ctx: Context) -> Results:
    return converted(ctx, ctx.operand(0), dtype_of(ctx.attribute("to", 0), "the result of Cast"))


@onnx_op("CastLike", since=15)
def cast_like(ctx: Context) -> Results:
    return converted(ctx, ctx.operand(0), ctx.operand(1).dtype)


@onnx_op("BitCast", since=26)
def bit_cast(ctx: Context) -> Results:
    x, to = ctx.operand(0), dtype_of(ctx.attribute("to", 0), "the result of BitCast")
    if PACKED.get(x.dtype, x.dtype.bits) != PACKED.get(to, to.bits):
        raise ctx.error(f"BitCast of {x.type} to {to.name}: the elements have different sizes")
    return ctx.build(bitwise.BitCast, x, to)


@onnx_op("Identity")
def identity(ctx: Context) -> Results:
    item = ctx.item(0)
    return ctx.operand(0) if item is None else item
