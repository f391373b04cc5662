"""What a contraction does after its sums: the stores, on whole or cut-off tiles.

Cheap expressions of whole tiles run on the accumulators in registers. Others (a transcendental function for each of a
dozen accumulators would be written out a dozen times) and tiles cut off at the last column go through a copy of the
tile in the first-level cache, where one loop serves all tile sizes.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Call, Const, Expr, Load, Local, Store
from ingot.compiler.ir.sparse import SparseProduct, SparseVector
from ingot.compiler.ir.templates import Contraction, Strassen
from ingot.compiler.targets.cpu import flow, microkernel
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim, emit_expr, emit_store
from ingot.compiler.targets.cpu.flow import Value, const
from ingot.compiler.targets.cpu.functions import memory_type, register_type, widened
from ingot.compiler.targets.cpu.microkernel import Tile
from ingot.compiler.targets.cpu.rows import RowOffsets

PANEL = "%panel"  # the symbol bound to a panel's number
TAIL = (1, 32)  # odds that a panel is cut off

# Functions of a few instructions: worth repeating for every accumulator.
_CHEAP = frozenset(
    ("add", "sub", "mul", "min", "max", "relu", "clip", "neg", "abs", "fma", "cast", "round", "select", "eq", "ne")
) | frozenset(("lt", "le", "gt", "ge", "and", "or", "not", "copysign", "shl", "shr"))
_CHEAP_CALLS = 12  # a requantisation is eleven
_FEW_CALLS = 6  # more need registers of their own


@dataclass(frozen=True)
class Span:
    """The rows of a tile: the first one's number, its place in the block, how many there are, and how far apart."""

    row: Value
    slot: Value
    rows: Value
    stride: int = 1


class Epilogue:
    """Emits the stores of one contraction.

    `staged` says that every tile goes through the copy, `is_long` that what it does in registers is much, `whole` that
    no panel is ever cut off.
    """

    def __init__(
        self,
        b: ir.IRBuilder,
        template: Contraction | SparseProduct | SparseVector | Strassen,
        rows: RowOffsets,
        lanes: int,
        most: int,
        panels: int,
        *,
        copied: bool = False,
        begins: bool = False,
    ) -> None:
        """Tiles have at most `most` rows and `panels` panels, in vectors of `lanes`. With `copied` there is always room
        for a copy, with `begins` sums may begin with what `starts` gives."""
        self.b, self.template, self.rows, self.lanes, self.most = b, template, rows, lanes, most
        self.stores = shared([rows.store(store) for store in template.stores])
        calls = _calls(store.value for store in self.stores)
        self.staged = calls is None or calls > _CHEAP_CALLS
        self.is_long = not self.staged and (calls or 0) > _FEW_CALLS
        columns = template.columns.extent
        self.whole = isinstance(columns, int) and columns % template.width == 0
        self.start: Load | None = None
        if self.whole and begins and not template.accumulator.is_float:
            self.start, self.stores = started(self.stores, _depends_on_row)
        self.scratch: Value | None = None
        if self.staged or copied or not self.whole:
            self.scratch = flow.stack(b, register_type(template.accumulator), most * template.width * panels)

    def touch(self, scope: Scope, count: int, span: Span, *, next_panel: bool) -> None:
        """Fetch what the next tile's stores will read and write: hardware does not see such strides coming.

        The next tile has the rows that follow, or with `next_panel` the same rows one panel further on.
        """
        b, var, width = self.b, self.template.columns.var, self.template.width
        places: dict[tuple[str, Dim], bool] = {}
        for store in self.stores:
            places[store.buffer, store.offset] = True
            for load in _loads(store.value):
                places.setdefault((load.buffer, load.offset), False)
        first = self._column(scope)
        for (buffer, offset), write in places.items():
            affine = dims.coefficient(offset, var)
            if affine is None or affine[0] != 1 or not _depends_on_row(offset):
                continue
            pointer, dtype = scope.buffer(buffer)
            for i in range(count):
                inner = self._bind_row(scope, span, i if next_panel else i + count)
                inner.symbols[var] = first
                at = b.gep(pointer, [emit_dim(b, offset, inner)], source_etype=memory_type(dtype))
                skip = width * dtype.bytes if next_panel else 0
                for line in range(0, width * dtype.bytes, microkernel.LINE):
                    place = b.gep(at, [const(skip + line)], source_etype=ir.IntType(8))
                    microkernel.prefetch(b, place, write=write)

    def finish(self, scope: Scope, tile: Tile, sums: list[list[list[Value]]], span: Span) -> None:
        """The stores, straight from the accumulators of a whole tile."""
        b = self.b
        var = self.template.columns.var
        lanes = tile.lanes if tile.lanes > 1 else None
        per_row = [self._bind_row(scope, span, i) for i in range(tile.rows)]
        first = self._column(scope)
        fixed, stores = invariant_loads(self.stores, scope, _depends_on_row)
        for p in range(tile.panels):
            for v in range(tile.vectors):
                column = flow.add(b, first, p * self.template.width + v * tile.lanes)
                outer = scope.child(b)
                outer.symbols[var] = column
                values = {name: emit_expr(b, load, outer, lanes, var) for name, load in fixed.items()}
                for i in range(tile.rows):
                    inner = per_row[i].child(b)
                    inner.symbols[var] = column
                    inner.locals.update(values)
                    inner.locals["acc"] = sums[p][i][v]
                    for store in stores:
                        emit_store(b, store, inner, lanes, var)

    def places(self, panels: int) -> list[Value]:
        """Where the copy of each panel's part of a tile begins."""
        assert self.scratch is not None
        element, size = register_type(self.template.accumulator), self.most * self.template.width
        return [self.b.gep(self.scratch, [const(panel * size)], source_etype=element) for panel in range(panels)]

    def starts(self, scope: Scope, tile: Tile) -> list[list[list[Value]]] | None:
        """What the sums of a tile start from, as `MicroKernel.emit` takes it; None for zeros."""
        if self.start is None:
            return None
        first, lanes, panels = self._column(scope), tile.lanes if tile.lanes > 1 else None, []
        for p in range(tile.panels):
            vectors: list[Value] = []
            for v in range(tile.vectors):
                inner = scope.child(self.b)
                inner.symbols[self.template.columns.var] = flow.add(
                    self.b, first, p * self.template.width + v * tile.lanes
                )
                vectors.append(emit_expr(self.b, self.start, inner, lanes, self.template.columns.var))
            panels.append([vectors] * tile.rows)
        return panels

    def stage(self, tile: Tile, sums: list[list[list[Value]]]) -> None:
        """Copy the accumulators of a tile to the scratch tile."""
        b = self.b
        assert self.scratch is not None
        element = register_type(self.template.accumulator)
        for p, panel in enumerate(sums):
            for i, vectors in enumerate(panel):
                for v, value in enumerate(vectors):
                    at = (p * self.most + i) * self.template.width + v * tile.lanes
                    b.store(value, b.gep(self.scratch, [const(at)], source_etype=element), align=4)

    def finish_staged(self, scope: Scope, panel: Value, group: int, span: Span) -> None:
        """The stores for a tile that lies in scratch: row by row, vector by vector, the last vector masked."""
        b = self.b
        per_panel = scope.child(b)

        def panels(index: Value, _: list[Value]) -> list[Value]:
            per_panel.symbols[PANEL] = flow.add(b, panel, index)
            per_row = per_panel.child(b)

            def body(i: Value, _: list[Value]) -> list[Value]:
                step = flow.multiply(b, i, span.stride)
                for number in range(len(self.rows.parts)):
                    value = self.rows.at(b, scope, number, b.add(span.row, step), b.add(span.slot, step), 0)
                    per_row.symbols[self.rows.symbol_name(number)] = value
                at = flow.add(b, b.mul(index, const(self.most)), i)
                self._staged_row(per_row, flow.multiply(b, at, self.template.width))
                return []

            flow.loop(b, const(0), span.rows, 1, [], body, nonempty=True, rounds=self.most)
            return []

        flow.loop(b, const(0), const(group), 1, [], panels, rounds=group)

    def _staged_row(self, scope: Scope, at: Value) -> None:
        """One row of the scratch tile, from element `at` on."""
        b = self.b
        assert self.scratch is not None
        element = register_type(self.template.accumulator)
        lanes = self.lanes if self.lanes > 1 else None
        var, width = self.template.columns.var, self.template.width
        first = self._column(scope)
        inner = scope.child(b)

        def vector(v: Value, _: list[Value]) -> list[Value]:
            column = flow.add(b, first, v)
            inner.symbols[var] = column
            address = b.gep(self.scratch, [flow.add(b, at, v)], source_etype=element)
            inner.locals["acc"] = b.load(address, align=4, typ=widened(element, lanes))
            branches = [inner.child(b), inner.child(b)]

            def store(mask: Value | None) -> None:
                for each in self.stores:
                    emit_store(b, each, branches[mask is not None], lanes, var, mask)

            if self.whole:
                store(None)
                return []
            left = b.sub(emit_dim(b, self.template.columns.extent, scope), column)
            some = b.icmp_signed(">", left, const(0))
            if lanes is None:
                flow.branch(b, some, lambda: store(None), None)
                return []

            def cut() -> None:
                flow.branch(b, some, lambda: store(microkernel.lanes_below(b, left, self.lanes)), None)

            flow.branch(b, b.icmp_signed(">=", left, const(lanes)), lambda: store(None), cut)
            return []

        flow.loop(b, const(0), const(width), self.lanes, [], vector, rounds=width // self.lanes)

    def _bind_row(self, scope: Scope, span: Span, step: int) -> Scope:
        """A scope in which the row parts have the values of the span's row number `step`."""
        inner = scope.child(self.b)
        for number in range(len(self.rows.parts)):
            value = self.rows.at(self.b, scope, number, span.row, span.slot, step * span.stride)
            inner.symbols[self.rows.symbol_name(number)] = value
        return inner

    def _column(self, scope: Scope) -> Value:
        return emit_dim(self.b, symbol(PANEL) * self.template.width, scope)


def invariant_loads(
    stores: Sequence[Store], scope: Scope, varies: Callable[[Dim], bool]
) -> tuple[dict[str, Load], tuple[Store, ...]]:
    """Loads whose offset does not vary (a bias), by the local that holds them, and the stores that use it."""
    buffers: dict[Load, str] = {}
    written = {store.buffer for store in stores}

    def renamed(expr: Expr) -> Expr:
        if not isinstance(expr, Load) or expr.buffer in written or varies(expr.offset):
            return expr
        name = buffers.setdefault(expr, f"%load{len(buffers)}")
        return Local(name, scope.buffer(expr.buffer)[1])

    changed = _replaced(stores, renamed)
    return {name: load for load, name in buffers.items()}, changed


def started(stores: Sequence[Store], varies: Callable[[Dim], bool]) -> tuple[Load | None, tuple[Store, ...]]:
    """What integer sums may start from (a bias that does not vary), and the stores that no longer add it: where all
    of them do nothing else with ``Local("acc")``."""
    written = {store.buffer for store in stores}
    found: set[Load] = set()

    def without(expr: Expr) -> Expr:
        match expr:
            case Call("add", (Local("acc"), Load(buffer=buffer, offset=offset) as load)) if not (
                buffer in written or varies(offset)
            ):
                found.add(load)
                return Local("sum", expr.dtype)
            case _:
                return expr

    def back(expr: Expr) -> Expr:
        return Local("acc", expr.dtype) if isinstance(expr, Local) and expr.name == "sum" else expr

    changed = _replaced(stores, without)
    if len(found) != 1 or any("acc" in _locals(store.value) for store in changed):
        return None, tuple(stores)
    return found.pop(), _replaced(changed, back)


def _replaced(stores: Sequence[Store], change: Callable[[Expr], Expr]) -> tuple[Store, ...]:
    """The stores with every part of their values changed, outermost first; what is shared stays shared."""
    visited: dict[int, Expr] = {}

    def visit(expr: Expr) -> Expr:
        if id(expr) not in visited:
            changed = change(expr)
            if changed is expr and isinstance(expr, Call):
                changed = replace(expr, args=tuple(visit(argument) for argument in expr.args))
            visited[id(expr)] = changed
        return visited[id(expr)]

    return tuple(replace(store, value=visit(store.value)) for store in stores)


def _locals(expr: Expr) -> set[str]:
    if isinstance(expr, Call):
        return {name for argument in expr.args for name in _locals(argument)}
    return {expr.name} if isinstance(expr, Local) else set()


def _depends_on_row(dim: Dim) -> bool:
    return any(name.startswith("%row") for name in dims.symbols(dim))


def _loads(expr: Expr) -> Iterator[Load]:
    """The loads in an expression."""
    if isinstance(expr, Load):
        yield expr
    elif isinstance(expr, Call):
        for argument in expr.args:
            yield from _loads(argument)


def _calls(values: Iterable[Expr]) -> int | None:
    """How many calls the values take, where what they share counts once; None when one is not cheap."""
    seen: dict[int, Call] = {}
    rest = list(values)
    while rest:
        expr = rest.pop()
        if not isinstance(expr, Call) or id(expr) in seen:
            continue
        if expr.fn not in _CHEAP:
            return None
        seen[id(expr)] = expr
        rest.extend(expr.args)
    return len(seen)


def shared(stores: Sequence[Store]) -> tuple[Store, ...]:
    """The stores with equal parts of their values as one object: they are computed once."""
    known: dict[Hashable, Expr] = {}
    return tuple(replace(store, value=_shared(store.value, known)) for store in stores)


def _shared(expr: Expr, known: dict[Hashable, Expr]) -> Expr:
    """`expr` with equal parts, and those in `known`, as one object."""
    key: Hashable = expr
    match expr:
        case Call(fn=fn, args=args, dtype=dtype):
            args = tuple(_shared(argument, known) for argument in args)
            expr, key = replace(expr, args=args), (fn, dtype, tuple(map(id, args)))
        case Const(value=value, dtype=dtype):
            key = (repr(value), dtype)  # 0.0 is not -0.0
        case _:
            pass
    return known.setdefault(key, expr)
