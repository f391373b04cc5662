# pyright: basic
# llvmlite has no types.
"""The error function and the GELU activation made of it."""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.exponential import odd_rational, scaled_exp
from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions

# f32: erf x = x P(x^2) / Q(x^2), |x| <= ERF_SATURATION, beyond which it rounds to 1. Rational minimax (Lawson's iteration for
# the start, Q rounded to f32, P refitted by Remez and rounded coefficient by coefficient); relative error 2^-24.1.
ERF_SATURATION = 3.925
ERF = (
    (
        1.1283791065216064, 0.19059529900550842, 0.052769213914871216, 0.0037726694718003273,
        0.0002848386066034436, 2.0462280190258753e-06,
    ),
    (
        1.0, 0.502243161201477, 0.11418323218822479, 0.01498330570757389, 0.0011638713767752051,
        3.8047794078011066e-05,
    ),
)  # fmt: skip

# The same for erf(x / sqrt 2) / 2, by which GELU is multiplied.
GELU_SATURATION = 5.55
GELU = (
    (
        0.7978845238685608, 0.06738559156656265, 0.009328377433121204, 0.00033345859264954925,
        1.2588278877956327e-05, 4.521451657524267e-08,
    ),
    (
        1.0, 0.2511215806007385, 0.028545808047056198, 0.0018729132134467363, 7.274196104845032e-05,
        1.1889935649378458e-06,
    ),
)  # fmt: skip

# f64: erf x = x P(x^2), |x| < 1 (relative error 2^-56), and erfc x = e^(-x^2) W(3 / (x + 3)), 1 <= x <= 6 (error 2^-61).
ERF_SMALL = (
    1.1283791670955126, -0.3761263890318352, 0.11283791670944186, -0.026866170643111652, 0.0052239776061199245,
    -0.0008548325929380051, 0.00012055293578739574, -1.492471233506079e-05, 1.6447131952536898e-06,
    -1.6206316489635374e-07, 1.3710991461964517e-08, -7.779487864135419e-10,
)  # fmt: skip
ERFC_LARGE = (
    -8.832832777103778e-06, 0.18828319879610925, 0.18554305406017554, 0.19519577796035484, 0.07340270752608577,
    0.4102100847189506, -0.6162672884290805, 1.3761152046803675, -1.7909145610319674, 1.8143664708391511,
    -1.2482534567080428, 0.5177397107436115, -0.1160893746865729, 0.010677286199129124,
)  # fmt: skip


def erf(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """The error function, never beyond +-1. Error at most 2 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 32:
        return odd_rational(lanes, x, ERF, ERF_SATURATION)
    magnitude = lanes.at_most(lanes.abs(x), 6.0)
    square = b.fmul(magnitude, magnitude)
    small = b.fmul(magnitude, lanes.polynomial(square, ERF_SMALL))
    three = lanes.const(3.0)
    ratio = b.fdiv(three, b.fadd(magnitude, three))
    complement = b.fmul(scaled_exp(lanes, b.fneg(square)), lanes.polynomial(ratio, ERFC_LARGE))
    one = lanes.const(1.0)
    result = b.select(b.fcmp_ordered("<", magnitude, one), small, b.fsub(one, complement))
    return lanes.copysign(result, x)


def gelu(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """x (1 + erf(x / sqrt 2)) / 2, in one piece because it is cheaper than its parts.

    Absolute error at most 2^-23 |x| for |x| < 5.55 (f32), 2^-51 |x| (f64); beyond, x or a zero. -inf gives NaN, as the
    formula does.
    """
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 64:
        half = b.fmul(x, lanes.const(0.5))
        return lanes.fma(half, erf(b, b.fmul(x, lanes.const(0.7071067811865476)), options), half)
    numerator, denominator = GELU
    held = lanes.clamp(x, -GELU_SATURATION, GELU_SATURATION)
    square = b.fmul(held, held)
    top = b.fmul(held, lanes.polynomial(square, numerator))
    ratio = b.fdiv(top, lanes.polynomial(square, denominator))
    return b.fmul(x, b.fadd(ratio, lanes.const(0.5)))
