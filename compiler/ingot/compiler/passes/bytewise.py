"""Functions of one byte as tables: what quantised networks compute element by element between two quantisations.

    quantize(dequantize(x) * dequantize(quantize(sigmoid(dequantize(x))))) -> gather(table, x)

Where x is u8 there are 256 results, computed here as the operators say. A table takes some bytes a cycle, whatever the
function.
"""

from __future__ import annotations

import numpy as np

from ingot.compiler.ir.graph import (
    Array,
    Constant,
    Graph,
    Input,
    Node,
    Value,
    constant,
    node_of,
    operands_of,
    with_operands,
)
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.quantised import Quantize
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import i8, u8

ENTRIES = 256
LEAST = 4096  # elements below which a kernel of its own costs more than the function
MOST_NODES = 64
DEAR = (ops.Sigmoid, ops.Tanh, ops.Erf, ops.Exp, ops.Gelu, ops.Softplus, ops.Log, ops.Pow, ops.Div, ops.Sin, ops.Cos)


def tabulate(node: Quantize, graph: Graph) -> Patch | None:
    """quantize(f(dequantize(x, s, z), ...)) -> gather(table, x) for u8 elements of x and a dear function f"""
    size = node.type.size
    return None if isinstance(size, int) and size < LEAST else _tabulated(node, graph, DEAR)


def tabulate_all(node: Quantize, graph: Graph) -> Patch | None:
    """quantize(f(dequantize(x, s, z), ...)) -> gather(table, x) for u8 elements of x and any function f"""
    return _tabulated(node, graph, (ops.Pointwise,))


def _tabulated(node: Quantize, graph: Graph, wanted: tuple[type[ops.Pointwise], ...]) -> Patch | None:
    """A table in the place of `node`, where one of the `wanted` functions is between it and the only byte that it is
    computed of."""
    if node.to not in (u8, i8):
        return None
    inside: set[Node] = {node}
    open_ = _bytes_below(node, node, inside)
    while open_ is not None and len(open_) > 1:
        order = {value: place for place, value in enumerate(graph.nodes())}
        last = max(open_, key=lambda value: order[node_of(value)])
        below = _bytes_below(last, node, inside) if isinstance(last, Quantize) else None
        open_ = None if below is None else (open_ - {last}) | below
        inside.add(node_of(last))
    if open_ is None or not any(isinstance(each, wanted) for each in inside):
        return None
    (x,) = open_
    if x.dtype != u8:
        return None
    return {node: Gather(constant(_table(node, x), node.to), x, 0, origin=node.origin)}


def _table(node: Quantize, x: Value) -> Array:
    """What `node` is for each byte in the place of `x`."""
    every = Input("x", TensorType(u8, (*(1,) * (node.rank - 1), ENTRIES)))
    renewed: dict[Value, Value] = {x: every}
    for each in _between(node, x):
        renewed[each] = with_operands(each, renewed)
    graph = Graph((every,), (("y", renewed[node]),))
    feed = np.arange(ENTRIES, dtype=np.uint8).reshape(every.type.static_shape())
    return evaluate_graph(graph, {"x": feed})["y"].ravel()


def _between(node: Node, x: Value) -> list[Node]:
    """The nodes that compute `node` of `x`, in order."""
    order: list[Node] = []
    seen: set[Value] = {x}
    rest: list[tuple[Node, bool]] = [(node, False)]
    while rest:
        each, ready = rest.pop()
        if ready:
            order.append(each)
        elif each not in seen and not isinstance(each, Constant):
            seen.add(each)
            rest += [(each, True), *((node_of(value), False) for value in operands_of(each) if value is not x)]
    return order


def _bytes_below(top: Value, like: Value, inside: set[Node]) -> set[Value] | None:
    """The bytes that `top` is computed of, element by element in the shape of `like`; None where something else goes
    in. The nodes between are put `inside`."""
    found: set[Value] = set()
    rest, seen = [*operands_of(node_of(top))], set[Value]()
    while rest:
        value = rest.pop()
        if value in seen or (isinstance(value, Constant) and value.data.size == 1):
            continue
        seen.add(value)
        if value.dtype in (u8, i8) and value.type.shape == like.type.shape and not isinstance(value, Constant):
            found.add(value)
            continue
        if not isinstance(value, ops.Pointwise) or value.type.shape != like.type.shape or len(inside) > MOST_NODES:
            return None
        inside.add(value)
        rest += operands_of(value)
    return found


BYTEWISE: tuple[Rule, ...] = (tabulate,)
