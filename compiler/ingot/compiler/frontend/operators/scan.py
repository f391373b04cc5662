"""Scan: a Loop over an axis of its scan inputs. The version of opset 8 is one such Loop for every batch element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnx import GraphProto

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.bodies import agree, closed, same_values
from ingot.compiler.frontend.scope import Body
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.frontend.topology import unused_names
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Graph, Input, Value
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.control import Loop, Require
from ingot.compiler.ops.movement import Gather, Slice, Transpose
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op

_COUNTER = TensorType(dtypes.i64, ()), TensorType(dtypes.boolean, ())  # what a Loop gives its body


@dataclass(frozen=True)
class _Sequence:
    """What one Scan runs over: states, and scan inputs with the axis of each and whether it is read backwards.

    `length` is the extent of those axes. With `valid` (i64 []) only so many elements count: states stay as they are
    after them, scan outputs are 0, and backwards begins at the last of them.
    """

    states: tuple[Value, ...]
    scanned: tuple[Value, ...]
    axes: tuple[int, ...]
    backwards: tuple[bool, ...]
    length: Dim
    valid: Value | None = None


@onnx_op("Scan", since=9)
def scan(ctx: Context) -> Results:
    states, scanned = _operands(ctx, ctx.variadic())
    axes = _per_item(ctx, "scan_input_axes", len(scanned))
    axes = tuple(ctx.axis(a, x.rank) for a, x in zip(axes, scanned, strict=True))
    length = _common(ctx, [(x, axis) for x, axis in zip(scanned, axes, strict=True)])
    backwards = tuple(map(bool, _per_item(ctx, "scan_input_directions", len(scanned))))
    node = _loop(ctx, ctx.graph("body"), _Sequence(states, scanned, axes, backwards, length))
    results = node.results()
    return *results[: len(states)], *_placed(ctx, results[len(states) :], length)


@onnx_op("Scan", since=8)
def scan_of_batches(ctx: Context) -> Results:
    """Operands and results have the batch as axis 0, scan inputs and outputs the sequence as axis 1."""
    lengths = ctx.optional(0)
    states, scanned = _operands(ctx, ctx.variadic(1))
    if any(x.rank < 1 for x in states) or any(x.rank < 2 for x in scanned):
        raise ctx.error("every state needs a batch axis, every scan input a batch and a sequence axis")
    every = (*states, *scanned)
    batch = _common(ctx, [(x, 0) for x in (*every, *(() if lengths is None else (lengths,)))])
    length = _common(ctx, [(x, 1) for x in scanned])
    if lengths is not None and (lengths.dtype != dtypes.i64 or lengths.rank != 1):
        raise ctx.error(f"the sequence lengths are {lengths.type}: a list of i64 is needed")
    graph = ctx.graph("body")
    number, going = (Input(n, t, origin=(n,)) for n, t in zip(_free_labels(graph, "batch", 2), _COUNTER, strict=True))
    passed: dict[Value, Input] = {}

    def element(x: Value, label: str) -> Value:
        passed.setdefault(x, Input(label, x.type))
        return ctx.build(Gather, passed[x], number, 0)

    names = [i.name for i in graph.input]
    rows = [element(x, f"{name}_batch") for x, name in zip(every, names, strict=True)]
    valid = None
    if lengths is not None:
        valid = _checked(ctx, element(lengths, _free_labels(graph, "lengths", 1)[0]), length)
    backwards = tuple(map(bool, _per_item(ctx, "directions", len(scanned))))
    own = (*rows, *(() if valid is None else (valid,)))
    sequence = _Sequence(
        tuple(rows[: len(states)]), tuple(rows[len(states) :]), (0,) * len(scanned), backwards, length, valid
    )
    node = _loop(ctx, graph, sequence, own, passed)
    outputs = [
        (going.label, going),
        *((f"{o.name}_batch", v) for o, v in zip(graph.output, node.results(), strict=True)),
    ]
    outer = Graph((number, going, *passed.values()), tuple(outputs), f"{graph.name or 'body'}_batch")
    trip = ctx.dim_values((batch,), True)
    return ctx.build(Loop, trip, None, (), tuple(passed), outer, (batch,) * len(graph.output)).results()


def _operands(ctx: Context, operands: tuple[Value, ...]) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """States and scan inputs."""
    graph, count = ctx.graph("body"), ctx.attribute("num_scan_inputs", 0)
    first = len(operands) - count
    if not 0 < count <= len(operands) or len(graph.output) < first or len(graph.input) != len(operands):
        raise ctx.error(
            f"{count} scan inputs, and a body of {len(graph.input)} inputs and {len(graph.output)} outputs do not fit "
            f"{len(operands)} inputs"
        )
    return operands[:first], operands[first:]


def _common(ctx: Context, axes: list[tuple[Value, int]]) -> Dim:
    """The extent that some axes have in common."""
    first, axis = axes[0]
    extent = first.shape[axis]
    for x, a in axes:
        if a >= x.rank:
            raise ctx.error(f"an operand {x.type} has no axis {a}")
        ctx.equal(x.shape[a], extent)
        if x.shape[a] != extent and isinstance(x.shape[a], int) and isinstance(extent, int):
            raise ctx.error(f"the operands {first.type} and {x.type} differ along axes {axis} and {a}")
    return extent


def _checked(ctx: Context, valid: Value, length: Dim) -> Value:
    """A sequence's number of elements, which must be within 0 .. length."""
    not_less = ctx.build(ops.GreaterOrEqual, valid, ctx.constant(0, dtypes.i64))
    not_more = ctx.build(ops.LessOrEqual, valid, ctx.dim_values((length,), True))
    problem = "a sequence length is negative or larger than the number of elements"
    return ctx.build(Require, (valid,), ctx.build(ops.And, not_less, not_more), True, problem).result(0)


def _loop(
    ctx: Context,
    graph: GraphProto,
    given: _Sequence,
    own: tuple[Value, ...] = (),
    passed: dict[Value, Input] | None = None,
) -> Loop:
    """The Loop over one sequence. Inside another Loop's body, `own` are values of that body and `passed` the outer
    values passed to it: what else the body of the Scan uses is added there."""
    states, scanned = given.states, given.scanned
    types = (*_COUNTER, *(v.type for v in states))
    names = [*_free_labels(graph, "scan", 2), *(i.name for i in graph.input[: len(states)])]
    formal = tuple(Input(n, t, origin=(n,)) for n, t in zip(names, types, strict=True))
    captures: dict[Value, Input] = {}
    for i, x in zip(graph.input[len(states) :], scanned, strict=True):
        captures.setdefault(x, Input(f"{i.name}_scanned", x.type))
    step: Value = formal[0]
    end = ctx.dim_values((given.length,), True)
    running: Value | None = None
    if given.valid is not None:
        end = captures.setdefault(given.valid, Input(_free_labels(graph, "length", 1)[0], given.valid.type))
        running = ctx.build(ops.Less, step, end)
    before = ctx.build(ops.Sub, ctx.build(ops.Sub, end, ctx.constant(1, dtypes.i64)), step)
    if running is not None:
        before = ctx.build(ops.Max, before, ctx.constant(0, dtypes.i64))
    elements = [
        ctx.build(Gather, captures[x], before if backwards else step, axis)
        for x, axis, backwards in zip(scanned, given.axes, given.backwards, strict=True)
    ]
    body = ctx.scope.body(graph, formal, (*formal[2:], *elements), captures)
    captures = dict(body.captures)
    outputs = list(same_values(ctx, body.outputs))
    for (name, result), start in zip(outputs, states, strict=False):
        agree(ctx, result, start, f"the state {name!r}")
    if running is not None:
        for i, (name, result) in enumerate(outputs):
            after = formal[2 + i] if i < len(states) else ctx.constant(0, result.dtype)
            outputs[i] = name, ctx.build(ops.Where, running, result, after)
    results = (names[1], formal[1]), *outputs
    whole = closed(Body(formal, results, captures, body.bound), results, captures, graph.name or "body")
    operands = tuple(captures)
    if passed is not None:
        for value, inner in captures.items():
            if value not in own:
                passed.setdefault(value, Input(f"{inner.label}_outer", value.type))
        operands = tuple(passed.get(value, value) for value in captures)
    trip = ctx.dim_values((given.length,), True)
    return ctx.build(Loop, trip, None, states, operands, whole, (given.length,) * (len(outputs) - len(states)))


def _placed(ctx: Context, results: Iterable[Value], length: Dim) -> Iterator[Value]:
    """Scan outputs with their new axis where the node wants it, and in the order that it wants."""
    results = tuple(results)
    axes = _per_item(ctx, "scan_output_axes", len(results))
    directions = _per_item(ctx, "scan_output_directions", len(results))
    for x, place, reverse in zip(results, axes, directions, strict=True):
        axis = ctx.axis(place, x.rank)
        value = x
        if reverse:
            starts, steps = (length - 1, *(0,) * (x.rank - 1)), (-1, *(1,) * (x.rank - 1))
            value = ctx.build(Slice, x, starts, x.shape, steps)
        order = [*range(1, x.rank)]
        order.insert(axis, 0)
        yield ctx.build(Transpose, value, tuple(order)) if axis else value


def _per_item(ctx: Context, name: str, count: int) -> tuple[int, ...]:
    values = ctx.ints(name) or (0,) * count
    if len(values) != count:
        raise ctx.error(f"attribute {name!r} has {len(values)} entries, {count} are needed")
    return values


def _free_labels(graph: GraphProto, stem: str, count: int) -> list[str]:
    """Names that nothing in `graph` has."""
    taken = {i.name for i in graph.input} | {name for node in graph.node for name in (*node.input, *node.output)}
    return unused_names(taken, stem, count)
