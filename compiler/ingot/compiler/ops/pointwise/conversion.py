"""Conversion to other element types and to whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Array, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import fail, require_kind
from ingot.compiler.ops.numeric import cast
from ingot.compiler.ops.pointwise.operator import ANY, COMPARABLE, Unary
from ingot.runtime.dtypes import DType


@op("identity")
class Identity(Unary):
    """x itself."""

    scalar = "cast"
    accepts = COMPARABLE

    def compute(self, *operands: Array) -> Array:
        return operands[0]


@op("cast")
class Cast(Unary):
    """x converted to `to`.

    Float to integer truncates (out of range and NaN: unspecified); integers wrap; float to float rounds to nearest
    even and overflows to infinity; to bool is ``x != 0`` (NaN is true); from bool gives 0 or 1.
    """

    to: DType
    scalar = "cast"
    accepts = ANY

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.x, ANY, "the operand")
        if self.to.kind in ("opaque", "string"):
            fail(self, f"elements of {self.to} are not made by a cast of elements")
        return (TensorType(self.to, self.x.type.shape),)

    def compute(self, *operands: Array) -> Array:
        return cast(operands[0], self.to)


@op("floor")
class Floor(Unary):
    """Round towards -inf."""

    scalar = "floor"
    function = staticmethod(np.floor)


@op("ceil")
class Ceil(Unary):
    """Round towards +inf."""

    scalar = "ceil"
    function = staticmethod(np.ceil)


@op("round")
class Round(Unary):
    """Round to the nearest integer, halves to even."""

    scalar = "round"
    function = staticmethod(np.rint)
