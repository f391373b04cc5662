"""x^y, and the floating remainder."""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.exponential import exp_of_reduced, halves, reduce
from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions
from ingot.compiler.targets.cpu.vecmath.logarithm import LN2, log_of_parts, split_exponent
from ingot.compiler.targets.cpu.vecmath.rounding import trunc

# atanh s = s + s^3/3 + s^5 P(s^2), |s| <= 0.172; error 2^-73 of the sum.
ATANH = (
    0.19999999999999987, 0.14285714285723183, 0.11111111108616137, 0.09090909453751408, 0.07692277171459573,
    0.06668207172098384, 0.05836428838768088, 0.06002644394537783,
)  # fmt: skip
THIRD = (1.0 / 3.0, 1.850371707708594e-17)


def pow(b: ir.IRBuilder, x: ir.Value, y: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """x^y with the special cases of C (IEEE 754-2019, 9.2.1).

    x^0 and 1^y are 1 even for NaN; a negative x with a y that is no integer gives NaN. Error at most 1 ulp (f32, in
    f64), 2 ulp (f64, with the logarithm in double-double arithmetic).
    """
    lanes = Lanes(b, x.type, options)
    magnitude = lanes.abs(x)
    one, zero = lanes.const(1.0), lanes.const(0.0)
    result = _pow_single(lanes, magnitude, y) if lanes.bits == 32 else _pow_double(lanes, magnitude, y)

    y_infinite = b.fcmp_ordered("==", lanes.abs(y), lanes.inf)
    extreme = b.or_(b.fcmp_ordered("==", magnitude, zero), b.fcmp_ordered("==", magnitude, lanes.inf))
    shrinks = b.xor(b.fcmp_ordered(">", magnitude, one), b.fcmp_ordered(">", y, zero))
    result = b.select(b.or_(extreme, y_infinite), b.select(shrinks, zero, lanes.inf), result)

    half = b.fmul(y, lanes.const(0.5))
    whole = b.fcmp_ordered("==", trunc(b, y, options), y)
    odd = b.and_(whole, b.fcmp_ordered("!=", trunc(b, half, options), half))
    result = lanes.copysign(result, b.select(odd, x, one))
    finite_negative = b.and_(b.fcmp_ordered("<", x, zero), b.fcmp_ordered("<", magnitude, lanes.inf))
    result = b.select(b.and_(finite_negative, b.not_(whole)), lanes.nan, result)
    result = b.select(b.fcmp_unordered("uno", x, y), b.fadd(x, y), result)
    is_one = b.or_(b.fcmp_ordered("==", y, zero), b.fcmp_ordered("==", x, one))
    is_one = b.or_(is_one, b.and_(b.fcmp_ordered("==", magnitude, one), y_infinite))
    return b.select(is_one, one, result)


def _pow_single(lanes: Lanes, magnitude: ir.Value, y: ir.Value) -> ir.Value:
    """magnitude^y for finite f32 magnitude > 0 and finite y; in f64 there are no denormals and no overflow."""
    b = lanes.b
    wide = lanes.double()
    k, m = split_exponent(wide, b.fpext(magnitude, wide.float))
    k = wide.unsigned_to_float(k, wide.bias)
    logarithm = log_of_parts(wide, k, b.fsub(m, wide.const(1.0)))
    exponent = wide.clamp(b.fmul(b.fpext(y, wide.float), logarithm), -160.0, 160.0)
    r, t = reduce(wide, exponent, wide.bias)
    power = wide.as_float(b.shl(t, wide.word(wide.mantissa)))
    return b.fptrunc(b.fmul(exp_of_reduced(wide, r), power), lanes.float)


def _pow_double(lanes: Lanes, magnitude: ir.Value, y: ir.Value) -> ir.Value:
    """magnitude^y for finite f64 magnitude > 0 and finite y."""
    b = lanes.b
    high, low = _log_double_double(lanes, magnitude)
    product, error = lanes.two_product(y, high)
    error = lanes.fma(y, low, error)
    # Out of range the error term may be NaN, and does not matter.
    inside = b.fcmp_ordered("<", lanes.abs(product), lanes.const(760.0))
    error = b.select(inside, error, lanes.const(0.0))
    r, t = reduce(lanes, lanes.clamp(product, -760.0, 760.0), 2 * lanes.bias)
    first, second = halves(lanes, t)
    return b.fmul(b.fmul(exp_of_reduced(lanes, b.fadd(r, error)), first), second)


def _log_double_double(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """log x as an unevaluated sum with some 63 good bits; x finite and > 0, in f64.

    log m = 2 atanh s, s = (m - 1)/(m + 1); s and the first two terms are double-double (Dekker, 1971), the rest is
    small.
    """
    b = lanes.b
    one, two = lanes.const(1.0), lanes.const(2.0)
    small = b.fcmp_ordered("<", x, lanes.const(2.0**-1022))
    k, m = split_exponent(lanes, b.select(small, b.fmul(x, lanes.const(2.0**54)), x))
    k = b.fsub(lanes.unsigned_to_float(k, lanes.bias), b.select(small, lanes.const(54.0), lanes.const(0.0)))

    f = b.fsub(m, one)
    divisor, divisor_error = lanes.two_sum(m, one)
    s = b.fdiv(f, divisor)
    product, error = lanes.two_product(s, divisor)
    rest = b.fsub(b.fsub(b.fsub(f, product), error), b.fmul(s, divisor_error))
    s_low = b.fdiv(rest, divisor)

    square, square_low = lanes.two_product(s, s)
    square_low = lanes.fma(b.fmul(two, s), s_low, square_low)
    cube, cube_low = lanes.two_product(s, square)
    cube_low = b.fadd(cube_low, lanes.fma(s, square_low, b.fmul(s_low, square)))
    term, term_low = lanes.two_product(cube, lanes.const(THIRD[0]))
    term_low = b.fadd(term_low, lanes.fma(cube, lanes.const(THIRD[1]), b.fmul(cube_low, lanes.const(THIRD[0]))))
    series = b.fmul(b.fmul(cube, square), lanes.polynomial(square, ATANH))
    leading, tail = lanes.fast_two_sum(s, term)
    tail = b.fadd(series, b.fadd(b.fadd(tail, s_low), term_low))

    ln2_high, ln2_low = LN2[64]
    total, total_low = lanes.two_sum(b.fmul(k, lanes.const(ln2_high)), b.fmul(two, leading))
    total_low = b.fadd(total_low, lanes.fma(k, lanes.const(ln2_low), b.fmul(two, tail)))
    return lanes.fast_two_sum(total, total_low)


def fmod(b: ir.IRBuilder, x: ir.Value, y: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """x - trunc(x/y) y, exact, with the sign of x (C's fmod; ONNX Mod with fmod=1). NaN for y = 0 and infinite x.

    A loop that usually runs once: each turn takes a 52-bit quotient off, whose remainder is representable. It ends in
    another basic block than it began in: read `builder.block` afterwards.
    """
    lanes = Lanes(b, x.type, options)
    wide = lanes.double()
    extend = lanes.bits == 32
    dividend = wide.abs(b.fpext(x, wide.float) if extend else x)
    divisor = wide.abs(b.fpext(y, wide.float) if extend else y)
    remainder = _remainder(wide, dividend, divisor) if extend else _remainder_in_steps(wide, dividend, divisor)
    remainder = b.select(b.fcmp_ordered("<", dividend, divisor), dividend, remainder)
    result = b.fptrunc(remainder, lanes.float) if extend else remainder
    return lanes.copysign(result, x)


def _remainder_in_steps(lanes: Lanes, x: ir.Value, y: ir.Value) -> ir.Value:
    """x mod y for f64 x >= y >= 0 whose quotient may overflow: first modulo 2^1200 y, 2^600 y (or 2^600 y, 2^300 y)."""
    b = lanes.b
    one = lanes.const(1.0)
    small = b.fcmp_ordered("<", y, lanes.const(2.0**300))
    tiny = b.fcmp_ordered("<", y, lanes.const(2.0**-300))
    step = b.select(tiny, lanes.const(2.0**600), b.select(small, lanes.const(2.0**300), one))
    # Nor may Veltkamp's splitting of a large divisor overflow.
    huge = b.fcmp_ordered(">", y, lanes.const(2.0**900))
    down, up = (b.select(huge, lanes.const(factor), one) for factor in (2.0**-100, 2.0**100))
    remainder, y = b.fmul(x, down), b.fmul(y, down)
    larger = b.fmul(y, step)
    remainder = _remainder(lanes, remainder, b.fmul(larger, step))
    remainder = _remainder(lanes, remainder, larger)
    return b.fmul(_remainder(lanes, remainder, y), up)


def _remainder(lanes: Lanes, x: ir.Value, y: ir.Value) -> ir.Value:
    """x mod y for f64 x, y >= 0.

    The quotient is rounded and may be too large: remainders of either sign are carried on, the last one made positive.
    """
    b = lanes.b
    entry = b.block
    loop = b.append_basic_block("remainder")
    done = b.append_basic_block("remainder.done")
    b.branch(loop)
    b.position_at_end(loop)
    before = b.phi(lanes.float)
    quotient = trunc(b, b.fdiv(before, y), lanes.options)
    product, error = lanes.two_product(quotient, y)
    after = b.fsub(b.fsub(before, product), error)
    before.add_incoming(x, entry)
    before.add_incoming(after, loop)
    b.cbranch(lanes.any(b.fcmp_ordered(">=", lanes.abs(after), y)), loop, done)
    b.position_at_end(done)
    return b.select(b.fcmp_ordered("<", after, lanes.const(0.0)), b.fadd(after, y), after)
