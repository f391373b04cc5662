"""What an operator example is, and data for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ingot.compiler.ir.graph import Array, Graph, Input, Node
from ingot.compiler.ir.types import type_of
from ingot.runtime import dtypes


class Example(NamedTuple):
    """A node over inputs of given contents."""

    name: str
    build: Callable[..., Node]
    inputs: tuple[Array, ...]

    def graph(self) -> Graph:
        """A graph with inputs ``x0, x1 ..`` and one output ``y0, y1 ..`` a result."""
        values = tuple(Input(f"x{i}", type_of(array)) for i, array in enumerate(self.inputs))
        results = self.build(*values).results()
        return Graph(values, tuple((f"y{i}", v) for i, v in enumerate(results)), "example")

    def feed(self) -> dict[str, Array]:
        """The arrays by input label."""
        return {f"x{i}": array for i, array in enumerate(self.inputs)}


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(sum(ord(c) * (i + 1) for i, c in enumerate(name)))


def normal(name: str, *shape: int, dtype: str = "float32") -> Array:
    """Standard normal data; `name` is the seed."""
    return _rng(name).standard_normal(shape).astype(dtypes.BY_NAME[dtype].to_numpy() if dtype == "bf16" else dtype)


def whole(name: str, *shape: int, dtype: str = "int64", low: int = -9, high: int = 10) -> Array:
    """Integers low .. high - 1."""
    return _rng(name).integers(low, high, shape).astype(dtype)


def flags(name: str, *shape: int) -> Array:
    """Random bools."""
    return _rng(name).integers(0, 2, shape).astype(bool)
