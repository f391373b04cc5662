"""What is known at compile time: constants, shapes, conditions and trip counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.dims import Expr
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Node, Value, constant, operands_of, subgraphs_of
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.control import If, Loop
from ingot.compiler.ops.movement import DimValues, Expand, Gather, Reshape, Transpose
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.quantised import DequantizeBlocks
from ingot.compiler.ops.random import Entropy
from ingot.compiler.ops.shape_arithmetic import contents, known_dims
from ingot.compiler.passes.constants import has_symbolic_attributes, users
from ingot.compiler.rewrite import Patch, Rule, rebuild, substitute
from ingot.runtime.dtypes import boolean, i64

SMALL = 1 << 16  # elements that folding may always make
TABLE = 1 << 12  # elements from which a constant is a table worth keeping narrow


def _elements(types: Sequence[TensorType]) -> int:
    return sum(math.prod(t.static_shape()) for t in types)


def fold_constants(node: Node, graph: Graph) -> Patch | None:
    """f(constants) -> constant, unless that would be much larger than the operands (iota, expand)"""
    if isinstance(node, Input | Constant | Entropy | If | Loop | DequantizeBlocks) or subgraphs_of(node):
        return None
    operands = operands_of(node)
    if not all(isinstance(v, Constant) for v in operands) or not all(t.is_static for t in node.types):
        return None
    if has_symbolic_attributes(node) or _is_table(node, graph):
        return None
    limit = 1024 if isinstance(node, Expand) else SMALL
    if _elements(node.types) > max(limit, 0 if isinstance(node, Expand) else 2 * _elements([v.type for v in operands])):
        return None
    try:
        results = node.evaluate(*(v.data for v in operands if isinstance(v, Constant)))
    except (IrError, MemoryError):  # an index out of range and the like: the error belongs to the run that gets there
        return None
    return {node.result(i): _constant(array, node) for i, array in enumerate(results)}


def _constant(array: Array, node: Node) -> Constant:
    if isinstance(node, Transpose):  # stays a view of the weight: packing reads it in any order, and copies it anyway
        return constant(array)
    return constant(np.ascontiguousarray(array).reshape(array.shape))


def _is_table(node: Node, graph: Graph) -> bool:
    """A widened constant that is only looked up: the rule `gather_before_cast` widens what is found instead."""
    if not isinstance(node, Cast) or node.to.bits <= node.x.dtype.bits or _elements(node.types) < TABLE:
        return False
    if any(value is node for value in graph.results):
        return False
    readers = users(graph).get(node, [])
    return bool(readers) and all(isinstance(r, Gather) and r.data is node and r.indices is not node for r in readers)


def fold_shape_arithmetic(node: Node, graph: Graph) -> Patch | None:
    """a small integer value computed from shapes -> its dims; a condition that shapes decide -> its value"""
    if isinstance(node, Input | Constant | DimValues):
        return None
    patch: dict[Value, Value] = {}
    for result in node.results():
        found = _known(result) if graph.uses().get(result) else None  # one unused now may have been folded before
        if found is not None:
            patch[result] = found
    return patch or None


def _known(value: Value) -> Value | None:
    if value.dtype == boolean:
        found = contents(value)
        if found is None or any(x is None for x in found.ravel().tolist()):
            return None
        return constant(found.astype(bool))
    dims = known_dims(value)
    if dims is None:
        return None
    if not any(isinstance(d, Expr) for d in dims):
        numbers = [d for d in dims if isinstance(d, int)]
        return constant(np.array(numbers, value.dtype.to_numpy()).reshape(value.type.static_shape()))
    if isinstance(value, Cast) and isinstance(value.x, DimValues):
        return None
    made = DimValues(dims, value.rank == 0)
    return made if value.dtype == i64 else Cast(made, value.dtype)


def _known_bool(value: Value | None) -> bool | None:
    found = None if value is None else contents(value)
    element = None if found is None else found.item()
    return element if isinstance(element, bool) else None


def _inlined(graph: Graph, given: Sequence[Value]) -> tuple[Value, ...]:
    """The results of a sub-graph with values in the place of its inputs."""
    return substitute(graph.results, dict(zip(graph.inputs, given, strict=True)))


def _patched(node: Node, results: Sequence[Value]) -> Patch | None:
    if any(a != b.type for a, b in zip(node.types, results, strict=True)):
        return None
    return dict(zip(node.results(), results, strict=True))


def inline_if(node: If, graph: Graph) -> Patch | None:
    """if(true, f, g) -> f; if(false, f, g) -> g"""
    chosen = _known_bool(node.condition)
    if chosen is None:
        return None
    graph = node.then_graph if chosen else node.else_graph
    return None if graph.sizes() else _patched(node, _inlined(graph, node.captures))


def inline_loop(node: Loop, graph: Graph) -> Patch | None:
    """a loop of no trip -> its carried values; a loop of one trip -> its body"""
    trips = None if node.trip is None else known_dims(node.trip)
    starts = True if node.condition is None else _known_bool(node.condition)
    if starts is False or (trips is not None and isinstance(trips[0], int) and trips[0] <= 0):
        types = node.types[len(node.carried) :]
        if not all(t.is_static and t.shape[0] == 0 for t in types):
            return None
        return _patched(
            node, (*node.carried, *(constant(np.zeros(t.static_shape(), t.dtype.to_numpy())) for t in types))
        )
    if trips != (1,) or not starts or node.body.sizes():
        return None
    given = (constant(0, i64), constant(True, boolean), *node.carried, *node.captures)
    results = _inlined(node.body, given)[1:]
    n = len(node.carried)
    scanned = [Reshape(v, (1, *v.shape)) for v in results[n:]]
    return _patched(node, (*results[:n], *scanned))


def capture_constants(node: If | Loop, graph: Graph) -> Patch | None:
    """a capture that is constant, made of dims or not used -> no capture: the sub-graphs hold it themselves"""
    graphs = subgraphs_of(node)
    skip = 0 if isinstance(node, If) else 2 + len(node.carried)
    gone: list[int] = []
    for i, value in enumerate(node.captures):
        inputs = [g.inputs[skip + i] for g in graphs]
        unused = all(not g.uses().get(x) for g, x in zip(graphs, inputs, strict=True))
        movable = isinstance(value, Constant | DimValues) and all(x.type == value.type for x in inputs)
        if unused or movable:
            gone.append(i)
    if not gone:
        return None
    captures = tuple(v for i, v in enumerate(node.captures) if i not in gone)
    closed = [_with_inputs(g, {g.inputs[skip + i]: node.captures[i] for i in gone}) for g in graphs]
    new: Node
    if isinstance(node, If):
        new = dataclasses.replace(node, captures=captures, then_graph=closed[0], else_graph=closed[1], origin=())
    else:
        new = dataclasses.replace(node, captures=captures, body=closed[0], origin=())
    return _patched(node, new.results())


def _with_inputs(graph: Graph, values: dict[Value, Value]) -> Graph:
    """`graph` with these inputs replaced by values that need no inputs."""
    changed = rebuild(graph, values)
    return dataclasses.replace(changed, inputs=tuple(i for i in graph.inputs if i not in values))


RULES: tuple[Rule, ...] = (inline_if, inline_loop, capture_constants, fold_shape_arithmetic, fold_constants)
