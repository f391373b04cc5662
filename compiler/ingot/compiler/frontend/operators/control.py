"""If, Loop and Scan. Sub-graphs are closed: what they use from outside becomes their captures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from onnx import GraphProto

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.frontend.scope import Body
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Graph, Input, Value
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.control import If, Loop, Require
from ingot.compiler.ops.movement import Gather, Slice, Transpose
from ingot.compiler.ops.pointwise import Sub
from ingot.compiler.ops.shape_arithmetic import contents
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op

ENDLESS = 2**63 - 1  # the trip count that exporters write for "until the condition fails"


def decided(ctx: Context, condition: Value) -> bool | None:
    """The value of a condition that follows from constants and shapes, None when it depends on data."""
    found = contents(condition)
    if found is not None and found.size == 1 and isinstance(found.item(), bool):
        return found.item()
    array = ctx.array(condition)
    return None if array is None or array.size != 1 else bool(array.item())


@onnx_op("If")
def if_(ctx: Context) -> Results:
    condition = ctx.scalar(ctx.operand(0))
    branches = ctx.graph("then_branch"), ctx.graph("else_branch")
    known = decided(ctx, condition)
    if known is not None:
        return ctx.scope.inline(branches[0] if known else branches[1])
    bodies = [_fitting(ctx, graph) for graph in branches]
    match bodies:
        case [Body() as then, Body() as otherwise]:
            pass
        case [ModelError() as error, ModelError()]:
            raise error
        case [ModelError() as error, _]:
            return _certain(ctx, branches[1], condition, False, error)
        case [_, error]:
            assert isinstance(error, ModelError)
            return _certain(ctx, branches[0], condition, True, error)
        case _:
            raise AssertionError("two branches")
    for (name, a), (_, b) in zip(then.outputs, otherwise.outputs, strict=False):
        _agree(ctx, a, b, f"output {name!r} of the then-branch")
    captures = tuple(dict.fromkeys((*then.captures, *otherwise.captures)))
    return ctx.build(
        If, condition, captures, _closed(then, captures, "then"), _closed(otherwise, captures, "else")
    ).results()


def _fitting(ctx: Context, graph: GraphProto) -> Body | ModelError:
    """A branch, or why the shapes that the model is compiled for rule it out."""
    try:
        return ctx.scope.body(graph, (), ())
    except UnsupportedError:
        raise
    except ModelError as error:
        return error


def _certain(ctx: Context, graph: GraphProto, condition: Value, wanted: bool, other: ModelError) -> Results:
    """The branch that fits, where the other cannot be right: choosing that one is an error at run time."""
    values = ctx.scope.inline(graph)
    for name, value in zip(ctx.node.output, values, strict=False):
        try:
            ctx.scope.check_declared(name, value)
        except ModelError as error:
            kinds = "then", "else"
            raise ctx.error(
                f"neither branch fits what the model declares: the {kinds[not wanted]}-branch, as {error.problem}, "
                f"the {kinds[wanted]}-branch, as {other}"
            ) from error
    problem = f"the condition must be {str(wanted).lower()}: with these shapes the other branch is wrong ({other})"
    return ctx.build(Require, values, condition, wanted, problem).results()


def _closed(body: Body, captures: Iterable[Value], name: str) -> Graph:
    """A sub-graph whose inputs are its formal ones, then one for each capture, used or not."""
    labels = _unused_labels(body)
    inputs = [body.captures.get(outer) or Input(next(labels), outer.type) for outer in captures]
    return Graph((*body.inputs, *inputs), body.outputs, name)


def _unused_labels(body: Body) -> Iterator[str]:
    taken = {i.label for i in (*body.inputs, *body.captures.values())}
    return (name for i in range(2**31) if (name := f"unused_{i}") not in taken)


def _agree(ctx: Context, a: Value, b: Value, what: str) -> None:
    """Learn that two types are one where that can be learnt; UnsupportedError where they differ."""
    with suppress(ModelError):  # which is about dims, the error below about values
        if a.rank == b.rank:
            for d, e in zip(a.shape, b.shape, strict=True):
                if 0 not in (d, e):  # what begins with nothing and is not so later grows
                    ctx.equal(d, e)
    if a.type != b.type:
        raise ctx.unsupported(
            f"{what} is {a.type} in one place and {b.type} in another",
            "shapes must not depend on data: pin symbolic dims with shapes, or take the control flow out of the model",
        )


@onnx_op("Loop")
def loop(ctx: Context) -> Results:
    trip, condition = ctx.optional(0), ctx.optional(1)
    carried = tuple(ctx.operand(i) for i in range(2, len(ctx.operands)))
    graph = ctx.graph("body")
    trip = ctx.scalar(trip) if trip is not None else None
    if trip is not None and ctx.known(trip) == (ENDLESS,):
        trip = None
    starts = decided(ctx, condition) if condition is not None else True
    condition = None if starts else condition
    types = [TensorType(dtypes.i64, ()), TensorType(dtypes.boolean, ()), *(v.type for v in carried)]
    formal = tuple(Input(i.name, t, origin=(i.name,)) for i, t in zip(graph.input, types, strict=False))
    body = ctx.scope.body(graph, formal, formal)
    if len(body.outputs) <= len(carried):
        raise ctx.error(f"the body has {len(body.outputs)} outputs for {len(carried)} carried values and a condition")
    for (name, result), start in zip(body.outputs[1:], carried, strict=False):
        _agree(ctx, result, start, f"the carried value {name!r}")
    going = ctx.scalar(body.outputs[0][1])
    always = starts is True and (going is body.inputs[1] or decided(ctx, going) is True)
    if trip is None and always:
        raise ctx.error("a loop without trip count whose condition is always true never ends")
    if trip is None and condition is None:
        condition = ctx.constant(True, dtypes.boolean)
    scans = _scan_lengths(ctx, trip, always, len(body.outputs) - 1 - len(carried))
    outputs = ((body.outputs[0][0], going), *body.outputs[1:])
    captures = tuple(body.captures)
    closed = _closed(Body(body.inputs, outputs, body.captures), captures, graph.name or "body")
    return ctx.build(Loop, trip, condition, carried, captures, closed, scans).results()


def _scan_lengths(ctx: Context, trip: Value | None, always: bool, count: int) -> Dims:
    """The extent of the new axis of each scan output: the trip count, which must be known and always be reached."""
    if not count:
        return ()
    known = ctx.known(trip) if trip is not None and always else None
    if known is None and trip is not None and always and (array := ctx.array(trip)) is not None:
        known = (int(array.item()),)
    if known is None:
        raise ctx.unsupported(
            "a loop with scan outputs whose number of iterations depends on data",
            "scan outputs need a trip count made of shapes and constants, and a condition that stays true",
        )
    length: Dim = ctx.assumptions.largest(known[0], 0)
    return (length,) * count


@onnx_op("Scan", since=9)
def scan(ctx: Context) -> Results:
    """A Loop over an axis of its scan inputs: each iteration gathers one element of every one."""
    graph, count = ctx.graph("body"), ctx.attribute("num_scan_inputs", 0)
    operands = ctx.variadic()
    states, scanned = operands[: len(operands) - count], operands[len(operands) - count :]
    stacked = len(graph.output) - len(states)
    if not 0 < count <= len(operands) or stacked < 0:
        raise ctx.error(f"{count} scan inputs and {len(graph.output)} outputs do not fit {len(operands)} inputs")
    axes = _per_item(ctx, "scan_input_axes", count)
    axes = tuple(ctx.axis(a, x.rank) for a, x in zip(axes, scanned, strict=True))
    length = scanned[0].shape[axes[0]]
    for x, axis in zip(scanned, axes, strict=True):
        ctx.equal(x.shape[axis], length)
        if x.shape[axis] != length:
            raise ctx.error(f"the scan inputs {scanned[0].type} and {x.type} have different lengths")
    types = [TensorType(dtypes.i64, ()), TensorType(dtypes.boolean, ()), *(v.type for v in states)]
    names = [*_free_labels(graph, 2), *(i.name for i in graph.input[: len(states)])]
    formal = tuple(Input(n, t, origin=(n,)) for n, t in zip(names, types, strict=True))
    captures = {x: Input(f"{i.name}_scanned", x.type) for i, x in zip(graph.input[len(states) :], scanned, strict=True)}
    step: Value = formal[0]
    last = ctx.build(Sub, ctx.dim_values((length,), True), ctx.constant(1, dtypes.i64))
    backwards = ctx.build(Sub, last, step)
    elements: list[Value] = []
    for x, axis, reverse in zip(scanned, axes, _per_item(ctx, "scan_input_directions", count), strict=True):
        elements.append(ctx.build(Gather, captures[x], backwards if reverse else step, axis))
    body = ctx.scope.body(graph, formal, (*formal[2:], *elements), captures)
    for (name, result), start in zip(body.outputs, states, strict=False):
        _agree(ctx, result, start, f"the state {name!r}")
    outputs = ((names[1], formal[1]), *body.outputs)
    trip = ctx.dim_values((length,), True)
    closed = _closed(Body(formal, outputs, captures), captures, graph.name or "body")
    results = ctx.build(Loop, trip, None, states, tuple(captures), closed, (length,) * stacked).results()
    return *results[: len(states)], *_placed(ctx, results[len(states) :], length)


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


def _free_labels(graph: GraphProto, count: int) -> list[str]:
    taken = {i.name for i in graph.input} | {name for node in graph.node for name in (*node.input, *node.output)}
    wishes = (f"scan_{i}" for i in range(len(taken) + count))
    return [name for name in wishes if name not in taken][:count]
