"""Operators on the bits of integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Array, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import require_kind
from ingot.compiler.ops.pointwise import Binary, Unary
from ingot.runtime.dtypes import Kind

INTEGER: frozenset[Kind] = frozenset(("signed", "unsigned"))
UNSIGNED: frozenset[Kind] = frozenset(("unsigned",))


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


class _Shift(Binary):
    """A shift of unsigned integers; a distance of the type's width or more gives 0."""

    accepts = UNSIGNED

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.a, UNSIGNED, "the operand")
        return super().infer()


@op("shift_left")
class ShiftLeft(_Shift):
    """``a << b`` of unsigned integers, 0 where b is the width or more. ONNX BitShift."""

    scalar = "shl"

    def compute(self, *operands: Array) -> Array:
        a, b = operands
        return np.where(b < self.a.dtype.bits, np.left_shift(a, b), np.zeros((), a.dtype))


@op("shift_right")
class ShiftRight(_Shift):
    """``a >> b`` of unsigned integers, 0 where b is the width or more. ONNX BitShift."""

    scalar = "shr"

    def compute(self, *operands: Array) -> Array:
        a, b = operands
        return np.where(b < self.a.dtype.bits, np.right_shift(a, b), np.zeros((), a.dtype))
