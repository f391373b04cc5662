"""Quantisation as scalar expressions."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.ir.loops import Call, Const, Expr
from ingot.compiler.ops.quantised import NARROW, Dequantize, Quantize, integer_range, working_type
from ingot.runtime.dtypes import DType


def _converted(value: Expr, source: DType, target: DType) -> Expr:
    if source == target:
        return value
    if isinstance(value, Const):
        return Const(float(value.value), target)
    return Call("cast", (value,), target)


def _is_zero(value: Expr) -> bool:
    return isinstance(value, Const) and value.value == 0


def quantise(node: Quantize, args: Sequence[Expr]) -> Expr:
    """``cast(min(max(round(x / scale) + zero_point, low), high))`` in the working type."""
    kind = working_type(node.x.dtype)
    x, scale = (_converted(a, node.x.dtype, kind) for a in args[:2])
    steps: Expr = Call("round", (Call("div", (x, scale), kind),), kind)
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
