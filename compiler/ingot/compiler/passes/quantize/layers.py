"""The layers of a graph that can be quantised: convolutions and products with constant weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Node, Value
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.passes.constants import users
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.flow import averaged, moved, pointwise, scored
from ingot.compiler.passes.quantize.naming import called, numbered
from ingot.compiler.passes.quantize.products import Product
from ingot.runtime.dtypes import f32

LayerNode: TypeAlias = Conv | ConvTranspose | MatMul


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or product of `x` with the constant weights `w`, both f32.

    `names` are those that the user knows it by, `name` is one of its own. `is_first`: nothing but elementwise
    operators, pools and movement lie between an input of the model and it; `is_last`: between it and an output.
    """

    name: str
    names: tuple[str, ...]
    node: LayerNode
    x: Value
    w: Value
    is_first: bool
    is_last: bool

    @property
    def channels(self) -> int | None:
        """The axis of `w` along which there is one grid for each output channel; None where it can have one alone."""
        match self.node:
            case Conv():
                return 0
            case ConvTranspose(group=1):
                return 1
            case MatMul() if self.w.rank == 2:
                return 1
            case _:
                return None

    @property
    def product(self) -> Product | None:
        """The layer as matrices that rows of activations are multiplied by; None for those that are none."""
        if isinstance(self.node, ConvTranspose) or (isinstance(self.node, MatMul) and self.w.rank != 2):
            return None
        return Product(self.name, self.node)

    @property
    def summed(self) -> tuple[int, ...]:
        """The axes of `w` that a grid for each output channel has in common."""
        return tuple(axis for axis in range(self.w.rank) if axis != self.channels)

    def weights(self) -> Array:
        """The elements of `w`, f32. Raises QuantisationError for NaN and infinities."""
        data = weights_of(self.w)
        assert data is not None
        if not np.isfinite(data).all():
            what = f"the weights of {self.name} have NaN or infinities"
            raise QuantisationError(f"{what}: mend them or exclude the layer")
        return data


@dataclass(frozen=True)
class Selection:
    """Which layers are quantised: those that match one of the patterns of `only` (default: all) and none of `exclude`,
    as in `fnmatch`, by any of their names. Without `ends` the first and the last ones are left as they are, unless
    `only` has their names as they are."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ends: bool = False

    def among(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The chosen ones. Raises QuantisationError for a pattern that matches no layer."""
        for pattern in (*self.only, *self.exclude):
            if not any(_matches(layer, pattern) for layer in layers):
                known = [name for layer in layers for name in layer.names]
                near = difflib.get_close_matches(pattern, known, 3) or known[:3]
                raise QuantisationError(
                    f"no layer that can be quantised is called {pattern!r}"
                    + (f"; there are {', '.join(map(repr, near))}" if near else "")
                )
        return tuple(layer for layer in layers if self._has(layer))

    def _has(self, layer: Layer) -> bool:
        if any(_matches(layer, pattern) for pattern in self.exclude):
            return False
        if any(name in self.only for name in layer.names):
            return True
        wanted = not self.only or any(_matches(layer, pattern) for pattern in self.only)
        return wanted and (self.ends or not (layer.is_first or layer.is_last))


def _matches(layer: Layer, pattern: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in layer.names)


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """The layers of the main graph that can be quantised, in order. What is quantised already is not among them."""
    products = {node: operands for node in graph.nodes() if (operands := _operands(node)) is not None}
    first, last = _near_inputs(graph), _near_outputs(graph, products)
    found: list[Layer] = []
    for (node, (x, w)), name in zip(products.items(), numbered(map(called, products)), strict=True):
        assert isinstance(node, Conv | ConvTranspose | MatMul)
        known = dict.fromkeys((name, *node.origin, *_watched(graph, node)))
        found.append(Layer(name, tuple(known), node, x, w, x in first, node in last))
    return tuple(found)


def names_of(graph: Graph, values: Iterable[Value]) -> dict[Value, str]:
    """A name for each value: the user's for the tensor where it is known, else that of the node, else the operator's;
    the same graph gives the same names."""
    tensors: dict[Value, str] = {}
    for name, value in (*graph.outputs, *graph.watched.items()):
        tensors.setdefault(value, name)
    wanted = list(values)
    return dict(zip(wanted, numbered(tensors.get(v) or called(v) for v in wanted), strict=True))


def weights_of(value: Value) -> Array | None:
    """The elements of f32 weights: of a constant that may be moved, and stored as halves; None for other values."""
    match value:
        case Constant(data=data):
            return data
        case Cast(x=x, to=to) if to == f32 and x.dtype.is_float and (data := weights_of(x)) is not None:
            return data.astype(np.float32)
        case Transpose(x=x, perm=perm) if (data := weights_of(x)) is not None:
            return data.transpose(perm)
        case Reshape(x=x) if value.type.is_static and (data := weights_of(x)) is not None:
            return data.reshape(value.type.static_shape())
        case _:
            return None


def _operands(node: Node) -> tuple[Value, Value] | None:
    """The activation and the weights of a layer."""
    match node:
        case Conv(x=x, w=w, bias=bias, channels_last=False) | ConvTranspose(x=x, w=w, bias=bias, channels_last=False):
            constant_bias = bias is None or weights_of(bias) is not None
        case MatMul(a=x, b=w):
            constant_bias = True
        case _:
            return None
    if not constant_bias or x.dtype != f32 or w.dtype != f32 or weights_of(w) is None or weights_of(x) is not None:
        return None
    return (x, w) if w.type.size != 0 else None


def _watched(graph: Graph, node: Node) -> list[str]:
    return [name for name, value in graph.watched.items() if value is node]


def _near_inputs(graph: Graph) -> set[Value]:
    """The values made of inputs of the model by elementwise operators, pools and movement."""
    near: set[Value] = {x for x in graph.inputs if x.dtype.is_float or x.dtype.is_integer}
    for node in graph.nodes():
        sources = moved(node) or pointwise(node) or averaged(node)
        if isinstance(node, Cast) and node.dtype == f32:
            sources = (node.x,)
        if sources and any(v in near for v in sources) and all(v in near or _is_constant(v) for v in sources):
            near.update(node.results())
    return near


def _is_constant(value: Value) -> bool:
    return weights_of(value) is not None


def _near_outputs(graph: Graph, products: Mapping[Node, tuple[Value, Value]]) -> set[Value]:
    """The values that reach outputs, and no product, through elementwise operators, pools, movement and softmax."""
    outputs = set(graph.results)
    reading = users(graph)
    ends: dict[Value, tuple[bool, bool]] = {}  # whether it reaches an output, and whether a product
    for node in reversed(graph.nodes()):
        for value in node.results():
            output, product = value in outputs, False
            for reader in reading.get(value, ()):
                if reader in products:
                    product = product or products[reader][0] is value
                elif value in (moved(reader) or pointwise(reader) or averaged(reader) or scored(reader)):
                    for result in reader.results():
                        output, product = output or ends[result][0], product or ends[result][1]
            ends[value] = output, product
    return {value for value, (output, product) in ends.items() if output and not product}
