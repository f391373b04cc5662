"""Integer division and remainder, never trapping, never undefined: x / 0 and x mod 0 are 0, MIN / -1 wraps to MIN.

Up to 32 bits the quotient is taken in floating point, which vectorises and is exact: a quotient of w-bit integers that
is not an integer lies at least 1/|y| away from one, and the rounding error of the division, at most 2^(w-p)/|y| with p
bits of precision, cannot cross that (p = 24 for 16 bits, 53 for 32).
"""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.lanes import Uniform


def trunc_div(b: ir.IRBuilder, x: ir.Value, y: ir.Value, signed: bool = True) -> ir.Value:
    """x / y rounded toward zero (ONNX Div) of i8 .. i64 lanes; 0 for y = 0, and MIN / -1 is MIN."""
    zero, one = _splat(x, 0), _splat(x, 1)
    by_zero = b.icmp_unsigned("==", y, zero)
    if not signed:
        return b.select(by_zero, zero, _quotient(b, x, b.select(by_zero, one, y), signed))
    by_minus_one = b.icmp_unsigned("==", y, _splat(x, -1))
    divisor = b.select(b.or_(by_zero, by_minus_one), one, y)
    quotient = _quotient(b, x, divisor, signed)
    quotient = b.select(by_minus_one, b.sub(zero, x), quotient)
    return b.select(by_zero, zero, quotient)


def trunc_mod(b: ir.IRBuilder, x: ir.Value, y: ir.Value, signed: bool = True) -> ir.Value:
    """x - trunc(x / y) y, with the sign of x (ONNX Mod with fmod=1); 0 for y = 0."""
    remainder = b.sub(x, b.mul(trunc_div(b, x, y, signed), y))
    zero = _splat(x, 0)
    return b.select(b.icmp_unsigned("==", y, zero), zero, remainder)


def floor_mod(b: ir.IRBuilder, x: ir.Value, y: ir.Value, signed: bool = True) -> ir.Value:
    """x - floor(x / y) y, with the sign of y (ONNX Mod, Python's %); 0 for y = 0."""
    remainder = trunc_mod(b, x, y, signed)
    if not signed:
        return remainder
    zero = _splat(x, 0)
    differs = b.icmp_signed("<", b.xor(remainder, y), zero)
    inexact = b.icmp_unsigned("!=", remainder, zero)
    return b.select(b.and_(differs, inexact), b.add(remainder, y), remainder)


def _quotient(b: ir.IRBuilder, x: ir.Value, y: ir.Value, signed: bool) -> ir.Value:
    """x / y toward zero for y neither 0 nor, when signed, -1."""
    element = x.type.element if isinstance(x.type, ir.VectorType) else x.type
    if element.width > 32:
        return b.sdiv(x, y) if signed else b.udiv(x, y)
    if element.width < 32:  # in i32, where the conversions have instructions
        extend = b.sext if signed else b.zext
        word = _like(x, ir.IntType(32))
        wide = _like(x, ir.FloatType())
        quotient = b.fdiv(b.sitofp(extend(x, word), wide), b.sitofp(extend(y, word), wide))
        return b.trunc(b.fptosi(quotient, word), x.type)
    wide = _like(x, ir.DoubleType())
    if signed:
        return b.fptosi(b.fdiv(b.sitofp(x, wide), b.sitofp(y, wide)), x.type)
    return b.fptoui(b.fdiv(b.uitofp(x, wide), b.uitofp(y, wide)), x.type)


def _like(x: ir.Value, element: ir.Type) -> ir.Type:
    return ir.VectorType(element, x.type.count) if isinstance(x.type, ir.VectorType) else element


def _splat(x: ir.Value, value: int) -> ir.Constant:
    if isinstance(x.type, ir.VectorType):
        return Uniform(x.type, value)
    return ir.Constant(x.type, value)
