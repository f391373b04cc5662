"""A Python function with other meanings for what it refers to; with it, the reference of a custom operator.

`math.exp(1000)` raises in Python and is infinite in a kernel: as the reference of what is compiled, a function that
refers to `math` gets functions that behave like numpy's, in the type of their argument, and so do those that it calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import CellType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from ingot.compiler.ops.custom.functions import MATH, Function


def reference(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with arithmetic that never raises."""
    namespace = SimpleNamespace(**{name: getattr(math, name) for name in dir(math) if not name.startswith("_")})
    replacements: dict[int, Any] = {id(math): namespace}
    for name, known in MATH.items():
        if hasattr(math, name):
            total = _total(known)
            setattr(namespace, name, total)
            replacements[id(getattr(math, name))] = total
    return rebound(function, replacements)


def rebound(
    function: Callable[..., Any],
    replacements: Mapping[int, Any],
    wrap: Callable[[FunctionType], Any] = lambda copy: copy,
) -> Callable[..., Any]:
    """A copy of a Python function in which objects that it refers to by name are replaced, found by their ids.
    Functions of the user's that it refers to are copied likewise, and become what `wrap` makes of the copy."""
    made: dict[int, Any] = {}

    def replaced(item: Any) -> Any:
        if id(item) in replacements:
            return replacements[id(item)]
        if not isinstance(item, FunctionType) or item.__module__.partition(".")[0] == "numpy":
            return item
        if id(item) not in made:
            made[id(item)] = item  # one that calls itself: itself, at the second turn
            made[id(item)] = wrap(copied(item))
        return made[id(item)]

    def copied(original: FunctionType) -> FunctionType:
        scope: dict[str, Any] = {
            name: original.__globals__[name]
            for name in ("__builtins__", "__name__", "__file__")
            if name in original.__globals__
        }
        closure = tuple(CellType() for _ in original.__closure__ or ())
        copy = FunctionType(original.__code__, scope, original.__name__, original.__defaults__, closure or None)
        copy.__kwdefaults__, copy.__module__ = original.__kwdefaults__, original.__module__
        copy.__qualname__ = original.__qualname__
        for name in _names(original):
            if name in original.__globals__:
                scope[name] = replaced(original.__globals__[name])
        for cell, own in zip(closure, original.__closure__ or (), strict=True):
            cell.cell_contents = replaced(own.cell_contents)
        return copy

    return copied(function) if isinstance(function, FunctionType) else function


def _names(function: FunctionType) -> set[str]:
    """The global names that a function and those nested in it use."""
    found: set[str] = set()
    stack = [function.__code__]
    while stack:
        code = stack.pop()
        found.update(code.co_names)
        stack.extend(c for c in code.co_consts if isinstance(c, type(code)))
    return found


def _total(known: Function) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        kinds: list[Any] = [type(a) for a in args if isinstance(a, np.generic)]  # pyright: ignore[reportUnknownArgumentType]
        with np.errstate(all="ignore"):
            result = known.numpy(*(np.float64(a) for a in args))
        if np.asarray(result).dtype == np.bool_:
            return np.bool_(result)
        return kinds[0](result) if kinds else float(result)

    return call
