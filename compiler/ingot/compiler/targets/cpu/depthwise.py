"""`ir.templates.Depthwise` as LLVM IR: one filter a channel, vectorised over channels.

A register tile is a few neighbouring positions along x times one vector of channels. For each row of taps its weights
sit in registers, and every input vector is loaded once and used by all the positions whose taps meet it. Positions are
shared out evenly among the tiles of a line, so there are at most two tile sizes when the line's length is known.

Where the processor sums four products of bytes, the taps of a column are summed so: the bytes that they meet are put
together once for each place along x, for all the positions whose taps meet it.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Load
from ingot.compiler.ir.templates import Depthwise
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import flow, functions
from ingot.compiler.targets.cpu.dots import Quads, product
from ingot.compiler.targets.cpu.epilogue import invariant_loads, shared, started
from ingot.compiler.targets.cpu.expressions import (
    Scope,
    element_pointer,
    emit_dim,
    emit_expr,
    emit_store,
    load_vector,
)
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import constant, register_type, widened
from ingot.compiler.targets.cpu.microkernel import lanes_below, multiply_add
from ingot.runtime.dtypes import i32

TILE = 7  # positions a register tile: 7 sums, up to 7 weights and an input fit 16 registers
UNROLLED = 256  # taps of a window that are written out; larger ones are walked by loops
TOGETHER = 32  # taps of a row that a round of these takes
MORE = 14  # the same of bytes, which take fewer, where there are 32


def emit_body(
    b: ir.IRBuilder,
    template: Depthwise,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of the collapsed rows under "row".

    Raises IrError when a tap axis has no constant extent or x does not occur linearly in A's offset.
    """
    _Body(b, template, level).rows(scope, *ranges["row"])


class _Body:
    """The emission of one depthwise kernel; the methods go from the outermost loop inwards."""

    def __init__(self, b: ir.IRBuilder, template: Depthwise, level: Level) -> None:
        self.b, self.template, self.level = b, template, level
        self.lanes = level.lanes(template.accumulator.bytes)
        self.extents: dict[str, int] = {}
        for axis in template.taps:
            if not isinstance(axis.extent, int):
                raise IrError(f"tap axis {axis.var!r} needs a constant extent, not {dims.show(axis.extent)}")
            self.extents[axis.var] = axis.extent
        extents = list(self.extents.values())
        if dims.coefficient(template.a.offset, template.x.var) is None:
            raise IrError(f"the offset of {template.a.buffer!r} is not affine in {template.x.var!r}")
        quads = product(level, template.dot)
        if isinstance(quads, Quads):
            self.quads, (height, width) = quads, extents
            self.tap_points = list(itertools.product(range(0, height, quads.dot), range(width)))
        else:
            self.quads = None
            self.tap_points = list(itertools.product(*(range(extent) for extent in extents)))
        self.most = MORE if self.quads is not None and level.vector_registers >= 32 else TILE
        self.height = extents[0]
        self.stores, self.start = shared(template.stores), None
        if not template.accumulator.is_float:
            self.start, self.stores = started(self.stores, self._varies)

    def rows(self, scope: Scope, begin: Value, end: Value) -> None:
        """The rows of the chunk; the variables of the row axes are decoded from the row number."""
        b = self.b
        extents = [emit_dim(b, axis.extent, scope) for axis in self.template.rows]
        inner = scope.child(b)

        def body(row: Value, _: list[Value]) -> list[Value]:
            rest = row
            for position in range(len(extents) - 1, -1, -1):
                axis = self.template.rows[position]
                if position == 0:
                    inner.symbols[axis.var] = rest
                elif as_constant(extents[position]) == 1:
                    inner.symbols[axis.var] = const(0)
                else:
                    inner.symbols[axis.var] = b.urem(rest, extents[position])
                    rest = b.udiv(rest, extents[position])
            self._line(inner)
            return []

        flow.loop(b, begin, end, 1, [], body)

    def _line(self, scope: Scope) -> None:
        """The tiles along x, all of nearly the same size."""
        b = self.b
        extent = self.template.x.extent
        if isinstance(extent, int):
            tiles = max(1, -(-extent // self.most))
            least, larger = divmod(extent, tiles)
            split = larger * (least + 1)
            if larger:
                self._tiles(scope, const(0), const(split), least + 1)
            if least:
                self._tiles(scope, const(split), const(extent), least)
            return
        count = emit_dim(b, extent, scope)
        whole = b.sub(count, b.urem(count, const(self.most)))
        self._tiles(scope, const(0), whole, self.most)
        self._tiles(scope, whole, count, 1)

    def _tiles(self, scope: Scope, begin: Value, end: Value, size: int) -> None:
        inner = scope.child(self.b)

        def body(x: Value, _: list[Value]) -> list[Value]:
            inner.symbols[self.template.x.var] = x
            self._channels(inner, size)
            return []

        flow.loop(self.b, begin, end, size, [], body, rounds=8)

    def _channels(self, scope: Scope, size: int) -> None:
        """The vectors of channels of one tile, the last one masked."""
        b, lanes = self.b, self.lanes
        axis = self.template.channels
        extent = emit_dim(b, axis.extent, scope)
        inner = scope.child(b)

        def body(c: Value, _: list[Value]) -> list[Value]:
            inner.symbols[axis.var] = c
            self._tile(inner, size, None)
            return []

        known = as_constant(extent)
        whole = const(known - known % lanes) if known is not None else b.and_(extent, const(-lanes))
        flow.loop(b, const(0), whole, lanes, [], body, rounds=64)
        if known is not None and known % lanes == 0:
            return
        rest = scope.child(b)
        rest.symbols[axis.var] = whole

        def partial() -> None:
            self._tile(rest, size, lanes_below(b, flow.subtract(b, extent, whole), lanes))

        if known is not None:
            partial()
        else:
            flow.branch(b, b.icmp_signed("<", whole, extent), partial, None, (1, 64))

    def _tile(self, scope: Scope, size: int, mask: Value | None) -> None:
        """`size` positions times one vector of channels: the sums in registers, then the stores."""
        b, template = self.b, self.template
        sums = [self._start(scope, mask)] * size
        if len(self.tap_points) > UNROLLED and self.quads is None:
            sums = self._walked(scope, sums, self.template.taps, mask)
        else:
            for _, points in itertools.groupby(self.tap_points, key=lambda point: point[:-1]):
                sums = self._tap_row(scope, sums, list(points), mask)
        outer = scope.child(b)
        loads, stores = invariant_loads(self.stores, outer, self._varies)
        var = template.channels.var
        outer.locals.update({name: emit_expr(b, load, outer, self.lanes, var, mask) for name, load in loads.items()})
        x = outer.symbol(template.x.var)
        scopes = [outer.child(b) for _ in sums]
        for position, (inner, value) in enumerate(zip(scopes, sums, strict=True)):
            inner.symbols[template.x.var] = flow.add(b, x, position)
            inner.locals["acc"] = value
            for store in stores:
                emit_store(b, store, inner, self.lanes, var, mask)

    def _walked(self, scope: Scope, sums: list[Value], taps: Sequence[Axis], mask: Value | None) -> list[Value]:
        """Add what is left of large windows, along the axes `taps`, by loops: over the rows, and over `TOGETHER` taps
        of a row at a time."""
        b, (axis, *others) = self.b, taps
        extent, step = self.extents[axis.var], 1 if others else TOGETHER
        whole = extent - extent % step

        def body(place: Value, carried: list[Value]) -> list[Value]:
            inner = scope.child(b)
            inner.symbols[axis.var] = place
            return self._walked(inner, carried, others, mask) if others else self._steps(inner, carried, TOGETHER, mask)

        sums = flow.loop(b, const(0), const(whole), step, sums, body)
        if whole < extent:
            rest = scope.child(b)
            rest.symbols[axis.var] = const(whole)
            sums = self._steps(rest, sums, extent - whole, mask)
        return sums

    def _steps(self, scope: Scope, sums: list[Value], count: int, mask: Value | None) -> list[Value]:
        """Add `count` taps of the row that the scope is at, from its own place on."""
        *outer, last = (symbol(axis.var) for axis in self.template.taps)
        return self._tap_row(scope, list(sums), [(*outer, last + i) for i in range(count)], mask)

    def _start(self, scope: Scope, mask: Value | None) -> Value:
        """What the sums of a vector of channels start from."""
        if self.start is not None:
            return emit_expr(self.b, self.start, scope.child(self.b), self.lanes, self.template.channels.var, mask)
        return constant(0, widened(register_type(self.template.accumulator), self.lanes))

    def _varies(self, offset: Dim) -> bool:
        """Whether an offset differs from position to position."""
        return self.template.x.var in dims.symbols(offset)

    def _tap_row(self, scope: Scope, sums: list[Value], points: list[tuple[Dim, ...]], mask: Value | None):
        """Add one row of taps: input vectors in order of position, each used for every (position, tap) it serves."""
        template = self.template
        weights = [self._weight(scope, point, mask) for point in points]
        uses: dict[Dim, list[tuple[int, int]]] = {}
        for position in range(len(sums)):
            for tap, point in enumerate(points):
                uses.setdefault(self._offset(template.a, point, position), []).append((position, tap))
        loaded: dict[Dim, Value] = {}
        for position in range(len(sums)):  # taps of one position follow each other least: sums stay independent
            for point in points:
                key = self._offset(template.a, point, position)
                if key not in loaded:
                    loaded[key] = self._element(scope, point, position, mask)
                    for other, use in uses[key]:
                        sums[other] = self._add(loaded[key], weights[use], sums[other])
        return sums

    def _weight(self, scope: Scope, point: tuple[Dim, ...], mask: Value | None) -> Value:
        """The weights of a tap, or of those that are summed with it."""
        if self.quads is None:
            return self._load(scope, self.template.w, point, 0, mask)
        pointer, dtype = scope.buffer(self.template.w.buffer)
        at = element_pointer(self.b, pointer, dtype, emit_dim(self.b, self._offset(self.template.w, point, 0), scope))
        return load_vector(self.b, at, i32, self.lanes, mask)

    def _element(self, scope: Scope, point: tuple[Dim, ...], position: int, mask: Value | None) -> Value:
        """What the taps of `point` meet at a position."""
        template = self.template
        if self.quads is None:
            return self._load(scope, template.a, point, position, mask)
        first, x = point
        assert isinstance(first, int)
        rows = [
            emit_expr(self.b, self._moved(template.a, (y, x), position), scope, self.lanes, template.channels.var, mask)
            for y in range(first, min(first + self.quads.dot, self.height))
        ]
        return self.quads.together(self.b, rows)

    def _add(self, x: Value, y: Value, total: Value) -> Value:
        if self.quads is not None:
            return self.quads.add(self.b, x, y, total)
        return multiply_add(self.b, x, y, total, self.template.accumulator)

    def _offset(self, load: Load, point: tuple[Dim, ...], position: int) -> Dim:
        """The offset of `load` at tap `point`, `position` places to the right of the tile's first."""
        values: dict[str, Dim] = {axis.var: i for axis, i in zip(self.template.taps, point, strict=True)}
        values[self.template.x.var] = symbol(self.template.x.var) + position
        return dims.substitute(load.offset, values)

    def _moved(self, load: Load, point: tuple[Dim, ...], position: int) -> Load:
        return Load(load.buffer, self._offset(load, point, position))

    def _load(self, scope: Scope, load: Load, point: tuple[Dim, ...], position: int, mask: Value | None) -> Value:
        moved, var = self._moved(load, point, position), self.template.channels.var
        value = emit_expr(self.b, moved, scope, self.lanes, var, mask)
        return functions.cast(self.b, value, scope.buffer(load.buffer)[1], self.template.accumulator)
