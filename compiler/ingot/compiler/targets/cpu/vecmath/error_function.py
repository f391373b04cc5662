# pyright: basic
# llvmlite has no types.
"""The error function and the GELU activation made of it."""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.exponential import fast_exp2, scaled_exp
from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions

# f32: erf x = x + x P(x^2), |x| < 0.85 (relative error 2^-27), and erfc x = 2^Q(x) beyond (error 2^-29).
ERF_SPLIT = 0.85
ERF = (
    0.12837916612625122, -0.37612590193748474, 0.11282864958047867, -0.026807287707924843, 0.0050577037036418915,
    -0.0006348518072627485,
)  # fmt: skip
ERFC = (
    -0.00016548788698855788, -1.6273822784423828, -0.9184220433235168, -0.15068671107292175, 0.03243035078048706,
    -0.004482727497816086, 0.00029218709096312523,
)  # fmt: skip

# f32: erfc(x / sqrt 2) / 2 = 2^Q(x), 0 <= x <= GELU_END; absolute error 2^-25. At the end Q is -127.
GELU_END = 11.348187
GELU = (
    -1.0, -1.1511070728302002, -0.45918530225753784, -0.052586428821086884, 0.0072244154289364815,
    -0.00028403583564795554, -0.00011523252760525793, 2.229909659945406e-05, -1.2276550478418358e-06,
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
        return _erf_single(lanes, x)
    magnitude = lanes.at_most(lanes.abs(x), 6.0)
    square = b.fmul(magnitude, magnitude)
    small = b.fmul(magnitude, lanes.polynomial(square, ERF_SMALL))
    three = lanes.const(3.0)
    ratio = b.fdiv(three, b.fadd(magnitude, three))
    complement = b.fmul(scaled_exp(lanes, b.fneg(square)), lanes.polynomial(ratio, ERFC_LARGE))
    one = lanes.const(1.0)
    result = b.select(b.fcmp_ordered("<", magnitude, one), small, b.fsub(one, complement))
    return lanes.copysign(result, x)


def _erf_single(lanes: Lanes, x: ir.Value) -> ir.Value:
    b = lanes.b
    magnitude = lanes.at_most(lanes.abs(x), 4.0)
    square = b.fmul(magnitude, magnitude)
    small = lanes.fma(magnitude, lanes.polynomial(square, ERF), magnitude)
    large = b.fsub(lanes.const(1.0), fast_exp2(lanes, lanes.polynomial(magnitude, ERFC)))
    return lanes.copysign(b.select(b.fcmp_ordered("<", magnitude, lanes.const(ERF_SPLIT)), small, large), x)


def gelu(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """x (1 + erf(x / sqrt 2)) / 2 = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, in one piece because it is cheaper than its parts.

    Absolute error at most 2^-23 |x| (f32), 2^-51 |x| (f64); f32 gives 0 below GELU_END, for -inf too, where f64 and the
    formula give NaN.
    """
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 64:
        half = b.fmul(x, lanes.const(0.5))
        return lanes.fma(half, erf(b, b.fmul(x, lanes.const(0.7071067811865476)), options), half)
    magnitude = lanes.at_most(lanes.abs(x), GELU_END)
    tail = fast_exp2(lanes, lanes.polynomial(magnitude, GELU))
    return lanes.fma(b.fneg(magnitude), tail, lanes.at_least(x, 0.0))
