"""The functions that a scalar operator may call: how each is built out of graph operators, and its meaning in numpy.

A function of `math` means what numpy's does: it never raises, overflows to infinity and gives NaN outside its domain.
`floor`, `ceil`, `trunc` and `rint` give a number of the argument's type.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.compiler.ir.graph import Value, constant
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.numeric import erf


@dataclass(frozen=True)
class Function:
    """A function of `arity` arguments of one type: `build` makes its graph, `numpy` is its value on f64 data."""

    arity: int
    build: Callable[..., Value]
    numpy: Callable[..., Any]


def _number(value: float, like: Value) -> Value:
    return constant(value, like.dtype)


def _trunc(x: Value) -> Value:
    return ops.Where(ops.Less(x, _number(0.0, x)), ops.Ceil(x), ops.Floor(x))


def _log1p(x: Value) -> Value:
    """``u = 1 + x; log(u) * x / (u - 1)``, x itself where u is 1 or infinite (Higham 2002, problem 1.5)."""
    u = ops.Add(x, _number(1.0, x))
    exact = ops.Div(ops.Mul(ops.Log(u), x), ops.Sub(u, _number(1.0, x)))
    flat = ops.Or(ops.Equal(u, _number(1.0, x)), ops.Equal(x, _number(math.inf, x)))
    return ops.Where(flat, x, exact)


def _expm1(x: Value) -> Value:
    """``u = exp(x); (u - 1) * x / log(u)``, x where u is 1 and u - 1 where u is large or tiny (Kahan)."""
    u = ops.Exp(x)
    less = ops.Sub(u, _number(1.0, x))
    near = ops.Less(ops.Abs(x), _number(1.0, x))
    # log is asked for near 1 only; elsewhere the quotient is not used
    exact = ops.Div(ops.Mul(less, x), ops.Log(u))
    return ops.Where(ops.Equal(u, _number(1.0, x)), x, ops.Where(near, exact, less))


def _finite(x: Value) -> Value:
    return ops.Not(ops.Or(ops.IsNaN(x), ops.IsInf(x)))


def _scaled_log(base: float) -> Callable[[Value], Value]:
    return lambda x: ops.Div(ops.Log(x), _number(math.log(base), x))


def _largest(a: Value, b: Value) -> Value:
    """Python's ``max(a, b)``: b where b > a, else a, whatever is NaN."""
    return ops.Where(ops.Greater(b, a), b, a)


def _smallest(a: Value, b: Value) -> Value:
    """Python's ``min(a, b)``."""
    return ops.Where(ops.Less(b, a), b, a)


def _power_of_two(x: Value) -> Value:
    return ops.Pow(_number(2.0, x), x)


def _erf(x: Any) -> Any:
    return erf(np.asarray(x, np.float64))


EXP = Function(1, ops.Exp, np.exp)
ABS = Function(1, ops.Abs, np.abs)
POW = Function(2, ops.Pow, np.power)
MAXIMUM = Function(2, _largest, max)
MINIMUM = Function(2, _smallest, min)

MATH: Mapping[str, Function] = {
    "acos": Function(1, ops.Acos, np.arccos),
    "acosh": Function(1, ops.Acosh, np.arccosh),
    "asin": Function(1, ops.Asin, np.arcsin),
    "asinh": Function(1, ops.Asinh, np.arcsinh),
    "atan": Function(1, ops.Atan, np.arctan),
    "atanh": Function(1, ops.Atanh, np.arctanh),
    "ceil": Function(1, ops.Ceil, np.ceil),
    "cos": Function(1, ops.Cos, np.cos),
    "cosh": Function(1, ops.Cosh, np.cosh),
    "erf": Function(1, ops.Erf, _erf),
    "exp": EXP,
    "exp2": Function(1, _power_of_two, np.exp2),
    "expm1": Function(1, _expm1, np.expm1),
    "fabs": ABS,
    "floor": Function(1, ops.Floor, np.floor),
    "fmod": Function(2, ops.Fmod, np.fmod),
    "isfinite": Function(1, _finite, np.isfinite),
    "isinf": Function(1, ops.IsInf, np.isinf),
    "isnan": Function(1, ops.IsNaN, np.isnan),
    "log": Function(1, ops.Log, np.log),
    "log10": Function(1, _scaled_log(10.0), np.log10),
    "log1p": Function(1, _log1p, np.log1p),
    "log2": Function(1, _scaled_log(2.0), np.log2),
    "pow": POW,
    "sin": Function(1, ops.Sin, np.sin),
    "sinh": Function(1, ops.Sinh, np.sinh),
    "sqrt": Function(1, ops.Sqrt, np.sqrt),
    "tan": Function(1, ops.Tan, np.tan),
    "tanh": Function(1, ops.Tanh, np.tanh),
    "trunc": Function(1, _trunc, np.trunc),
}
"""The functions of the module `math`, by name."""

_NUMPY: Mapping[str, Function] = {
    **{name: MATH[name] for name in MATH if name not in ("erf", "pow")},
    "abs": ABS,
    "arccos": MATH["acos"],
    "arccosh": MATH["acosh"],
    "arcsin": MATH["asin"],
    "arcsinh": MATH["asinh"],
    "arctan": MATH["atan"],
    "arctanh": MATH["atanh"],
    "maximum": Function(2, ops.Max, np.maximum),
    "minimum": Function(2, ops.Min, np.minimum),
    "mod": Function(2, ops.Mod, np.mod),
    "negative": Function(1, ops.Neg, np.negative),
    "power": POW,
    "reciprocal": Function(1, ops.Reciprocal, np.reciprocal),
    "rint": Function(1, ops.Round, np.rint),
    "sign": Function(1, ops.Sign, np.sign),
}


def _by_callable() -> dict[int, Function]:
    found = {id(getattr(math, name)): f for name, f in MATH.items() if hasattr(math, name)}
    found |= {id(getattr(np, name)): f for name, f in _NUMPY.items() if hasattr(np, name)}
    found |= {id(builtins.abs): ABS, id(builtins.pow): POW}
    found |= {id(builtins.max): MAXIMUM, id(builtins.min): MINIMUM}
    return found


_FUNCTIONS: Mapping[int, Function] = _by_callable()


def find_function(called: object) -> Function | None:
    """What a scalar operator gets for calling `called`, a function of math, numpy or the built-ins; None for others."""
    return _FUNCTIONS.get(id(called))
