"""Vectorised mathematics as LLVM IR, inline: no calls, no tables in memory.

Every function takes a builder and a value of type `float`, `double` or a vector of them, and returns a value of that type;
`options` (`MathOptions`) says what the target lacks. Errors are bounded in each docstring, in units in the last place of a
correctly rounded result, and hold for every argument including denormals, infinities and NaN unless it says otherwise.
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

# Floating functions by name: (builder, x, [y,] options) -> value. pow, atan2 and fmod take two arguments, the others one.
FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            exp, fast_exp, expm1, log, log1p, tanh, sigmoid, softplus, erf, gelu, fast_gelu, sin, cos, tan, asin, acos, atan,
            atan2, sinh, cosh, asinh, acosh, atanh, pow, fmod, round_half_even, floor, ceil, trunc, sqrt, reciprocal,
        )
    }
)  # fmt: skip

__all__ = [
    "FUNCTIONS", "MathOptions", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "bf16_to_float", "ceil", "cos",
    "cosh", "erf", "exp", "expm1", "fast_exp", "fast_gelu", "float_to_bf16", "float_to_half", "floor", "floor_mod", "fmod", "gelu",
    "half_to_float", "log", "log1p", "pow", "reciprocal", "round_half_even", "sigmoid", "sin", "sinh", "softplus", "sqrt",
    "tan", "tanh", "trunc", "trunc_div", "trunc_mod",
]  # fmt: skip
