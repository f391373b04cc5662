"""Requantisation in integers as scalar expressions.

A product of two 32-bit integers and the shift behind it take the 64 bits of the product only where the shift is short:
what is shifted by more than 32 is read from the upper half. So is what narrow integers come to, after they are shifted
to the left by as much as is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.ir.graph import Constant
from ingot.compiler.ir.loops import Call, Const, Expr
from ingot.compiler.ops.quantised import integer_range
from ingot.compiler.ops.rescale import NUDGE, NUDGE_SHIFT, Rescale
from ingot.runtime.dtypes import DType, boolean, i32, i64

HALF = 32  # bits


def rescale(node: Rescale, args: Sequence[Expr]) -> Expr:
    """``saturate(((((x - input_zero) * multiplier) >> (shift - 1)) + 1) >> 1) + output_zero``"""
    zeros = list(args[3:])
    kind = i64 if node.x.dtype == i64 else i32
    x, multiplier, shift = _wide(args[0], node.x.dtype, kind), _wide(args[1], node.multiplier.dtype, kind), args[2]
    if node.input_zero is not None:
        x = _sum("sub", x, _wide(zeros.pop(0), node.x.dtype, kind), kind)
    more = _shift_to_upper_half(node) if kind == i32 else None
    is_long = more is not None
    if more:
        x = Call("shl", (x, Const(more, i32)), i32)
    product: Expr = Call("mul", (x, multiplier), i64)
    if node.rounding == "double" and not more:
        product = Call("add", (product, _nudge(x, shift, is_long)), i64)
    if more is not None:
        upper = Call("cast", (Call("shr", (product, Const(HALF, i64)), i64),), i32)
        steps = _rounded(upper, Call("sub", (shift, Const(HALF + 1 - more, i32)), i32), i32)
    else:
        before = Call("sub", (Call("cast", (shift,), i64), Const(1, i64)), i64)
        steps = _rounded(product, before, i64)
    within = i32 if is_long else i64
    if node.output_zero is not None:
        steps = _sum("add", steps, _wide(zeros.pop(0), node.to, within), within)
    if not is_long:  # in two steps: LLVM 22 fails to narrow 64 bits to 8 at once on AArch64
        steps = _saturated(steps, i64, i32)
    return steps if node.to == i32 else _saturated(steps, i32, node.to)


def _saturated(value: Expr, source: DType, target: DType) -> Expr:
    """`value` as the nearest number of a narrower type."""
    low, high = (Const(bound, source) for bound in integer_range(target))
    return Call("cast", (Call("min", (Call("max", (value, low), source), high), source),), target)


def _rounded(value: Expr, before: Expr, kind: DType) -> Expr:
    """``((value >> before) + 1) >> 1``: a shift by one more that rounds halves up, without a sum that overflows."""
    return Call("shr", (Call("add", (Call("shr", (value, before), kind), Const(1, kind)), kind), Const(1, kind)), kind)


def _nudge(x: Expr, shift: Expr, is_long: bool) -> Expr:
    """What is added where a product is rounded twice."""
    more = Call("ge", (x, Const(0, i32)), boolean)
    signed = Call("select", (more, Const(NUDGE, i64), Const(-NUDGE, i64)), i64)
    if is_long:
        return signed
    twice = Call("gt", (shift, Const(NUDGE_SHIFT, i32)), boolean)
    return Call("select", (twice, signed, Const(0, i64)), i64)


def _shift_to_upper_half(node: Rescale) -> int | None:
    """How far x is to be shifted left so that all shifts leave the lower half of a product behind: 0 where they do
    so as they are; None where they are not known, or x has no room for it."""
    shift = node.shift
    if not isinstance(shift, Constant) or not shift.data.size:
        return None
    more = max(0, HALF + 1 - int(shift.data.min()))
    room = 30 - node.x.dtype.bits  # a zero point takes one bit more
    is_once = node.rounding == "single" or int(shift.data.max()) <= NUDGE_SHIFT
    return more if not more or (more <= room and is_once) else None


def _sum(fn: str, a: Expr, b: Expr, kind: DType) -> Expr:
    """a + b or a - b; a itself where b is 0."""
    return a if isinstance(b, Const) and b.value == 0 else Call(fn, (a, b), kind)


def _wide(value: Expr, source: DType, target: DType) -> Expr:
    if source == target:
        return value
    if isinstance(value, Const):
        return Const(int(value.value), target)
    return Call("cast", (value,), target)
