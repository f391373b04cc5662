"""asin, acos, atan and atan2: one polynomial each after the reductions of Cephes; Remez fits as in `exponential`."""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions

# Leading and trailing part of pi/2, by width.
PI_HALF = {32: (1.5707963705062866, -4.371139000186241e-08), 64: (1.5707963267948966, 6.123233995736766e-17)}
TAN_PI_8 = 0.4142135623730951
TAN_3PI_8 = 2.414213562373095

# asin y = y + y^3 P(y^2), |y| <= 1/2; relative error 2^-28 and 2^-56.
ASIN = {
    32: (0.16666753590106964, 0.07495252043008804, 0.0454760417342186, 0.024152088910341263, 0.04221181571483612),
    64: (
        0.16666666666665383, 0.07500000000343061, 0.04464285682347596, 0.030381959331287376, 0.022371753526612023,
        0.017359771012941314, 0.013884599683988912, 0.01217327023857733, 0.006510895127409486, 0.01957378862288709,
        -0.01629388799596748, 0.03195883935230013,
    ),
}  # fmt: skip

# atan z = z + z^3 P(z^2), |z| <= tan(pi/8); relative error 2^-30 and 2^-59.
ATAN = {
    32: (-0.33333316445350647, 0.19998528063297272, -0.14244377613067627, 0.10598943382501602, -0.0608915276825428),
    64: (
        -0.333333333333332, 0.1999999999995324, -0.14285714280159095, 0.11111110781464874, -0.09090897696898091,
        0.07692059071829394, -0.06663090365533973, 0.058477847549012495, -0.050388115293855756, 0.038051483609984796,
        -0.017892307722241676,
    ),
}  # fmt: skip


def _asin_parts(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(beyond, y, p): asin y = y + p where y = |x|, or sqrt((1 - |x|) / 2) for the lanes `beyond` 1/2."""
    b = lanes.b
    magnitude = lanes.abs(x)
    beyond = b.fcmp_ordered(">", magnitude, lanes.const(0.5))
    halved = lanes.fma(magnitude, lanes.const(-0.5), lanes.const(0.5))
    square = b.select(beyond, halved, b.fmul(magnitude, magnitude))
    y = b.select(beyond, lanes.sqrt(halved), magnitude)
    return beyond, y, b.fmul(b.fmul(y, square), lanes.polynomial(square, ASIN[lanes.bits]))


def asin(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Arc sine; NaN beyond +-1. Error at most 2 ulp (f32, f64).

    asin |x| = pi/2 - 2 asin sqrt((1 - |x|)/2) beyond 1/2.
    """
    lanes = Lanes(b, x.type, options)
    beyond, y, p = _asin_parts(lanes, x)
    high, low = PI_HALF[lanes.bits]
    minus_two = lanes.const(-2.0)
    leading = lanes.fma(y, minus_two, lanes.const(high))
    lost = lanes.fma(y, minus_two, b.fsub(lanes.const(high), leading))
    large = b.fadd(leading, b.fadd(lost, lanes.fma(p, minus_two, lanes.const(low))))
    return lanes.copysign(b.select(beyond, large, b.fadd(y, p)), x)


def acos(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Arc cosine; NaN beyond +-1. Error at most 1.5 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    beyond, y, p = _asin_parts(lanes, x)
    high, low = PI_HALF[lanes.bits]
    negative = b.fcmp_ordered("<", x, lanes.const(0.0))
    angle = b.fadd(y, p)
    # Beyond 1/2: 2 asin y, or pi minus that. Up to 1/2: pi/2 minus asin x.
    doubled = b.fadd(angle, angle)
    reflected = b.fsub(lanes.const(2 * high), b.fsub(doubled, lanes.const(2 * low)))
    outer = b.select(negative, reflected, doubled)
    signed_y, signed_p = lanes.copysign(y, x), lanes.copysign(p, x)
    inner = b.fsub(lanes.const(high), b.fsub(signed_y, b.fsub(lanes.const(low), signed_p)))
    return b.select(beyond, outer, inner)


def _atan_of_ratio(lanes: Lanes, y: ir.Value, x: ir.Value, is_one: ir.Value | None = None) -> ir.Value:
    """atan(y / x) for y, x >= 0 with one division; `is_one` marks lanes whose ratio is to be taken as 1."""
    b = lanes.b
    zero = lanes.const(0.0)
    high, low = PI_HALF[lanes.bits]
    if is_one is None:  # x is 1
        steep = b.fcmp_ordered(">", y, lanes.const(TAN_3PI_8))
        middle = b.fcmp_ordered(">", y, lanes.const(TAN_PI_8))
    else:
        steep = b.fcmp_ordered(">", y, b.fmul(x, lanes.const(TAN_3PI_8)))
        middle = b.fcmp_ordered(">", y, b.fmul(x, lanes.const(TAN_PI_8)))
        middle = b.or_(middle, is_one)
    top = b.select(steep, b.fneg(x), b.select(middle, b.fsub(y, x), y))
    bottom = b.select(steep, y, b.select(middle, b.fadd(y, x), x))
    if is_one is not None:
        top, bottom = b.select(is_one, zero, top), b.select(is_one, lanes.const(1.0), bottom)
    z = b.fdiv(top, bottom)
    square = b.fmul(z, z)
    p = b.fmul(b.fmul(z, square), lanes.polynomial(square, ATAN[lanes.bits]))
    leading = b.select(steep, lanes.const(high), b.select(middle, lanes.const(high / 2), zero))
    trailing = b.select(steep, lanes.const(low), b.select(middle, lanes.const(low / 2), zero))
    return b.fadd(leading, b.fadd(z, b.fadd(p, trailing)))


def atan(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Arc tangent. Error at most 2 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    return lanes.copysign(_atan_of_ratio(lanes, lanes.abs(x), lanes.const(1.0)), x)


def atan2(b: ir.IRBuilder, y: ir.Value, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """The angle of the point (x, y), -pi .. pi, zeros and infinities as in C. Error at most 2 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    rise, run = lanes.abs(y), lanes.abs(x)
    # The sum of the two must not overflow.
    limit = lanes.const(2.0 ** (lanes.bias - 2))
    large = b.or_(b.fcmp_ordered(">", rise, limit), b.fcmp_ordered(">", run, limit))
    scale = b.select(large, lanes.const(0.25), lanes.const(1.0))
    equal = b.fcmp_ordered("==", rise, run)
    angle = _atan_of_ratio(lanes, b.fmul(rise, scale), b.fmul(run, scale), equal)
    at_origin = b.and_(equal, b.fcmp_ordered("==", rise, lanes.const(0.0)))
    angle = b.select(at_origin, lanes.const(0.0), angle)
    high, low = PI_HALF[lanes.bits]
    reflected = b.fsub(lanes.const(2 * high), b.fsub(angle, lanes.const(2 * low)))
    left = b.icmp_signed("<", lanes.as_int(x), lanes.word(0))
    angle = b.select(left, reflected, angle)
    nan = b.fcmp_unordered("uno", x, y)
    return b.select(nan, b.fadd(x, y), lanes.copysign(angle, y))
