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

# f32: erfc(x / sqrt 2) / 2 = 2^Q(x), x >= 0, weighted to even out the error of x times it; that is 2.1e-8 and 1.9e-7.
# The second number is where Q reaches -127 and the result underflows to 0.
GELU = (
    (
        -1.0, -1.1511085033416748, -0.45917582511901855, -0.052603207528591156, 0.007228492293506861,
        -0.00027020167908631265, -0.00012844572484027594, 2.673111157491803e-05, -1.740428047014575e-06,
    ),
    10.54748,
)  # fmt: skip
FAST_GELU = (
    (
        -1.0, -1.1511248350143433, -0.45902636647224426, -0.05305035412311554, 0.007837055251002312,
        -0.000692625530064106, 2.410823253740091e-05,
    ),
    12.9964,
)  # fmt: skip

# f64: erf x = x P(x^2), |x| < 1 (relative error 2^-56), and erfc x = e^(-x^2) W(3 / (x + 3)), 1 <= x <= 6 (error
# 2^-61).
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
    """The error function, never beyond +-1. Error at most 1.5 ulp (f32), 2.5 ulp (f64)."""
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
    large = b.fsub(lanes.const(1.0), fast_exp2(lanes, lanes.polynomial(magnitude, ERFC, paired=True)))
    return lanes.copysign(b.select(b.fcmp_ordered("<", magnitude, lanes.const(ERF_SPLIT)), small, large), x)


def gelu(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """x (1 + erf(x / sqrt 2)) / 2. Absolute error at most 3 * 2^-24 |x| (f32), 4 * 2^-53 |x| (f64).

    f32 is max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, where the small second term keeps its relative accuracy. -inf gives
    NaN, as the formula does.
    """
    lanes = Lanes(b, x.type, options)
    if lanes.bits == 32:
        return _gelu_single(lanes, x, GELU)
    half = b.fmul(x, lanes.const(0.5))
    return lanes.fma(half, erf(b, b.fmul(x, lanes.const(0.7071067811865476)), options), half)


def fast_gelu(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """`gelu` with a shorter polynomial in f32: absolute error at most 6 * 2^-24 |x|. f64: the same as `gelu`."""
    lanes = Lanes(b, x.type, options)
    return _gelu_single(lanes, x, FAST_GELU) if lanes.bits == 32 else gelu(b, x, options)


def _gelu_single(lanes: Lanes, x: ir.Value, fit: tuple[tuple[float, ...], float]) -> ir.Value:
    coefficients, end = fit
    factor = lanes.abs(lanes.at_most(x, end))  # infinite for -inf alone, which becomes inf * 0
    tail = fast_exp2(lanes, lanes.polynomial(lanes.at_most(factor, end), coefficients, paired=True))
    return lanes.fma(lanes.b.fneg(factor), tail, lanes.at_least(x, 0.0))
