"""Pointwise operators: every result element depends on one element of each operand. Operands broadcast as in numpy.

Semantics are those of ONNX. Functions of f16, bf16 and f32 are evaluated in f64 and rounded once; arithmetic on f16
and bf16 is rounded after every operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ingot.compiler.ir.graph import Array, Node, Value, constant, op, operands_of
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import broadcast, fail, require_kind, same_dtype
from ingot.compiler.ops.numeric import cast, erf, sigmoid
from ingot.runtime.dtypes import DType, Kind, boolean

FLOAT: frozenset[Kind] = frozenset(("float",))
NUMBER: frozenset[Kind] = frozenset(("float", "signed", "unsigned"))
SIGNED: frozenset[Kind] = frozenset(("float", "signed"))
LOGICAL: frozenset[Kind] = frozenset(("bool",))
ANY: frozenset[Kind] = frozenset(("float", "signed", "unsigned", "bool"))
COMPARABLE: frozenset[Kind] = frozenset((*ANY, "string"))


@dataclass(frozen=True, eq=False, repr=False)
class Pointwise(Node):
    """An operator whose result has the broadcast shape of its operands.

    `scalar` is the function of `ir.loops.FUNCTIONS` that gives one element; `accepts` the element kinds allowed.
    Operands share one element type, which is the result's (or bool, where `predicate` is set).
    """

    scalar: ClassVar[str]
    accepts: ClassVar[frozenset[Kind]] = NUMBER
    predicate: ClassVar[bool] = False

    def infer(self) -> Sequence[TensorType]:
        operands = operands_of(self)
        for value in operands:
            require_kind(self, value, self.accepts, "an operand")
        dtype = same_dtype(self, *operands)
        return (TensorType(boolean if self.predicate else dtype, broadcast(self, *operands)),)

    def compute(self, *operands: Array) -> Array:
        """The result for operands that broadcast; its dtype may be wider than the result type."""
        raise NotImplementedError(type(self).__name__)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            return (np.asarray(self.compute(*operands)).astype(self.types[0].dtype.to_numpy(), copy=False),)


@dataclass(frozen=True, eq=False, repr=False)
class Unary(Pointwise):
    """A pointwise operator of one operand; `function` is applied to f64 unless `compute` says otherwise."""

    x: Value
    accepts = FLOAT
    function: ClassVar[Callable[[Any], Any]]

    def compute(self, *operands: Array) -> Array:
        return type(self).function(operands[0].astype(np.float64))


@dataclass(frozen=True, eq=False, repr=False)
class Binary(Pointwise):
    """A pointwise operator of two operands; `function` is applied to them as they are."""

    a: Value
    b: Value
    function: ClassVar[Callable[[Any, Any], Any]]

    def compute(self, *operands: Array) -> Array:
        return type(self).function(*operands)


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


@op("reciprocal")
class Reciprocal(Unary):
    """``1 / x``"""

    scalar = "reciprocal"
    function = staticmethod(np.reciprocal)


@op("sqrt")
class Sqrt(Unary):
    """Square root; NaN for negative x."""

    scalar = "sqrt"
    function = staticmethod(np.sqrt)


@op("exp")
class Exp(Unary):
    """``e ** x``"""

    scalar = "exp"
    function = staticmethod(np.exp)


@op("log")
class Log(Unary):
    """Natural logarithm; -inf at 0, NaN below."""

    scalar = "log"
    function = staticmethod(np.log)


@op("erf")
class Erf(Unary):
    """The error function ``2/sqrt(pi) * integral of exp(-t*t) from 0 to x``."""

    scalar = "erf"
    function = staticmethod(erf)


@op("tanh")
class Tanh(Unary):
    """Hyperbolic tangent."""

    scalar = "tanh"
    function = staticmethod(np.tanh)


@op("sigmoid")
class Sigmoid(Unary):
    """``1 / (1 + exp(-x))``"""

    scalar = "sigmoid"
    function = staticmethod(sigmoid)


@op("softplus")
class Softplus(Unary):
    """``log(1 + exp(x))``"""

    scalar = "softplus"

    def compute(self, *operands: Array) -> Array:
        x = operands[0].astype(np.float64)
        return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


@op("relu")
class Relu(Unary):
    """``max(x, 0)`` that keeps NaN."""

    scalar = "relu"
    accepts = SIGNED

    def compute(self, *operands: Array) -> Array:
        return np.maximum(operands[0], operands[0].dtype.type(0))


@op("sin")
class Sin(Unary):
    """Sine."""

    scalar = "sin"
    function = staticmethod(np.sin)


@op("cos")
class Cos(Unary):
    """Cosine."""

    scalar = "cos"
    function = staticmethod(np.cos)


@op("tan")
class Tan(Unary):
    """Tangent."""

    scalar = "tan"
    function = staticmethod(np.tan)


@op("asin")
class Asin(Unary):
    """Inverse sine; NaN outside -1..1."""

    scalar = "asin"
    function = staticmethod(np.arcsin)


@op("acos")
class Acos(Unary):
    """Inverse cosine; NaN outside -1..1."""

    scalar = "acos"
    function = staticmethod(np.arccos)


@op("atan")
class Atan(Unary):
    """Inverse tangent."""

    scalar = "atan"
    function = staticmethod(np.arctan)


@op("sinh")
class Sinh(Unary):
    """Hyperbolic sine."""

    scalar = "sinh"
    function = staticmethod(np.sinh)


@op("cosh")
class Cosh(Unary):
    """Hyperbolic cosine."""

    scalar = "cosh"
    function = staticmethod(np.cosh)


@op("asinh")
class Asinh(Unary):
    """Inverse hyperbolic sine."""

    scalar = "asinh"
    function = staticmethod(np.arcsinh)


@op("acosh")
class Acosh(Unary):
    """Inverse hyperbolic cosine; NaN below 1."""

    scalar = "acosh"
    function = staticmethod(np.arccosh)


@op("atanh")
class Atanh(Unary):
    """Inverse hyperbolic tangent; NaN outside -1..1."""

    scalar = "atanh"
    function = staticmethod(np.arctanh)


@op("gelu")
class Gelu(Unary):
    """``x/2 * (1 + erf(x/sqrt(2)))``, or with `tanh` ``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715*x**3)))``.

    Hendrycks and Gimpel 2016. ONNX Gelu-20. Only the first form is a function that kernels know, and 0, its limit, at
    -inf; the other expands.
    """

    tanh: bool
    scalar = "gelu"

    def compute(self, *operands: Array) -> Array:
        x = operands[0].astype(np.float64)
        if self.tanh:
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        x = np.maximum(x, -64.0)  # below, the factor is 0: -inf gives the limit, not NaN
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))

    def expand(self) -> Value | None:
        if not self.tanh:
            return None
        x, dtype = self.x, self.x.dtype
        cube = Mul(Mul(Mul(x, x), x), constant(0.044715, dtype))
        inner = Tanh(Mul(Add(x, cube), constant(math.sqrt(2 / math.pi), dtype)))
        return Mul(Mul(x, constant(0.5, dtype)), Add(inner, constant(1.0, dtype)))


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


@op("not")
class Not(Unary):
    """Logical negation."""

    scalar = "not"
    accepts = LOGICAL

    def compute(self, *operands: Array) -> Array:
        return np.logical_not(operands[0])


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
