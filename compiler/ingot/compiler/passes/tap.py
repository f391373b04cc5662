"""Intermediate values as outputs, so that they can be looked at."""

from __future__ import annotations

import dataclasses

from ingot.compiler.ir.dims import symbols
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, node_of
from ingot.compiler.ops.movement import DimValues, Reshape, Transpose
from ingot.runtime.manifest import MAX_NAME, MAX_RANK


def tap(graph: Graph) -> Graph:
    """`graph` with the watched values that it still computes as outputs more, under the user's names for them.

    A value counts as computed where it is part of the graph, or a transposed or reshaped form of what is: the outputs
    add no arithmetic. What passes have replaced by something else as a whole (a convolution into which a normalisation
    was folded, the scores inside recognised attention) is left out, and so are inputs, constants and values whose size
    is only known at run time. Run it before `fuse`: groups keep what is used outside of them.
    """
    live = set(graph.nodes())
    given = {symbol for x in graph.inputs for dim in x.shape for symbol in symbols(dim)}
    taken = {name for name, _ in graph.outputs}
    seen = set(graph.results)
    taps: list[tuple[str, Value]] = []
    for name, value in graph.watched.items():
        source = _source(value, live)
        if source is None or value in seen or name in taken or not 0 < len(name) <= MAX_NAME or value.rank > MAX_RANK:
            continue
        if any(not symbols(dim) <= given for dim in value.shape):
            continue
        seen.add(value)
        taps.append((name, value))
    return dataclasses.replace(graph, outputs=(*graph.outputs, *taps), watched={}) if taps else graph


def _source(value: Value, live: set[Node]) -> Node | None:
    """The node of the graph whose result `value` is, up to the order of elements; None where there is none."""
    node = node_of(value)
    while node not in live:
        if not isinstance(node, (Transpose, Reshape)):
            return None
        node = node_of(node.x)
    return None if isinstance(node, (Input, Constant, DimValues)) else node
