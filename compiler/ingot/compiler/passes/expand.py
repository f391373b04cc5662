"""Expansion of composites into core operators."""

from __future__ import annotations

from collections.abc import Callable

from ingot.compiler.ir.graph import Graph, Node, Value
from ingot.compiler.rewrite import Patch, Trace, rewrite


def _none(node: Node) -> bool:
    return False


def expand(graph: Graph, keep: Callable[[Node], bool] = _none, *, trace: Trace | None = None) -> Graph:
    """`graph` with every node that has a definition and is not one to `keep` replaced by it, repeatedly."""

    def expand_composite(node: Node, graph: Graph) -> Patch | None:
        """composite -> its definition"""
        if keep(node):
            return None
        definition = node.expand()
        if definition is None:
            return None
        results = (definition,) if isinstance(definition, Value) else tuple(definition)
        return dict(zip(node.results(), results, strict=True))

    return rewrite(graph, (expand_composite,), trace=trace, pass_name="expand")
