"""Linear quantisation: integers that stand for ``(q - zero_point) * scale`` (ONNX QuantizeLinear, DequantizeLinear).

Scales and zero points broadcast, so one a tensor, one a channel and one a block are the same operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Array, Value, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import broadcast, fail, require_kind
from ingot.compiler.ops.numeric import cast
from ingot.compiler.ops.pointwise import FLOAT, Pointwise
from ingot.runtime.dtypes import DType, Kind, f32, f64

INTEGER: frozenset[Kind] = frozenset(("signed", "unsigned"))
NARROW = 16  # bits up to which a quantised value and its zero point are exact in f32, and so is their difference


def integer_range(dtype: DType) -> tuple[int, int]:
    """The smallest and the largest value of an integer type."""
    if dtype.kind == "unsigned":
        return 0, 2**dtype.bits - 1
    return -(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1


def working_type(dtype: DType) -> DType:
    """The float type that quantisation of `dtype` is computed in: f32 for halves."""
    return f64 if dtype == f64 else f32


@op("quantize")
class Quantize(Pointwise):
    """``saturate(round(x / scale) + zero_point)`` in the integer type `to`; halves round to even, None is 0.

    x and scale are floats of one type (halves are divided in f32). NaN gives an unspecified integer.
    """

    x: Value
    scale: Value
    zero_point: Value | None
    to: DType
    scalar = "div"

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, FLOAT, "the operand")
        if self.scale.dtype != self.x.dtype:
            fail(self, f"the scale {self.scale.type} has not the element type of {self.x.type}")
        if not self.to.is_integer or self.to.bits > NARROW:
            fail(self, f"elements of {self.to} are not quantised: an integer type of 8 or 16 bits is needed")
        if self.zero_point is not None and self.zero_point.dtype != self.to:
            fail(self, f"the zero point {self.zero_point.type} has not the element type {self.to}")
        operands = [v for v in (self.x, self.scale, self.zero_point) if v is not None]
        return (TensorType(self.to, broadcast(self, *operands)),)

    def compute(self, *operands: Array) -> Array:
        wide = working_type(self.x.dtype).to_numpy()
        result = np.rint(operands[0].astype(wide) / operands[1].astype(wide))
        if self.zero_point is not None:
            result = result + operands[2].astype(wide)
        low, high = integer_range(self.to)
        return cast(np.clip(result, low, high), self.to)


@op("dequantize")
class Dequantize(Pointwise):
    """``(x - zero_point) * scale`` in the scale's float type; a zero point of None is 0. Halves are computed in f32.

    x has 8, 16 or 32 bits; the difference of 32-bit integers wraps and is rounded to the float type.
    """

    x: Value
    scale: Value
    zero_point: Value | None
    scalar = "mul"

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, INTEGER, "the operand")
        require_kind(self, self.scale, FLOAT, "the scale")
        if self.x.dtype.bits > 32:
            fail(self, f"{self.x.type} is not dequantised: integers of 8, 16 or 32 bits are needed")
        if self.zero_point is not None and self.zero_point.dtype != self.x.dtype:
            fail(self, f"the zero point {self.zero_point.type} has not the element type of {self.x.type}")
        operands = [v for v in (self.x, self.scale, self.zero_point) if v is not None]
        return (TensorType(self.scale.dtype, broadcast(self, *operands)),)

    def compute(self, *operands: Array) -> Array:
        wide = working_type(self.scale.dtype).to_numpy()
        x = operands[0]
        if self.zero_point is None:
            difference = x.astype(wide)
        elif self.x.dtype.bits <= NARROW:
            difference = x.astype(wide) - operands[2].astype(wide)
        else:
            difference = (x - operands[2]).astype(wide)
        return difference * operands[1].astype(wide)
