"""Horizontal fusion: products of one value with several constant matrices become one product with all of them.

One contraction reads its left operand once, fills its panels better and is launched once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, constant
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Slice
from ingot.compiler.ops.pointwise import Add, Pointwise
from ingot.compiler.passes.constants import users
from ingot.compiler.rewrite import Patch, Rule


def join_products(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(x, v) + b, mat_mul(x, w) + c -> slices of mat_mul(x, [v w]) + [b c], where movement alone reads them"""
    siblings = [m for m in users(graph).get(node.a, ()) if isinstance(m, MatMul) and m.a is node.a]
    ends = {m: end for m in siblings if (end := _end(m, graph)) is not None}
    if len(ends) < 2 or next(iter(ends)) is not node:
        return None
    biased = [m for m, (_, bias) in ends.items() if bias is not None]
    weights = np.concatenate([_data(m.b) for m in ends], 1)
    whole: Value = MatMul(node.a, constant(weights))
    if biased:
        parts = [np.broadcast_to(0.0 if b is None else _data(b), m.shape[-1:]) for m, (_, b) in ends.items()]
        whole = Add(whole, constant(np.concatenate(parts).astype(weights.dtype)))
    patch: dict[Value, Value] = {}
    start: Dim = 0
    for product, (end, _) in ends.items():
        size = product.shape[-1]
        sizes = (*whole.shape[:-1], size)
        patch[end] = Slice(whole, (*(0,) * (whole.rank - 1), start), sizes, (1,) * whole.rank)
        start = start + size
    return patch


def _end(product: MatMul, graph: Graph) -> tuple[Node, Constant | None] | None:
    """What a product comes to, its bias added, if pointwise ops do not go on with it; None where it cannot be joined."""
    if not isinstance(product.b, Constant) or product.b.rank != 2 or product.a.rank < 2:
        return None
    end: Node = product
    bias: Constant | None = None
    match _readers(product, graph):
        case [Add(a, Constant() as b) as total] if a is product and b.rank <= 1 and total.type == product.type:
            end, bias = total, b
        case _:
            pass
    readers = _readers(end, graph)
    return (end, bias) if readers and not any(isinstance(r, Pointwise) for r in readers) else None


def _readers(value: Value, graph: Graph) -> Sequence[Node]:
    return () if value in graph.results else users(graph).get(value, ())


def _data(value: Value) -> np.ndarray:
    assert isinstance(value, Constant)
    return value.data


RULES: tuple[Rule, ...] = (join_products,)
