"""Quantisation as scalar expressions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Constant, Value
from ingot.compiler.ir.loops import Call, Const, Expr
from ingot.compiler.ops.pointwise import Add, Cast, Mul, Relu, Sub
from ingot.compiler.ops.quantised import NARROW, Dequantize, Quantize, integer_range, working_type
from ingot.runtime.dtypes import DType, f32

LEAST, MOST = 1e-12, 1e12  # of a scale
MOST_SIZE = 1e25  # of what is divided by it


def _converted(value: Expr, source: DType, target: DType) -> Expr:
    if source == target:
        return value
    if isinstance(value, Const):
        return Const(float(value.value), target)
    return Call("cast", (value,), target)


def _is_zero(value: Expr) -> bool:
    return isinstance(value, Const) and value.value == 0


def _largest(value: Value, known: dict[Value, float]) -> float:
    """What the magnitude of `value` never exceeds where it is made of integers and constants; infinity where nothing is
    known. `known` are values that have been looked at."""
    if value.dtype != f32:  # f16 ends at 65504: a quotient of infinity by a reciprocal of two floats is no number
        return math.inf
    if value in known:
        return known[value]
    match value:
        case Constant(data=data):
            found = float(np.abs(data).max(initial=0))
        case Cast(x=x) if x.dtype.is_integer:
            found = 2.0**x.dtype.bits
        case Dequantize(x=x, scale=scale):
            found = 2.0 ** (x.dtype.bits + 1) * _largest(scale, known)
        case Mul(a, b):
            found = _largest(a, known) * _largest(b, known)
        case Add(a, b) | Sub(a, b):
            found = _largest(a, known) + _largest(b, known)
        case Relu(x=x):
            found = _largest(x, known)
        case _:
            found = math.inf
    known[value] = found = found if found < MOST_SIZE else math.inf  # NaN is not below it either
    return found


def _is_bounded(value: Value, scale: float) -> bool:
    """Whether neither `value` nor its quotient by `scale` can come near the ends of f32."""
    return LEAST < abs(scale) < MOST and _largest(value, {}) < MOST_SIZE


def _steps(x: Expr, scale: float, to: DType) -> Expr:
    """``round(x / scale)`` of a quantisation to `to`, as far as it lies within; most often without a division."""
    parts = _reciprocal(scale, to)
    if parts is None:
        return Call("round", (Call("div", (x, Const(scale, f32)), f32),), f32)
    high, low = (Const(part, f32) for part in parts)
    return Call("round", (Call("fma", (x, high, Call("mul", (x, low), f32)), f32),), f32)


def _reciprocal(scale: float, to: DType) -> tuple[float, float] | None:
    """1 / scale as the sum of two floats, where x times both, rounded once at the end, gives the steps of a division:
    see Brisebarre, Muller and Raina, "Accelerating correctly rounded floating-point division when the divisor is known
    in advance", 2004. The quotient may be off by a last place for few x; whether one of these decides on which side of
    a half it lies is tried out."""
    if to.bits > NARROW:
        return None
    step = np.float32(scale)
    high = np.float32(1) / step
    low = np.float32((1.0 - np.float64(step) * np.float64(high)) / np.float64(step))
    halves = np.arange((1 << to.bits) + 1) + 0.5
    near = (halves * float(step)).astype(np.float32)
    x = (near.view(np.int32)[:, None] + np.arange(-2, 3, dtype=np.int32)).view(np.float32)  # the floats next to them
    quotient = x.astype(np.float64) * float(high) + (x * low).astype(np.float64)  # f64 holds it: it rounds once
    same = np.rint(quotient.astype(np.float32)) == np.rint(x / step)
    return (float(high), float(low)) if bool(same.all()) else None


def quantise(node: Quantize, args: Sequence[Expr]) -> Expr:
    """``cast(min(max(round(x / scale) + zero_point, low), high))`` in the working type."""
    kind = working_type(node.x.dtype)
    x, scale = (_converted(a, node.x.dtype, kind) for a in args[:2])
    if isinstance(scale, Const) and kind == f32 and _is_bounded(node.x, float(scale.value)):
        steps = _steps(x, float(np.float32(scale.value)), node.to)
    else:
        steps = Call("round", (Call("div", (x, scale), kind),), kind)
    if node.zero_point is not None and not _is_zero(args[2]):
        steps = Call("add", (steps, _converted(args[2], node.to, kind)), kind)
    low, high = (Const(float(bound), kind) for bound in integer_range(node.to))
    kept = Call("min", (Call("max", (steps, low), kind), high), kind)
    return Call("cast", (kept,), node.to)


def dequantise(node: Dequantize, args: Sequence[Expr]) -> Expr:
    """``(x - zero_point) * scale`` in the working type.

    Where x has just been quantised in the same kernel its value is at hand as a whole float: no conversion to integer
    and back is made.
    """
    dtype, kind = node.x.dtype, working_type(node.scale.dtype)
    scale = _converted(args[1], node.scale.dtype, kind)
    zero = args[2] if node.zero_point is not None and not _is_zero(args[2]) else None
    match args[0]:
        case Call("cast", (Call("min", _, made) as whole,)) if isinstance(node.x, Quantize) and made == kind:
            difference = _unshifted(whole, zero, dtype)
        case x if zero is not None and dtype.bits > NARROW:
            difference = _converted(Call("sub", (x, zero), dtype), dtype, kind)
        case x:
            difference = _converted(x, dtype, kind)
            if zero is not None:
                difference = Call("sub", (difference, _converted(zero, dtype, kind)), kind)
    return _converted(Call("mul", (difference, scale), kind), kind, node.scale.dtype)


def _unshifted(whole: Call, zero: Expr | None, dtype: DType) -> Expr:
    """``min(max(rounded + z, low), high) - z`` as ``min(max(rounded, low - z), high - z)`` for a constant z: exact, all
    are whole numbers."""
    kind = whole.dtype
    if zero is None:
        return whole
    match whole.args:
        case (Call("max", (Call("add", (rounded, Const(shift))), Const(low))), Const(high)) if (
            isinstance(zero, Const) and zero.value == shift
        ):
            kept = Call("max", (rounded, Const(low - shift, kind)), kind)
            return Call("min", (kept, Const(high - shift, kind)), kind)
        case _:
            return Call("sub", (whole, _converted(zero, dtype, kind)), kind)
