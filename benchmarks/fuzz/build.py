"""A model under construction: tensors with types, nodes, weights and data, all drawn from one random generator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]
Extent = int | str
Shape = tuple[Extent, ...]
Attributes = dict[str, Any]
"""Attributes of a node by name, in Python's types."""

FLOATS = ("float32", "float64", "float16")
INTEGERS = ("int64", "int32", "int8", "uint8", "int16", "uint16", "uint32", "uint64")
TEXT = "object"
"""The element type of strings, as numpy calls it."""
WORDS = ("", "a", "b", "ab", "a b", " a", "b  c", "é", "日本", "A-b", "x,y,,z", "10", "-3")
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)
WEIGHTS = (0.16, 0.14, 0.14, 0.14, 0.1, 0.08, 0.08, 0.04, 0.06, 0.03, 0.03)
LARGE_SIZES = (1, 3, 16, 31, 64, 65, 96, 130)
LARGEST, LARGEST_OF_LARGE = 4096, 100_000
"""Elements of a tensor: more is slow in the references. Few models are large, so that kernels have several chunks."""


def numpy_type(dtype: str) -> np.dtype[Any]:
    """The element type of this name: numpy's, or one that ml_dtypes adds (bfloat16, int4, float8_e4m3fn ...)."""
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def dtype_code(dtype: str) -> int:
    """ONNX's number for an element type."""
    return helper.np_dtype_to_tensor_dtype(numpy_type(dtype))


@dataclass(frozen=True)
class Tensor:
    """A tensor: its extents are ints, or names of symbols whose values the builder knows."""

    name: str
    dtype: str
    shape: Shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """True for floating-point elements."""
        return self.dtype in FLOATS


@dataclass
class Builder:
    """`sizes` are the values of the symbols, `pool` the tensors that nodes may read, those outside a sub-graph too."""

    rng: np.random.Generator
    opset: int
    float_type: str = "float32"
    special: bool = False
    large: bool = False
    depth: int = 0
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    pool: list[Tensor] = field(default_factory=list[Tensor])
    made: list[Tensor] = field(default_factory=list[Tensor])
    used: set[str] = field(default_factory=set[str])
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    inputs: dict[str, tuple[Tensor, Array]] = field(default_factory=dict[str, tuple[Tensor, Array]])
    initializers: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])
    numbers: Iterator[int] = field(default_factory=itertools.count)

    # -- chance ------------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def choice(self, items: Sequence[Any]) -> Any:
        """One of `items`."""
        return items[int(self.rng.integers(len(items)))]

    def integer(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return int(self.rng.integers(low, high + 1))

    def extent(self) -> int:
        """A size of an axis, rarely 0."""
        if self.large:
            return int(self.choice(LARGE_SIZES))
        return 0 if self.chance(0.015) else int(self.rng.choice(SIZES, p=WEIGHTS))

    def shape(self, rank: int) -> tuple[int, ...]:
        """Extents of a tensor that is not too large."""
        while True:
            shape = tuple(self.extent() for _ in range(rank))
            if np.prod(shape, dtype=np.int64) <= self.limit:
                return shape

    @property
    def limit(self) -> int:
        """The most elements of a tensor."""
        return LARGEST_OF_LARGE if self.large else LARGEST

    # -- sizes -------------------------------------------------------------------------------------------------------

    def size(self, extent: Extent) -> int:
        """The value of an extent."""
        return self.sizes[extent] if isinstance(extent, str) else extent

    def concrete(self, shape: Shape) -> tuple[int, ...]:
        """The values of extents."""
        return tuple(map(self.size, shape))

    def elements(self, shape: Shape) -> int:
        """The number of elements."""
        return int(np.prod(self.concrete(shape), dtype=np.int64))

    def found(self, value: int) -> Extent:
        """An extent that only the data of a run tell: a symbol of its own."""
        name = f"d{next(self.numbers)}"
        self.sizes[name] = value
        return name

    def derived(self, value: int, *sources: Extent) -> Extent:
        """An extent computed from `sources`: a number when they all are, else a symbol of its own."""
        if all(isinstance(s, int) for s in sources):
            return value
        return self.found(value)

    # -- tensors -----------------------------------------------------------------------------------------------------

    def pick(self, fits: Callable[[Tensor], bool] = lambda t: True, *, text: bool = False) -> Tensor | None:
        """A tensor that fits, late ones more often; strings only with `text`."""
        found = [t for t in self.pool if (text or t.dtype != TEXT) and fits(t)]
        if not found:
            return None
        weights = np.arange(1, len(found) + 1, dtype=np.float64) ** 1.5
        return found[int(self.rng.choice(len(found), p=weights / weights.sum()))]

    def values(self, dtype: str, shape: Sequence[int]) -> Array:
        """Data: floats of the standard normal distribution (with `special` some NaN, infinities and zeros), small
        integers, bools, words."""
        if dtype in (*FLOATS, "bfloat16"):
            array = self.rng.standard_normal(shape)
            if self.special:
                spoilt = self.rng.random(shape) < 0.05
                array = np.where(spoilt, self.rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30], shape), array)
            with np.errstate(over="ignore"):
                return np.asarray(array, numpy_type(dtype))
        if dtype == "bool":
            return np.asarray(self.rng.random(shape) < 0.5)
        if dtype == TEXT:
            return self.words(tuple(shape))
        low = 0 if dtype.startswith("u") else -5
        return np.asarray(self.rng.integers(low, 6, shape), dtype)

    def words(self, shape: tuple[int, ...], words: Sequence[str] = WORDS) -> Array:
        """Strings, of `words`."""
        array = np.empty(shape, object)
        for place in np.ndindex(shape):
            array[place] = self.choice(words)
        return array

    def constant(self, array: Array, *, as_node: bool | None = None) -> Tensor:
        """An initialiser (or a Constant node) with these contents."""
        array = np.asarray(array)
        name = f"c{next(self.numbers)}"
        proto = numpy_helper.from_array(array, name)
        if self.chance(0.15) if as_node is None else as_node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=proto))
        else:
            self.initializers.append(proto)
        return Tensor(name, str(array.dtype), tuple(array.shape))

    def weights(self, shape: Sequence[int], dtype: str | None = None, scale: float = 1.0) -> Tensor:
        """Random weights."""
        dtype = dtype or self.float_type
        array = self.rng.standard_normal(tuple(shape)) * scale if dtype in FLOATS else self.values(dtype, shape)
        return self.constant(np.asarray(array, dtype))

    def add_input(self, dtype: str, shape: Shape) -> Tensor:
        """An input of the model with data."""
        tensor = Tensor(f"x{next(self.numbers)}", dtype, shape)
        self.inputs[tensor.name] = tensor, self.values(dtype, self.concrete(shape))
        self.pool.append(tensor)
        return tensor

    def given(self, array: Array, constant: float = 0.4) -> Tensor:
        """A tensor with just these contents that no other node changes: an input of the model, or with the chance
        `constant`, and in sub-graphs, an initialiser."""
        array = np.asarray(array)
        if self.depth or self.chance(constant):
            return self.constant(array)
        tensor = Tensor(f"x{next(self.numbers)}", str(array.dtype), tuple(array.shape))
        self.inputs[tensor.name] = tensor, array
        return tensor

    def ints(self, values: Sequence[int], *, scalar: bool = False) -> Tensor:
        """Constant i64 numbers."""
        return self.constant(np.array(values[0] if scalar else list(values), np.int64))

    # -- nodes -------------------------------------------------------------------------------------------------------

    def node(
        self,
        op: str,
        operands: Sequence[Tensor | None],
        results: Sequence[tuple[str, Shape]],
        *,
        visible: bool = True,
        unused: int = 0,
        **attributes: Any,
    ) -> list[Tensor]:
        """A node; its results join the pool unless not `visible`. The first `unused` results that the operator has are
        left out, before those given. Raises TooLargeError."""
        if any(self.elements(shape) > 4 * self.limit for _, shape in results):
            raise TooLargeError
        made = [Tensor(f"{op.lower()}{next(self.numbers)}", dtype, shape) for dtype, shape in results]
        names = [t.name if t else "" for t in operands]
        while names and not names[-1]:  # ONNX Runtime crashes on an empty name at the end of some operators
            names.pop()
        self.used.update(names)
        outputs = [*[""] * unused, *(t.name for t in made)]
        self.nodes.append(helper.make_node(op, names, outputs, name=f"n_{made[0].name}", **attributes))
        if visible:
            self.pool += made
            self.made += made
        return made

    def unary(self, op: str, x: Tensor, *, visible: bool = True, **attributes: Any) -> Tensor:
        """A node whose result has the type of its operand."""
        return self.node(op, [x], [(x.dtype, x.shape)], visible=visible, **attributes)[0]

    def child(self) -> Builder:
        """A builder for a sub-graph, which sees what this one made."""
        return Builder(
            self.rng, self.opset, self.float_type, self.special, self.large, self.depth + 1, self.sizes,
            list(self.pool), used=self.used, numbers=self.numbers,
        )  # fmt: skip

    def value_info(self, tensor: Tensor) -> onnx.ValueInfoProto:
        """The declared type of a tensor; symbols that are computed stay open."""
        shape = [None if isinstance(e, str) and e.startswith("d") else e for e in tensor.shape]
        return helper.make_tensor_value_info(tensor.name, dtype_code(tensor.dtype), shape)


class TooLargeError(Exception):
    """The node would make a tensor that is too large."""


def broadcast(b: Builder, *shapes: Shape) -> Shape | None:
    """The shape that these give together by numpy's rules, None when they do not: a symbol fits itself and 1."""
    rank = max(map(len, shapes))
    result: list[Extent] = []
    for axis in range(rank):
        extents = {s[len(s) - rank + axis] for s in shapes if len(s) - rank + axis >= 0} - {1}
        if len(extents) > 1:
            return None
        result.append(extents.pop() if extents else 1)
    return tuple(result)


def partner_shape(b: Builder, shape: Shape) -> Shape:
    """A random shape of ints that broadcasts with `shape` to itself, or to more axes."""
    extents: list[Extent] = [1 if isinstance(e, str) or b.chance(0.25) else e for e in shape]
    cut = b.integer(0, len(extents)) if b.chance(0.4) else 0
    return tuple(extents[cut:])


def replaced(shape: Shape, axis: int, extent: Extent) -> Shape:
    """`shape` with another extent along one axis."""
    return (*shape[:axis], extent, *shape[axis + 1 :])
