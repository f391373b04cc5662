"""The kernels that walk a recurrent layer's steps.

A *tile* is some panels of units for a few batch rows: the recurrent sums of all gates, a register tile of columns at a
time, put by in scratch memory, then the cell. A *phase* is a pass over all panels; a step has one, or two where a gate
needs what all units have computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import (
    Accumulate,
    Call,
    Const,
    Expr,
    For,
    Index,
    Let,
    Load,
    Local,
    Scratch,
    Stmt,
    Store,
    When,
)
from ingot.compiler.lower import cells
from ingot.compiler.lower.cells import Arithmetic
from ingot.compiler.lower.nest import KernelBuilder, index_value
from ingot.compiler.lower.panels import Columns, Panels
from ingot.compiler.lower.views import View
from ingot.compiler.ops.recurrent import Activation
from ingot.runtime.dtypes import boolean, i64

CHAINS = 8  # sums in flight that keep the multipliers busy

Cell = Literal["lstm", "gru", "reset", "candidate", "rnn"]


@dataclass(frozen=True)
class Storages:
    """Where a layer's values lie. T steps, N batch rows, D directions, G gates, H units.

    `x` [T, N, D, G, H]: the input's part of the sums; `y` [T, D, N, H]: the result; `h` [2, D, N, H]: the hidden state
    before step t in copy t % 2; `c`, `z`, `reset` [D, N, H]: cell state, update gate, the reset gate times the state.
    `bias` [D, G, H] is added to the sums of the `biased` gates. `peepholes` [D, 3*H]; `lengths` [N].
    """

    x: View
    y: View
    h: View
    c: View | None
    z: View | None
    reset: View | None
    bias: View | None
    biased: str
    peepholes: View | None
    lengths: View | None


@dataclass(frozen=True)
class Phase:
    """Sums for gates, over the state or for the cell "candidate" over `Storages.reset`; then the cell.

    `weights` [D, size] are packed as `panels` says.
    """

    cell: Cell
    panels: Panels
    weights: View


@dataclass(frozen=True)
class Row:
    """A batch row at one step: its number, the time that it reads and writes, and whether its sequence still runs."""

    number: Dim
    place: Dim
    valid: Local | None


@dataclass(frozen=True)
class Part:
    """What a tile is about: panels of a phase, from number `first` on; the last of them has `lanes` units."""

    phase: Phase
    first: Dim
    count: int
    lanes: int


@dataclass(frozen=True)
class Names:
    """Names that are unique within one kernel."""

    taken: dict[str, int]

    def new(self, stem: str) -> str:
        """`stem` with an underscore in front and a number behind."""
        count = self.taken[stem] = self.taken.get(stem, -1) + 1
        return f"_{stem}{count}"


class StepWriter:
    """Writes the statements of one step into the kernel of `build`.

    `direction` is a number or a grid variable, `time` the step's number t, `rows` the most batch rows of a tile. With
    `flip` 1 time runs backwards, with 0 forwards; a symbol decides at run time.
    """

    def __init__(
        self,
        build: KernelBuilder,
        at: Storages,
        m: Arithmetic,
        all_gates: str,
        functions: Sequence[Activation],
        direction: Dim,
        flip: Dim,
        time: Dim,
        rows: int,
    ) -> None:
        self.build, self.at, self.m, self.all_gates, self.functions = build, at, m, all_gates, functions
        self.direction, self.flip, self.time, self.rows = direction, flip, time, rows
        self.steps, hidden = at.y.shape[0], at.y.shape[3]
        assert isinstance(hidden, int)
        self.hidden = hidden
        self.names = Names({})

    # -- panels and rows ----------------------------------------------------------------------------------------------

    def phase(self, phase: Phase, first: Dim, count: Dim) -> tuple[Stmt, ...]:
        """All panels of a phase, for `count` batch rows from `first` on."""
        statements: list[Stmt] = []
        if phase.panels.whole:
            group = self.names.new("p")
            statements.append(For(group, phase.panels.whole, self._group(phase, group, first, count)))
        return (*statements, *self._rest(phase, first, count))

    def any_group(self, phase: Phase, group: str, count: Dim) -> tuple[Stmt, ...]:
        """The group of panels that the grid variable says, for batch rows 0 .. count."""
        whole = phase.panels.whole
        full = self._group(phase, group, 0, count) if whole else ()
        last = self._rest(phase, 0, count)
        if not last or not whole:
            return full or last
        return (When(Call("lt", (Index(symbol(group)), Const(whole, i64)), boolean), full, last),)

    def _group(self, phase: Phase, group: str, first: Dim, count: Dim) -> tuple[Stmt, ...]:
        """The group that a variable says; every other step counts from the end, and meets in the cache what the step
        before has read last."""
        panels, number = phase.panels, self.names.new("group")
        back = self.time % 2 * (panels.whole - 1 - 2 * symbol(group))
        part = Part(phase, symbol(number) * panels.together, panels.together, panels.width)
        return (Let(number, Index(symbol(group) + back)), *self.rows_of(part, first, count))

    def _rest(self, phase: Phase, first: Dim, count: Dim) -> tuple[Stmt, ...]:
        """What whole groups leave over."""
        parts = [Part(phase, *rest) for rest in phase.panels.rest()]
        return tuple(s for part in parts for s in self.rows_of(part, first, count))

    def rows_of(self, part: Part, first: Dim, count: Dim) -> tuple[Stmt, ...]:
        """A part for `count` batch rows from `first` on, in tiles of as many rows as may be."""
        statements: list[Stmt] = []
        rows = self.rows
        while rows and count != 0:
            tiles = count // rows
            statements += self._repeated(part, first, tiles, rows)
            first, count = first + tiles * rows, count - tiles * rows
            rows = count if isinstance(count, int) else rows // 2
        return tuple(statements)

    def _repeated(self, part: Part, first: Dim, tiles: Dim, rows: int) -> Sequence[Stmt]:
        if tiles == 0:
            return ()
        if tiles == 1:
            return self.tile(part, first, rows)
        name = self.names.new("q")
        return (For(name, tiles, self.tile(part, first + symbol(name) * rows, rows)),)

    def row(self, number: Dim) -> tuple[Row, list[Stmt]]:
        """A batch row, after the statements that define its place and whether it is valid."""
        lengths, t = self.at.lengths, self.time
        if lengths is None:
            return Row(number, self._place(self.steps), None), []
        length, valid = self.names.new("length"), Local(self.names.new("valid"), boolean)
        given: Expr = Call("cast", (self.build.load(lengths, lengths.at([number])),), i64)
        # A length out of range is reported; here it must only do no harm.
        within = Call("clip", (given, Const(0, i64), index_value(self.steps)), i64)
        running = Call("lt", (index_value(t), Local(length, i64)), boolean)
        statements: list[Stmt] = [Let(length, within), Let(valid.name, running)]
        place = t
        if self.flip != 0:
            name = self.names.new("place")
            there = index_value(self._place(symbol(length)))
            statements.append(Let(name, Call("select", (valid, there, index_value(t)), i64)))
            place = symbol(name)
        return Row(number, place, valid), statements

    def _place(self, length: Dim) -> Dim:
        """The time that step t of a sequence of this length is about."""
        return self.time + self.flip * (length - 1 - self.time * 2)

    # -- tiles --------------------------------------------------------------------------------------------------------

    def tile(self, part: Part, first: Dim, rows: int) -> tuple[Stmt, ...]:
        """A part for `rows` batch rows from `first` on: sums in scratch memory [row, gate, unit], then the cells."""
        panels = part.phase.panels
        gates, width = panels.gates, panels.width
        units = part.count * width
        name = self.names.new("sums")
        statements: list[Stmt] = [Scratch(name, self.m.dtype, rows * len(gates) * units)]
        statements += [self._sums(part, block, first, rows, name) for block in panels.blocks(part.count)]
        number = self.names.new("n")
        row, before = self.row(first + symbol(number))
        lanes = (part.count - 1) * width + part.lanes
        for write in _CELLS[part.phase.cell]:
            lane = self.names.new("v")
            at = symbol(number) * (len(gates) * units) + symbol(lane)
            sums = {gate: Load(name, at + i * units) for i, gate in enumerate(gates)}
            unit = _Unit(self, row, part.first * width + symbol(lane), sums)
            write(unit)
            before.append(For(lane, lanes, tuple(unit.statements), "vector"))
        return (*statements, For(number, rows, tuple(before)))

    def _sums(self, part: Part, block: Columns, first: Dim, rows: int, scratch: str) -> Stmt:
        """The recurrent sums of some columns for all rows."""
        panels, members = part.phase.panels, block.members
        lane = self.names.new("v")
        chains = max(1, min(CHAINS // (len(members) * rows), self.hidden))
        sums = [
            [[Local(self.names.new("s"), self.m.dtype) for _ in range(chains)] for _ in members] for _ in range(rows)
        ]
        body: list[Stmt] = [Let(s.name, self.m.literal(0)) for row in sums for column in row for s in column]
        whole, rest = divmod(self.hidden, chains)
        k = self.names.new("k")
        terms = [self._term(part, block, lane, first, symbol(k) * chains + c, sums, c) for c in range(chains)]
        body.append(For(k, whole, tuple(s for term in terms for s in term)))
        if rest:
            k = self.names.new("k")
            term = self._term(part, block, lane, first, symbol(k) + whole * chains, sums, 0)
            body.append(For(k, rest, tuple(term)))
        for r, row in enumerate(sums):
            for (gate, panel), chain in zip(members, row, strict=True):
                number = (r * len(panels.gates) + panels.gates.index(gate)) * part.count + panel
                body.append(Store(scratch, number * panels.width + symbol(lane), self.m.sum(*chain)))
        return For(lane, part.lanes if part.count == 1 else panels.width, tuple(body), "vector")

    def _term(
        self,
        part: Part,
        block: Columns,
        lane: str,
        first: Dim,
        k: Dim,
        sums: Sequence[Sequence[Sequence[Local]]],
        chain: int,
    ) -> list[Stmt]:
        """Add element k of the state times the weights to chain number `chain` of all sums."""
        statements: list[Stmt] = []
        weights: list[Expr] = []
        packed = part.phase.weights
        for column in range(len(block.members)):
            offset = part.phase.panels.offset(part.first, block, column, k, symbol(lane))
            weight: Expr = self.build.load(packed, packed.at([self.direction, offset]))
            if packed.storage.dtype != self.m.dtype:
                weight = Call("cast", (weight,), self.m.dtype)
            weights.append(self._named("w", weight, statements) if len(sums) > 1 else weight)
        for r, row in enumerate(sums):
            number = first + r
            source = self.state(self.at.reset, number, k) if part.phase.cell == "candidate" else self.past(number, k)
            value = self._named("a", source, statements)
            for weight, mine in zip(weights, row, strict=True):
                product = Call("mul", (value, weight), self.m.dtype)
                statements.append(Accumulate(mine[chain].name, "add", product))
        return statements

    def _named(self, stem: str, value: Expr, statements: list[Stmt]) -> Local:
        name = self.names.new(stem)
        statements.append(Let(name, value))
        return Local(name, self.m.dtype)

    def input(self, row: Row, gate: str, unit: Dim) -> Load:
        """The input's part of a gate's sum."""
        x = self.at.x
        return self.build.load(x, x.at([row.place, row.number, self.direction, self.all_gates.index(gate), unit]))

    def bias(self, gate: str, unit: Dim) -> Load | None:
        """The bias that the step adds to a gate's sum."""
        bias = self.at.bias
        if bias is None or gate not in self.at.biased:
            return None
        return self.build.load(bias, bias.at([self.direction, self.all_gates.index(gate), unit]))

    def past(self, row: Dim, unit: Dim) -> Load:
        """The hidden state before the step."""
        return self.build.load(self.at.h, self.at.h.at([self.time % 2, self.direction, row, unit]))

    def state(self, view: View | None, row: Dim, unit: Dim) -> Load:
        """An element of one of the storages [D, N, H]."""
        assert view is not None
        return self.build.load(view, view.at([self.direction, row, unit]))

    def keep_state(self, view: View | None, row: Row, unit: Dim, value: Expr) -> Store:
        """Write an element of one of the storages [D, N, H]."""
        assert view is not None
        return self.build.store(view, view.at([self.direction, row.number, unit]), value)


class _Unit:
    """One unit of one row: the statements from its gates' recurrent sums on.

    A cell is written as loops of at most three functions that follow from each other: processors overlap the work of
    iterations only as far as they look ahead.
    """

    def __init__(self, writer: StepWriter, row: Row, unit: Dim, sums: Mapping[str, Load]) -> None:
        self.writer, self.row, self.unit, self.sums = writer, row, unit, sums
        self.m, self.functions = writer.m, writer.functions
        self.statements: list[Stmt] = []

    def keep(self, stem: str, value: Expr) -> Local:
        """`value` under a name of its own."""
        name = self.writer.names.new(stem)
        self.statements.append(Let(name, value))
        return Local(name, self.m.dtype)

    def put_by(self, gate: str, value: Expr) -> None:
        """Put `value` where the sum of a gate was, for the next loop."""
        place = self.sums[gate]
        self.statements.append(Store(place.buffer, place.offset, value))

    def recurrent(self, gate: str) -> Expr:
        """The recurrent part of a gate's sum, with the bias that the step adds."""
        return self.m.sum(self.sums[gate], self.writer.bias(gate, self.unit))

    def total(self, gate: str) -> Expr:
        """A gate's sum."""
        return self.m.sum(self.recurrent(gate), self.writer.input(self.row, gate, self.unit))

    def past(self) -> Expr:
        """The hidden state before."""
        return self.keep("old", self.writer.past(self.row.number, self.unit))

    def state(self, view: View | None) -> Expr:
        """The unit's element of a storage [D, N, H]."""
        return self.writer.state(view, self.row.number, self.unit)

    def keep_state(self, view: View | None, value: Expr) -> None:
        """Write the unit's element of a storage [D, N, H]."""
        self.statements.append(self.writer.keep_state(view, self.row, self.unit, value))

    def peephole(self, gate: str) -> Expr | None:
        """The weight of an LSTM's cell state in a gate's sum."""
        w, view = self.writer, self.writer.at.peepholes
        if view is None:
            return None
        return w.build.load(view, view.at([w.direction, self.unit + "iof".index(gate) * w.hidden]))

    def commit(self, h: Expr, old: Expr | None = None) -> None:
        """Write the new hidden state to its other copy and to the result."""
        w, at, valid = self.writer, self.writer.at, self.row.valid
        h = self.keep("h", h)
        kept: Expr = h
        result: Expr = h
        if valid is not None:
            kept = self.m.call("select", valid, h, old or w.past(self.row.number, self.unit))
            result = self.m.call("select", valid, h, self.m.literal(0))
        there = at.h.at([1 - w.time % 2, w.direction, self.row.number, self.unit])
        self.statements.append(w.build.store(at.h, there, kept))
        dtype = at.y.storage.dtype
        if dtype != self.m.dtype:
            result = Call("cast", (result,), dtype)
        place = at.y.at([self.row.place, w.direction, self.row.number, self.unit])
        self.statements.append(w.build.store(at.y, place, result))


def _lstm_state(u: _Unit) -> None:
    gates = {gate: u.total(gate) for gate in u.sums if gate != "o"}
    peepholes = {gate: u.peephole(gate) for gate in "if"}
    old = u.keep("c", u.state(u.writer.at.c))
    new = cells.lstm_state(u.m, u.functions, gates, peepholes, old, u.keep)
    if u.row.valid is not None:
        new = u.m.call("select", u.row.valid, new, old)
    u.keep_state(u.writer.at.c, new)


def _lstm_output(u: _Unit) -> None:
    c = u.keep("c", u.state(u.writer.at.c))
    u.commit(cells.lstm_output(u.m, u.functions, u.total("o"), u.peephole("o"), c))


def _rnn(u: _Unit) -> None:
    u.commit(cells.rnn(u.m, u.functions, u.total("h")))


def _gru_candidate_sum(u: _Unit) -> None:
    reset = u.m.gate(u.functions[0], u.total("r"))
    u.put_by("h", u.m.call("fma", reset, u.recurrent("h"), u.writer.input(u.row, "h", u.unit)))


def _gru(u: _Unit) -> None:
    old, z = u.past(), u.keep("z", u.m.gate(u.functions[0], u.total("z")))
    u.commit(cells.gru_candidate(u.m, u.functions, u.sums["h"], z, old), old)


def _gru_gates(u: _Unit) -> None:
    z, reset = (u.m.gate(u.functions[0], u.total(gate)) for gate in "zr")
    u.keep_state(u.writer.at.z, z)
    u.keep_state(u.writer.at.reset, u.m.call("mul", reset, u.past()))


def _gru_last(u: _Unit) -> None:
    z, old = u.state(u.writer.at.z), u.past()
    u.commit(cells.gru_candidate(u.m, u.functions, u.total("h"), z, old), old)


_CELLS: Mapping[Cell, Sequence[Callable[[_Unit], None]]] = {
    "lstm": (_lstm_state, _lstm_output),
    "gru": (_gru_candidate_sum, _gru),
    "reset": (_gru_gates,),
    "candidate": (_gru_last,),
    "rnn": (_rnn,),
}
