"""Rounding to integers, square root and reciprocal: what IEEE 754 defines exactly. No error, or half an ulp."""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions


def round_half_even(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """The nearest integer, ties to even (ONNX Round)."""
    lanes = Lanes(b, x.type, options)
    return lanes.intrinsic("llvm.roundeven", x) if options.rounding else _nearest(lanes, x)


def floor(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """The largest integer <= x."""
    lanes = Lanes(b, x.type, options)
    if options.rounding:
        return lanes.intrinsic("llvm.floor", x)
    return _corrected(lanes, x, x, ">", -1.0)


def ceil(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """The smallest integer >= x."""
    lanes = Lanes(b, x.type, options)
    if options.rounding:
        return lanes.intrinsic("llvm.ceil", x)
    return _corrected(lanes, x, x, "<", 1.0)


def trunc(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """The integer part."""
    lanes = Lanes(b, x.type, options)
    if options.rounding:
        return lanes.intrinsic("llvm.trunc", x)
    return _corrected(lanes, lanes.abs(x), x, ">", -1.0)


def sqrt(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """The correctly rounded square root; NaN below zero."""
    return Lanes(b, x.type, options).sqrt(x)


def reciprocal(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """1 / x, correctly rounded."""
    return b.fdiv(Lanes(b, x.type, options).const(1.0), x)


def _nearest(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Round half to even by an addition that pushes the fraction out; large numbers are integers already."""
    b = lanes.b
    magnitude = lanes.abs(x)
    shift = lanes.const(2.0**lanes.mantissa)
    rounded = lanes.copysign(b.fsub(b.fadd(magnitude, shift), shift), x)
    return b.select(b.fcmp_ordered("<", magnitude, shift), rounded, x)


def _corrected(lanes: Lanes, x: ir.Value, sign: ir.Value, wrong: str, step: float) -> ir.Value:
    """The nearest integer, moved by `step` where it compares `wrong` with x; with the sign of `sign`, also at zero."""
    b = lanes.b
    nearest = _nearest(lanes, x)
    correction = b.select(b.fcmp_ordered(wrong, nearest, x), lanes.const(step), lanes.const(0.0))
    return lanes.copysign(b.fadd(nearest, correction), sign)
