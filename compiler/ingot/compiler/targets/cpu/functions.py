# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""The scalar functions of level 2 as LLVM IR, on scalars or vectors of any width.

In registers f16 and bf16 values are f32 values that the narrow type can hold, bool is i1, everything else is itself.
Nothing here can trap: integer division by zero gives 0, float to integer saturates and sends NaN to 0. Some functions
(pow, fmod, sin ...) end in another basic block than they began in.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from llvmlite import ir

from ingot.compiler.ir.loops import COMPARISONS
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import declarations, vecmath
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.vecmath.lanes import Uniform, Unset, lane_numbers
from ingot.runtime.dtypes import DType, boolean

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64, HALF, PTR = ir.FloatType(), ir.DoubleType(), ir.HalfType(), ir.PointerType()

# Functions whose exact result f16 and bf16 can hold when they hold the arguments.
_EXACT = frozenset(("neg", "abs", "min", "max", "relu", "select", "sign", "copysign", "clip", "floor", "ceil", "trunc"))
_LOGIC = {"and": "and_", "or": "or_", "xor": "xor"}
_BITS = {"bitand": "and_", "bitor": "or_", "bitxor": "xor"}
_SYMBOLS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_ROUNDINGS = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "roundeven"}


def register_type(dtype: DType) -> ir.Type:
    """The LLVM type of a scalar of `dtype` in registers."""
    if dtype.kind == "bool":
        return I1
    if dtype.kind == "float":
        return F64 if dtype.bits == 64 else F32
    return ir.IntType(dtype.bits)


def memory_type(dtype: DType) -> ir.Type:
    """The LLVM type of an element of `dtype` in memory; f16 and bf16 are their bits."""
    return ir.IntType(dtype.bits) if dtype.bits < 32 or dtype.kind != "float" else register_type(dtype)


def lanes_of(value: ir.Value) -> int | None:
    """Number of lanes of a vector, None for a scalar."""
    return value.type.count if isinstance(value.type, ir.VectorType) else None


def widened(scalar: ir.Type, lanes: int | None) -> ir.Type:
    """`scalar` or the vector of `lanes` of it."""
    return scalar if lanes is None else ir.VectorType(scalar, lanes)


def constant(value: float | int | bool, type_: ir.Type) -> ir.Constant:
    """`value` as a constant of a scalar or vector type."""
    if isinstance(type_, ir.VectorType):
        return Uniform(type_, constant(value, type_.element))
    if isinstance(type_, ir.IntType):
        number = int(value) & ((1 << type_.width) - 1)
        if type_.width > 1 and number >> (type_.width - 1):
            number -= 1 << type_.width
        return ir.Constant(type_, number)
    return ir.Constant(type_, float(value))


def nearest(value: float | int | bool, dtype: DType) -> float | int | bool:
    """A literal rounded to what `dtype` can hold."""
    if dtype.kind == "bool":
        return bool(value)
    if not dtype.is_float:
        return int(value)
    if dtype.name == "bf16":
        bits = struct.unpack("<I", struct.pack("<f", np.float32(value)))[0]
        if bits & 0x7FFFFFFF <= 0x7F800000:
            bits += 0x7FFF + (bits >> 16 & 1)
        return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]
    with np.errstate(over="ignore"):
        return float(np.dtype(dtype.numpy).type(value))


def splat(b: ir.IRBuilder, value: ir.Value, lanes: int | None) -> ir.Value:
    """A scalar in every lane; a vector of `lanes` as it is."""
    have = lanes_of(value)
    if lanes is None or have == lanes:
        return value
    if have is not None:
        raise IrError(f"a vector of {have} lanes where {lanes} are needed")
    type_ = ir.VectorType(value.type, lanes)
    if isinstance(value, ir.Constant):
        return Uniform(type_, value)
    unset = Unset(type_)
    return b.shuffle_vector(b.insert_element(unset, value, I32(0)), unset, lane_numbers((0,) * lanes))


def suffix(type_: ir.Type) -> str:
    """How intrinsics spell a type in their names."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{suffix(type_.element)}"
    if isinstance(type_, ir.IntType):
        return f"i{type_.width}"
    return {F32: "f32", F64: "f64", HALF: "f16", PTR: "p0"}[type_]


def intrinsic(b: ir.IRBuilder, name: str, result: ir.Type, args: list[ir.Value], *overloads: ir.Type) -> ir.Value:
    """Call ``llvm.<name>``, declared on first use; `overloads` are the types in its mangled name."""
    full = ".".join(["llvm", name, *map(suffix, overloads)])
    return declarations.call(b, full, result, args)


def any_lane(b: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    """i1: whether any lane of a vector of i1 is set; a scalar as it is."""
    lanes = lanes_of(mask)
    return mask if lanes is None else b.icmp_unsigned("!=", b.bitcast(mask, ir.IntType(lanes)), ir.IntType(lanes)(0))


# -- conversions ------------------------------------------------------------------------------------------------------


def round_to(b: ir.IRBuilder, value: ir.Value, dtype: DType) -> ir.Value:
    """An f32 rounded to what f16 or bf16 can hold; other dtypes as they are."""
    if dtype.name not in ("f16", "bf16"):
        return value
    return from_memory(b, to_memory(b, value, dtype), dtype)


def to_memory(b: ir.IRBuilder, value: ir.Value, dtype: DType) -> ir.Value:
    """The memory form of a register value; f16 and bf16 round to nearest even."""
    if dtype.kind == "bool":
        return b.zext(value, widened(I8, lanes_of(value)))
    if dtype.name == "f16":
        return vecmath.float_to_half(b, value)
    if dtype.name == "bf16":
        return vecmath.float_to_bf16(b, value)
    return value


def from_memory(b: ir.IRBuilder, value: ir.Value, dtype: DType) -> ir.Value:
    """The register form of a value as it lies in memory."""
    if dtype.kind == "bool":
        return b.icmp_unsigned("!=", value, constant(0, value.type))
    if dtype.name == "f16":
        return vecmath.half_to_float(b, value)
    if dtype.name == "bf16":
        return vecmath.bf16_to_float(b, value)
    return value


def cast(b: ir.IRBuilder, value: ir.Value, source: DType, target: DType) -> ir.Value:
    """ONNX Cast: integers wrap, float to integer truncates and saturates (NaN gives 0), bool is ``!= 0``."""
    if source.name == target.name:
        return value
    lanes = lanes_of(value)
    type_ = widened(register_type(target), lanes)
    if target.kind == "bool":
        zero = constant(0, value.type)
        return b.fcmp_unordered("!=", value, zero) if source.is_float else b.icmp_unsigned("!=", value, zero)
    if source.is_float:
        if target.is_float:
            if source.bits == 64:
                return round_to(b, _narrow_f64(b, value, odd=target.bits < 32), target)
            return b.fpext(value, type_) if target.bits == 64 else round_to(b, value, target)
        name = "fptosi.sat" if target.kind == "signed" else "fptoui.sat"
        return intrinsic(b, name, type_, [value], type_, value.type)
    signed = source.kind == "signed"
    if target.is_float:
        return round_to(b, b.sitofp(value, type_) if signed else b.uitofp(value, type_), target)
    if target.bits > (1 if source.kind == "bool" else source.bits):
        return b.sext(value, type_) if signed else b.zext(value, type_)
    return value if target.bits == source.bits else b.trunc(value, type_)


def cast_within(b: ir.IRBuilder, level: Level, value: ir.Value, target: DType) -> ir.Value:
    """An f32 `value` that lies in the integer type `target` of at most 16 bits, or is NaN, truncated to it; NaN gives
    an unspecified integer. Cheaper than `cast` on x86, where saturation takes several instructions."""
    whole = _truncated(b, level, value)
    return b.trunc(whole, widened(register_type(target), lanes_of(value)))


def rounded_within(b: ir.IRBuilder, level: Level, value: ir.Value, zero: int, low: int, high: int) -> ir.Value | None:
    """``min(max(round(value) + zero, low), high)`` of f32 in i32, where one instruction rounds and converts, else
    None. What the conversion does not hold it makes the least integer, so the value is bounded above before."""
    if not _converts(level, lanes_of(value)):
        return None
    kept = extremum(b, level, "min", value, constant(float(high - zero), value.type))
    if zero < 0:  # no least integer may wrap
        kept = extremum(b, level, "max", kept, constant(float(low - zero), value.type))
    whole = _whole(b, level, kept, "cvt")
    if zero:
        whole = b.add(whole, constant(zero, whole.type))
    least = constant(low, whole.type)
    return whole if zero < 0 else b.select(b.icmp_signed(">", whole, least), whole, least)


def _truncated(b: ir.IRBuilder, level: Level, value: ir.Value) -> ir.Value:
    """f32 to i32, unspecified for what i32 does not hold: one instruction a register."""
    if _converts(level, lanes := lanes_of(value)):
        return _whole(b, level, value, "cvtt")
    word = widened(I32, lanes)
    return intrinsic(b, "fptosi.sat", word, [value], word, value.type)


def _converts(level: Level, lanes: int | None) -> bool:
    """Whether `_whole` takes vectors of `lanes`."""
    return level.arch == "x86-64" and lanes is not None and lanes >= 4 and not lanes & (lanes - 1)


def _whole(b: ir.IRBuilder, level: Level, value: ir.Value, way: str) -> ir.Value:
    """f32 to i32 by x86's instructions: to nearest even (cvt) or towards zero (cvtt)."""
    lanes = value.type.count
    word = ir.VectorType(I32, lanes)
    if lanes > level.lanes(4):
        low, high = (_whole(b, level, half, way) for half in _halves(b, value))
        return b.shuffle_vector(low, high, lane_numbers(tuple(range(lanes))))
    name, more = {
        4: (f"sse2.{way}ps2dq", []),
        8: (f"avx.{way}.ps2dq.256", []),
        16: (f"avx512.mask.{way}ps2dq.512", [constant(0, word), I16(0xFFFF), I32(4)]),
    }[lanes]
    return declarations.call(b, f"llvm.x86.{name}", word, [value, *more])


def _halves(b: ir.IRBuilder, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    half = value.type.count // 2
    picks = (lane_numbers(tuple(range(start, start + half))) for start in (0, half))
    low, high = (b.shuffle_vector(value, value, pick) for pick in picks)
    return low, high


def _narrow_f64(b: ir.IRBuilder, value: ir.Value, odd: bool) -> ir.Value:
    """f64 to f32; to nearest, or by rounding to odd, so that a second rounding to f16 or bf16 is right."""
    lanes = lanes_of(value)
    narrow = b.fptrunc(value, widened(F32, lanes))
    if not odd:
        return narrow
    word = widened(I32, lanes)
    back = b.fpext(narrow, value.type)
    bits = b.bitcast(narrow, word)
    even = b.icmp_unsigned("==", b.and_(bits, constant(1, word)), constant(0, word))
    inexact = b.and_(b.fcmp_ordered("!=", back, value), even)
    away = b.fcmp_ordered(">", fabs(b, back), fabs(b, value))
    moved = b.add(bits, b.select(away, constant(-1, word), constant(1, word)))
    return b.bitcast(b.select(inexact, moved, bits), widened(F32, lanes))


def fabs(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """|value| of a float."""
    return intrinsic(b, "fabs", value.type, [value], value.type)


# -- functions --------------------------------------------------------------------------------------------------------


def call(b: ir.IRBuilder, level: Level, fn: str, args: list[ir.Value], source: DType, dtype: DType) -> ir.Value:
    """``fn(*args)`` of `loops.FUNCTIONS`; the arguments have dtype `source` (select: after its condition), the result
    has `dtype`. All arguments are scalars or all are vectors of one width. Raises IrError where fn has no meaning."""
    if fn == "cast":
        return cast(b, args[0], source, dtype)
    if fn == "bitcast":
        bits = b.bitcast(to_memory(b, args[0], source), widened(memory_type(dtype), lanes_of(args[0])))
        return from_memory(b, bits, dtype)
    if fn == "select":
        return b.select(args[0], cast(b, args[1], source, dtype), cast(b, args[2], source, dtype))
    if fn in COMPARISONS:
        return _compare(b, fn, args, source)
    if fn in ("isnan", "isinf"):
        return _classify(b, fn, args[0], source)
    if fn in _LOGIC or fn == "not":
        args = [cast(b, a, source, boolean) for a in args]
        return cast(b, b.not_(args[0]) if fn == "not" else getattr(b, _LOGIC[fn])(*args), boolean, dtype)
    args = [cast(b, a, source, dtype) for a in args]
    if dtype.kind == "bool":
        result = _bool_function(b, fn, args)
    elif dtype.is_float:
        result = _float_function(b, level, fn, args)
    else:
        result = _integer_function(b, fn, args, dtype)
    if result is None:
        raise IrError(f"{fn} has no meaning for {dtype}; cast its arguments to another type")
    return result if fn in _EXACT else round_to(b, result, dtype)


def _compare(b: ir.IRBuilder, fn: str, args: list[ir.Value], source: DType) -> ir.Value:
    symbol = _SYMBOLS[fn]
    if source.is_float:
        return b.fcmp_unordered(symbol, *args) if fn == "ne" else b.fcmp_ordered(symbol, *args)
    return b.icmp_signed(symbol, *args) if source.kind == "signed" else b.icmp_unsigned(symbol, *args)


def _classify(b: ir.IRBuilder, fn: str, x: ir.Value, source: DType) -> ir.Value:
    if not source.is_float:
        return constant(0, widened(I1, lanes_of(x)))
    if fn == "isnan":
        return b.fcmp_unordered("uno", x, x)
    return b.fcmp_ordered("==", fabs(b, x), constant(math.inf, x.type))


def _bool_function(b: ir.IRBuilder, fn: str, args: list[ir.Value]) -> ir.Value | None:
    if fn in _BITS:
        return getattr(b, _BITS[fn])(*args)
    match fn:
        case "bitnot":
            return b.not_(args[0])
        case "min" | "mul":
            return b.and_(*args)
        case "max" | "add":
            return b.or_(*args)
        case _:
            return None


def _float_function(b: ir.IRBuilder, level: Level, fn: str, args: list[ir.Value]) -> ir.Value | None:
    x, type_ = args[0], args[0].type
    match fn:
        case "add":
            return b.fadd(*args)
        case "sub":
            return b.fsub(*args)
        case "mul":
            return b.fmul(*args)
        case "div":
            return b.fdiv(*args)
        case "reciprocal":
            return b.fdiv(constant(1.0, type_), x)
        case "neg":
            return b.fneg(x)
        case "abs":
            return fabs(b, x)
        case "fma":
            return intrinsic(b, "fma", type_, args, type_)
        case "sqrt" | "copysign":
            return intrinsic(b, fn, type_, args, type_)
        case "floor" | "ceil" | "trunc" | "round":
            return intrinsic(b, _ROUNDINGS[fn], type_, args, type_)
        case "max" | "min":
            return extremum(b, level, fn, *args)
        case "relu":
            return extremum(b, level, "max", x, constant(0.0, type_))
        case "clip":
            return extremum(b, level, "min", extremum(b, level, "max", x, args[1]), args[2])
        case "sign":
            zero = constant(0.0, type_)
            below = b.select(b.fcmp_ordered("<", x, zero), constant(-1.0, type_), x)
            return b.select(b.fcmp_ordered(">", x, zero), constant(1.0, type_), below)
        case "mod":
            return _floored_mod(b, *args)
        case _ if fn in vecmath.FUNCTIONS:
            return vecmath.FUNCTIONS[fn](b, *args)
        case _:
            return None


def _never_nan(value: ir.Value) -> bool:
    if not isinstance(value, ir.Constant):
        return False
    parts = value.constant if isinstance(value.constant, list) else [value]
    return all(isinstance(p.constant, float) and not math.isnan(p.constant) for p in parts)


def extremum(b: ir.IRBuilder, level: Level, fn: str, x: ir.Value, y: ir.Value) -> ir.Value:
    """Float min or max that propagates NaN."""
    if level.arch == "aarch64":  # FMAX and FMIN propagate NaN
        return intrinsic(b, "maximum" if fn == "max" else "minimum", x.type, [x, y], x.type)
    symbol = ">" if fn == "max" else "<"
    if _never_nan(x):
        x, y = y, x
    # This is what MAXPS and MINPS do: the second operand where one is NaN.
    result = b.select(b.fcmp_ordered(symbol, y, x), y, x)
    return result if _never_nan(y) else b.select(b.fcmp_unordered("uno", y, y), y, result)


def _floored_mod(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    rest, zero = vecmath.fmod(b, x, y), constant(0.0, x.type)
    differ = b.xor(b.fcmp_ordered("<", rest, zero), b.fcmp_ordered("<", y, zero))
    moved = b.select(differ, b.fadd(rest, y), rest)
    none = intrinsic(b, "copysign", x.type, [zero, y], x.type)
    return b.select(b.fcmp_ordered("==", rest, zero), none, moved)


def _integer_function(b: ir.IRBuilder, fn: str, args: list[ir.Value], dtype: DType) -> ir.Value | None:
    x, type_, signed = args[0], args[0].type, dtype.kind == "signed"
    zero, one = constant(0, type_), constant(1, type_)
    compare = b.icmp_signed if signed else b.icmp_unsigned
    if fn in _BITS:
        return getattr(b, _BITS[fn])(*args)
    match fn:
        case "add":
            return b.add(*args)
        case "sub":
            return b.sub(*args)
        case "mul":
            return b.mul(*args)
        case "fma":
            return b.add(b.mul(x, args[1]), args[2])
        case "div":
            return vecmath.trunc_div(b, x, args[1], signed)
        case "fmod":
            return vecmath.trunc_mod(b, x, args[1], signed)
        case "mod":
            return vecmath.floor_mod(b, x, args[1], signed)
        case "reciprocal":
            return vecmath.trunc_div(b, one, x, signed)
        case "min" | "max":
            return b.select(compare("<" if fn == "min" else ">", *args), *args)
        case "relu":
            return b.select(compare(">", x, zero), x, zero)
        case "clip":
            low = b.select(compare(">", x, args[1]), x, args[1])
            return b.select(compare("<", low, args[2]), low, args[2])
        case "neg":
            return b.neg(x)
        case "abs":
            return b.select(compare("<", x, zero), b.neg(x), x)
        case "sign":
            below = b.select(compare("<", x, zero), constant(-1, type_), zero)
            return b.select(compare(">", x, zero), one, below)
        case "bitnot":
            return b.not_(x)
        case "floor" | "ceil" | "trunc" | "round":
            return x
        case "shl" | "shr":
            return _shift(b, fn, x, args[1], dtype)
        case "pow":
            return _integer_power(b, x, args[1], signed)
        case _:
            return None


def _shift(b: ir.IRBuilder, fn: str, x: ir.Value, count: ir.Value, dtype: DType) -> ir.Value:
    most = constant(dtype.bits - 1, x.type)
    outside = b.icmp_unsigned(">", count, most)
    bounded = b.select(outside, most, count)
    if fn == "shr" and dtype.kind == "signed":
        return b.ashr(x, bounded)
    shifted = b.shl(x, bounded) if fn == "shl" else b.lshr(x, bounded)
    return b.select(outside, constant(0, x.type), shifted)


def _integer_power(b: ir.IRBuilder, x: ir.Value, y: ir.Value, signed: bool) -> ir.Value:
    """Wrapping power by squaring; a negative exponent gives what is left of 1 / x**|y| after truncation."""
    type_ = x.type
    zero, one = constant(0, type_), constant(1, type_)
    entry = b.block
    loop, body, done = (b.append_basic_block(name) for name in ("pow", "pow.square", "pow.done"))
    exponent = y
    if signed:
        exponent = b.select(b.icmp_signed("<", y, zero), b.neg(y), y)
    b.branch(loop)
    b.position_at_end(loop)
    result, square, left = b.phi(type_), b.phi(type_), b.phi(type_)
    for phi, start in ((result, one), (square, x), (left, exponent)):
        phi.add_incoming(start, entry)
    b.cbranch(any_lane(b, b.icmp_unsigned("!=", left, zero)), body, done)
    b.position_at_end(body)
    odd = b.icmp_unsigned("!=", b.and_(left, one), zero)
    result.add_incoming(b.select(odd, b.mul(result, square), result), body)
    square.add_incoming(b.mul(square, square), body)
    left.add_incoming(b.lshr(left, one), body)
    b.branch(loop)
    b.position_at_end(done)
    if not signed:
        return result
    unit = b.or_(b.icmp_signed("==", x, one), b.icmp_signed("==", x, constant(-1, type_)))
    negative = b.select(unit, result, zero)
    return b.select(b.icmp_signed("<", y, zero), negative, result)
