"""Elementary functions and activations of floats."""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.ir.graph import Array, Value, constant, op
from ingot.compiler.ops.numeric import erf, sigmoid
from ingot.compiler.ops.pointwise.arithmetic import Add, Mul
from ingot.compiler.ops.pointwise.operator import SIGNED, Unary


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

    Hendrycks and Gimpel 2016. ONNX Gelu-20. Both are NaN at -inf. Only the first form is a function that kernels know;
    the other expands.
    """

    tanh: bool
    scalar = "gelu"

    def compute(self, *operands: Array) -> Array:
        x = operands[0].astype(np.float64)
        if self.tanh:
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))

    def expand(self) -> Value | None:
        if not self.tanh:
            return None
        x, dtype = self.x, self.x.dtype
        cube = Mul(Mul(Mul(x, x), x), constant(0.044715, dtype))
        inner = Tanh(Mul(Add(x, cube), constant(math.sqrt(2 / math.pi), dtype)))
        return Mul(Mul(x, constant(0.5, dtype)), Add(inner, constant(1.0, dtype)))
