"""log, log1p and the inverse hyperbolic functions.

x = 2^k m with m in [sqrt(1/2), sqrt(2)) and log x = k ln 2 + log m; ln 2 is split so that k times its high part is
exact (Cody and Waite, 1980). f32 takes a polynomial in m - 1; f64 one in s^2, s = (m - 1)/(m + 1), arranged as in Sun's
fdlibm so that the leading terms are exact. Polynomials are Remez fits, as in `exponential`.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions

SQRT_HALF = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}
ONE = {32: 0x3F800000, 64: 0x3FF0000000000000}
LN2 = {32: (0.693359375, -2.12194440054690583e-4), 64: (6.93147180369123816490e-01, 1.90821492927058770002e-10)}

# f32: log(1 + f) = f - f^2/2 + f^3 P(f). f64: 2 atanh(s) = 2 s + s z P(z), z = s^2. Relative error 2^-27.3 and 2^-58.
LOG = {
    32: (
        0.3333333134651184, -0.2500082552433014, 0.20001265406608582, -0.16623221337795258, 0.1420070230960846,
        -0.13160447776317596, 0.12769769132137299, -0.07644559442996979,
    ),
    64: (
        0.666666666666674, 0.39999999999376445, 0.2857142875167283, 0.222221975466956, 0.1818362122873078,
        0.15312509538678698, 0.14812171976934224,
    ),
}  # fmt: skip


def split_exponent(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(k + bias, m) of a normal x > 0 = 2^k m with m in [sqrt(1/2), sqrt(2)); the first is an integer."""
    b = lanes.b
    root = SQRT_HALF[lanes.bits]
    word = b.add(lanes.as_int(x), lanes.word(ONE[lanes.bits] - root))
    k = b.lshr(word, lanes.word(lanes.mantissa))
    m = b.add(b.and_(word, lanes.word((1 << lanes.mantissa) - 1)), lanes.word(root))
    return k, lanes.as_float(m)


def log_of_parts(lanes: Lanes, k: ir.Value, f: ir.Value) -> ir.Value:
    """k ln 2 + log(1 + f) for an integral float k and sqrt(1/2) <= 1 + f <= sqrt(2)."""
    b = lanes.b
    high, low = LN2[lanes.bits]
    tail = b.fmul(k, lanes.const(low))
    if lanes.bits == 32:
        square = b.fmul(f, f)
        tail = lanes.fma(b.fmul(f, square), lanes.polynomial(f, LOG[32]), tail)
        tail = lanes.fma(square, lanes.const(-0.5), tail)
        return lanes.fma(k, lanes.const(high), b.fadd(f, tail))
    s = b.fdiv(f, b.fadd(f, lanes.const(2.0)))
    z = b.fmul(s, s)
    half_square = b.fmul(b.fmul(f, f), lanes.const(0.5))
    # log(1 + f) = f - f^2/2 + s (f^2/2 + R), with R = z P(z).
    series = lanes.fma(z, lanes.polynomial(z, LOG[64]), half_square)
    tail = b.fsub(half_square, lanes.fma(s, series, tail))
    return lanes.fma(k, lanes.const(high), b.fsub(f, tail))


def log(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Natural logarithm; -inf at 0, NaN below. Error at most 1 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    # Denormals are brought into the normal range by a power of two that is taken off k again.
    lift = lanes.mantissa + 2
    small = b.fcmp_ordered("<", x, lanes.const(2.0 ** (1 - lanes.bias)))
    normal = b.select(small, b.fmul(x, lanes.const(2.0**lift)), x)
    k, m = split_exponent(lanes, normal)
    k = b.fsub(lanes.unsigned_to_float(k, lanes.bias), b.select(small, lanes.const(lift), lanes.const(0.0)))
    return with_limits(lanes, log_of_parts(lanes, k, b.fsub(m, lanes.const(1.0))), x, 0.0)


def with_limits(lanes: Lanes, result: ir.Value, x: ir.Value, pole: float) -> ir.Value:
    """`result` where x is finite and above `pole`; inf and NaN stay, the pole gives -inf, what lies below NaN."""
    b = lanes.b
    result = b.select(b.fcmp_ordered("<", x, lanes.inf), result, x)
    at_pole = b.fcmp_ordered("==", x, lanes.const(pole))
    outside = b.select(at_pole, lanes.const(float("-inf")), lanes.nan)
    return b.select(b.fcmp_ordered("<=", x, lanes.const(pole)), outside, result)


def log1p_of_unit(lanes: Lanes, x: ir.Value) -> ir.Value:
    """log(1 + x) for finite x > -1, but for the sign of zero.

    1 + x = 2^k m is rounded; its error, scaled by 2^-k, is added to m - 1, which makes f = x exactly when k = 0.
    """
    b = lanes.b
    one = lanes.const(1.0)
    total, error = lanes.two_sum(one, x)
    k, m = split_exponent(lanes, total)
    exponent = b.sub(lanes.word(2 * lanes.bias), k)
    exponent = b.select(b.icmp_signed(">", exponent, lanes.word(1)), exponent, lanes.word(1))
    scale = lanes.as_float(b.shl(exponent, lanes.word(lanes.mantissa)))
    f = lanes.fma(error, scale, b.fsub(m, one))
    return log_of_parts(lanes, lanes.unsigned_to_float(k, lanes.bias), f)


def log1p(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """log(1 + x), accurate near 0. Error at most 1.5 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    return lanes.copysign(with_limits(lanes, log1p_of_unit(lanes, x), x, -1.0), x)


def asinh(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """log1p(|x| + x^2 / (1 + sqrt(x^2 + 1))) with the sign of x. Error at most 1 ulp (f32, in f64), 2.5 ulp (f64)."""
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 32:
        return _through_double(lanes, asinh, x)
    magnitude = lanes.abs(x)
    square = b.fmul(magnitude, magnitude)
    root = lanes.sqrt(b.fadd(square, lanes.const(1.0)))
    argument = b.fadd(magnitude, b.fdiv(square, b.fadd(root, lanes.const(1.0))))
    return lanes.copysign(_log1p_or_log_double(lanes, argument, magnitude), x)


def acosh(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """log1p(t + sqrt(t (t + 2))) with t = x - 1; NaN below 1. Error at most 1 ulp (f32, in f64), 2.5 ulp (f64)."""
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 32:
        return _through_double(lanes, acosh, x)
    t = b.fsub(x, lanes.const(1.0))
    argument = b.fadd(t, lanes.sqrt(b.fmul(t, b.fadd(t, lanes.const(2.0)))))
    result = _log1p_or_log_double(lanes, argument, x)
    return b.select(b.fcmp_ordered("<", x, lanes.const(1.0)), lanes.nan, result)


def _log1p_or_log_double(lanes: Lanes, argument: ir.Value, magnitude: ir.Value) -> ir.Value:
    """log1p(argument), or log(2 magnitude) where the argument, about twice the magnitude, may have overflowed."""
    b = lanes.b
    huge = b.fcmp_ordered(">", magnitude, lanes.const(2.0**100))
    chosen = b.select(huge, magnitude, argument)
    result = with_limits(lanes, log1p_of_unit(lanes, chosen), chosen, -1.0)
    return b.fadd(result, b.select(huge, lanes.const(0.6931471805599453), lanes.const(0.0)))


def atanh(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """log1p(2 |x| / (1 - |x|)) / 2 with the sign of x; NaN beyond +-1.

    Error at most 1 ulp (f32, in f64), 2.5 ulp (f64).
    """
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 32:
        return _through_double(lanes, atanh, x)
    magnitude = lanes.abs(x)
    argument = b.fdiv(b.fadd(magnitude, magnitude), b.fsub(lanes.const(1.0), magnitude))
    result = with_limits(lanes, log1p_of_unit(lanes, argument), argument, -1.0)
    return lanes.copysign(b.fmul(result, lanes.const(0.5)), x)


def _through_double(lanes: Lanes, function: Callable[..., ir.Value], x: ir.Value) -> ir.Value:
    """An f32 function by way of its f64 version: half an ulp, at a quarter of the speed."""
    b = lanes.b
    return b.fptrunc(function(b, b.fpext(x, lanes.double().float), lanes.options), lanes.float)
