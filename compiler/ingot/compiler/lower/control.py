"""If and Loop as program steps over storages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ingot.compiler.ir.dims import UNBOUNDED, Dim, substitute, symbol, symbols
from ingot.compiler.ir.graph import Graph, Node, Value, describe
from ingot.compiler.ir.loops import Axis, Call, Const, Let, Stmt, When
from ingot.compiler.ir.program import Argument, Branch, Repeat, Step, Stop, Storage
from ingot.compiler.ir.types import Shape, TensorType
from ingot.compiler.lower.context import Context, LoweringError
from ingot.compiler.lower.nest import KernelBuilder, zero
from ingot.compiler.lower.pointwise import Moved, copy, fill, materialise
from ingot.compiler.lower.views import View
from ingot.compiler.ops import control as ops
from ingot.compiler.ops.movement import DimValues
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
    results = node.results()
    for each in node.extents:
        context.halos.pop(results[each.result], None)  # its border would be zeroed before there is memory
    targets = [context.destination(v) for v in results]
    told = {each.source: each for each in node.extents}
    condition = context.view(node.condition)

    def branch(graph: Graph) -> tuple[Step, ...]:
        inner = context.nested()
        for x, value in zip(graph.inputs, node.captures, strict=True):
            inner.views[x] = context.view(value)
        lower_graph(inner, graph)
        values = [inner.view(v) for v in graph.results]
        for i in told:
            copy(inner, values[i], targets[i], node.origin, "yield")
        for each in node.extents:
            _bind(inner, each.dim, targets[each.source], node)
        for i, (view, target) in enumerate(zip(values, targets, strict=True)):
            if i not in told:
                copy(inner, _shaped(view, target), target, node.origin, "yield")
        return tuple(inner.steps)

    then, otherwise = branch(node.then_graph), branch(node.else_graph)
    context.steps.append(Branch(Argument(condition.storage, condition.offset), then, otherwise, node.origin))


def _bind(context: Context, dim: Dim, view: View, node: Node) -> None:
    """Bind the symbol that `dim` is; nothing where it has been found to be something known."""
    for name in symbols(dim):
        context.bind(name, view, node)


def _shaped(view: View, target: View) -> View:
    """`view` with the shape of `target`: the same extents, told by other symbols."""
    return View(view.storage, target.shape, view.strides, view.offset)


@dataclass(frozen=True)
class _Carried:
    """What a loop carries: where it lies between iterations, and which of it are extents of others."""

    node: ops.Loop
    places: tuple[View, ...]

    @staticmethod
    def of(context: Context, node: ops.Loop) -> _Carried:
        """The places of the loop's results."""
        results = node.results()[: len(node.carried)]
        if node.growth:
            for value in results:
                context.halos.pop(value, None)  # its border would be zeroed before there is memory
        return _Carried(node, tuple(context.destination(v) for v in results))

    def inside(self) -> list[View]:
        """The places in terms of the symbols that the body has."""
        now = {name: each.inner for each in self.node.growth for name in symbols(each.outer)}
        return [_renamed(view, now) for view in self.places]

    @cached_property
    def changing(self) -> tuple[ops.Growth, ...]:
        """The extents that an iteration does not give back as they were. The symbols of the others are not bound again:
        memory whose size mentions one would lose what it holds."""
        body = self.node.body

        def changes(each: ops.Growth) -> bool:
            given, after = body.inputs[2 + each.source], body.results[1 + each.source]
            return after is not given and not (isinstance(after, DimValues) and after.dims == (each.inner,))

        return tuple(each for each in self.node.growth if changes(each))

    @cached_property
    def _unsettled(self) -> frozenset[str]:
        """The symbols that are bound again in each iteration."""
        return frozenset(name for each in self.changing for name in symbols(each.outer))

    def stays(self, i: int) -> bool:
        """Whether the place of carried value `i` holds in the next iteration what it holds in this one."""
        return not any(symbols(dim) & self._unsettled for dim in self.places[i].shape)

    def store(self, context: Context, views: Sequence[View], growth: Sequence[ops.Growth]) -> None:
        """Copy what is carried; of the extents those of `growth`, before the others, as the memory of values depends on
        them."""
        node, places = self.node, self.places
        told = {each.source for each in node.growth}
        for each in growth:
            if views[each.source].storage is not places[each.source].storage:
                copy(context, views[each.source], places[each.source], node.origin, "carry")
        for each in growth:
            _bind(context, each.outer, places[each.source], node)
        for i, (view, place) in enumerate(zip(views, places, strict=True)):
            if i not in told and not (view.storage is place.storage and view.offset == place.offset):
                copy(context, _shaped(view, place), place, node.origin, "carry")


def _loop(context: Context, node: ops.Loop, lower_graph: LowerGraph) -> None:
    carried = _Carried.of(context, node)
    limits = _taken_limits(context, node)
    carried.store(context, [context.view(v) for v in node.carried], node.growth)
    scans = [context.destination(v) for v in node.results()[len(node.carried) :]]
    for scan in scans:
        fill(context, scan, zero(scan.storage.dtype), node.origin, "scan_fill")
    counter = context.temp(counter_type(), origin=node.origin)
    fill(context, counter, Const(0, i64), node.origin, "counter")
    running = _running(context, node)
    trip = None if node.trip is None else context.view(node.trip)

    inner = context.nested()
    done = _iteration(inner, node, lower_graph, carried, scans, counter, running)
    if done.storage is not running.storage:
        copy(inner, View(done.storage, (), (), done.offset), running, node.origin, "running")
    always = node.condition is None and node.trip is not None and done.storage is running.storage
    repeat = Repeat(
        Argument(counter.storage),
        None if trip is None else Argument(trip.storage, trip.offset),
        None if always else Argument(running.storage),
        tuple(inner.steps),
        node.origin,
    )
    context.steps.append(repeat)
    _taken_limits(context, node)  # of which the body may have told again
    for each in node.growth:
        for name in symbols(each.outer) & limits.keys():
            if limits[name] != (0, UNBOUNDED):
                _check_size(context, node, name, carried.places[each.source], limits[name])


def _taken_limits(context: Context, node: ops.Loop) -> dict[str, tuple[int, int]]:
    """The ranges of the sizes that a loop leaves, which are not theirs any more: what they are before and between
    iterations may lie outside."""
    names = [name for each in node.growth for name in symbols(each.outer)]
    return {name: context.ranges.pop(name) for name in names if name in context.ranges}


def _check_size(context: Context, node: ops.Loop, name: str, place: View, limits: tuple[int, int]) -> None:
    """End the run where a size is not what it must be when the loop has ended."""
    status, number = context.size_fault(name, limits, node)
    build = KernelBuilder(context.unique("size"))
    size = build.load(place, place.offset)
    below, above = (Call(op, (size, Const(end, i64)), boolean) for op, end in zip(("lt", "gt"), limits, strict=True))
    body = (When(Call("or", (below, above), boolean), (build.store(status, 0, Const(number, i64)),)),)
    context.run(build.launch((Axis("_point", 1),), body, origin=node.origin))
    context.steps.append(Stop(node.origin))


def _running(context: Context, node: ops.Loop) -> View:
    """The bool that says whether a loop goes on, as it is before the first iteration."""
    running = context.temp(TensorType(boolean, ()), origin=node.origin)
    if node.condition is None:
        fill(context, running, Const(True, boolean), node.origin, "running")
    else:
        source = context.view(node.condition)
        copy(context, View(source.storage, (), (), source.offset), running, node.origin, "running")
    return running


def _iteration(
    inner: Context,
    node: ops.Loop,
    lower_graph: LowerGraph,
    carried: _Carried,
    scans: Sequence[View],
    counter: View,
    running: View,
) -> View:
    """The steps of one iteration; where its condition lies."""
    body, count = node.body, len(carried.places)
    captures = [inner.view(v) for v in node.captures]
    for x, view in zip(body.inputs, (counter, running, *carried.inside(), *captures), strict=True):
        inner.views[x] = view
    lower_graph(inner, body)
    kept = {view.storage for view in (counter, running, *carried.places)}
    done, *produced = [
        inner.view(value)
        if i <= count and value is body.inputs[i + 1] and (i == 0 or carried.stays(i - 1))
        else _own(inner, value, kept, node)
        for i, value in enumerate(body.results)
    ]  # what comes back unchanged stays where it is
    for view, scan in zip(produced[count:], scans, strict=True):
        _store_row(inner, view, scan, counter, node)
    carried.store(inner, produced[:count], carried.changing)
    return done


def _renamed(view: View, values: Mapping[str, Dim]) -> View:
    """`view` in terms of other symbols, which have the same values where it is used."""

    def changed(items: Shape) -> Shape:
        return tuple(substitute(d, values) for d in items)

    return View(view.storage, changed(view.shape), changed(view.strides), substitute(view.offset, values))


def lower_check(context: Context, node: ops.Require) -> None:
    """What ends the run where the condition of `node` does not hold."""
    condition = context.view(node.condition)
    status, number = context.fault(f"{describe(node)}: {node.message}")
    build = KernelBuilder(context.unique("require"))
    broken = Call("ne", (build.load(condition, condition.offset), Const(node.wanted, boolean)), boolean)
    body = (When(broken, (build.store(status, 0, Const(number, i64)),)),)
    context.run(build.launch((Axis("_point", 1),), body, origin=node.origin))
    context.steps.append(Stop(node.origin))


def _require(context: Context, node: ops.Require) -> None:
    """The values under their new names; `lower_check` came before them."""
    for value, result in zip(node.values, node.results(), strict=True):
        if result in context.placements:
            copy(context, context.view(value), context.destination(result), node.origin, "yield")
        else:
            context.views[result] = context.view(value)


def counter_type() -> TensorType:
    """The type of an iteration count."""
    return TensorType(i64, ())


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
    if len(scan.shape) != len(row.shape) + 1:
        raise LoweringError(
            f"{describe(node)}: a scan element of rank {len(row.shape)} for a rank {len(scan.shape)} scan"
        )

    def around(build: KernelBuilder, _: tuple[Axis, ...], body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        return (Let("_row", build.load(counter, counter.offset)), *body)

    target = View(scan.storage, scan.shape[1:], scan.strides[1:], scan.offset)
    copy(context, row, target, node.origin, "scan", Moved(around, target=symbol("_row") * scan.strides[0]))
