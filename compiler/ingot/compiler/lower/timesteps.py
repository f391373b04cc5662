"""The kernels that walk a recurrent layer's steps.

A *tile* is one panel of units for a few batch rows: the gates' sums over the state before, then the cell, all in
registers. A *phase* is a pass over all panels; a step has one, or two where a gate needs what all units have computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ingot.compiler.lower.views import View
from ingot.compiler.ops.recurrent import Activation
from ingot.runtime.dtypes import boolean, i64

CHAINS = 8  # sums in flight that keep the multipliers busy
KEPT = 4  # sums that stay in registers while others are made

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
class Gates:
    """Gates whose sums are made together, with their weights [D, panel, k, gate, lane]."""

    letters: str
    packed: View


@dataclass(frozen=True)
class Phase:
    """Sums for gates, over the state or for the cell "candidate" over `Storages.reset`; then the cell."""

    cell: Cell
    groups: tuple[Gates, ...]

    @property
    def width(self) -> int:
        """Units of a panel."""
        lanes = self.groups[0].packed.shape[4]
        assert isinstance(lanes, int)
        return lanes


@dataclass(frozen=True)
class Row:
    """A batch row at one step: its number, the time that it reads and writes, and whether its sequence still runs."""

    number: Dim
    place: Dim
    valid: Local | None


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
        whole, rest = self._split(phase)
        statements: list[Stmt] = []
        if whole:
            panel = self.names.new("p")
            statements.append(For(panel, whole, self.panel(phase, symbol(panel), phase.width, first, count)))
        if rest:
            statements += self.panel(phase, whole, rest, first, count)
        return tuple(statements)

    def any_panel(self, phase: Phase, panel: str, count: Dim) -> tuple[Stmt, ...]:
        """The panel that the grid variable `panel` says, for batch rows 0 .. count."""
        whole, rest = self._split(phase)
        full = self.panel(phase, symbol(panel), phase.width, 0, count) if whole else ()
        if not rest:
            return full
        last = self.panel(phase, whole, rest, 0, count)
        if not whole:
            return last
        return (When(Call("lt", (Index(symbol(panel)), Const(whole, i64)), boolean), full, last),)

    def _split(self, phase: Phase) -> tuple[int, int]:
        """Whole panels, and units in the one after them."""
        return divmod(self.hidden, phase.width)

    def panel(self, phase: Phase, panel: Dim, lanes: Dim, first: Dim, count: Dim) -> tuple[Stmt, ...]:
        """One panel of `lanes` units, for `count` batch rows from `first` on, in tiles of as many rows as may be."""
        statements: list[Stmt] = []
        rows = self.rows
        while rows and count != 0:
            tiles = count // rows
            statements += self._repeated(phase, panel, lanes, first, tiles, rows)
            first, count = first + tiles * rows, count - tiles * rows
            rows = count if isinstance(count, int) else rows // 2
        return tuple(statements)

    def _repeated(self, phase: Phase, panel: Dim, lanes: Dim, first: Dim, tiles: Dim, rows: int) -> Sequence[Stmt]:
        if tiles == 0:
            return ()
        if tiles == 1:
            return self.tile(phase, panel, lanes, [first + i for i in range(rows)])
        name = self.names.new("q")
        start = first + symbol(name) * rows
        return (For(name, tiles, self.tile(phase, panel, lanes, [start + i for i in range(rows)])),)

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

    def tile(self, phase: Phase, panel: Dim, lanes: Dim, numbers: Sequence[Dim]) -> tuple[Stmt, ...]:
        """One panel for the batch rows `numbers`."""
        statements: list[Stmt] = []
        rows: list[Row] = []
        for number in numbers:
            row, before = self.row(number)
            rows.append(row)
            statements += before
        lane, body = self.names.new("v"), list[Stmt]()
        totals: list[dict[str, Expr]] = [{} for _ in rows]
        for gates in phase.groups:
            for row, total in zip(self._sums(phase, gates, panel, lane, rows, body), totals, strict=True):
                total.update(row)
            if gates is not phase.groups[-1] and len(rows) * len(gates.letters) > KEPT:
                # Sums that registers cannot hold during the next group's: loops of their own, and scratch between them.
                scratch, loop, lane, totals = self._put_by(phase.width, lane, lanes, body, totals)
                statements += [scratch, loop]
                body = []
        unit = panel * phase.width + symbol(lane)
        for row, total in zip(rows, totals, strict=True):
            body += _Unit(self, row, unit).cell(phase.cell, total)
        return (*statements, For(lane, lanes, tuple(body), "vector"))

    def _put_by(
        self, width: int, lane: str, lanes: Dim, body: Sequence[Stmt], totals: Sequence[Mapping[str, Expr]]
    ) -> tuple[Scratch, For, str, list[dict[str, Expr]]]:
        """End a vector loop by storing its sums: the scratch buffer, the loop, the next loop's lane, the sums there."""
        name, after = self.names.new("scratch"), self.names.new("v")
        slots = [(row, gate, value) for row, total in enumerate(totals) for gate, value in total.items()]
        stores = [Store(name, symbol(lane) + i * width, value) for i, (_, _, value) in enumerate(slots)]
        moved: list[dict[str, Expr]] = [{} for _ in totals]
        for i, (row, gate, _) in enumerate(slots):
            moved[row][gate] = Load(name, symbol(after) + i * width)
        scratch = Scratch(name, self.m.dtype, len(slots) * width)
        return scratch, For(lane, lanes, (*body, *stores), "vector"), after, moved

    def _sums(
        self, phase: Phase, gates: Gates, panel: Dim, lane: str, rows: Sequence[Row], body: list[Stmt]
    ) -> list[dict[str, Expr]]:
        """The sums of some gates for each row, after statements that are added to `body`."""
        unit = panel * phase.width + symbol(lane)
        chains = max(1, min(CHAINS // (len(gates.letters) * len(rows)), self.hidden))
        sums = [
            {gate: [Local(self.names.new("s"), self.m.dtype) for _ in range(chains)] for gate in gates.letters}
            for _ in rows
        ]
        for row, mine in zip(rows, sums, strict=True):
            for gate, (first, *others) in mine.items():
                body.append(Let(first.name, self._first(phase, row, gate, unit)))
                body += [Let(other.name, self.m.literal(0)) for other in others]
        body += self._reduction(phase, gates, panel, lane, rows, sums, chains)
        return [{gate: self.m.sum(*chain) for gate, chain in mine.items()} for mine in sums]

    def _first(self, phase: Phase, row: Row, gate: str, unit: Dim) -> Expr:
        """What the sum of a gate starts from."""
        apart = phase.cell == "gru" and gate == "h"  # this sum is multiplied before the input's part is added
        return self.m.sum(None if apart else self.input(row, gate, unit), self.bias(gate, unit))

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

    def past(self, row: Row, unit: Dim) -> Load:
        """The hidden state before the step."""
        return self.build.load(self.at.h, self.at.h.at([self.time % 2, self.direction, row.number, unit]))

    def state(self, view: View | None, row: Row, unit: Dim) -> Load:
        """An element of one of the storages [D, N, H]."""
        assert view is not None
        return self.build.load(view, view.at([self.direction, row.number, unit]))

    def keep_state(self, view: View | None, row: Row, unit: Dim, value: Expr) -> Store:
        """Write an element of one of the storages [D, N, H]."""
        assert view is not None
        return self.build.store(view, view.at([self.direction, row.number, unit]), value)

    def _reduction(
        self,
        phase: Phase,
        gates: Gates,
        panel: Dim,
        lane: str,
        rows: Sequence[Row],
        sums: Sequence[Mapping[str, Sequence[Local]]],
        chains: int,
    ) -> list[Stmt]:
        """The sums over the units of the state before, in as many chains as there are locals a sum."""
        whole, rest = divmod(self.hidden, chains)

        def term(k: Dim, chain: int) -> list[Stmt]:
            statements: list[Stmt] = []
            values: list[Expr] = []
            for row in rows:
                source = self.state(self.at.reset, row, k) if phase.cell == "candidate" else self.past(row, k)
                values.append(self._named("a", source, statements))
            for position, gate in enumerate(gates.letters):
                offset = gates.packed.at([self.direction, panel, k, position, symbol(lane)])
                load = self.build.load(gates.packed, offset)
                weight = self._named("w", load, statements) if len(rows) > 1 else load
                for value, mine in zip(values, sums, strict=True):
                    product = Call("mul", (value, weight), self.m.dtype)
                    statements.append(Accumulate(mine[gate][chain].name, "add", product))
            return statements

        k = self.names.new("k")
        body = [s for chain in range(chains) for s in term(symbol(k) * chains + chain, chain)]
        loops: list[Stmt] = [For(k, whole, tuple(body))]
        if rest:
            k = self.names.new("k")
            loops.append(For(k, rest, tuple(term(symbol(k) + whole * chains, 0))))
        return loops

    def _named(self, stem: str, value: Expr, statements: list[Stmt]) -> Local:
        name = self.names.new(stem)
        statements.append(Let(name, value))
        return Local(name, self.m.dtype)


class _Unit:
    """One unit of one row: the statements from its gates' sums on."""

    def __init__(self, writer: StepWriter, row: Row, unit: Dim) -> None:
        self.writer, self.row, self.unit = writer, row, unit
        self.m, self.functions = writer.m, writer.functions
        self.statements: list[Stmt] = []

    def keep(self, stem: str, value: Expr) -> Local:
        """`value` under a name of its own."""
        name = self.writer.names.new(stem)
        self.statements.append(Let(name, value))
        return Local(name, self.m.dtype)

    def cell(self, cell: Cell, sums: Mapping[str, Expr]) -> list[Stmt]:
        """The statements."""
        w, m, at = self.writer, self.m, self.writer.at
        match cell:
            case "lstm":
                self.lstm(sums)
            case "rnn":
                self.commit(cells.rnn(m, self.functions, sums["h"]))
            case "gru":
                z, r = (self.keep(gate, m.gate(self.functions[0], sums[gate])) for gate in "zr")
                total = m.call("fma", r, sums["h"], w.input(self.row, "h", self.unit))
                old = self.keep("old", w.past(self.row, self.unit))
                self.commit(cells.gru_candidate(m, self.functions, total, z, old), old)
            case "reset":
                z, r = (m.gate(self.functions[0], sums[gate]) for gate in "zr")
                product = m.call("mul", r, w.past(self.row, self.unit))
                self.statements.append(w.keep_state(at.z, self.row, self.unit, z))
                self.statements.append(w.keep_state(at.reset, self.row, self.unit, product))
            case "candidate":
                z = w.state(at.z, self.row, self.unit)
                old = self.keep("old", w.past(self.row, self.unit))
                self.commit(cells.gru_candidate(m, self.functions, sums["h"], z, old), old)
        return self.statements

    def lstm(self, sums: Mapping[str, Expr]) -> None:
        """The LSTM cell and its state."""
        w, at = self.writer, self.writer.at
        peepholes: dict[str, Expr] = {}
        if at.peepholes is not None:
            for i, gate in enumerate("iof"):
                offset = at.peepholes.at([w.direction, self.unit + i * w.hidden])
                peepholes[gate] = w.build.load(at.peepholes, offset)
        old = self.keep("c", w.state(at.c, self.row, self.unit))
        h, new = cells.lstm(self.m, self.functions, sums, peepholes, old, self.keep)
        if self.row.valid is not None:
            new = self.m.call("select", self.row.valid, new, old)
        self.statements.append(w.keep_state(at.c, self.row, self.unit, new))
        self.commit(h)

    def commit(self, h: Expr, old: Local | None = None) -> None:
        """Write the new hidden state to its other copy and to the result."""
        w, at, valid = self.writer, self.writer.at, self.row.valid
        shown = h = self.keep("h", h)
        kept: Expr = h
        result: Expr = shown
        if valid is not None:
            kept = self.m.call("select", valid, h, old or w.past(self.row, self.unit))
            result = self.m.call("select", valid, h, self.m.literal(0))
        there = at.h.at([1 - w.time % 2, w.direction, self.row.number, self.unit])
        self.statements.append(w.build.store(at.h, there, kept))
        dtype = at.y.storage.dtype
        if dtype != self.m.dtype:
            result = Call("cast", (result,), dtype)
        place = at.y.at([self.row.place, w.direction, self.row.number, self.unit])
        self.statements.append(w.build.store(at.y, place, result))
