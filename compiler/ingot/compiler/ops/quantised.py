"""Linear quantisation: integers that stand for ``(q - zero_point) * scale`` (ONNX QuantizeLinear, DequantizeLinear).

Scales and zero points broadcast, so one a tensor, one a channel and one a block are the same operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Array, Node, Value, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import broadcast, fail, require_kind
from ingot.compiler.ops.movement import Expand, Reshape, Slice
from ingot.compiler.ops.numeric import cast
from ingot.compiler.ops.pointwise import FLOAT, Pointwise
from ingot.runtime.dtypes import DType, Kind, f32, f64, u8

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


@op("dequantize_blocks")
class DequantizeBlocks(Node):
    """The f32 matrix ``(x - zero_point) * scale`` of weights x, u8 [K, N] below 2**bits, that stay narrow in memory.

    `block` consecutive rows share one row of the f32 scales [ceil(K / block), N], and of the zero points, u8 of the
    same shape or [1, 1] where there is but one. Products read it block by block (`lower/block_weights.py`).
    """

    x: Value
    scale: Value
    zero_point: Value
    bits: int
    block: int

    def infer(self) -> Sequence[TensorType]:
        x, scale, zero = self.x, self.scale, self.zero_point
        if x.dtype != u8 or x.rank != 2 or not x.type.is_static:
            fail(self, f"a matrix of u8 elements and of constant extents is needed, not {x.type}")
        if self.bits not in (2, 4, 8):
            fail(self, f"weights of {self.bits} bits: there are those of 2, 4 and 8")
        depth, columns = x.type.static_shape()
        per = 32 // self.bits
        if self.block < 1 or (self.block < depth and self.block % per):
            fail(self, f"blocks of {self.block} rows: a multiple of {per} is needed, or one block of all {depth}")
        rows = -(-depth // self.block)
        if scale.type != TensorType(f32, (rows, columns)):
            fail(self, f"the scale {scale.type} is not f32[{rows}, {columns}], one a column and block of {self.block}")
        if zero.dtype != u8 or zero.shape not in ((1, 1), (rows, columns)):
            fail(self, f"the zero point {zero.type} is neither u8[1, 1] nor u8[{rows}, {columns}]")
        return (TensorType(f32, x.shape),)

    def expand(self) -> Value:
        """A Dequantize whose scales and zero points are as large as x."""
        zero = self.zero_point
        return Dequantize(self.x, self._spread(self.scale), zero if zero.shape == (1, 1) else self._spread(zero))

    def _spread(self, parameter: Value) -> Value:
        """`parameter` with a row for each of x."""
        depth, columns = self.x.type.static_shape()
        blocks = parameter.type.static_shape()[0]
        rows = Expand(Reshape(parameter, (blocks, 1, columns)), (blocks, self.block, columns))
        return Slice(Reshape(rows, (blocks * self.block, columns)), (0, 0), (depth, columns), (1, 1))
