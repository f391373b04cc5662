"""sin, cos and tan over the whole range.

x = n pi/2 + r with |r| <= pi/4 (about). Up to `LIMIT` n pi/2 is subtracted in three parts (Cody and Waite, 1980). If
any lane is larger a function of the module is called that multiplies by 192 bits of 2/pi in integers (Payne and Hanek,
"Radian reduction for trigonometric functions", SIGNUM 1983), some hundred instructions. sin, cos and tan therefore end
in another basic block than they began in: read `builder.block` afterwards.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions

TWO_OVER_PI = 0.6366197723675814
PI_HALF = (1.5707963267948966, 6.123233995736766e-17)

# The largest |x| that is reduced in parts, by (bits, fma): without fma n must be short enough for exact products.
LIMIT = {(32, True): 2.0**17, (64, True): 2.0**30, (32, False): 2.0**12, (64, False): 2.0**30}
FINITE = {32: 3.4028234663852886e38, 64: 1.7976931348623157e308}
# Significant bits of each part of pi/2 that is subtracted.
PART_BITS = {(32, True): (24, 24, 24), (64, True): (53, 53, 53), (32, False): (12,) * 5, (64, False): (22,) * 6}

# sin r = r + r^3 S(r^2), cos r = 1 - r^2/2 + r^4 C(r^2), |r| <= 1.02 pi/4; relative error 2^-32, 2^-33 and 2^-57,
# 2^-63.
SIN = {
    32: (-0.1666666716337204, 0.008333378471434116, -0.00019852464902214706, 2.8243500764801865e-06),
    64: (
        -0.16666666666666624, 0.00833333333332004, -0.00019841269827855157, 2.755731299951921e-06,
        -2.5050647769512075e-08, 1.5890307097510585e-10,
    ),
}  # fmt: skip
COS = {
    32: (0.04166664555668831, -0.0013887288514524698, 2.4428207325399853e-05),
    64: (
        0.04166666666666658, -0.0013888888888870913, 2.480158728741972e-05, -2.755731374251468e-07,
        2.08756387839087e-09, -1.1355203872677425e-11,
    ),
}  # fmt: skip


@cache
def pi_bits(fraction: int) -> int:
    """floor(pi * 2^fraction), by Machin's formula."""
    guard = fraction + 32

    def arctangent_of_inverse(n: int) -> int:
        term = (1 << guard) // n
        total, k = term, 1
        while term:
            term //= -n * n
            k += 2
            total += term // k
        return total

    return 4 * (4 * arctangent_of_inverse(5) - arctangent_of_inverse(239)) >> 32


@cache
def half_pi_parts(bits: tuple[int, ...]) -> tuple[float, ...]:
    """pi/2 as a sum of floats with so many significant bits each."""
    fraction = 320
    rest = pi_bits(fraction) // 2
    parts: list[float] = []
    for width in bits:
        shift = rest.bit_length() - width
        part = rest >> shift << shift
        parts.append(part / (1 << fraction))
        rest -= part
    return tuple(parts)


# 2/pi as a bit string, after as many zeros as let the smallest exponent that is looked up stand at the front.
LEADING_ZEROS = 44
WORDS = 38


@cache
def two_over_pi_words() -> tuple[int, ...]:
    """Consecutive 32-bit words of 2/pi, each with its successor below it: 64-bit windows on the bit string."""
    length = 32 * WORDS
    fraction = length - LEADING_ZEROS
    string = (1 << 2 * fraction + 1) // pi_bits(fraction)
    return tuple((string >> (length - 64 - 32 * i)) & 0xFFFFFFFFFFFFFFFF for i in range(WORDS - 1))


def reduce_parts(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(r, n) for 0 <= x <= LIMIT; NaN and inf give NaN. The low two bits of the integer n are the quadrant."""
    b = lanes.b
    shifted = lanes.fma(x, lanes.const(TWO_OVER_PI), lanes.const(lanes.magic))
    n = b.fsub(shifted, lanes.const(lanes.magic))
    for part in half_pi_parts(PART_BITS[lanes.bits, lanes.options.fma]):
        x = lanes.fma(n, lanes.const(-part), x)
    return x, lanes.as_int(shifted)


def reduce_bits(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(r, n) for f64 lanes of x >= 2^12, by Payne and Hanek.

    x = M 2^e. Bits of 2/pi that M 2^e multiplies to whole turns are left out; the product with the next 192, modulo
    2^192, is the angle in quadrants with 190 bits behind the point.
    """
    b = lanes.b
    low_word = lanes.word(0xFFFFFFFF)
    c32 = lanes.word(32)
    word = lanes.as_int(x)
    fraction = b.and_(word, lanes.word((1 << 52) - 1))
    multiplier = b.or_(fraction, lanes.word(1 << 52))
    # The window starts at bit e - 1 of 2/pi counted from one; e = exponent - 1075.
    start = b.add(b.lshr(word, lanes.word(52)), lanes.word(LEADING_ZEROS - 2 - 1075))
    # A barrel shifter picks six windows: first by whole words, then by bits.
    windows: list[ir.Value] = [lanes.word(w) for w in two_over_pi_words()]
    for step in (16, 8, 4, 2, 1):
        bit = b.icmp_unsigned("!=", b.and_(start, lanes.word(32 * step)), lanes.word(0))
        windows = [b.select(bit, windows[i + step], windows[i]) for i in range(step + 5)]
    shift = b.sub(c32, b.and_(start, lanes.word(31)))
    limbs = [b.and_(b.lshr(window, shift), low_word) for window in reversed(windows)]
    product: list[ir.Value] = [lanes.word(0)] * 6
    for position, factor in enumerate((b.and_(multiplier, low_word), b.lshr(multiplier, c32))):
        carry: ir.Value = lanes.word(0)
        for i in range(6 - position):
            column = b.add(b.add(b.mul(factor, limbs[i]), product[i + position]), carry)
            product[i + position] = b.and_(column, low_word)
            carry = b.lshr(column, c32)
    # The quadrant is rounded to nearest; what remains is a signed fraction, 0.5 .. -0.5.
    top = b.or_(b.shl(product[5], c32), product[4])
    quadrant = b.lshr(b.add(top, lanes.word(1 << 61)), lanes.word(62))
    top = b.or_(b.shl(top, lanes.word(2)), b.lshr(product[3], lanes.word(30)))
    next_ = b.or_(b.shl(product[3], c32), product[2])
    next_ = b.or_(b.shl(next_, lanes.word(2)), b.lshr(product[1], lanes.word(30)))
    # From the largest piece down, with the rounding errors kept: whatever cancels, cancels exactly.
    flipped = b.xor(b.lshr(top, c32), lanes.word(1 << 31))
    pieces = (
        (lanes.unsigned_to_float(flipped, 1 << 31), -32),
        (lanes.unsigned_to_float(b.and_(top, low_word)), -64),
        (lanes.unsigned_to_float(b.lshr(next_, c32)), -96),
        (lanes.unsigned_to_float(b.and_(next_, low_word)), -128),
    )
    high: ir.Value = lanes.const(0.0)
    low: ir.Value = lanes.const(0.0)
    for piece, exponent in pieces:
        high, error = lanes.two_sum(high, b.fmul(piece, lanes.const(2.0**exponent)))
        low = b.fadd(low, error)
    product, error = lanes.two_product(high, lanes.const(PI_HALF[0]))
    error = lanes.fma(high, lanes.const(PI_HALF[1]), lanes.fma(low, lanes.const(PI_HALF[0]), error))
    r = b.fadd(product, error)
    return r, quadrant


def _far_reduction(outer: Lanes) -> ir.Function:
    """``{r, n} far(x)``: `reduce_bits` as a function of the module, one for each type; it is long and seldom runs."""
    module = outer.b.module
    name = f"ingot_far_angle.{outer.bits}.{outer.count or 1}"
    function = module.globals.get(name)
    if function is None:
        result = ir.LiteralStructType([outer.float, outer.int])
        function = ir.Function(module, ir.FunctionType(result, [outer.float]), name)
        function.linkage = "internal"
        for attribute in ("noinline", "nounwind"):
            function.attributes.add(attribute)
        b = ir.IRBuilder(function.append_basic_block("entry"))
        lanes = Lanes(b, outer.float, outer.options)
        double, x = lanes.double(), function.args[0]
        r, n = reduce_bits(double, b.fpext(x, double.float) if lanes.bits == 32 else x)
        if lanes.bits == 32:
            r, n = b.fptrunc(r, lanes.float), b.trunc(n, lanes.int)
        found = b.insert_value(ir.Constant(result, ir.Undefined), r, 0)
        b.ret(b.insert_value(found, n, 1))
    return function


def reduce(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(r, n) with x = n pi/2 + r (modulo 2 pi) for any x >= 0; NaN for inf and NaN. May end in a new block."""
    b = lanes.b
    near, near_n = reduce_parts(lanes, x)
    limit = LIMIT[lanes.bits, lanes.options.fma]
    far = b.and_(b.fcmp_ordered(">", x, lanes.const(limit)), b.fcmp_ordered("<", x, lanes.inf))
    entry = b.block
    with b.if_then(lanes.any(far), likely=False):
        # Lanes that stay with `near` get some argument for which the windows exist.
        held = lanes.at_least(lanes.at_most(x, FINITE[lanes.bits]), 2.0**12)
        found = b.call(_far_reduction(lanes), [held])
        wide, n = b.extract_value(found, 0), b.extract_value(found, 1)
        merged, merged_n = b.select(far, wide, near), b.select(far, n, near_n)
        slow = b.block
    r, quadrant = b.phi(lanes.float), b.phi(lanes.int)
    for phi, fast_value, slow_value in ((r, near, merged), (quadrant, near_n, merged_n)):
        phi.add_incoming(fast_value, entry)
        phi.add_incoming(slow_value, slow)
    return r, quadrant


def sin_cos_of_reduced(lanes: Lanes, r: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(sin r, cos r) for |r| <= pi/4."""
    b = lanes.b
    square = b.fmul(r, r)
    sine = lanes.fma(b.fmul(r, square), lanes.polynomial(square, SIN[lanes.bits]), r)
    tail = b.fmul(b.fmul(square, square), lanes.polynomial(square, COS[lanes.bits]))
    cosine = lanes.fma(square, lanes.const(-0.5), lanes.const(1.0))
    # 1 - square / 2 is rounded; its error is recovered for the half ulp it is worth.
    lost = lanes.fma(square, lanes.const(-0.5), b.fsub(lanes.const(1.0), cosine))
    return sine, b.fadd(cosine, b.fadd(tail, lost))


def _wave(lanes: Lanes, r: ir.Value, quadrant: ir.Value) -> ir.Value:
    """sin(r + quadrant pi/2)."""
    b = lanes.b
    sine, cosine = sin_cos_of_reduced(lanes, r)
    odd = b.icmp_unsigned("!=", b.and_(quadrant, lanes.word(1)), lanes.word(0))
    sign = b.shl(b.and_(quadrant, lanes.word(2)), lanes.word(lanes.bits - 2))
    return lanes.as_float(b.xor(lanes.as_int(b.select(odd, cosine, sine)), sign))


def sin(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Sine of any angle in radians; NaN for inf. Error at most 2 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    r, quadrant = reduce(lanes, lanes.abs(x))
    wave = _wave(lanes, r, quadrant)
    sign = b.and_(lanes.as_int(x), lanes.word(1 << (lanes.bits - 1)))
    return lanes.as_float(b.xor(lanes.as_int(wave), sign))


def cos(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Cosine of any angle in radians; NaN for inf. Error at most 2 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    r, quadrant = reduce(lanes, lanes.abs(x))
    return _wave(lanes, r, b.add(quadrant, lanes.word(1)))


def tan(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """Tangent of any angle in radians, sin / cos; NaN for inf. Error at most 3.5 ulp (f32, f64)."""
    lanes = Lanes(b, x.type, options)
    r, quadrant = reduce(lanes, lanes.abs(x))
    sine, cosine = sin_cos_of_reduced(lanes, r)
    odd = b.icmp_unsigned("!=", b.and_(quadrant, lanes.word(1)), lanes.word(0))
    ratio = b.fdiv(b.select(odd, b.fneg(cosine), sine), b.select(odd, sine, cosine))
    sign = b.and_(lanes.as_int(x), lanes.word(1 << (lanes.bits - 1)))
    return lanes.as_float(b.xor(lanes.as_int(ratio), sign))
