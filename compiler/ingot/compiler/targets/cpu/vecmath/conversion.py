"""Conversions between f32 and the 16-bit formats, whose values are held as i16 bit patterns, scalar or vector."""

from __future__ import annotations

from llvmlite import ir

from ingot.compiler.targets.cpu.vecmath.lanes import DEFAULT, Lanes, MathOptions


def half_to_float(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """f32 of f16 bit patterns (i16 lanes): exact; NaN payloads are kept, signalling NaNs become quiet."""
    lanes = _lanes(b, x, options)
    if options.half:
        return b.fpext(b.bitcast(x, lanes.lanes_of(ir.HalfType())), lanes.float)
    word = b.zext(x, lanes.int)
    sign = b.shl(b.and_(word, lanes.word(0x8000)), lanes.word(16))
    # Exponent and fraction move into place; a product corrects the bias, also of denormals.
    scaled = b.fmul(
        lanes.as_float(b.shl(b.and_(word, lanes.word(0x7FFF)), lanes.word(13))), lanes.const(2.0 ** (127 - 15))
    )
    special = b.select(b.fcmp_ordered(">=", scaled, lanes.const(65536.0)), lanes.word(0x7F800000), lanes.word(0))
    quiet = b.select(b.fcmp_ordered(">", scaled, lanes.const(65536.0)), lanes.word(0x00400000), lanes.word(0))
    return lanes.as_float(b.or_(b.or_(lanes.as_int(scaled), sign), b.or_(special, quiet)))


def float_to_half(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """f16 bit patterns (i16 lanes) of f32: to nearest, ties to even; overflow gives inf, NaN stays NaN."""
    lanes = Lanes(b, x.type, options)
    narrow = lanes.lanes_of(ir.IntType(16))
    # A lone number takes the integers: LLVM joins its truncations from f64 to f32 to f16 to one, a library's function.
    if options.half and isinstance(x.type, ir.VectorType):
        return b.bitcast(b.fptrunc(x, lanes.lanes_of(ir.HalfType())), narrow)
    bits = lanes.as_int(x)
    sign = b.and_(bits, lanes.word(1 << 31))
    bits = b.xor(bits, sign)
    odd = b.and_(b.lshr(bits, lanes.word(13)), lanes.word(1))
    normal = b.lshr(b.add(b.add(bits, lanes.word(0xFFF - (112 << 23))), odd), lanes.word(13))
    # Below the normal range the addition of 1/2 rounds: its last place is the unit of the f16 denormals.
    denormal = b.sub(lanes.as_int(b.fadd(lanes.as_float(bits), lanes.const(0.5))), lanes.word(0x3F000000))
    payload = b.or_(b.and_(b.lshr(bits, lanes.word(13)), lanes.word(0x3FF)), lanes.word(0x7E00))
    special = b.select(b.icmp_signed(">", bits, lanes.word(0x7F800000)), payload, lanes.word(0x7C00))
    result = b.select(b.icmp_signed("<", bits, lanes.word((127 - 14) << 23)), denormal, normal)
    result = b.select(b.icmp_signed(">=", bits, lanes.word((127 + 16) << 23)), special, result)
    return b.trunc(b.or_(result, b.lshr(sign, lanes.word(16))), narrow)


def bf16_to_float(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """f32 of bf16 bit patterns (i16 lanes): exact."""
    lanes = _lanes(b, x, options)
    return lanes.as_float(b.shl(b.zext(x, lanes.int), lanes.word(16)))


def float_to_bf16(b: ir.IRBuilder, x: ir.Value, options: MathOptions = DEFAULT) -> ir.Value:
    """bf16 bit patterns (i16 lanes) of f32: to nearest, ties to even; overflow gives inf, a NaN a quiet NaN.

    Written in integers: LLVM's own truncation calls a library function on x86-64.
    """
    lanes = Lanes(b, x.type, options)
    bits = lanes.as_int(x)
    kept = b.lshr(bits, lanes.word(16))
    odd = b.and_(kept, lanes.word(1))
    rounded = b.lshr(b.add(bits, b.add(odd, lanes.word(0x7FFF))), lanes.word(16))
    result = b.select(lanes.is_nan(x), b.or_(kept, lanes.word(0x40)), rounded)
    return b.trunc(result, lanes.lanes_of(ir.IntType(16)))


def _lanes(b: ir.IRBuilder, x: ir.Value, options: MathOptions) -> Lanes:
    """f32 lanes, as many as there are i16 lanes in x."""
    count = x.type.count if isinstance(x.type, ir.VectorType) else None
    element = x.type if count is None else x.type.element
    if element != ir.IntType(16):
        raise TypeError(f"16-bit floats are held as i16 bit patterns, got {x.type}; bitcast first")
    return Lanes(b, ir.FloatType() if count is None else ir.VectorType(ir.FloatType(), count), options)
