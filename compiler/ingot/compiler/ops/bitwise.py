"""Operators on bits: those of integers, and the same bits as elements of another type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Array, op
from ingot.compiler.ir.scalars import reinterpreted
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import fail
from ingot.compiler.ops.pointwise import Binary, Unary
from ingot.runtime.dtypes import DType, Kind

INTEGER: frozenset[Kind] = frozenset(("signed", "unsigned"))


@op("bit_and")
class BitAnd(Binary):
    """``a & b``"""

    scalar = "bitand"
    accepts = INTEGER
    function = staticmethod(np.bitwise_and)


@op("bit_or")
class BitOr(Binary):
    """``a | b``"""

    scalar = "bitor"
    accepts = INTEGER
    function = staticmethod(np.bitwise_or)


@op("bit_xor")
class BitXor(Binary):
    """``a ^ b``"""

    scalar = "bitxor"
    accepts = INTEGER
    function = staticmethod(np.bitwise_xor)


@op("bit_not")
class BitNot(Unary):
    """``~x``"""

    scalar = "bitnot"
    accepts = INTEGER

    def compute(self, *operands: Array) -> Array:
        return np.bitwise_not(operands[0])


@op("shift_left")
class ShiftLeft(Binary):
    """``a << b``; 0 where b is negative or the type's width or more. ONNX BitShift."""

    scalar = "shl"
    accepts = INTEGER

    def compute(self, *operands: Array) -> Array:
        a, b = operands
        outside = (b < 0) | (b >= self.a.dtype.bits)
        return np.where(outside, np.zeros((), a.dtype), np.left_shift(a, np.where(outside, np.zeros((), b.dtype), b)))


@op("shift_right")
class ShiftRight(Binary):
    """``a >> b``, arithmetic where a is signed; what is left of a is its sign where b is negative or the type's width
    or more. ONNX BitShift."""

    scalar = "shr"
    accepts = INTEGER

    def compute(self, *operands: Array) -> Array:
        a, b = operands
        bits = self.a.dtype.bits
        outside = (b < 0) | (b >= bits)
        half = np.right_shift(a, np.where(outside, b.dtype.type(bits // 2), b))
        return np.where(outside, np.right_shift(half, b.dtype.type(bits // 2)), half)


@op("bit_cast")
class BitCast(Unary):
    """The bits of each element of x as an element of the type `to`, which has the same size. ONNX BitCast.

    This is how opaque types are made and read. Any byte but 0 is true.
    """

    to: DType
    scalar = "bitcast"

    def infer(self) -> Sequence[TensorType]:
        if "string" in (self.x.dtype.kind, self.to.kind):
            fail(self, f"{self.x.type} as {self.to}: strings have no bits")
        if self.x.dtype.bits != self.to.bits:
            fail(self, f"{self.x.type} has elements of {self.x.dtype.bits} bits, {self.to} has {self.to.bits}")
        return (TensorType(self.to, self.x.type.shape),)

    def compute(self, *operands: Array) -> Array:
        return reinterpreted(operands[0], self.to.to_numpy())
