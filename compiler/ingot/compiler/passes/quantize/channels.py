"""Factors moved between an operator and the one before it: ``x @ w == (x / f) @ (f * w)``, channel by channel.

The division goes into the weights, scales and biases of what computes x where it can, and is an operator of its own
elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.ops.composite import Attention, LayerNorm, LeakyRelu
from ingot.compiler.ops.linear import AveragePool, MaxPool
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.pointwise import Add, Clip, Mul, Relu, Sub
from ingot.compiler.passes.constants import users
from ingot.compiler.passes.quantize.layers import weights_of
from ingot.compiler.passes.quantize.products import Array, Product, products
from ingot.compiler.rewrite import rebuild

DEPTH = 64  # operators through which a factor is followed


def inputs_divided(graph: Graph, names: Collection[str], factor: Array, *, fold_only: bool = False) -> Graph:
    """`graph` with the activations that the products `names` have in common divided by `factor` [channels], positive,
    and their weights multiplied by it: what it computes stays the same but for rounding.

    Where what computes the activations cannot be divided, or others read them, they are divided by an operator (with
    `fold_only`: the graph stays as it is).
    """
    found = products(graph)
    mine = [found[name] for name in names]
    x = mine[0].x
    shape = [1] * x.rank
    shape[mine[0].in_axis] = -1
    spread = factor.reshape(shape)
    nodes = {product.node for product in mine}
    alone = x not in graph.results and all(user in nodes for user in users(graph)[x])
    less = divided(graph, x, spread, found) if alone else None
    if less is None:
        if fold_only:
            return graph
        less = Mul(x, constant((1 / spread).astype(x.dtype.to_numpy())))
    return rebuild(graph, {each.node: each.with_operands(less, each.inputs_scaled(factor)) for each in mine})


def divided(graph: Graph, value: Value, factor: Array, known: Mapping[str, Product] | None = None) -> Value | None:
    """`value` divided by `factor`, positive, which has an axis for each of the value's: computed by the same operators
    with other weights. None where that cannot be, or where something else reads a value on the way; who reads `value`
    itself is not looked at."""
    nodes: dict[Value, Product] = {p.node: p for p in (products(graph) if known is None else known).values()}
    return _Division(graph, nodes).divided(value, factor, 0)


@dataclasses.dataclass(frozen=True)
class _Division:
    graph: Graph
    products: Mapping[Value, Product]

    def inner(self, value: Value, factor: Array, depth: int) -> Value | None:
        """As `divided`, of a value that is to have one reader."""
        if isinstance(value, Constant):
            return constant(_over(value, factor), origin=value.origin)
        if depth == DEPTH or self.graph.uses().get(value) != 1:
            return None
        return self.divided(value, factor, depth + 1)

    def divided(self, value: Value, factor: Array, depth: int) -> Value | None:
        match value:
            case LayerNorm(scale=Constant() as scale, bias=bias, axis=axis) if _fixed(bias):
                if axis != value.rank - 1 or not _is_along(factor, axis):
                    return None
                row = factor.reshape(-1)
                shift = constant(_over(bias, row)) if isinstance(bias, Constant) else None
                return dataclasses.replace(value, scale=constant(_over(scale, row)), bias=shift)
            case Relu(x=x) | LeakyRelu(x=x):
                inner = self.inner(x, factor, depth)
                return None if inner is None else dataclasses.replace(value, x=inner)
            case MaxPool(x=x, channels_last=last) | AveragePool(x=x, channels_last=last):
                inner = self.inner(x, factor, depth) if _is_along(factor, value.rank - 1 if last else 1) else None
                return None if inner is None else dataclasses.replace(value, x=inner)
            case Clip(x=x, low=low, high=high) if _fixed(low) and _fixed(high):
                inner = self.inner(x, factor, depth) if x.shape == value.shape else None
                bounds = [constant(_over(b, factor)) if isinstance(b, Constant) else None for b in (low, high)]
                return None if inner is None else dataclasses.replace(value, x=inner, low=bounds[0], high=bounds[1])
            case Add(a=a, b=b) | Sub(a=a, b=b):
                parts = [self.operand(v, factor, depth) for v in (a, b)]
                if parts[0] is None or parts[1] is None:
                    return None
                return dataclasses.replace(value, a=parts[0], b=parts[1])
            case Mul(a=a, b=Constant() as b) if b.rank <= factor.ndim:
                return dataclasses.replace(value, b=constant(_over(b, factor)))
            case Mul(a=Constant() as a, b=b) if a.rank <= factor.ndim:
                return dataclasses.replace(value, a=constant(_over(a, factor)))
            case Transpose(x=x, perm=perm):
                inner = self.inner(x, factor.transpose(np.argsort(perm)), depth)
                return None if inner is None else dataclasses.replace(value, x=inner)
            case Reshape(x=x):
                before = _before_reshape(factor, x.shape, value.shape)
                inner = None if before is None else self.inner(x, before, depth)
                return None if inner is None else dataclasses.replace(value, x=inner)
            case Attention(v=v) if factor.shape[-2] == 1:
                inner = self.operand(v, factor, depth)
                return None if inner is None else dataclasses.replace(value, v=inner)
            case _:
                return self.layer(value, factor)

    def operand(self, value: Value, factor: Array, depth: int) -> Value | None:
        """As `inner`, of a value that is broadcast to the factor's rank; what is computed must not be broadcast along
        the factor's axes."""
        if isinstance(value, Constant):
            return self.inner(value, factor, depth)
        beyond = factor.ndim - value.rank
        if beyond < 0 or any(d != 1 for d in factor.shape[:beyond]):
            return None
        own = factor.reshape(factor.shape[beyond:])
        if any(d not in (1, extent) for d, extent in zip(own.shape, value.shape, strict=True)):
            return None
        return self.inner(value, own, depth)

    def layer(self, value: Value, factor: Array) -> Value | None:
        """A product, whose output channels are divided."""
        product = self.products.get(value)
        if product is None or weights_of(product.w) is None or not _is_along(factor, product.out_axis):
            return None
        return product.outputs_scaled(1 / factor.reshape(-1))


def _fixed(value: Value | None) -> bool:
    return value is None or isinstance(value, Constant)


def _is_along(factor: Array, axis: int) -> bool:
    """Whether the factor differs along `axis` alone."""
    return all(d == 1 for i, d in enumerate(factor.shape) if i != axis)


def _over(value: Constant, factor: Array) -> Array:
    return (value.data / factor).astype(value.data.dtype)


def _before_reshape(factor: Array, before: Sequence[Dim], after: Sequence[Dim]) -> Array | None:
    """The factor of what is reshaped: its last axes, those that the factor has extents along, are split or joined."""
    first = next((i for i, d in enumerate(factor.shape) if d != 1), factor.ndim)
    extents = after[first:]
    if not all(isinstance(d, int) for d in extents):
        return None
    size = math.prod(d for d in extents if isinstance(d, int))
    place, left = len(before), 1
    while place > 0 and left < size:
        place -= 1
        extent = before[place]
        if not isinstance(extent, int):
            return None
        left *= extent
    if left != size:
        return None
    whole = np.broadcast_to(factor[(0,) * first], tuple(d for d in extents if isinstance(d, int)))
    return whole.reshape((1,) * place + tuple(d for d in before[place:] if isinstance(d, int)))
