"""Functions built on e^x: exp, expm1, sigmoid, softplus and the hyperbolic ones.

All reduce x = n ln 2 + r with |r| <= ln(2)/2 (Cody and Waite, "Software Manual for the Elementary Functions", 1980:
the high part of ln 2 has so few bits that its product with n is exact), evaluate e^r = 1 + r + r^2 Q(r), and multiply
by 2^n. Polynomials are minimax fits, by the Remez exchange in 60 digits or, where the weight vanishes inside the
interval, by linear programming; those for f32 were rounded coefficient by coefficient, the later ones refitted after
each rounding.
"""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions
from ingot.compiler.targets.cpu.vecmath.logarithm import LN2, log1p_of_unit

LOG2_E = 1.4426950408889634

# Q in e^r = 1 + r + r^2 Q(r), |r| <= 0.347; relative error of e^r: 2^-28 and 2^-57.
EXP = {
    32: (0.4999999403953552, 0.16666530072689056, 0.04166843742132187, 0.00836784578859806, 0.001380485249683261),
    64: (
        0.5000000000000008, 0.1666666666666645, 0.041666666666555024, 0.008333333333481869, 0.0013888888937506976,
        0.00019841269516058946, 2.4801499033805963e-05, 2.755758978753879e-06, 2.762826620871817e-07,
        2.4996111848357723e-08,
    ),
}  # fmt: skip

# One degree less, for `fast_exp`; relative error 2^-23.2.
FAST_EXP = (0.4999922811985016, 0.16667114198207855, 0.041890643537044525, 0.008312740363180637)

# Beyond these arguments e^x is 0, or infinite.
LOW = {32: -104.0, 64: -746.0}
HIGH = {32: 89.0, 64: 710.0}

# sinh x = x + x^3 P(x^2), |x| <= 1; relative error 2^-31 and 2^-63.
SINH = {
    32: (0.1666666716337204, 0.008333311416208744, 0.00019842635083477944, 2.7839255380968098e-06),
    64: (
        0.16666666666666669, 0.008333333333333139, 0.00019841269841437676, 2.7557319155338433e-06,
        2.505212339834629e-08, 1.6057240354660332e-10, 7.759311874213805e-13,
    ),
}  # fmt: skip

# 2^f, |f| <= 1/2; relative error 2^-23.3.
EXP2 = (
    1.0, 0.6931469440460205, 0.24022243916988373, 0.05550770461559296, 0.009671504609286785, 0.0013255360536277294,
)  # fmt: skip


def reduce(lanes: Lanes, x: ir.Value, offset: int, sign: int = 1) -> tuple[ir.Value, ir.Value]:
    """(r, t) with sign * x = n ln 2 + r, and n + offset in the low bits of the integer t."""
    b = lanes.b
    shift = lanes.magic + offset
    shifted = lanes.fma(x, lanes.const(sign * LOG2_E), lanes.const(shift))
    n = b.fsub(shifted, lanes.const(shift))
    high, low = LN2[lanes.bits]
    r = lanes.fma(n, lanes.const(-high), x if sign > 0 else b.fneg(x))
    return lanes.fma(n, lanes.const(-low), r), lanes.as_int(shifted)


def exp_of_reduced(lanes: Lanes, r: ir.Value) -> ir.Value:
    """e^r for |r| <= ln(2)/2."""
    return lanes.polynomial(r, (1.0, 1.0, *EXP[lanes.bits]))


def halves(lanes: Lanes, t: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Two powers of two whose product is 2^(n + offset - 2 bias): one factor alone could not hold every exponent."""
    b = lanes.b
    half = b.lshr(t, lanes.word(1))
    first = b.shl(half, lanes.word(lanes.mantissa))
    second = b.shl(b.sub(t, half), lanes.word(lanes.mantissa))
    return lanes.as_float(first), lanes.as_float(second)


def scaled_exp(lanes: Lanes, x: ir.Value, exponent: int = 0) -> ir.Value:
    """2^exponent * e^x without intermediate overflow, for exponent in -8 .. 0."""
    x = lanes.clamp(x, LOW[lanes.bits], HIGH[lanes.bits] - exponent)
    r, t = reduce(lanes, x, 2 * lanes.bias + exponent)
    first, second = halves(lanes, t)
    return lanes.b.fmul(lanes.b.fmul(exp_of_reduced(lanes, r), first), second)


def exp(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """e^x over the whole range, denormal results included. Error at most 1 ulp (f32), 1.5 ulp (f64)."""
    return scaled_exp(Lanes(b, x.type, options), x)


def fast_exp(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """e^x for x <= 88 (a softmax has x <= 0); larger x give nonsense.

    f32: error at most 2.5 ulp; results below 2^-126 become 0 (-inf gives 0, NaN gives NaN). f64: the same as `exp`.
    """
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 64:
        return scaled_exp(lanes, x)
    # At the lower bound n = -127: the biased exponent, and with it the power of two, is zero.
    r, t = reduce(lanes, lanes.at_least(x, -88.0), lanes.bias)
    power = lanes.as_float(b.shl(t, lanes.word(lanes.mantissa)))
    return b.fmul(lanes.polynomial(r, (1.0, 1.0, *FAST_EXP)), power)


def expm1(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """e^x - 1, accurate near 0. Error at most 2 ulp (f32), 2.5 ulp (f64)."""
    lanes = Lanes(b, x.type, options)
    # Below the lower bound the result rounds to -1.
    return lanes.copysign(_expm1(lanes, lanes.clamp(x, -18.0 if lanes.bits == 32 else -40.0, HIGH[lanes.bits])), x)


def _expm1(lanes: Lanes, x: ir.Value) -> ir.Value:
    """expm1 for x within `HIGH` and -40, but for the sign of zero.

    2^n (e^r - 1) + (2^n - 1), with 2^n = first * second and everything divided by `second` until the end.
    """
    b = lanes.b
    r, t = reduce(lanes, x, 2 * lanes.bias)
    first, second = halves(lanes, t)
    inverse = lanes.as_float(b.sub(lanes.word(2 * lanes.bias << lanes.mantissa), lanes.as_int(second)))
    p = lanes.fma(b.fmul(r, r), lanes.polynomial(r, EXP[lanes.bits]), r)
    return b.fmul(lanes.fma(first, p, b.fsub(first, inverse)), second)


def sigmoid(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """1 / (1 + e^-x) over the whole range, denormal results included. Error at most 2.5 ulp (f32), 3 ulp (f64).

    With e^-x = p * first * second it is (1/second) / (p * first + 1/second), which cannot overflow.
    """
    lanes = Lanes(b, x.type, options)
    x = lanes.clamp(x, LOW[lanes.bits], -LOW[lanes.bits] / 2)
    r, t = reduce(lanes, x, 2 * lanes.bias, sign=-1)
    half = b.lshr(t, lanes.word(1))
    first = lanes.as_float(b.shl(half, lanes.word(lanes.mantissa)))
    inverse = b.sub(lanes.word(2 * lanes.bias), b.sub(t, half))
    inverse = lanes.as_float(b.shl(inverse, lanes.word(lanes.mantissa)))
    return b.fdiv(inverse, lanes.fma(exp_of_reduced(lanes, r), first, inverse))


def softplus(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|) over the whole range. Error at most 2 ulp (f32), 3 ulp (f64)."""
    lanes = Lanes(b, x.type, options)
    decay = scaled_exp(lanes, b.fneg(lanes.abs(x)))
    return b.fadd(lanes.at_least(x, 0.0), log1p_of_unit(lanes, decay))


def sinh(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """(e^x - e^-x) / 2. Error at most 2 ulp (f32), 2.5 ulp (f64)."""
    lanes = Lanes(b, x.type, options)
    magnitude = lanes.abs(x)
    half = scaled_exp(lanes, magnitude, -1)
    large = b.fsub(half, b.fdiv(lanes.const(0.25), half))
    square = b.fmul(magnitude, magnitude)
    small = lanes.fma(b.fmul(magnitude, square), lanes.polynomial(square, SINH[lanes.bits]), magnitude)
    return lanes.copysign(b.select(b.fcmp_ordered("<", magnitude, lanes.const(1.0)), small, large), x)


def cosh(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """(e^x + e^-x) / 2. Error at most 1.5 ulp (f32), 2 ulp (f64)."""
    lanes = Lanes(b, x.type, options)
    half = scaled_exp(lanes, lanes.abs(x), -1)
    return b.fadd(half, b.fdiv(lanes.const(0.25), half))


def tanh(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Hyperbolic tangent, m / (m + 2) with m = expm1(2 |x|). Error at most 3 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    # Beyond the bound the result rounds to 1, and up to it one power of two holds 2^n.
    magnitude = lanes.at_most(lanes.abs(x), 9.5 if lanes.bits == 32 else 20.0)
    r, t = reduce(lanes, b.fadd(magnitude, magnitude), lanes.bias)
    power = lanes.as_float(b.shl(t, lanes.word(lanes.mantissa)))
    p = lanes.fma(b.fmul(r, r), lanes.polynomial(r, EXP[lanes.bits]), r)
    m = lanes.fma(power, p, b.fsub(power, lanes.const(1.0)))
    return lanes.copysign(b.fdiv(m, b.fadd(m, lanes.const(2.0))), x)


def fast_exp2(lanes: Lanes, x: ir.Value) -> ir.Value:
    """2^x of f32 lanes for -127.5 < x <= 127 to about 2 ulp; results below 2^-126 become 0."""
    b = lanes.b
    shift = lanes.const(lanes.magic + lanes.bias)
    shifted = b.fadd(x, shift)
    fraction = b.fsub(x, b.fsub(shifted, shift))
    power = lanes.as_float(b.shl(lanes.as_int(shifted), lanes.word(lanes.mantissa)))
    return b.fmul(lanes.polynomial(fraction, EXP2), power)
