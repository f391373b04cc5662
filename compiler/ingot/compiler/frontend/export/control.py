"""If, Loop and fused groups. What a sub-graph captures it names in the graph around it, as ONNX has it."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.signs import sum_with_constant
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.dims import Dim, symbols
from ingot.compiler.ir.graph import Constant, Result, Value, node_of
from ingot.compiler.ops.control import If, Loop, Require
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.movement import Slice
from ingot.compiler.ops.pointwise import Clip, Max, Relu
from ingot.compiler.ops.shape_arithmetic import known_dims
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
    results = scope.add_many("Loop", names, len(node.types), body=body)
    for i in range(len(node.carried), len(results)):
        room, *extents = node.types[i].shape
        full = _runs_in_full(scope, node, room)
        if not (full and scope.range_of(room)[0] > 0) and _computable(scope, node, extents):
            results[i] = _with_extents(scope, results[i], extents)
        if not (full or _cut_to_what_ran(scope, node, node.result(i))):
            results[i] = _filled_up(scope, node, i, results[i])
    return results


def _computable(scope: Scope, node: Loop, extents: Sequence[Dim]) -> bool:
    """Whether some of the extents are symbolic, and none is told by the loop itself."""
    needed = {s for d in extents for s in symbols(d)}
    return bool(needed) and all(scope.source_of(s) not in (None, node) for s in needed)


def _with_extents(scope: Scope, stacked: str, extents: Sequence[Dim]) -> str:
    """Without an iteration ONNX Runtime takes extents that it does not know for 0."""
    rows = scope.add("Gather", scope.add("Shape", stacked), scope.constant([0], "zero"), axis=0)
    shape = scope.add("Concat", rows, scope.shape(extents), axis=0)
    return scope.add("Reshape", stacked, shape)  # 0 copies an extent, which is 0 then or has no element


def _filled_up(scope: Scope, node: Loop, index: int, stacked: str) -> str:
    """ONNX stacks a row an iteration; here there is room for more, and what no iteration gives is 0."""
    dtype, rank = node.types[index].dtype, node.types[index].rank
    zero = scope.constant([0], "zero")
    done = scope.add("Gather", scope.add("Shape", stacked), zero, axis=0)
    missing = scope.add("Sub", scope.dim(node.types[index].shape[0]), done)
    pads = [scope.constant([0] * rank, "zeros"), missing]
    if rank > 1:
        pads.append(scope.constant([0] * (rank - 1), "zeros"))
    compute = scope.compute_type("Pad", dtype, node)
    padded = scope.add("Pad", scope.cast(stacked, dtype, compute), scope.add("Concat", *pads, axis=0))
    return scope.cast(padded, compute, dtype)


def _runs_in_full(scope: Scope, node: Loop, room: Dim) -> bool:
    """Whether the loop surely has as many iterations as there is room for."""
    first, going = node.condition, node.body.results[0]
    starts = first is None or (isinstance(first, Constant) and bool(first.data.all()))
    goes_on = going is node.body.inputs[1] or (isinstance(going, Constant) and bool(going.data.all()))
    if not (starts and goes_on) or node.trip is None:
        return False
    if known_dims(node.trip) == (room,):
        return True
    match scope.size_of(room):  # a trip count below 0 is 0
        case Max(a=count, b=Constant(data=low)) | Clip(x=count, low=Constant(data=low), high=None):
            return count is node.trip and not low.any()
        case Relu(x=count) | count:
            return count is node.trip


def _cut_to_what_ran(scope: Scope, node: Loop, stacked: Value) -> bool:
    """Whether `stacked` is only read as far as the loop has counted, in a carried value, that it ran."""
    readers = scope.readers(stacked)
    if readers is None:
        return False
    for reader in readers:
        match reader:
            case Slice(x=x, starts=(0, *_), sizes=(size, *_), steps=(1, *_)) if x is stacked:
                if not _is_count(node, scope.size_of(size)):
                    return False
            case Require(values=values):
                same = (reader.result(i) for i, v in enumerate(values) if v is stacked)
                if not all(_cut_to_what_ran(scope, node, v) for v in same):
                    return False
            case _:
                return False
    return True


def _is_count(node: Loop, value: Value | None) -> bool:
    """Whether `value` is how many iterations `node` has had: carried from 0 on, the number of each plus 1."""
    while value is not None and isinstance(origin := node_of(value), Require):
        value = origin.values[value.index if isinstance(value, Result) else 0]
    if value is None or node_of(value) is not node:
        return False
    index = value.index if isinstance(value, Result) else 0
    if index >= len(node.carried):
        return False
    start = node.carried[index]
    if not isinstance(start, Constant) or start.data.any():
        return False
    return sum_with_constant(node.body.results[1 + index]) == (node.body.inputs[0], 1)


@TABLE.exports(Fused)
def fused(scope: Scope, node: Fused) -> Written:
    wanted = [scope.wanted.get(v) for v in node.results()]
    return scope.inline(node.body, [scope.name(v) for v in node.operands], wanted)
