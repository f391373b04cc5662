"""Requantisation in integers: a multiplier and a shift instead of a float scale (TOSA 1.0, RESCALE; Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.graph import Array, Constant, Value, constant, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import broadcast, fail
from ingot.compiler.ops.pointwise import Add, Cast, Div, Less, Mod, Mul, Pointwise, Pow, Sub, Where
from ingot.compiler.ops.quantised import integer_range
from ingot.runtime.dtypes import DType, f64, i8, i16, i32, i64, u8, u16

Rounding: TypeAlias = Literal["single", "double"]
NARROW_TYPES = (i8, u8, i16, u16)  # those that may have a zero point
LEAST_SHIFT, MOST_SHIFT = 2, 62
NUDGE_SHIFT = 31  # shifts above it are rounded twice, where that is asked for
NUDGE = 1 << 30


@op("rescale")
class Rescale(Pointwise):
    """``saturate((((x - input_zero) * multiplier) >> shift, rounded) + output_zero)`` in the integer type `to`.

    The product has 64 bits, half of ``1 << shift`` is added to it before it is shifted: halves go up. With `rounding`
    "double", 2**30 is added as well, or taken off where x - input_zero is negative, if the shift is above 31: what a
    product of 31-bit fractions that is rounded, shifted and rounded again gives.

    The multiplier, not negative, has 32 bits for x of up to 32 bits, 16 for x of i64, where products of 16-bit
    activations are summed (48 bits are used). The shift, i32, is from 2 to 62. Both broadcast. x and `to` of 8 or 16
    bits may have zero points, scalars; others have None.
    """

    x: Value
    multiplier: Value
    shift: Value
    input_zero: Value | None
    output_zero: Value | None
    to: DType
    rounding: Rounding
    scalar = "mul"

    def infer(self) -> Sequence[TensorType]:
        x, multiplier = self.x, self.multiplier
        if x.dtype not in (*NARROW_TYPES, i32, i64):
            fail(self, f"{x.type} is not rescaled: integers of 8 and 16 bits, i32 and i64 are")
        if self.to not in (*NARROW_TYPES, i32):
            fail(self, f"nothing is rescaled to {self.to}: integers of 8 and 16 bits and i32 are possible")
        if multiplier.dtype != (wanted := i16 if x.dtype == i64 else i32):
            fail(self, f"the multiplier {multiplier.type} of {x.type} is not one of {wanted}")
        if self.shift.dtype != i32:
            fail(self, f"the shift {self.shift.type} is not one of i32")
        if self.rounding not in ("single", "double") or (self.rounding == "double" and x.dtype == i64):
            fail(self, f"rounding {self.rounding!r} of {x.type}: it is single, or double for up to 32 bits")
        for zero, dtype, what in ((self.input_zero, x.dtype, "input"), (self.output_zero, self.to, "output")):
            if zero is not None and (zero.dtype != dtype or dtype not in NARROW_TYPES):
                fail(self, f"the {what} zero point {zero.type} does not go with {dtype}: only 8 and 16 bits have one")
        _check(self, multiplier, 0, math.inf, "multiplier")
        _check(self, self.shift, LEAST_SHIFT, MOST_SHIFT, "shift")
        operands = (x, multiplier, self.shift, self.input_zero, self.output_zero)
        return (TensorType(self.to, broadcast(self, *(v for v in operands if v is not None))),)

    def compute(self, *operands: Array) -> Array:
        x, multiplier, shift, *zeros = (operand.astype(np.int64) for operand in operands)
        if self.input_zero is not None:
            x = x - zeros.pop(0)
        product = x * multiplier
        if self.rounding == "double":
            product = product + np.where(shift > NUDGE_SHIFT, np.where(x >= 0, NUDGE, -NUDGE), 0)
        before = np.clip(shift - 1, LEAST_SHIFT - 1, MOST_SHIFT - 1)
        result = ((product >> before) + 1) >> 1
        if self.output_zero is not None:
            result = result + zeros.pop(0)
        return np.clip(result, *integer_range(self.to))

    def expand(self) -> Value:
        """The same in i64, the shift as a division that rounds down."""
        x: Value = Cast(self.x, i64)
        if self.input_zero is not None:
            x = Sub(x, Cast(self.input_zero, i64))
        whole: Value = Mul(x, Cast(self.multiplier, i64))
        if self.rounding == "double":
            sign = Where(Less(x, constant(0, i64)), constant(-NUDGE, i64), constant(NUDGE, i64))
            twice = Less(constant(NUDGE_SHIFT, i32), self.shift)
            whole = Add(whole, Where(twice, sign, constant(0, i64)))
        divisor = Cast(Pow(constant(2.0, f64), Cast(self.shift, f64)), i64)
        whole = Add(whole, Div(divisor, constant(2, i64)))
        steps: Value = Div(Sub(whole, Mod(whole, divisor)), divisor)
        if self.output_zero is not None:
            steps = Add(steps, Cast(self.output_zero, i64))
        low, high = (constant(bound, i64) for bound in integer_range(self.to))
        # ONNX Runtime's Clip, Min and Max of i64 are wrong for numbers that lie far apart.
        above = Where(Less(steps, low), low, steps)
        return Cast(Where(Less(high, above), high, above), self.to)


def _check(node: Rescale, value: Value, low: float, high: float, what: str) -> None:
    """Constant elements of `value` are within the range."""
    if isinstance(value, Constant) and value.data.size and not (low <= value.data.min() and value.data.max() <= high):
        wanted = f"from {low} to {high}" if high < math.inf else "not negative"
        fail(node, f"a {what} of {value.data.min()} to {value.data.max()}: it is {wanted}")


def multiplier_and_shift(
    scale: NDArray[np.float64], bits: Literal[16, 32] = 32
) -> tuple[NDArray[np.integer], NDArray[np.int32]] | None:
    """Scales, positive and finite, as multipliers of `bits` bits and shifts: scale = multiplier / 2**shift, the
    multiplier as large as fits. None where one is too large for a shift of 2 or too small to have an exponent.

    What shifts of 62 at most cannot reach has fewer bits, as in TOSA's and TFLite's converters.
    """
    digits = bits - 1
    if not bool(((scale > 0) & (scale < 2.0**61)).all()):
        return None
    fraction, exponent = np.frexp(scale)
    multiplier = np.floor(fraction * 2.0**digits + 0.5)
    over = multiplier == 2.0**digits
    multiplier, exponent = np.where(over, multiplier / 2, multiplier), exponent + over
    shift = digits - exponent
    beyond = np.clip(shift - MOST_SHIFT, 0, digits)
    multiplier, shift = np.floor(multiplier / 2.0**beyond), np.minimum(shift, MOST_SHIFT)
    if shift.size and shift.min() < LEAST_SHIFT:
        return None
    return multiplier.astype(np.int32 if bits == 32 else np.int16), shift.astype(np.int32)
