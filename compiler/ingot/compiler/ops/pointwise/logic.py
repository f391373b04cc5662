"""Bools: what makes them, what combines them, and the choice by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Array, Value, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import broadcast, fail, same_dtype
from ingot.compiler.ops.pointwise.operator import COMPARABLE, LOGICAL, Binary, Pointwise, Unary
from ingot.runtime.dtypes import boolean


@op("not")
class Not(Unary):
    """Logical negation."""

    scalar = "not"
    accepts = LOGICAL

    def compute(self, *operands: Array) -> Array:
        return np.logical_not(operands[0])


@op("and")
class And(Binary):
    """Logical conjunction."""

    scalar = "and"
    accepts = LOGICAL
    function = staticmethod(np.logical_and)


@op("or")
class Or(Binary):
    """Logical disjunction."""

    scalar = "or"
    accepts = LOGICAL
    function = staticmethod(np.logical_or)


@op("xor")
class Xor(Binary):
    """Exclusive or."""

    scalar = "xor"
    accepts = LOGICAL
    function = staticmethod(np.logical_xor)


@op("equal")
class Equal(Binary):
    """``a == b``; false where either is NaN."""

    scalar = "eq"
    accepts = COMPARABLE
    predicate = True
    function = staticmethod(np.equal)


@op("less")
class Less(Binary):
    """``a < b``"""

    scalar = "lt"
    predicate = True
    function = staticmethod(np.less)


@op("less_or_equal")
class LessOrEqual(Binary):
    """``a <= b``"""

    scalar = "le"
    predicate = True
    function = staticmethod(np.less_equal)


@op("greater")
class Greater(Binary):
    """``a > b``"""

    scalar = "gt"
    predicate = True
    function = staticmethod(np.greater)


@op("greater_or_equal")
class GreaterOrEqual(Binary):
    """``a >= b``"""

    scalar = "ge"
    predicate = True
    function = staticmethod(np.greater_equal)


@op("is_nan")
class IsNaN(Unary):
    """True where x is NaN."""

    scalar = "isnan"
    predicate = True
    function = staticmethod(np.isnan)


@op("is_inf")
class IsInf(Unary):
    """True where x is infinite, of either sign."""

    scalar = "isinf"
    predicate = True
    function = staticmethod(np.isinf)


@op("where")
class Where(Pointwise):
    """``a`` where `condition` (bool) holds, else ``b``."""

    condition: Value
    a: Value
    b: Value
    scalar = "select"
    accepts = COMPARABLE

    def infer(self) -> Sequence[TensorType]:
        if self.condition.dtype != boolean:
            fail(self, f"the condition is {self.condition.type}, not bool: cast it first")
        dtype = same_dtype(self, self.a, self.b)
        return (TensorType(dtype, broadcast(self, self.condition, self.a, self.b)),)

    def compute(self, *operands: Array) -> Array:
        return np.where(*operands)
