"""The graph's rules: acyclic, closed, names unique, types as inferred, every symbolic dim known."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Graph, Input, Node, dependencies_of, describe, node_of, subgraphs_of, symbols_of
from ingot.compiler.ir.types import IrError, TensorType
from ingot.runtime.dtypes import i64


def verify_graph(graph: Graph) -> None:
    """Check `graph` and its sub-graphs.

    No value depends on itself; inputs and outputs have unique names; only the graph's own inputs are used; every node
    infers the types that it carries (which includes that sub-graphs agree with their captures); a symbolic dim occurs
    in the shape of an input, is bound to an i64 scalar, or stands alone as a dim of the node that brings it up; ranges
    are not empty.
    """
    _verify(graph, frozenset(), frozenset(s for x in graph.inputs for s in symbols_of(x)))


def _verify(graph: Graph, outer: frozenset[str], told: frozenset[str]) -> None:
    where = f"graph {graph.name!r}"
    _check_acyclic(graph, where)
    _check_unique((i.label for i in graph.inputs), f"{where} has two inputs named")
    _check_unique((name for name, _ in graph.outputs), f"{where} has two outputs named")
    for name, (low, high) in graph.ranges.items():
        if low > high:
            raise IrError(f"{where}: the range {low}..{high} of {name} is empty")
    own = set(graph.inputs)
    known = set(outer)
    for node in graph.inputs:
        known |= _symbols(node.types)
    for name, value in graph.sizes().items():
        if value.dtype != i64 or value.rank:
            raise IrError(f"{where}: {name} is bound to {value.type}, one i64 is needed")
        if name in outer or name in told:
            raise IrError(f"{where}: {name} is bound, but already has a value where this graph begins")
    known |= graph.bound.keys()
    for node in graph.nodes():
        if isinstance(node, Input):
            if node not in own:
                raise IrError(f"{where} uses input {node.label!r}, which is not one of its inputs")
            continue
        _check_types(node, where)
        _check_symbols(node, known, where)
        for body in subgraphs_of(node):
            _verify(body, frozenset(known), frozenset())


def _check_acyclic(graph: Graph, where: str) -> None:
    done: set[Node] = set()
    active: set[Node] = set()
    for root in (*graph.results, *graph.bound.values()):
        stack = [node_of(root)]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            active.add(node)
            waiting = [n for n in map(node_of, dependencies_of(node, graph.bound)) if n not in done]
            if not waiting:
                active.discard(node)
                done.add(node)
                stack.pop()
            for n in waiting:
                if n in active:
                    raise IrError(f"{where}: {describe(n)} depends on itself")
                stack.append(n)


def _check_unique(names: Iterable[str], message: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise IrError(f"{message} {name!r}")
        seen.add(name)


def _check_types(node: Node, where: str) -> None:
    try:
        inferred = tuple(node.infer())
    except IrError as error:
        raise IrError(f"{where}: {describe(node)} is malformed: {error}") from error
    if inferred != node.types:
        raise IrError(f"{where}: {describe(node)} carries {_list(node.types)} but infers {_list(inferred)}")


def _check_symbols(node: Node, known: set[str], where: str) -> None:
    alone = {dims.show(d) for t in node.types for d in t.shape if not isinstance(d, int)}
    for name in sorted(_symbols(node.types) - known):
        if name not in alone:
            raise IrError(
                f"{where}: {name} in the type {_list(node.types)} of {describe(node)} occurs in no input's shape"
            )
        known.add(name)


def _symbols(types: Collection[TensorType]) -> frozenset[str]:
    return frozenset(name for t in types for d in t.shape for name in dims.symbols(d))


def _list(types: Iterable[TensorType]) -> str:
    return ", ".join(map(str, types))
