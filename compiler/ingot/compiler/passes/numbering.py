"""Common subexpressions: global value numbering (Alpern, Wegman and Zadeck 1988) over the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import numpy as np

from ingot.compiler.ir.graph import (
    Array,
    Graph,
    Input,
    Node,
    Result,
    Value,
    fields_of,
    node_of,
    subgraphs_of,
    with_operands,
)
from ingot.compiler.rewrite import substitute

CONTENT_LIMIT = 1 << 16  # bytes up to which constants are compared by content, beyond by the memory they lie in


def merge_equal(graph: Graph) -> Graph:
    """`graph` with nodes that compute the same from the same operands made one, in its sub-graphs too.

    The graph itself when there are none. Nodes with sub-graphs are never merged with each other.
    """
    mapping: dict[Value, Value] = {}
    table: dict[Hashable, Node] = {}
    for node in graph.nodes():
        if isinstance(node, Input):
            continue
        new = with_operands(node, mapping) if mapping else node
        bodies = subgraphs_of(new)
        if bodies:
            new = _with_bodies(new)
            found = new
        else:
            found = table.setdefault(_key(new), new)
        if found.types != node.types:  # operands of more precise type made a more precise result
            found = node
        if found is not node:
            mapping.update(zip(node.results(), found.results(), strict=True))
    if not mapping:
        return graph
    outputs = tuple((name, mapping.get(v, v)) for name, v in graph.outputs)
    bound = {name: mapping.get(v, v) for name, v in graph.sizes().items()}
    watched = dict(zip(graph.watched, substitute(tuple(graph.watched.values()), mapping), strict=True))
    return dataclasses.replace(graph, outputs=outputs, bound=bound, watched=watched)


def _with_bodies(node: Node) -> Node:
    changes: dict[str, Any] = {}
    for f in fields_of(node):
        item = getattr(node, f.name)
        if isinstance(item, Graph) and (merged := merge_equal(item)) is not item:
            changes[f.name] = merged
    return dataclasses.replace(node, **changes) if changes else node


def _key(node: Node) -> Hashable:
    return (type(node), *(_field(getattr(node, f.name)) for f in fields_of(node)))


def _field(item: Any) -> Hashable:
    match item:
        case Value():
            return id(node_of(item)), item.index if isinstance(item, Result) else 0
        case np.ndarray():
            return _data(item)  # pyright: ignore[reportUnknownArgumentType]
        case tuple():
            return tuple(_field(x) for x in item)  # pyright: ignore[reportUnknownVariableType]
        case float():
            return item.hex()
        case _:
            return type(item), item  # pyright: ignore[reportUnknownVariableType]


def _data(array: Array) -> Hashable:
    kind = (array.dtype.str, array.dtype.name, array.shape)
    if array.dtype.hasobject:
        return (*kind, *array.reshape(-1).tolist())
    if array.nbytes <= CONTENT_LIMIT:
        return (*kind, array.tobytes())
    return (*kind, array.__array_interface__["data"][0], array.strides)
