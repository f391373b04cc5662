"""Sizes that were taken to come from data and have turned out to be known."""

from __future__ import annotations

import dataclasses

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Graph, Value, fields_of, subgraphs_of
from ingot.compiler.ir.interpret import specialise
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops.shape_arithmetic import known_dims
from ingot.compiler.rewrite import rebuild


def settle_sizes(graph: Graph) -> Graph:
    """`graph` with symbols replaced that are bound to constants, to dims, or to a value that another is bound to.

    A symbol stays where its value does not fit what it is used for: that is for the run to say. Sub-graphs too; the
    graph itself when there is nothing to replace.
    """
    graph = _settle_bodies(graph)
    first: dict[Value, str] = {}
    for name, value in graph.sizes().items():
        known = known_dims(value)
        if known is None and value in first:
            known = (dims.symbol(first[value]),)
        first.setdefault(value, name)
        if known is not None and name not in dims.symbols(known[0]):
            graph = _replaced(graph, name, known[0])
    return graph


def _settle_bodies(graph: Graph) -> Graph:
    mapping: dict[Value, Value] = {}
    for node in graph.nodes():
        if subgraphs_of(node):
            fields = {f.name: getattr(node, f.name) for f in fields_of(node)}
            bodies = {name: settle_sizes(item) for name, item in fields.items() if isinstance(item, Graph)}
            changes = {name: body for name, body in bodies.items() if body is not fields[name]}
            if changes:
                renewed = dataclasses.replace(node, **changes)
                mapping.update(zip(node.results(), renewed.results(), strict=True))
    return rebuild(graph, mapping) if mapping else graph


def _replaced(graph: Graph, name: str, known: Dim) -> Graph:
    if name not in graph.bound:
        return graph
    range_ = graph.ranges.get(name, (0, dims.UNBOUNDED))
    low, high = dims.bounds(known, graph.ranges)
    if known in [dims.symbol(s) for s in graph.bound]:  # the one that stays takes over what is known of both
        other = dims.show(known)
        range_ = max(low, range_[0]), min(high, range_[1])
        if range_[0] > range_[1]:
            return graph
        graph = dataclasses.replace(graph, ranges={**graph.ranges, other: range_})
    elif not range_[0] <= low <= high <= range_[1]:
        return graph  # the value has to be checked when the model runs
    try:
        return specialise(graph, {name: known})
    except IrError:
        return graph
