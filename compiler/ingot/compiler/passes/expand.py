"""Expansion of composites into core operators."""

from __future__ import annotations

from ingot.compiler.ir.graph import Graph, Node, Value
from ingot.compiler.rewrite import Patch, Trace, rewrite


def expand(graph: Graph, keep: frozenset[type[Node]] = frozenset(), *, trace: Trace | None = None) -> Graph:
    """`graph` with every node that has a definition and whose class is not in `keep` replaced by it, repeatedly."""

    def expand_composite(node: Node, graph: Graph) -> Patch | None:
        """composite -> its definition"""
        if type(node) in keep:
            return None
        definition = node.expand()
        if definition is None:
            return None
        results = (definition,) if isinstance(definition, Value) else tuple(definition)
        return dict(zip(node.results(), results, strict=True))

    return rewrite(graph, (expand_composite,), trace=trace, pass_name="expand")
