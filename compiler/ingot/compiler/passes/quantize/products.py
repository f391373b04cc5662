"""Products of activations with weights known at compile time, each as matrices [groups, K, N].

Convolutions are products of patches. A product is found again under its name after a rewrite.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.graph import Constant, Graph, Input, Value, constant, node_of, topological
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Add
from ingot.compiler.ops.random import Entropy
from ingot.compiler.passes.constants import users
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.naming import called, numbered

Array: TypeAlias = NDArray[Any]


def known(value: Value) -> Array | None:
    """The elements of a value that is made of constants alone, such as a weight that is dequantised; else None."""
    if isinstance(value, Constant):
        return value.data
    if not value.type.is_static or any(isinstance(node, Input | Entropy) for node in topological([value])):
        return None
    return evaluate_graph(Graph((), (("value", value),)), {})["value"]


@dataclass(frozen=True, eq=False)
class Product:
    """A product with a weight known at compile time: MatMul(x, weight [K, N]), or Conv with filters."""

    name: str
    node: MatMul | Conv

    @property
    def x(self) -> Value:
        """The activations."""
        return self.node.a if isinstance(self.node, MatMul) else self.node.x

    @property
    def w(self) -> Value:
        """The weight."""
        return self.node.b if isinstance(self.node, MatMul) else self.node.w

    @property
    def groups(self) -> int:
        """The groups of a convolution, else 1."""
        return self.node.group if isinstance(self.node, Conv) else 1

    @property
    def in_axis(self) -> int:
        """The axis of the activations that has the input channels."""
        return 1 if isinstance(self.node, Conv) and not self.node.channels_last else self.x.rank - 1

    @property
    def out_axis(self) -> int:
        """The axis of the result that has the output channels."""
        return 1 if isinstance(self.node, Conv) and not self.node.channels_last else self.node.rank - 1

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        shape = self.w.type.static_shape()
        return (shape[0], shape[1]) if isinstance(self.node, MatMul) else (shape[1] * self.groups, shape[0])

    def weight(self) -> Array:
        """The elements of the weight, as they are computed with."""
        found = known(self.w)
        assert found is not None
        return found

    def matrices(self, weight: Array | None = None) -> Array:
        """The weight, or another of its shape, as [groups, K, N]."""
        data = self.weight() if weight is None else weight
        if isinstance(self.node, MatMul):
            return data[None]
        return data.reshape(self.groups, data.shape[0] // self.groups, -1).transpose(0, 2, 1)

    def weight_of(self, matrices: Array) -> Array:
        """The weight that has these matrices [groups, K, N]."""
        if isinstance(self.node, MatMul):
            return matrices[0]
        return np.ascontiguousarray(matrices.transpose(0, 2, 1)).reshape(self.w.type.static_shape())

    def inputs_scaled(self, factor: Array) -> Array:
        """The weight times one factor for each input channel."""
        data = self.weight()
        if isinstance(self.node, MatMul):
            return data * factor[:, None].astype(data.dtype)
        per_filter = np.repeat(factor.reshape(self.groups, -1), data.shape[0] // self.groups, axis=0)
        return data * per_filter.reshape(*data.shape[:2], *(1,) * (data.ndim - 2)).astype(data.dtype)

    def outputs_scaled(self, factor: Array) -> MatMul | Conv | None:
        """The node with one factor on each output channel, in the weight and the bias; None where the bias is not known
        at compile time."""
        data = self.weight()
        if isinstance(self.node, MatMul):
            return self.with_operands(self.x, data * factor.astype(data.dtype))
        column = factor.reshape(-1, *(1,) * (data.ndim - 1)).astype(data.dtype)
        bias = self.node.bias
        made = self.with_operands(self.x, data * column)
        assert isinstance(made, Conv)
        if bias is None:
            return made
        if (own := known(bias)) is None:
            return None
        return dataclasses.replace(made, bias=constant((own * factor).astype(own.dtype)))

    def largest_inputs(self) -> Array:
        """The largest magnitude of the weights of each input channel."""
        data = np.abs(self.weight())
        if isinstance(self.node, MatMul):
            return data.max(1, initial=0)
        grouped = data.reshape(self.groups, -1, *data.shape[1:])
        return np.moveaxis(grouped, 2, 1).reshape(self.channels[0], -1).max(1, initial=0)

    def largest_outputs(self) -> Array:
        """The largest magnitude of the weights of each output channel."""
        data = np.abs(self.weight())
        return data.max(0, initial=0) if isinstance(self.node, MatMul) else data.reshape(len(data), -1).max(1)

    def result(self, graph: Graph) -> Value:
        """What the product computes with its bias: of a MatMul the Add that alone reads it, of something known for each
        output channel."""
        readers = users(graph).get(self.node, [])
        if isinstance(self.node, Conv) or len(readers) != 1 or self.node in graph.results:
            return self.node
        match readers[0]:
            case Add(a=a, b=b) as sum_ if sum_.shape == self.node.shape:
                other = b if a is self.node else a
                return sum_ if self.per_channel(other) is not None else self.node
            case _:
                return self.node

    def biased(self, graph: Graph) -> tuple[Add, Value] | None:
        """The sum of a MatMul and its bias, and the bias, which is known at compile time; None without."""
        total = self.result(graph)
        if not isinstance(total, Add):
            return None
        return total, total.b if total.a is self.node else total.a

    def per_channel(self, value: Value) -> Array | None:
        """The elements [output channels] of a value known at compile time that differs between output channels alone;
        None for others."""
        if value.rank > self.node.rank or (data := known(value)) is None:
            return None
        shape = (1,) * (self.node.rank - data.ndim) + data.shape
        if any(d != 1 for i, d in enumerate(shape) if i != self.out_axis):
            return None
        return np.broadcast_to(data.reshape(-1), (self.channels[1],))

    def with_operands(self, x: Value, w: Value | Array) -> MatMul | Conv:
        """The product's node on other operands."""
        weight = w if isinstance(w, Value) else constant(w, self.w.dtype, origin=node_of(self.w).origin)
        if isinstance(self.node, MatMul):
            return dataclasses.replace(self.node, a=x, b=weight)
        return dataclasses.replace(self.node, x=x, w=weight)

    def rows(self, x: Array) -> Array:
        """Activations as the rows that the matrices multiply: [groups, rows, K]."""
        if isinstance(self.node, MatMul):
            return x.reshape(1, -1, x.shape[-1])
        return _patches(self.node, np.moveaxis(x, -1, 1) if self.node.channels_last else x)


def products(graph: Graph) -> dict[str, Product]:
    """The products of `graph` (not of its sub-graphs) by name, in the order of computation. A product is called after
    its node's first origin, which rewrites keep; where several are called the same, the later ones get numbers."""
    found = [node for node in graph.nodes() if isinstance(node, MatMul | Conv) and _is_product(node)]
    return {name: Product(name, node) for name, node in zip(numbered(map(called, found)), found, strict=True)}


def by_activations(found: Mapping[str, Product]) -> dict[Value, list[str]]:
    """The names of the products that read each activation, in order."""
    together: dict[Value, list[str]] = {}
    for name, product in found.items():
        together.setdefault(product.x, []).append(name)
    return together


def _is_product(node: MatMul | Conv) -> bool:
    w = node.b if isinstance(node, MatMul) else node.w
    if isinstance(node, MatMul) and w.rank != 2:
        return False
    return w.dtype.is_float and w.type.is_static and w.type.size != 0 and _constant(w)


def _constant(value: Value) -> bool:
    return not any(isinstance(node, Input | Entropy) for node in topological([value]))


def _patches(conv: Conv, x: Array) -> Array:
    """What the filters of each group see of x [N, C, *spatial]: [groups, places, C / group * taps]."""
    spatial = x.ndim - 2
    pads = [(0, 0), (0, 0), *zip(conv.pads[:spatial], conv.pads[spatial:], strict=True)]
    x = np.pad(x, pads)
    spans = tuple(d * (k - 1) + 1 for d, k in zip(conv.dilations, conv.kernel, strict=True))
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
    every = tuple(slice(None, None, s) for s in conv.strides)
    taps = tuple(slice(None, None, d) for d in conv.dilations)
    windows = windows[(slice(None), slice(None), *every, *taps)]
    grouped = windows.reshape(x.shape[0], conv.group, x.shape[1] // conv.group, *windows.shape[2:])
    order = (1, 0, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    return grouped.transpose(order).reshape(conv.group, -1, x.shape[1] // conv.group * int(np.prod(conv.kernel)))


def chosen(graph: Graph, only: Collection[str] | None, exclude: Collection[str]) -> dict[str, Product]:
    """The products named in `only` (None: all) and not in `exclude`. Raises QuantisationError for a name that none
    has."""
    found = products(graph)
    for name in (*(only or ()), *exclude):
        if name not in found:
            near = difflib.get_close_matches(name, found, 3) or list(found)[:3]
            hint = f"; there are {', '.join(map(repr, near))}" if near else ""
            raise QuantisationError(f"no product with constant weights is called {name!r}{hint}")
    return {name: each for name, each in found.items() if (only is None or name in only) and name not in exclude}
