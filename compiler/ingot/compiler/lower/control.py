"""If and Loop as program steps over storages."""

from __future__ import annotations

from collections.abc import Callable

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Node, Value, describe
from ingot.compiler.ir.loops import Axis, Call, Const, Let, When
from ingot.compiler.ir.program import Argument, Branch, Repeat, Step, Storage
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context, LoweringError
from ingot.compiler.lower.nest import KernelBuilder, index_value, zero
from ingot.compiler.lower.pointwise import copy, fill, materialise
from ingot.compiler.lower.views import View
from ingot.compiler.ops import control as ops
from ingot.runtime.dtypes import boolean, i64

LowerGraph = Callable[[Context, Graph], None]


def lower_control(context: Context, node: Node, lower_graph: LowerGraph) -> bool:
    """Lower an If, a Loop or a Require; False when `node` is none of them."""
    match node:
        case ops.If():
            _if(context, node, lower_graph)
        case ops.Loop():
            _loop(context, node, lower_graph)
        case ops.Require():
            _require(context, node)
        case _:
            return False
    return True


def _if(context: Context, node: ops.If, lower_graph: LowerGraph) -> None:
    targets = [context.destination(v) for v in node.results()]
    condition = context.view(node.condition)

    def branch(graph: Graph) -> tuple[Step, ...]:
        inner = context.nested()
        for x, value in zip(graph.inputs, node.captures, strict=True):
            inner.views[x] = context.view(value)
        lower_graph(inner, graph)
        for value, target in zip(graph.results, targets, strict=True):
            copy(inner, inner.view(value), target, node.origin, "yield")
        return tuple(inner.steps)

    then, otherwise = branch(node.then_graph), branch(node.else_graph)
    context.steps.append(Branch(Argument(condition.storage, condition.offset), then, otherwise, node.origin))


def _loop(context: Context, node: ops.Loop, lower_graph: LowerGraph) -> None:
    results = node.results()
    count = len(node.carried)
    scalar_bool = TensorType(boolean, ())
    carried = [context.destination(v) for v in results[:count]]
    for value, target in zip(node.carried, carried, strict=True):
        copy(context, context.view(value), target, node.origin, "carry")
    scans = [context.destination(v) for v in results[count:]]
    for scan in scans:
        fill(context, scan, zero(scan.storage.dtype), node.origin, "scan_fill")
    counter = context.temp(counter_type(), origin=node.origin)
    fill(context, counter, Const(0, i64), node.origin, "counter")
    running = context.temp(scalar_bool, origin=node.origin)
    if node.condition is None:
        fill(context, running, Const(True, boolean), node.origin, "running")
    else:
        source = context.view(node.condition)
        copy(context, View(source.storage, (), (), source.offset), running, node.origin, "running")
    trip: View | None = None
    if node.trip is not None:
        trip = context.view(node.trip)

    inner = context.nested()
    body = node.body
    captures = [context.view(v) for v in node.captures]
    for x, view in zip(body.inputs, (counter, running, *carried, *captures), strict=True):
        inner.views[x] = view
    lower_graph(inner, body)
    kept = {view.storage for view in (counter, running, *carried)}
    rows = _count_rows(context, inner, counter, node) if scans else None
    produced = [_own(inner, value, kept, node) for value in body.results]
    for view, scan in zip(produced[1 + count :], scans, strict=True):
        _store_row(inner, view, scan, counter, node)
    for view, target in zip(produced[1 : 1 + count], carried, strict=True):
        copy(inner, View(view.storage, target.shape, view.strides, view.offset), target, node.origin, "carry")
    done = produced[0]
    copy(inner, View(done.storage, (), (), done.offset), running, node.origin, "running")
    repeat = Repeat(
        Argument(counter.storage),
        None if trip is None else Argument(trip.storage, trip.offset),
        Argument(running.storage),
        tuple(inner.steps),
        node.origin,
    )
    context.steps.append(repeat)
    if rows is not None:
        _check_rows(context, rows, node)


def _require(context: Context, node: ops.Require) -> None:
    condition = context.view(node.condition)
    status, number = context.fault(f"{describe(node)}: {node.message}")
    build = KernelBuilder(context.unique("require"))
    broken = Call("ne", (build.load(condition, condition.offset), Const(node.wanted, boolean)), boolean)
    body = (When(broken, (build.store(status, 0, Const(number, i64)),)),)
    context.run(build.launch((Axis("_point", 1),), body, origin=node.origin))
    for value, result in zip(node.values, node.results(), strict=True):
        if result in context.placements:
            copy(context, context.view(value), context.destination(result), node.origin, "yield")
        else:
            context.views[result] = context.view(value)


def counter_type() -> TensorType:
    """The type of an iteration count."""
    return TensorType(i64, ())


def _count_rows(context: Context, inner: Context, counter: View, node: ops.Loop) -> View:
    """A storage that holds the number of iterations begun."""
    rows = context.temp(counter_type(), origin=node.origin)
    fill(context, rows, Const(0, i64), node.origin, "rows")
    build = KernelBuilder(context.unique("count"))
    more = Call("add", (build.load(counter, counter.offset), Const(1, i64)), i64)
    store = build.store(rows, rows.offset, more)
    inner.run(build.launch((Axis("_point", 1),), (store,), origin=node.origin))
    return rows


def _check_rows(context: Context, rows: View, node: ops.Loop) -> None:
    """Report a loop that ended before its scan outputs were full: their shape was promised."""
    status, number = context.fault(
        f"{describe(node)}: the loop ended before its trip count, its scan outputs are short"
    )
    build = KernelBuilder(context.unique("check"))
    expected = [index_value(extent) for extent in dict.fromkeys(node.scans)]
    count = build.load(rows, rows.offset)
    body = tuple(
        When(Call("ne", (count, extent), boolean), (build.store(status, 0, Const(number, i64)),)) for extent in expected
    )
    context.run(build.launch((Axis("_point", 1),), body, origin=node.origin))


def _own(context: Context, value: Value, kept: set[Storage], node: Node) -> View:
    """Where a body's result lies; copied when that is a carried storage, which the updates are about to overwrite."""
    view = context.view(value)
    if view.storage not in kept:
        return view
    if view.is_dense:
        target = context.temp(TensorType(view.storage.dtype, view.shape), origin=node.origin)
        copy(context, view, target, node.origin)
        return target
    return materialise(context, view, node.origin)


def _store_row(context: Context, row: View, scan: View, counter: View, node: Node) -> None:
    """Copy `row` to row number `counter` of `scan`."""
    from ingot.compiler.lower.movement import loops_over

    if len(scan.shape) != len(row.shape) + 1:
        raise LoweringError(
            f"{describe(node)}: a scan element of rank {len(row.shape)} for a rank {len(scan.shape)} scan"
        )
    build = KernelBuilder(context.unique("scan"))
    names = tuple(f"_i{a}" for a in range(len(row.shape)))
    index = [symbol(n) for n in names]
    value = build.load(row, row.at(index))
    store = build.store(scan, scan.at([symbol("_row"), *index]), value)
    start = Let("_row", build.load(counter, counter.offset))
    context.run(
        build.launch((Axis("_point", 1),), (start, *loops_over(names, row.shape, (store,))), origin=node.origin)
    )
