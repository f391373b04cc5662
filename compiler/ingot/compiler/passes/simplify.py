"""Simplification: folding, shape arithmetic, identities and common subexpressions, until nothing changes."""

from __future__ import annotations

from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes import arithmetic, custom, folding, rearrange
from ingot.compiler.passes.numbering import merge_equal
from ingot.compiler.passes.sizes import settle_sizes
from ingot.compiler.rewrite import Rule, Trace, rewrite

RULES: tuple[Rule, ...] = (*custom.RULES, *folding.RULES, *rearrange.RULES, *arithmetic.RULES)


def simplify(graph: Graph, *, trace: Trace | None = None) -> Graph:
    """An equivalent graph that computes less. Nodes that no output needs disappear with the rebuilding."""
    while True:
        before = graph
        graph = settle_sizes(merge_equal(rewrite(graph, RULES, trace=trace, pass_name="simplify")))
        if graph is before:
            return graph
