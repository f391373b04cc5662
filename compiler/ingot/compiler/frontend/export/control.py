"""If, Loop and fused groups. What a sub-graph captures it names in the graph around it, as ONNX has it."""

from __future__ import annotations

from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops.control import If, Loop, Require
from ingot.compiler.ops.fused import Fused
from ingot.runtime.dtypes import boolean, i64

TABLE = Table()


@TABLE.exports(If)
def if_(scope: Scope, node: If) -> Written:
    captures = [scope.name(v) for v in node.captures]
    then, otherwise = (
        scope.subgraph(graph, (), dict(zip(graph.inputs, captures, strict=True)))
        for graph in (node.then_graph, node.else_graph)
    )
    condition = scope.name(node.condition)
    return scope.add_many("If", (condition,), len(node.types), then_branch=then, else_branch=otherwise)


@TABLE.exports(Require)
def require(scope: Scope, node: Require) -> Written:
    """Index 1 of a table of one entry where the condition is not as wanted: the run fails, naming the node, which is
    named after the message."""
    failed = scope.name(node.condition)
    if node.wanted:
        failed = scope.add("Not", failed)
    if node.condition.rank:
        failed = scope.add("Reshape", failed, scope.shape(()))
    guard = scope.add("Gather", scope.constant([0], "guard"), scope.cast(failed, boolean, i64), axis=0)
    scope.nodes[-1].name = scope.export.node_names.unique(f"require: {node.message}")
    passed = scope.add("Equal", guard, scope.scalar(0))
    return [_unchanged(scope, node, passed, value) for value in node.values]


def _unchanged(scope: Scope, node: Require, passed: str, value: Value) -> str:
    compute = scope.compute_type("Where", value.dtype, node)
    name = scope.cast(scope.name(value), value.dtype, compute)
    return scope.cast(scope.add("Where", passed, name, name), compute, value.dtype)


@TABLE.exports(Loop)
def loop(scope: Scope, node: Loop) -> Written:
    inputs = node.body.inputs
    formal = inputs[: 2 + len(node.carried)]
    captures = dict(zip(inputs[len(formal) :], map(scope.name, node.captures), strict=True))
    body = scope.subgraph(node.body, formal, captures)
    start = (node.trip, node.condition, *node.carried)
    names = [scope.name(v) if v is not None else None for v in start]
    return scope.add_many("Loop", names, len(node.types), body=body)


@TABLE.exports(Fused)
def fused(scope: Scope, node: Fused) -> Written:
    wanted = [scope.wanted.get(v) for v in node.results()]
    return scope.inline(node.body, [scope.name(v) for v in node.operands], wanted)
