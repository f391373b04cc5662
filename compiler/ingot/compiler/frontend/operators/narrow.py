"""Conversions from and to the opaque element types: floats of 8 bits and less, integers of 4 and 2 bits.

A graph computes with neither. They are read from their byte, the floats by a table of all 256, and made by arithmetic
on the bits of an f32 with rounding to nearest even. The formats are those of "FP8 Formats for Deep Learning"
(Micikevicius et al. 2022), of "8-bit Numerical Formats for Deep Neural Networks" (Noune et al. 2022) for ``fnuz``, and
of the OCP Microscaling Formats specification 1.0 for f4e2m1 and f8e8m0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.bitwise import BitAnd, BitCast, BitOr, ShiftLeft, ShiftRight
from ingot.compiler.ops.movement import Gather
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType, f32, f64, i32, u8

F32_MANTISSA, F32_BIAS = 23, 127


@dataclass(frozen=True)
class Format:
    """A float format: its mantissa's bits, the bias of its exponent, and the codes (without sign) of its largest finite
    number, of what is beyond it and of NaN. `unsigned_zero`: there is no -0, its code is NaN."""

    mantissa: int
    bias: int
    largest: int
    beyond: int
    nan: int
    sign: int = 0x80
    unsigned_zero: bool = False


FORMATS: dict[DType, Format] = {
    dtypes.f8e4m3fn: Format(3, 7, 0x7E, 0x7F, 0x7F),
    dtypes.f8e4m3fnuz: Format(3, 8, 0x7F, 0x80, 0x80, unsigned_zero=True),
    dtypes.f8e5m2: Format(2, 15, 0x7B, 0x7C, 0x7E),
    dtypes.f8e5m2fnuz: Format(2, 16, 0x7F, 0x80, 0x80, unsigned_zero=True),
    dtypes.f4e2m1: Format(1, 1, 0x7, 0x7, 0x8, sign=0x8),  # there is no NaN: -0 stands for it
}


@dataclass(frozen=True)
class Bounds:
    """A small integer type: the bits it has, its range, and the type of a byte that holds it."""

    bits: int
    low: int
    high: int
    byte: DType


INTEGERS: dict[DType, Bounds] = {
    dtypes.i4: Bounds(4, -8, 7, dtypes.i8),
    dtypes.u4: Bounds(4, 0, 15, u8),
    dtypes.i2: Bounds(2, -2, 1, dtypes.i8),
    dtypes.u2: Bounds(2, 0, 3, u8),
}


def converted(ctx: Context, x: Value, to: DType) -> Value:
    """x as elements of the type `to`: ONNX Cast, of any two types, by the node's `saturate` and `round_mode`."""
    saturate, mode = bool(ctx.attribute("saturate", 1)), ctx.attribute("round_mode", "up")
    if x.dtype == to:
        return x
    if x.dtype.kind == "opaque":
        x = readable(ctx, x)
    if to in INTEGERS:
        return _small_integer(ctx, x, INTEGERS[to], to)
    if to.kind != "opaque":
        return ctx.cast(x, to)
    x = _rounded_to_odd(ctx, x) if x.dtype == f64 else ctx.cast(x, f32)
    if to == dtypes.f8e8m0:
        return _exponent(ctx, x, saturate, mode)
    return _small_float(ctx, x, FORMATS[to], to, saturate)


def readable(ctx: Context, x: Value) -> Value:
    """A value of an opaque type as numbers: f32, or i8 or u8 for integers."""
    byte = ctx.build(BitCast, x, u8)
    bounds = INTEGERS.get(x.dtype)
    if bounds is None:
        used = 0xFF if x.dtype not in FORMATS else FORMATS[x.dtype].sign * 2 - 1
        table = (np.arange(256) & used).astype(np.uint8).view(x.dtype.to_numpy()).astype(np.float32)
        return ctx.build(Gather, ctx.constant(table), ctx.build(ops.Cast, byte, i32), 0)
    if bounds.byte == u8:
        return ctx.build(BitAnd, byte, ctx.constant(bounds.high, u8))
    distance = 8 - bounds.bits
    high = ctx.build(BitCast, ctx.build(ShiftLeft, byte, ctx.constant(distance, u8)), dtypes.i8)
    return ctx.build(ShiftRight, high, ctx.constant(distance, dtypes.i8))


def _small_integer(ctx: Context, x: Value, bounds: Bounds, to: DType) -> Value:
    """The lowest bits of x, whose fraction is dropped."""
    if x.dtype.is_float:
        x = ctx.build(ops.Cast, x, i32)
    byte = ctx.cast(x, u8)
    return ctx.build(BitCast, ctx.build(BitAnd, byte, ctx.constant((1 << bounds.bits) - 1, u8)), to)


class _Bits:
    """Arithmetic on i32 nodes and numbers."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def number(self, value: Value | int) -> Value:
        return value if isinstance(value, Value) else self.ctx.constant(value, i32)

    def add(self, a: Value, b: Value | int) -> Value:
        return self.ctx.build(ops.Add, a, self.number(b))

    def both(self, a: Value, b: Value | int) -> Value:
        return self.ctx.build(BitAnd, a, self.number(b))

    def right(self, a: Value, distance: int) -> Value:
        return self.ctx.build(ShiftRight, a, self.number(distance))

    def choose(self, condition: Value, a: Value | int, b: Value | int) -> Value:
        return self.ctx.build(ops.Where, condition, self.number(a), self.number(b))

    def more(self, a: Value, b: Value | int) -> Value:
        return self.ctx.build(ops.Greater, a, self.number(b))

    def byte(self, code: Value, to: DType) -> Value:
        return self.ctx.build(BitCast, self.ctx.build(ops.Cast, code, u8), to)


def _rounded_to_odd(ctx: Context, x: Value) -> Value:
    """An f64 as the f32 next to it towards 0, with the last bit set where that is not x itself: rounded again, to less
    than 23 bits, it comes to what rounding x once gives (Boldo and Melquiond, "Emulation of FMA and correctly rounded
    sums: proved algorithms using rounding to odd", 2008). What an f32 rounds to 0 is 0."""
    b = _Bits(ctx)
    near = ctx.build(ops.Cast, x, f32)
    wide = ctx.build(ops.Cast, near, f64)
    farther = ctx.build(ops.Greater, ctx.build(ops.Abs, wide), ctx.build(ops.Abs, x))
    bits = b.add(ctx.build(BitCast, near, i32), b.choose(farther, -1, 0))
    nothing = ctx.build(ops.Equal, near, ctx.constant(0.0, f32))
    exact = ctx.build(ops.Or, ctx.build(ops.Equal, wide, x), nothing)
    return ctx.build(BitCast, ctx.build(BitOr, bits, b.choose(exact, 0, 1)), f32)


def _small_float(ctx: Context, x: Value, form: Format, to: DType, saturate: bool) -> Value:
    """x rounded to nearest even. Beyond the largest finite number: that one with `saturate`, else infinity or NaN."""
    b = _Bits(ctx)
    bits = ctx.build(BitCast, x, i32)
    size = b.both(bits, 0x7FFFFFFF)
    dropped = F32_MANTISSA - form.mantissa
    odd = b.both(b.right(size, dropped), 1)
    rounded = b.right(b.add(b.add(size, (1 << (dropped - 1)) - 1), odd), dropped)
    normal = b.add(rounded, -((F32_BIAS - form.bias) << form.mantissa))
    # Below the smallest normal number: adding this makes the last bit of an f32 the last bit of the result.
    step = ctx.constant(2.0 ** (1 - form.bias - form.mantissa + F32_MANTISSA), f32)
    shifted = ctx.build(ops.Add, ctx.build(BitCast, size, f32), step)
    tiny = ctx.build(ops.Sub, ctx.build(BitCast, shifted, i32), ctx.build(BitCast, step, i32))
    smallest = (F32_BIAS + 1 - form.bias) << F32_MANTISSA
    code = b.choose(ctx.build(ops.Less, size, b.number(smallest)), tiny, normal)
    largest = form.largest if saturate else form.beyond
    code = b.choose(b.more(code, form.largest), largest, code)
    negative = ctx.build(ops.Less, bits, b.number(0))
    if form.unsigned_zero:
        signed = ctx.build(ops.And, b.more(code, 0), ctx.build(ops.LessOrEqual, code, b.number(form.largest)))
        negative = ctx.build(ops.And, negative, signed)
    code = ctx.build(BitOr, code, b.choose(negative, form.sign, 0))
    nan = b.more(size, 0x7F800000)
    if form.nan > form.largest and not form.unsigned_zero and to != dtypes.f4e2m1:
        code = b.choose(nan, ctx.build(BitOr, b.number(form.nan), b.choose(negative, form.sign, 0)), code)
    else:
        code = b.choose(nan, form.nan, code)
    return b.byte(code, to)


def _exponent(ctx: Context, x: Value, saturate: bool, mode: str) -> Value:
    """The power of two nearest to x in the direction `mode`, ties of "nearest" going up; NaN and infinities give NaN.

    The sign of x does not count.
    """
    if mode not in ("up", "down", "nearest"):
        raise ctx.error(f"round_mode is {mode!r}, 'up', 'down' or 'nearest' is needed")
    b = _Bits(ctx)
    size = b.both(ctx.build(BitCast, x, i32), 0x7FFFFFFF)
    if mode == "up":
        power = b.right(b.add(size, 0x7FFFFF), F32_MANTISSA)
    elif mode == "down":
        power = b.right(size, F32_MANTISSA)
    else:
        power = b.right(b.add(size, 0x400000), F32_MANTISSA)
        # The smallest numbers have the exponent 0, which is even: half way stays there.
        half = ctx.build(ops.Equal, size, b.number(0x400000))
        power = b.choose(half, 0, power)
    if saturate:
        power = ctx.build(ops.Min, power, b.number(0xFE))
    special = ctx.build(ops.GreaterOrEqual, size, b.number(0x7F800000))
    return b.byte(b.choose(special, 0xFF, power), dtypes.f8e8m0)
