"""Sub-graphs of If, Loop and Scan made closed, and sizes that differ between branches or from iteration to iteration.

Such a size leaves its sub-graph as one more result, an i64 scalar; outside a symbol is bound to it. In the body of a
loop another symbol is bound to the scalar that is carried into it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from onnx import GraphProto

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.operators.forms import (
    Form,
    Part,
    TensorForm,
    form_of,
    gathered,
    joined,
    parts_of,
    spread,
)
from ingot.compiler.frontend.scope import Body
from ingot.compiler.frontend.sequences import Item
from ingot.compiler.frontend.sizes import Promise, new_symbol
from ingot.compiler.frontend.topology import unused_names
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Graph, Input, Node, Value
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.control import Extent, Growth, If, Loop
from ingot.compiler.ops.movement import Concat, DimValues, Reshape, Slice
from ingot.compiler.ops.pointwise import Add, Max
from ingot.runtime import dtypes

PIN_OR_REMOVE = "pin symbolic dims with shapes, or take the control flow out of the model"
MOST_FORMS = 16  # times that a loop's body is imported to find a form for what it carries
LONGEST_SCAN = 1 << 20  # iterations for which a scan output is stored in full though the loop may end before

Outputs = tuple[tuple[str, Value], ...]


def closed(body: Body, outputs: Outputs, captures: Iterable[Value], name: str) -> Graph:
    """A sub-graph whose inputs are its formal ones, then one for each capture, used or not."""
    operands = tuple(captures)
    taken = {i.label for i in (*body.inputs, *body.captures.values())}
    labels = iter(unused_names(taken, "unused", len(operands)))
    inputs = [body.captures.get(outer) or Input(next(labels), outer.type) for outer in operands]
    return Graph((*body.inputs, *inputs), outputs, name, bound=body.bound)


def agree(ctx: Context, a: Value, b: Value, what: str) -> None:
    """Learn that two types are one where that can be learnt; UnsupportedError where they differ."""
    for axis in differing(ctx, a.type, b.type, what):
        raise ctx.unsupported(
            f"{what} is {a.type} in one place and {b.type} in another, which differ along axis {axis}",
            PIN_OR_REMOVE,
        )


def differing(ctx: Context, a: TensorType, b: TensorType, what: str) -> list[int]:
    """The axes along which two types differ, after learning that dims are equal where that can be learnt.

    UnsupportedError when they differ in more than extents.
    """
    if a.dtype != b.dtype or a.rank != b.rank:
        # A rank can hang on an extent: a Squeeze behind a comparison with one.
        remedy = PIN_OR_REMOVE if a.dtype == b.dtype else "take the control flow out of the model"
        raise ctx.unsupported(f"{what} is {a} in one place and {b} in another", remedy)
    found: list[int] = []
    for axis, (d, e) in enumerate(zip(a.shape, b.shape, strict=True)):
        if 0 not in (d, e) and not ctx.bound(d, e):  # what begins with nothing and is not so later grows
            with suppress(ModelError):  # which is about dims that cannot be equal
                ctx.equal(d, e)
        if d != e:
            found.append(axis)
    return found


def same_values(ctx: Context, outputs: Sequence[tuple[str, object]]) -> Outputs:
    """Outputs that are all tensors."""
    found = tuple((name, value) for name, value in outputs if isinstance(value, Value))
    if len(found) != len(outputs):
        raise ctx.error("a sequence or optional where the operator needs tensors", "run onnx.checker on the model")
    return found


# -- If ---------------------------------------------------------------------------------------------------------------


def inner_symbols(then: Body, otherwise: Body) -> frozenset[str]:
    """The symbols that mean something in a branch alone."""
    return frozenset((*then.bound, *otherwise.bound))


def unlike(then: Body, otherwise: Body) -> bool:
    """Whether some result of two branches differs in more than extents, lengths and presence."""
    inner, pairs = inner_symbols(then, otherwise), zip(then.outputs, otherwise.outputs, strict=False)
    return any(joined(form_of(a, inner), form_of(b, inner)) is None for (_, a), (_, b) in pairs)


def _branches(ctx: Context, then: Body, otherwise: Body) -> tuple[list[Form], list[Part], Outputs, Outputs]:
    """The forms of the results, their parts, and the parts of both branches."""
    inner = inner_symbols(then, otherwise)
    forms: list[Form] = []
    parts: list[Part] = []
    sides: tuple[list[tuple[str, Value]], list[tuple[str, Value]]] = ([], [])
    for (name, a), (_, b) in zip(then.outputs, otherwise.outputs, strict=True):
        form = joined(form_of(a, inner), form_of(b, inner))
        if form is None:
            if isinstance(a, Value) and isinstance(b, Value):
                differing(ctx, a.type, b.type, f"output {name!r} of the then-branch")
            raise ctx.unsupported(f"output {name!r} is {a} in one branch and {b} in the other")
        forms.append(form)
        own = parts_of(form)
        parts += own
        for side, item in zip(sides, (a, b), strict=True):
            side += zip((f"{name}{p.suffix}" for p in own), spread(ctx, item, form), strict=True)
    return forms, parts, tuple(sides[0]), tuple(sides[1])


def choice(ctx: Context, condition: Value, then: Body, otherwise: Body) -> Sequence[Item]:
    """The results of an If whose branches may give results of different extents, lengths and presence."""
    if len(then.outputs) != len(otherwise.outputs):
        raise ctx.error(f"the branches have {len(then.outputs)} and {len(otherwise.outputs)} outputs")
    forms, parts, left, right = _branches(ctx, then, otherwise)
    inner = inner_symbols(then, otherwise)
    extents: list[Extent] = []
    promises: list[Promise] = []
    extra: tuple[list[tuple[str, Value]], list[tuple[str, Value]]] = ([], [])
    for i, ((name, a), (_, b), part) in enumerate(zip(left, right, parts, strict=True)):
        opened = {*part.free, *(x for v in (a, b) for x, d in enumerate(v.shape) if dims.symbols(d) & inner)}
        plain = [TensorType(v.dtype, tuple(1 if x in opened else d for x, d in enumerate(v.shape))) for v in (a, b)]
        opened |= set(differing(ctx, plain[0], plain[1], f"output {name!r} of the then-branch"))
        for axis in sorted(opened):
            promise = Promise.make(ctx, f"{name}_d{axis}")
            extents.append(Extent(promise.dim, i, axis, len(left) + len(extents)))
            promises.append(promise)
            for values, value in zip(extra, (a, b), strict=True):
                values.append((f"{name}_d{axis}_{len(extents)}", DimValues((value.shape[axis],), True)))
    captures = tuple(dict.fromkeys((*then.captures, *otherwise.captures)))
    whole = _renamed((*left, *extra[0])), _renamed((*right, *extra[1]))
    graphs = closed(then, whole[0], captures, "then"), closed(otherwise, whole[1], captures, "else")
    node = ctx.build(If, condition, captures, *graphs, tuple(extents))
    for promise, extent in zip(promises, extents, strict=True):
        promise.keep(ctx, node.result(extent.source), "the extent of a branch's result")
    found = iter(_with_public_dims(ctx, node, promises, len(left)))
    return tuple(gathered(form, found) for form in forms)


def _with_public_dims(ctx: Context, node: Node, promises: Sequence[Promise], count: int) -> tuple[Value, ...]:
    """The first results of `node`, with the dims that the promises stand for."""
    public = {p.name: p.public for p in promises}
    found = list(node.results()[:count])
    shapes = [tuple(dims.substitute(d, public) for d in value.shape) for value in found]
    changed = [i for i, shape in enumerate(shapes) if shape != found[i].shape]
    for i, value in zip(changed, ctx.checked(*(found[i] for i in changed)), strict=True):
        found[i] = ctx.build(Reshape, value, shapes[i])
    return tuple(found)


# -- Loop -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Open:
    """An axis of a carried value whose extent changes: in the body it is `inner`, which is the symbol `name` unless the
    model only makes sense when that is equal to other dims."""

    carried: int
    axis: int
    name: str
    inner: Dim
    outer: Promise | None
    label: str


@dataclass
class _Carried:
    """What a loop carries: values before it, inputs of the body (iteration and condition before them), results."""

    initial: list[Value]
    inputs: list[Input]
    results: list[tuple[str, Value]]
    growth: list[Growth]
    promises: list[Promise]

    def add(self, ctx: Context, start: Value, wish: str, declared: TensorType | None = None) -> Input:
        """One more value; the input that it is in the body. Its result is to be added then."""
        taken = {i.label for i in self.inputs}
        while wish in taken:
            wish += "_"
        self.initial.append(start)
        self.inputs.append(Input(wish, declared or start.type, origin=ctx.origin))
        return self.inputs[-1]

    def grow(self, name: str, promise: Promise, source: int) -> None:
        """The symbol `name` of the body is carried value number `source`."""
        self.growth.append(Growth(dims.symbol(name), promise.dim, source))
        self.promises.append(promise)


class Iteration:
    """The import of one Loop."""

    def __init__(self, ctx: Context, graph: GraphProto, items: tuple[Item, ...]) -> None:
        self.ctx, self.graph, self.items = ctx, graph, items
        self.forms: list[Form] = [form_of(item) for item in items]
        self.carried: list[Value] = []
        self.names: list[str] = []
        self.open: dict[tuple[int, int], _Open] = {}

    def run(self, trip: Value | None, condition: Value | None, starts: bool | None) -> Sequence[Item]:
        """The results of the loop; `starts` is the first condition where that is known."""
        ctx = self.ctx
        formal, scalars, body, outputs = self._settle()
        n = len(self.carried)
        going = ctx.scalar(outputs[0][1])
        if goes_on := ctx.decided(going) is True:
            going = body.inputs[1]
        always = starts is True and goes_on
        if trip is None and always:
            raise ctx.error("a loop without trip count whose condition is always true never ends")
        if trip is None and condition is None:
            condition = ctx.constant(True, dtypes.boolean)
        bound = dict(body.bound)
        made = _Carried(list(self.carried), list(formal), [(outputs[0][0], going), *outputs[1 : 1 + n]], [], [])
        for each, scalar in scalars:
            assert each.outer is not None
            made.grow(each.name, each.outer, len(made.initial))
            made.initial.append(ctx.dim_values((self.carried[each.carried].shape[each.axis],), True))
            made.inputs.append(scalar)
            extent = outputs[1 + each.carried][1].shape[each.axis]
            made.results.append((f"{scalar.label}_next", DimValues((extent,), True)))
        scanned = outputs[1 + n :]
        for name, value in scanned:
            if inner := sorted({s for d in value.shape for s in dims.symbols(d)} & bound.keys()):
                raise ctx.unsupported(f"scan output {name!r} is {value.type}: {inner[0]} changes between iterations")
        length = self._scan_length(trip, always) if scanned else 0
        count: int | None = None
        stacks = [self._stack(made, bound, *each) for each in scanned] if length is None else []
        if scanned and length is not None and not always:
            count = len(made.initial)
            made.add(ctx, ctx.constant(0, dtypes.i64), "count")
            made.results.append(("count_next", ctx.build(Add, formal[0], ctx.constant(1, dtypes.i64))))
        scans: Dims = () if length is None else (length,) * len(scanned)
        results = _renamed((*made.results, *(scanned if length is not None else ())))
        closing = Body(tuple(made.inputs), results, body.captures, bound)
        captures = tuple(body.captures)
        whole = closed(closing, results, captures, self.graph.name or "body")
        node = ctx.build(Loop, trip, condition, tuple(made.initial), captures, whole, scans, tuple(made.growth))
        for promise, each in zip(made.promises, made.growth, strict=True):
            promise.keep(ctx, node.result(each.source), "the extent of a loop's result")
        found = _with_public_dims(ctx, node, made.promises, len(node.types))
        stacked = found[len(made.initial) :]
        if count is not None:
            done = ctx.size(node.result(count), "the number of iterations", length)
            rows = ctx.checked(*stacked)
            stacked = tuple(ctx.build(Slice, v, (0,) * v.rank, (done, *v.shape[1:]), (1,) * v.rank) for v in rows)
        ends = iter(found[:n])
        return (*(gathered(form, ends) for form in self.forms), *(found[i] for i in stacks), *stacked)

    def _settle(self) -> tuple[tuple[Input, ...], list[tuple[_Open, Input]], Body, Outputs]:
        """The body, imported again until all that is carried has a form that fits every iteration and all axes that
        change are open, with its formal inputs, the scalars that tell the extents of open axes and its outputs."""
        ctx = self.ctx
        for _ in range(MOST_FORMS):
            self._take_apart()
            found = self._open_axes()
            if found is not None:
                return found
        raise ctx.unsupported("a loop whose carried values change their ranks without end")

    def _take_apart(self) -> None:
        """The tensors that are carried, as the forms in force have them, and those axes open that certainly change."""
        ctx = self.ctx
        self.carried, self.names = [], []
        self.open.clear()
        for item, form, declared in zip(self.items, self.forms, self.graph.input[2:], strict=False):
            for part, value in zip(parts_of(form), spread(ctx, item, form), strict=True):
                number, name = len(self.carried), f"{declared.name}{part.suffix}"
                self.carried.append(value)
                self.names.append(name)
                for axis in part.free:
                    self._open_axis(number, axis, f"{name}_d{axis}")

    def _open_axes(self) -> tuple[tuple[Input, ...], list[tuple[_Open, Input]], Body, Outputs] | None:
        """What `_settle` gives; None when the forms have changed."""
        ctx, n = self.ctx, len(self.carried)
        for _ in range(1 + sum(v.rank for v in self.carried)):
            formal = self._formal()
            taken = {i.label for i in formal}
            scalars: list[tuple[_Open, Input]] = []
            for each in self.open.values():
                if each.outer is not None:
                    label = each.label
                    while label in taken:
                        label += "_"
                    taken.add(label)
                    scalars.append((each, Input(label, TensorType(dtypes.i64, ()), origin=ctx.origin)))
            bound = {each.name: scalar for each, scalar in scalars}
            parts = iter(formal[2:])
            goes_on = ctx.constant(True, dtypes.boolean)  # in an iteration, or there would be none
            given = (formal[0], goes_on, *(gathered(form, parts) for form in self.forms))
            body = ctx.scope.body(self.graph, formal, given, bound=bound)
            if len(body.outputs) <= len(self.items):
                raise ctx.error(
                    f"the body has {len(body.outputs)} outputs for {len(self.items)} carried values and a condition"
                )
            if self._reform(body):
                return None
            outputs = self._outputs(body)
            before = len(self.open)
            results = outputs[1 : 1 + n]
            for i, (name, result) in enumerate(results):
                self._compare(i, name, result, formal[2 + i], body.bound.keys())
            if len(self.open) == before:
                self._close_constant(results)
                self._check_equals(results)
                return formal, scalars, body, outputs
        raise AssertionError("every axis can be opened once")

    def _reform(self, body: Body) -> bool:
        """Bring the forms to what the body gives as well; whether that changes them."""
        ctx, inner = self.ctx, {*body.bound, *(s for o in self.open.values() for s in dims.symbols(o.inner))}
        wider: list[Form] = []
        for form, (name, result) in zip(self.forms, body.outputs[1:], strict=False):
            both = joined(form, form_of(result, inner))
            if both is None:
                kind = form_of(result)
                if isinstance(form, TensorForm) and isinstance(kind, TensorForm):
                    both = form  # what differs is named when the tensors are compared
                else:
                    raise ctx.unsupported(f"the carried value {name!r} is {result} after an iteration and not before")
            wider.append(both)
        changed, self.forms = wider != self.forms, wider
        return changed

    def _outputs(self, body: Body) -> Outputs:
        """The condition, the tensors that are carried on and the scan outputs."""
        count = len(self.forms)
        (condition,) = same_values(self.ctx, body.outputs[:1])
        following: list[tuple[str, Value]] = []
        for form, (name, item) in zip(self.forms, body.outputs[1 : 1 + count], strict=True):
            names = (f"{name}{part.suffix}" for part in parts_of(form))
            following += zip(names, spread(self.ctx, item, form), strict=True)
        return condition, *following, *same_values(self.ctx, body.outputs[1 + count :])

    def _formal(self) -> tuple[Input, ...]:
        types = [TensorType(dtypes.i64, ()), TensorType(dtypes.boolean, ())]
        for i, value in enumerate(self.carried):
            shape = (self.open[i, a].inner if (i, a) in self.open else d for a, d in enumerate(value.shape))
            types.append(TensorType(value.dtype, tuple(shape)))
        names = (*(i.name for i in self.graph.input[:2]), *self.names)
        return tuple(Input(name, t, origin=(name,)) for name, t in zip(names, types, strict=False))

    def _compare(self, i: int, name: str, result: Value, formal: Input, bound: Collection[str]) -> None:
        """Open the axes along which carried value `i` is not the same after the body as before."""
        ctx, what = self.ctx, f"the carried value {name!r}"
        if result.rank != formal.rank:
            differing(ctx, result.type, formal.type, what)
        changing = {a for a, d in enumerate(result.shape) if dims.symbols(d) & set(bound) and d != formal.shape[a]}
        skipped = changing | {a for j, a in self.open if j == i}
        plain = [
            TensorType(v.dtype, tuple(1 if a in skipped else d for a, d in enumerate(v.shape)))
            for v in (result, formal)
        ]
        for axis in sorted(changing | set(differing(ctx, plain[0], plain[1], what))):
            if (i, axis) not in self.open:
                self._open_axis(i, axis, f"{formal.label}_d{axis}")

    def _open_axis(self, i: int, axis: int, label: str) -> None:
        symbol = new_symbol(self.ctx, label)
        inner = self.ctx.assumptions.resolve(dims.symbol(symbol))
        own = inner == dims.symbol(symbol)
        promise = Promise.make(self.ctx, f"{label}_end") if own else None
        self.open[i, axis] = _Open(i, axis, symbol, inner, promise, label)

    def _close_constant(self, results: Outputs) -> None:
        """Axes that no iteration changes are what they begin as: what made them differ has been related to them."""
        ctx = self.ctx
        for each in self.open.values():
            result, inner = results[each.carried][1].shape[each.axis], dims.symbol(each.name)
            if each.outer is not None and ctx.assumptions.simplified(result) == inner:
                start = self.carried[each.carried].shape[each.axis]
                ctx.assumptions.demand_equal(inner, start, (each.name,))

    def _check_equals(self, results: Outputs) -> None:
        """Axes whose extents are those of others begin and go on as these do."""
        ctx = self.ctx
        tellers = [each for each in self.open.values() if each.outer is not None]
        before = {each.name: self.carried[each.carried].shape[each.axis] for each in tellers}
        after = {each.name: results[each.carried][1].shape[each.axis] for each in tellers}
        for each in self.open.values():
            start, result = self.carried[each.carried].shape[each.axis], results[each.carried][1].shape[each.axis]
            if each.outer is None:
                ctx.equal(start, dims.substitute(each.inner, before))
                wanted = dims.substitute(each.inner, after)
                if ctx.assumptions.simplified(result) != ctx.assumptions.simplified(wanted):
                    raise ctx.unsupported(
                        f"the carried value {results[each.carried][0]!r} must have {dims.show(wanted)} elements along "
                        f"axis {each.axis} after an iteration, but has {dims.show(result)}"
                    )

    def _scan_length(self, trip: Value | None, always: bool) -> Dim | None:
        """The extent for which scan outputs are stored; None where nothing bounds the number of iterations."""
        ctx = self.ctx
        if trip is None:
            return None
        known = ctx.known(trip)
        if known is None and (array := ctx.array(trip)) is not None:
            known = (int(array.item()),)
        if known is not None:
            length = ctx.assumptions.largest(known[0], 0)
            return None if not always and isinstance(length, int) and length > LONGEST_SCAN else length
        return ctx.size(ctx.build(Max, trip, ctx.constant(0, dtypes.i64)), "the trip count")

    def _stack(self, made: _Carried, bound: dict[str, Value], name: str, row: Value) -> int:
        """A scan output as a carried value that grows by a row in every iteration; its number."""
        ctx, number = self.ctx, len(made.initial)
        symbol, promise = new_symbol(ctx, f"{name}_rows"), Promise.make(ctx, f"{name}_end")
        nothing = ctx.expand(ctx.constant(0, row.dtype), (0, *row.shape))
        rows = made.add(ctx, nothing, f"{name}_rows", TensorType(row.dtype, (dims.symbol(symbol), *row.shape)))
        made.results.append((f"{name}_rows", Concat((rows, Reshape(row, (1, *row.shape))), 0, origin=ctx.origin)))
        made.grow(symbol, promise, len(made.initial))
        bound[symbol] = made.add(ctx, ctx.constant(0, dtypes.i64), f"{name}_count")
        following = ctx.build(Add, bound[symbol], ctx.constant(1, dtypes.i64))
        made.results.append((f"{name}_count", following))
        return number


def _renamed(outputs: Sequence[tuple[str, Value]]) -> Outputs:
    """Outputs under names that are all different."""
    taken: set[str] = set()
    found: list[tuple[str, Value]] = []
    for wish, value in outputs:
        name, number = wish, 2
        while name in taken:
            name, number = f"{wish}_{number}", number + 1
        taken.add(name)
        found.append((name, value))
    return tuple(found)
