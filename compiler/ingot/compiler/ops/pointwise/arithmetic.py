"""Arithmetic and order: what integers have too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Array, Value, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import broadcast, require_kind
from ingot.compiler.ops.numeric import cast
from ingot.compiler.ops.pointwise.operator import NUMBER, SIGNED, Binary, Pointwise, Unary


@op("abs")
class Abs(Unary):
    """``|x|``; the smallest signed integer stays itself."""

    scalar = "abs"
    accepts = NUMBER

    def compute(self, *operands: Array) -> Array:
        return np.abs(operands[0])


@op("neg")
class Neg(Unary):
    """``-x``"""

    scalar = "neg"
    accepts = SIGNED

    def compute(self, *operands: Array) -> Array:
        return np.negative(operands[0])


@op("sign")
class Sign(Unary):
    """-1, 0 or 1; NaN stays NaN."""

    scalar = "sign"
    accepts = NUMBER

    def compute(self, *operands: Array) -> Array:
        return np.sign(operands[0])


@op("add")
class Add(Binary):
    """``a + b``; integers wrap."""

    scalar = "add"
    function = staticmethod(np.add)


@op("sub")
class Sub(Binary):
    """``a - b``; integers wrap."""

    scalar = "sub"
    function = staticmethod(np.subtract)


@op("mul")
class Mul(Binary):
    """``a * b``; integers wrap."""

    scalar = "mul"
    function = staticmethod(np.multiply)


@op("div")
class Div(Binary):
    """``a / b``; integers truncate towards 0 (division by 0 is undefined)."""

    scalar = "div"

    def compute(self, *operands: Array) -> Array:
        a, b = operands
        if not self.a.dtype.is_integer:
            return np.divide(a, b)
        quotient = np.floor_divide(a, b)
        return np.where((np.remainder(a, b) != 0) & ((a < 0) != (b < 0)), quotient + quotient.dtype.type(1), quotient)


@op("pow")
class Pow(Binary):
    """``a ** b`` in a's element type; b's may differ. An integer to a negative or fractional power truncates."""

    scalar = "pow"

    def infer(self) -> Sequence[TensorType]:
        require_kind(self, self.a, NUMBER, "the base")
        require_kind(self, self.b, NUMBER, "the exponent")
        return (TensorType(self.a.dtype, broadcast(self, self.a, self.b)),)

    def compute(self, *operands: Array) -> Array:
        a, b = operands
        if self.a.dtype.is_float:
            return np.power(a.astype(np.float64), b.astype(np.float64))
        if self.b.dtype.is_integer and not bool(np.any(b < 0)):
            return np.power(a, b.astype(a.dtype))
        return cast(np.power(a.astype(np.float64), b.astype(np.float64)), self.a.dtype)


@op("min")
class Min(Binary):
    """The smaller of a and b; NaN if either is."""

    scalar = "min"
    function = staticmethod(np.minimum)


@op("max")
class Max(Binary):
    """The larger of a and b; NaN if either is."""

    scalar = "max"
    function = staticmethod(np.maximum)


@op("mod")
class Mod(Binary):
    """``a - floor(a / b) * b``: the sign is b's (ONNX Mod with fmod = 0). Integer modulo 0 is undefined."""

    scalar = "mod"
    function = staticmethod(np.mod)


@op("fmod")
class Fmod(Binary):
    """``a - trunc(a / b) * b``: the sign is a's (C fmod, ONNX Mod with fmod = 1)."""

    scalar = "fmod"
    function = staticmethod(np.fmod)


@op("clip")
class Clip(Pointwise):
    """``min(max(x, low), high)``, a bound of None left out; NaN stays NaN, and where low > high the result is high."""

    x: Value
    low: Value | None
    high: Value | None
    scalar = "clip"

    def compute(self, *operands: Array) -> Array:
        bounds = list(operands[1:])
        result = operands[0]
        if self.low is not None:
            result = np.maximum(result, bounds.pop(0))
        if self.high is not None:
            result = np.minimum(result, bounds.pop(0))
        return result
