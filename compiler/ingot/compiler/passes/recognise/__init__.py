"""Recognition of composites that exporters have written as their parts: activations, norms, softmax, attention.

The rules expect a simplified graph: constants on the right, squares as products, equal values computed once. What is
recognised may be rounded differently than its parts. A composite is made only where its parts have no other user.
"""

from __future__ import annotations

from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes import sink
from ingot.compiler.passes.recognise import activation, attention, norm, rotary, spelling
from ingot.compiler.passes.simplify import simplify
from ingot.compiler.rewrite import Rule, Trace, rewrite

RULES: tuple[Rule, ...] = (
    *spelling.RULES,
    *activation.RULES,
    *norm.RULES,
    *attention.RULES,
    *rotary.RULES,
    *spelling.LATE,
)


def recognise(graph: Graph, *, trace: Trace | None = None) -> Graph:
    """`graph` with composites in the place of their parts, and with transposes and reshapes sunk."""
    while True:
        before = graph
        graph = simplify(rewrite(graph, (*sink.RULES, *RULES), trace=trace, pass_name="recognise"), trace=trace)
        if graph is before:
            return graph
