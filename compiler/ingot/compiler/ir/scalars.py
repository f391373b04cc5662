"""The scalar functions of the loop level on numpy arrays: the meaning of every name in `loops.FUNCTIONS`.

Arithmetic runs in the result's dtype (f32 stays f32; f16 and bf16 round after every operation). Transcendental
functions are computed in f64 and rounded once. Integers wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.dtypes import DType

Array: TypeAlias = NDArray[Any]

_erf = np.frompyfunc(math.erf, 1, 1)


def _integral(x: Array) -> bool:
    return np.issubdtype(x.dtype, np.integer)


def _divide(a: Array, b: Array) -> Array:
    """Floats by IEEE; integers truncate towards zero and give 0 for a divisor of 0."""
    if not _integral(a):
        return a / b
    quotient = a // b
    return quotient + ((a - quotient * b != 0) & ((a < 0) != (b < 0)) & (b != 0)).astype(a.dtype)


def _power(a: Array, b: Array) -> Array:
    if not _integral(a):
        return _in_f64(np.power)(a, b)
    positive = np.power(a, np.maximum(b, 0).astype(b.dtype))
    inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0)).astype(a.dtype)
    return np.where(b < 0, inverse, positive)


def _in_f64(function: Callable[..., Any]) -> Callable[..., Array]:
    def apply(*args: Array) -> Array:
        return function(*(a.astype(np.float64) for a in args))

    return apply


def _shift_left(a: Array, b: Array) -> Array:
    outside = (b < 0) | (b >= 8 * a.dtype.itemsize)
    return np.where(outside, 0, np.left_shift(a, np.where(outside, 0, b).astype(b.dtype)))


def _shift_right(a: Array, b: Array) -> Array:
    """Distances outside the width leave the sign alone: what two shifts by half the width leave."""
    half = b.dtype.type(4 * a.dtype.itemsize)
    outside = (b < 0) | (b >= 8 * a.dtype.itemsize)
    shifted = np.right_shift(a, np.where(outside, half, b))
    return np.where(outside, np.right_shift(shifted, half), shifted)


def _sigmoid(x: Array) -> Array:
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + z), z / (1 + z))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _error_function(x: Array) -> Array:
    return np.asarray(_erf(x)).astype(np.float64)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + _error_function(x * math.sqrt(0.5)))


def _fma(a: Array, b: Array, c: Array) -> Array:
    if a.dtype == np.float32:
        return a.astype(np.float64) * b + c  # one rounding, up to a tie that f64 has decided already
    return a * b + c


def _relu(x: Array) -> Array:
    return np.maximum(x, np.zeros((), x.dtype))


def _clip(x: Array, low: Array, high: Array) -> Array:
    return np.minimum(np.maximum(x, low), high)


_TABLE: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "pow": _power,
    "min": np.minimum,
    "max": np.maximum,
    "mod": np.mod,
    "fmod": np.fmod,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "bitnot": np.bitwise_not,
    "shl": _shift_left,
    "shr": _shift_right,
    "copysign": np.copysign,
    "atan2": _in_f64(np.arctan2),
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "exp": _in_f64(np.exp),
    "expm1": _in_f64(np.expm1),
    "log": _in_f64(np.log),
    "log1p": _in_f64(np.log1p),
    "erf": _in_f64(_error_function),
    "tanh": _in_f64(np.tanh),
    "sigmoid": _in_f64(_sigmoid),
    "softplus": _in_f64(_softplus),
    "gelu": _in_f64(_gelu),
    "sin": _in_f64(np.sin),
    "cos": _in_f64(np.cos),
    "tan": _in_f64(np.tan),
    "asin": _in_f64(np.arcsin),
    "acos": _in_f64(np.arccos),
    "atan": _in_f64(np.arctan),
    "sinh": _in_f64(np.sinh),
    "cosh": _in_f64(np.cosh),
    "asinh": _in_f64(np.arcsinh),
    "acosh": _in_f64(np.arccosh),
    "atanh": _in_f64(np.arctanh),
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.rint,
    "relu": _relu,
    "select": np.where,
    "fma": _fma,
    "clip": _clip,
}
_PREDICATES = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf"))
_UNTOUCHED = _PREDICATES | {"select", "and", "or", "xor", "not"}  # arguments keep their own dtype


def apply(fn: str, args: tuple[Array, ...], dtype: DType) -> Array:
    """`fn` applied elementwise; the result has `dtype`. Narrower arguments are widened to it first."""
    target = dtype.to_numpy()
    with np.errstate(all="ignore"):
        if fn == "cast":
            return cast(args[0], target)
        if fn == "bitcast":
            return reinterpreted(args[0], target)
        if fn not in _UNTOUCHED:
            args = tuple(a.astype(target, copy=False) for a in args)
        return np.asarray(_TABLE[fn](*args)).astype(target, copy=False)


def cast(x: Array, target: np.dtype[Any]) -> Array:
    """ONNX Cast: floats to integers truncate (out of range and NaN are undefined), anything but 0 is true."""
    with np.errstate(all="ignore"):
        return x != 0 if target == np.bool_ else x.astype(target)


def reinterpreted(x: Array, target: np.dtype[Any]) -> Array:
    """The bits of each element as one of `target`, which has the same size; a bool is 0 or 1."""
    x = np.ascontiguousarray(x).reshape(x.shape)
    return x.view(np.uint8) != 0 if target == np.bool_ else x.view(target)


REDUCTIONS: Mapping[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.logical_and,
    "or": np.logical_or,
}


def identity(fn: str, dtype: np.dtype[Any]) -> Any:
    """The value that leaves the other operand of reduction `fn` as it is."""
    if fn in ("add", "or"):
        return np.zeros((), dtype)
    if fn in ("mul", "and"):
        return np.ones((), dtype)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.asarray(limits.min if fn == "max" else limits.max, dtype)
    return np.asarray(-np.inf if fn == "max" else np.inf).astype(dtype)
