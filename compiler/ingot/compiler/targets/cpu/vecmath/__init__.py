"""Vectorised mathematics as LLVM IR, inline: no calls, no tables in memory.

Every function takes a builder and a value of type `float`, `double` or a vector of them, and returns a value of that
type; `options` (`MathOptions`) says what the target lacks. Each docstring bounds the error in units in the last place
of the true result; the bounds hold for every argument, denormal ones included, unless the docstring says otherwise.
sin, cos, tan and fmod end in another basic block than they began in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ingot.compiler.targets.cpu.vecmath.conversion import bf16_to_float, float_to_bf16, float_to_half, half_to_float
from ingot.compiler.targets.cpu.vecmath.error_function import erf, fast_gelu, gelu
from ingot.compiler.targets.cpu.vecmath.exponential import cosh, exp, expm1, fast_exp, sigmoid, sinh, softplus, tanh
from ingot.compiler.targets.cpu.vecmath.integer import floor_mod, trunc_div, trunc_mod
from ingot.compiler.targets.cpu.vecmath.inverse_trigonometric import acos, asin, atan, atan2
from ingot.compiler.targets.cpu.vecmath.lanes import MathOptions
from ingot.compiler.targets.cpu.vecmath.logarithm import acosh, asinh, atanh, log, log1p
from ingot.compiler.targets.cpu.vecmath.power import fmod, pow
from ingot.compiler.targets.cpu.vecmath.rounding import ceil, floor, reciprocal, round_half_even, sqrt, trunc
from ingot.compiler.targets.cpu.vecmath.trigonometric import cos, sin, tan

# Floating functions by name: (builder, x, [y,] options) -> value. pow, atan2 and fmod take two arguments, others one.
FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "acos": acos,
        "acosh": acosh,
        "asin": asin,
        "asinh": asinh,
        "atan": atan,
        "atan2": atan2,
        "atanh": atanh,
        "ceil": ceil,
        "cos": cos,
        "cosh": cosh,
        "erf": erf,
        "exp": exp,
        "expm1": expm1,
        "fast_exp": fast_exp,
        "fast_gelu": fast_gelu,
        "floor": floor,
        "fmod": fmod,
        "gelu": gelu,
        "log": log,
        "log1p": log1p,
        "pow": pow,
        "reciprocal": reciprocal,
        "round_half_even": round_half_even,
        "sigmoid": sigmoid,
        "sin": sin,
        "sinh": sinh,
        "softplus": softplus,
        "sqrt": sqrt,
        "tan": tan,
        "tanh": tanh,
        "trunc": trunc,
    }
)

__all__ = [
    "FUNCTIONS",
    "MathOptions",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bf16_to_float",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "expm1",
    "fast_exp",
    "fast_gelu",
    "float_to_bf16",
    "float_to_half",
    "floor",
    "floor_mod",
    "fmod",
    "gelu",
    "half_to_float",
    "log",
    "log1p",
    "pow",
    "reciprocal",
    "round_half_even",
    "sigmoid",
    "sin",
    "sinh",
    "softplus",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
    "trunc_div",
    "trunc_mod",
]
