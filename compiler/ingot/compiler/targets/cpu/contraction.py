"""`ir.templates.Contraction` as LLVM IR: matmul and convolution as one (indirect) GEMM over packed panels.

A chunk walks its rows in blocks whose part of A stays in the second-level cache; for each block its panels, and for
each panel the register tiles of the block (`microkernel`). Rows are shared out evenly among the tiles, so a tile has at
least half its rows. The next panel is fetched ahead while the current one is used. What follows the sum (the stores)
runs on the accumulators in registers when it is cheap and the panel is whole, else on a copy in the first-level cache.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Call, Expr, Load, Local, Store
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import flow, microkernel
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim, emit_expr, emit_store
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import memory_type, register_type, widened
from ingot.compiler.targets.cpu.microkernel import Depth, MicroKernel, Operand, Prefetch, Tile
from ingot.compiler.targets.cpu.rows import RowOffsets, split, uniform_stride

BLOCK_ROWS = 512  # most rows of a block: bounds the row tables
PREFETCH_BYTES = 16 << 10  # smaller panels are left to the hardware prefetchers
PREFETCH_ROWS = 4  # fewer rows run at the speed of memory whatever is done
_PANEL = "%panel"
_TAIL = (1, 32)  # odds that a panel is cut off

# Functions of a few instructions: worth repeating for every accumulator.
_CHEAP = frozenset(
    ("add", "sub", "mul", "min", "max", "relu", "clip", "neg", "abs", "fma", "cast", "select", "eq", "ne")
) | frozenset(("lt", "le", "gt", "ge", "and", "or", "not", "copysign"))
_CHEAP_CALLS = 6


def emit_body(
    b: ir.IRBuilder,
    template: Contraction,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of every axis of ``template.grid`` by its variable.

    Raises IrError when an offset is not separable into row, column and depth parts.
    """
    _Body(b, template, ranges, level).batch(scope, template.batch)


def tile_rows(template: Contraction, level: Level) -> int:
    """Rows of a register tile on `level`: the template's, less where registers are fewer, twice where they are many and
    vectors are long."""
    vectors = template.width // _lanes(template, level)
    part, _ = split(template.a.offset, frozenset(axis.var for axis in template.rows))
    stride = uniform_stride(part, template.rows)
    known = stride if isinstance(stride, int) else None
    fitting = microkernel.fitting_rows(vectors, level.vector_registers, known, template.accumulator)
    rows = template.tile_rows
    while rows * vectors < microkernel.LATENCY and rows < fitting:
        rows *= 2
    return min(rows, fitting)


def _lanes(template: Contraction, level: Level) -> int:
    lanes = min(level.lanes(template.accumulator.bytes), template.width)
    while template.width % lanes:
        lanes //= 2
    return lanes


@dataclass(frozen=True)
class _Block:
    """A block of rows: its first row, how many rows and tiles it has, and the smaller of its tiles' row counts."""

    begin: Value
    count: Value
    tiles: Value
    least: Value
    larger: Value  # so many tiles, the first ones, have one row more


class _Body:
    """The emission of one contraction; the methods go from the outermost loop inwards."""

    def __init__(
        self, b: ir.IRBuilder, template: Contraction, ranges: Mapping[str, tuple[Value, Value]], level: Level
    ) -> None:
        self.b, self.template, self.ranges, self.level = b, template, ranges, level
        self.accumulator = template.accumulator
        self.lanes = _lanes(template, level)
        self.vectors = template.width // self.lanes
        self.most = tile_rows(template, level)
        self.block_rows = self._block_rows()
        self.sizes = self._tile_sizes()
        inner = (*template.segments, template.run, template.columns)
        self.rows = RowOffsets(template.rows, frozenset(axis.var for axis in inner))
        self._separate_a()
        self.stores = tuple(self.rows.store(store) for store in template.stores)
        self.staged = any(_calls(store.value) is None for store in self.stores) or (
            sum(_calls(store.value) or 0 for store in self.stores) > _CHEAP_CALLS
        )
        self.rows.allocate(b, self.block_rows + 2 * self.most)  # tiles look ahead
        columns = template.columns.extent
        self.whole = isinstance(columns, int) and columns % template.width == 0
        scratch = self.most * template.width
        self.scratch = None
        if self.staged or not self.whole:
            self.scratch = flow.stack(b, register_type(self.accumulator), scratch * self._grouped_panels(1))

    # -- what is known before emission --------------------------------------------------------------------------------

    def _block_rows(self) -> int:
        """Rows a block: those whose part of A takes half the second-level cache, as far as the depth is known."""
        depth = self.template.depth
        rows = BLOCK_ROWS
        if isinstance(depth, int) and depth:
            rows = min(rows, (self.level.l2 // 2) // (depth * self.accumulator.bytes))
        rows = max(rows - rows % self.most, 4 * self.most)
        fixed = self.template.row_block
        return min(rows, fixed) if isinstance(fixed, int) and fixed > 0 else rows

    def _tile_sizes(self) -> tuple[int, ...]:
        """The row counts that tiles may have, ascending."""
        total, chunk = self.template.row_count, self.template.row_block
        if not isinstance(total, int) or not isinstance(chunk, int) or chunk < 1:
            return tuple(range(1, self.most + 1))
        chunks = {min(chunk, total), total % chunk}
        blocks = {min(c, self.block_rows) for c in chunks} | {c % self.block_rows for c in chunks}
        sizes: set[int] = set()
        for count in blocks - {0}:
            tiles = -(-count // self.most)
            sizes |= {count // tiles, -(-count // tiles)}
        return tuple(sorted(sizes)) or (1,)

    def _separate_a(self) -> None:
        """Split A's offset into what the chunk, the rows, the segments and the run contribute."""
        rest: Dim = self.template.a.offset
        strides: list[tuple[Dim, Dim]] = []
        for axis in (*self.template.segments, self.template.run):
            affine = dims.coefficient(rest, axis.var)
            if affine is None or dims.symbols(affine[0]) & self.rows.names:
                raise IrError(f"the offset of {self.template.a.buffer!r} is not affine in {axis.var!r}")
            strides.append((axis.extent, affine[0]))
            rest = affine[1]
        *segments, run = strides
        while segments and segments[-1][1] == run[0] * run[1]:  # the run goes on where the segment ends
            extent, _ = segments.pop()
            run = (extent * run[0], run[1])
        self.a_steps, self.a_run = segments, run
        self.a_part, self.a_base = self.rows.part(rest)

    def _grouped_panels(self, rows: int) -> int:
        """Panels that a tile of `rows` rows takes at once so that their accumulators fill the registers."""
        room = self.level.vector_registers - 4 - rows
        return max(1, min(6, room // (rows * self.vectors))) if rows <= 3 else 1

    # -- loops --------------------------------------------------------------------------------------------------------

    def batch(self, scope: Scope, axes: Sequence[Axis]) -> None:
        """Loop over the batch axes (most often one point each)."""
        if not axes:
            self._chunk(scope)
            return
        begin, end = self.ranges[axes[0].var]
        inner = scope.child(self.b)

        def body(index: Value, _: list[Value]) -> list[Value]:
            inner.symbols[axes[0].var] = index
            self.batch(inner, axes[1:])
            return []

        flow.loop(self.b, begin, end, 1, [], body)

    def _chunk(self, scope: Scope) -> None:
        """The row blocks of the chunk, and in each its panels."""
        b = self.b
        begin, end = self.ranges["row"]
        depth = self.template.depth
        self.depth = Depth(
            tuple((emit_dim(b, e, scope), emit_dim(b, s, scope)) for e, s in self.a_steps),
            (emit_dim(b, self.a_run[0], scope), emit_dim(b, self.a_run[1], scope)),
        )
        pointer, self.a_dtype = scope.buffer(self.template.a.buffer)
        self.a_start = b.gep(pointer, [emit_dim(b, self.a_base, scope)], source_etype=memory_type(self.a_dtype))
        self.panel_size = emit_dim(b, depth * self.template.width, scope)
        inner = scope.child(b)

        total, chunk = self.template.row_count, self.template.row_block
        if isinstance(total, int) and isinstance(chunk, int) and total <= min(chunk, self.block_rows):
            tiles = max(1, -(-total // self.most))
            self.rows.fill(b, inner, const(0), const(total))
            sizes = (total, tiles, total // tiles, total % tiles)
            self._panels(inner, _Block(const(0), *(const(size) for size in sizes)))
            return

        def body(row: Value, _: list[Value]) -> list[Value]:
            count = flow.minimum(b, flow.subtract(b, end, row), const(self.block_rows))
            self.rows.fill(b, inner, row, flow.add(b, row, count))
            tiles = b.udiv(b.add(count, const(self.most - 1)), const(self.most))
            least = b.udiv(count, tiles)
            block = _Block(row, count, tiles, least, b.sub(count, b.mul(tiles, least)))
            self._panels(inner, block)
            return []

        flow.loop(b, begin, end, self.block_rows, [], body)

    def _panels(self, scope: Scope, block: _Block) -> None:
        """The panels of one block of rows; groups of panels while a block has so few rows that it is one small tile."""
        begin, end = self.ranges["panel"]
        total = self.template.row_count
        if isinstance(total, int):
            if total in self.sizes and self._grouped_panels(total) > 1:
                self._grouped(scope, block, begin, end, total)
            else:
                self._panel_loop(scope, block, begin, end, 1, self.sizes)
            return
        single = self.b.icmp_signed("==", block.count, const(1))
        inner = scope.child(self.b)
        flow.branch(
            self.b,
            single,
            lambda: self._grouped(inner, block, begin, end, 1),
            lambda: self._panel_loop(inner, block, begin, end, 1, self.sizes),
        )

    def _grouped(self, scope: Scope, block: _Block, begin: Value, end: Value, rows: int) -> None:
        """Whole panels in groups, then the others one by one; the block is one tile of `rows` rows."""
        b = self.b
        group = self._grouped_panels(rows)
        whole = end
        if not self.whole:
            whole = flow.minimum(b, end, emit_dim(b, self.template.columns.extent // self.template.width, scope))
        span = flow.maximum(b, flow.subtract(b, whole, begin), const(0))
        last = flow.add(b, begin, b.sub(span, b.urem(span, const(group))))
        self._panel_loop(scope, block, begin, last, group, (rows,))
        self._panel_loop(scope, block, last, end, 1, (rows,))

    def _panel_loop(
        self, scope: Scope, block: _Block, begin: Value, end: Value, group: int, sizes: tuple[int, ...]
    ) -> None:
        b = self.b
        inner = scope.child(b)

        def body(panel: Value, _: list[Value]) -> list[Value]:
            inner.symbols[_PANEL] = panel
            self._tiles(inner, block, panel, group, sizes)
            return []

        flow.loop(b, begin, end, group, [], body)

    def _tiles(self, scope: Scope, block: _Block, panel: Value, group: int, sizes: tuple[int, ...]) -> None:
        """The register tiles of a block against one panel (or one group of panels)."""
        b = self.b
        offset = self.template.b_offset + symbol(_PANEL) * self.template.depth * self.template.width
        pointer, self.b_dtype = scope.buffer(self.template.b)
        start = b.gep(pointer, [emit_dim(b, offset, scope)], source_etype=memory_type(self.b_dtype))
        ahead = self._fetch_ahead(block, start, group)
        if not self.whole:
            left = emit_dim(b, self.template.columns.extent - symbol(_PANEL) * self.template.width, scope)
            cut = b.icmp_signed("<", left, const(self.template.width * group))
        else:
            cut = None
        inner = scope.child(b)

        def body(tile: Value, carried: list[Value]) -> list[Value]:
            (slot,) = carried
            rows = block.least
            if len(sizes) > 1:
                rows = b.add(rows, b.zext(b.icmp_signed("<", tile, block.larger), flow.I64))
            fetch = None if ahead is None else ahead(tile)
            self._variants(inner, block, panel, start, slot, rows, group, sizes, cut, fetch)
            return [flow.add(b, slot, rows)]

        if as_constant(block.tiles) == 1:
            body(const(0), [const(0)])
        else:
            flow.loop(b, const(0), block.tiles, 1, [const(0)], body, nonempty=True, rounds=8)

    def _fetch_ahead(self, block: _Block, start: Value, group: int) -> Callable[[Value], Prefetch] | None:
        """What each tile of a block, by its number, fetches of the panel after the one at `start`; None for nothing.

        The tiles share the next panel out among them, and each spreads its part over its k loop.
        """
        b, depth, run, total = self.b, self.template.depth, self.a_run[0], self.template.row_count
        if group > 1 or not isinstance(depth, int) or not isinstance(run, int) or run <= microkernel.UNROLL_WHOLE:
            return None
        size = depth * self.template.width * self.b_dtype.bytes
        if size < PREFETCH_BYTES or (isinstance(total, int) and total < PREFETCH_ROWS):
            return None
        rounds = depth // run * (run // microkernel.UNROLL)
        tiles = -(-min(total, self.block_rows) // self.most) if isinstance(total, int) else 2
        lines = -(-size // (rounds * tiles * microkernel.LINE))
        step = b.udiv(const(-(-size // rounds)), block.tiles)
        share = b.mul(step, const(rounds))
        following = b.gep(start, [const(size)], source_etype=ir.IntType(8))
        return lambda tile: Prefetch(b.gep(following, [b.mul(tile, share)], source_etype=ir.IntType(8)), step, lines)

    # -- one tile -----------------------------------------------------------------------------------------------------

    def _variants(
        self,
        scope: Scope,
        block: _Block,
        panel: Value,
        start: Value,
        slot: Value,
        rows: Value,
        group: int,
        sizes: tuple[int, ...],
        cut: Value | None,
        fetch: Prefetch | None,
    ) -> None:
        """The tile with as many rows as it has: one micro-kernel for each count."""
        b = self.b
        row = flow.add(b, block.begin, slot)
        scopes = [scope.child(b) for _ in sizes]
        if len(sizes) == 1:
            self._tile(scopes[0], sizes[0], group, row, slot, start, cut, fetch)
        else:
            joined = b.append_basic_block("joined")
            blocks = [b.append_basic_block(f"rows{count}") for count in sizes]
            # The row counts are among `sizes` by construction; the last stands for "else".
            choice = b.switch(rows, blocks[-1])
            for count, target in zip(sizes[:-1], blocks[:-1], strict=True):
                choice.add_case(const(count), target)
            for count, target, inner in zip(sizes, blocks, scopes, strict=True):
                b.position_at_end(target)
                self._tile(inner, count, group, row, slot, start, cut, fetch)
                b.branch(joined)
            b.position_at_end(joined)
        after = scope.child(b)
        if self.staged:
            self._finish_staged(after, panel, group, row, slot, rows)
        elif cut is not None:
            flow.branch(b, cut, lambda: self._finish_staged(after, panel, group, row, slot, rows), None, _TAIL)

    def _tile(
        self,
        scope: Scope,
        count: int,
        group: int,
        row: Value,
        slot: Value,
        start: Value,
        cut: Value | None,
        fetch: Prefetch | None,
    ) -> None:
        b = self.b
        tile = microkernel.plan(count, self.template.width, self.lanes, self.level.vector_registers, group)
        operands = self._row_operands(scope, count, row, slot)
        if group == 1:
            self._touch_results(scope.child(b), count, row, slot)
        kernel = MicroKernel(
            b,
            tile,
            (self.a_dtype, self.b_dtype, self.accumulator),
            operands,
            self._panel_operands(start, group),
            self.depth,
            fetch,
        )
        sums = kernel.emit()
        if self.staged:
            self._stage(tile, sums)
        elif cut is None:
            self._finish(scope.child(b), tile, sums, row, slot)
        else:
            inner = scope.child(b)
            flow.branch(
                b, cut, lambda: self._stage(tile, sums), lambda: self._finish(inner, tile, sums, row, slot), _TAIL
            )

    def _touch_results(self, scope: Scope, count: int, row: Value, slot: Value) -> None:
        """Fetch what the stores of the next tile will read and write: hardware does not see such strides coming."""
        b, var = self.b, self.template.columns.var
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
            for i in range(count, 2 * count):
                inner = self._bind_row(scope, row, slot, i)
                inner.symbols[var] = first
                at = b.gep(pointer, [emit_dim(b, offset, inner)], source_etype=memory_type(dtype))
                for line in range(-(-self.template.width * dtype.bytes // microkernel.LINE)):
                    place = b.gep(at, [const(line * microkernel.LINE)], source_etype=ir.IntType(8))
                    microkernel.prefetch(b, place, write=write)

    def _row_operands(self, scope: Scope, count: int, row: Value, slot: Value) -> list[Operand]:
        """Where the rows of A start."""
        b, element = self.b, memory_type(self.a_dtype)
        if self.a_part is None:
            return [Operand(self.a_start)] * count
        stride = self.rows.strides[self.a_part]
        if isinstance(stride, int):
            first = self.rows.at(b, scope, self.a_part, row, slot, 0)
            pointer = b.gep(self.a_start, [first], source_etype=element)
            return [Operand(pointer, i * stride) for i in range(count)]
        starts = [self.rows.at(b, scope, self.a_part, row, slot, i) for i in range(count)]
        return [Operand(b.gep(self.a_start, [s], source_etype=element)) for s in starts]

    def _panel_operands(self, start: Value, group: int) -> list[Operand]:
        size = as_constant(self.panel_size)
        if size is not None:
            return [Operand(start, i * size) for i in range(group)]
        element = memory_type(self.b_dtype)
        shifts = [flow.multiply(self.b, self.panel_size, i) for i in range(group)]
        return [Operand(self.b.gep(start, [shift], source_etype=element)) for shift in shifts]

    # -- after the sum ------------------------------------------------------------------------------------------------

    def _bind_row(self, scope: Scope, row: Value, slot: Value, step: int) -> Scope:
        """A scope in which the row parts have the values of row ``row + step``."""
        inner = scope.child(self.b)
        for number in range(len(self.rows.parts)):
            inner.symbols[self.rows.symbol_name(number)] = self.rows.at(self.b, scope, number, row, slot, step)
        return inner

    def _finish(self, scope: Scope, tile: Tile, sums: list[list[list[Value]]], row: Value, slot: Value) -> None:
        """The stores, straight from the accumulators of a whole tile."""
        b = self.b
        var = self.template.columns.var
        lanes = tile.lanes if tile.lanes > 1 else None
        per_row = [self._bind_row(scope, row, slot, i) for i in range(tile.rows)]
        first = self._column(scope)
        fixed, stores = self._row_invariant_loads(scope)
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

    def _column(self, scope: Scope) -> Value:
        return emit_dim(self.b, symbol(_PANEL) * self.template.width, scope)

    def _row_invariant_loads(self, scope: Scope) -> tuple[dict[str, Load], tuple[Store, ...]]:
        """Loads that are the same for every row (a bias), by the local that holds them, and the stores that use it."""
        buffers: dict[Load, str] = {}
        written = {store.buffer for store in self.stores}

        def visit(expr: Expr) -> Expr:
            match expr:
                case Load(buffer=buffer, offset=offset):
                    if buffer in written or _depends_on_row(offset):
                        return expr
                    name = buffers.setdefault(expr, f"%load{len(buffers)}")
                    return Local(name, scope.buffer(buffer)[1])
                case Call(args=args):
                    return replace(expr, args=tuple(visit(a) for a in args))
                case _:
                    return expr

        stores = tuple(replace(store, value=visit(store.value)) for store in self.stores)
        return {name: load for load, name in buffers.items()}, stores

    def _stage(self, tile: Tile, sums: list[list[list[Value]]]) -> None:
        """Copy the accumulators of a tile to the scratch tile."""
        b = self.b
        assert self.scratch is not None
        element = register_type(self.accumulator)
        for p, panel in enumerate(sums):
            for i, vectors in enumerate(panel):
                for v, value in enumerate(vectors):
                    at = (p * self.most + i) * self.template.width + v * tile.lanes
                    b.store(value, b.gep(self.scratch, [const(at)], source_etype=element), align=4)

    def _finish_staged(self, scope: Scope, panel: Value, group: int, row: Value, slot: Value, rows: Value) -> None:
        """The stores for a tile that lies in scratch: row by row, vector by vector, the last vector masked."""
        b = self.b
        per_panel = scope.child(b)

        def panels(index: Value, _: list[Value]) -> list[Value]:
            per_panel.symbols[_PANEL] = flow.add(b, panel, index)
            per_row = per_panel.child(b)

            def body(i: Value, _: list[Value]) -> list[Value]:
                bound = per_row
                for number in range(len(self.rows.parts)):
                    value = self.rows.at(b, scope, number, b.add(row, i), b.add(slot, i), 0)
                    bound.symbols[self.rows.symbol_name(number)] = value
                at = flow.add(b, b.mul(index, const(self.most)), i)
                self._staged_row(bound, flow.multiply(b, at, self.template.width))
                return []

            flow.loop(b, const(0), rows, 1, [], body, nonempty=True, rounds=self.most)
            return []

        flow.loop(b, const(0), const(group), 1, [], panels, rounds=group)

    def _staged_row(self, scope: Scope, at: Value) -> None:
        """One row of the scratch tile, from element `at` on."""
        b = self.b
        assert self.scratch is not None
        element = register_type(self.accumulator)
        lanes = self.lanes if self.lanes > 1 else None
        var = self.template.columns.var
        first = self._column(scope)
        inner = scope.child(b)

        def vector(v: Value, _: list[Value]) -> list[Value]:
            column = flow.add(b, first, v)
            inner.symbols[var] = column
            address = b.gep(self.scratch, [flow.add(b, at, v)], source_etype=element)
            inner.locals["acc"] = b.load(address, align=4, typ=widened(element, lanes))

            branches = [inner.child(b), inner.child(b)]

            def store(mask: Value | None) -> None:
                local = branches[mask is not None]
                for each in self.stores:
                    emit_store(b, each, local, lanes, var, mask)

            if self.whole:
                store(None)
                return []
            left = b.sub(emit_dim(b, self.template.columns.extent, scope), column)
            if lanes is None:
                flow.branch(b, b.icmp_signed(">", left, const(0)), lambda: store(None), None)
                return []

            full = b.icmp_signed(">=", left, const(lanes))
            some = b.icmp_signed(">", left, const(0))

            def cut() -> None:
                flow.branch(b, some, lambda: store(microkernel.lanes_below(b, left, lanes or 1)), None)

            flow.branch(b, full, lambda: store(None), cut)
            return []

        flow.loop(b, const(0), const(self.template.width), self.lanes, [], vector, rounds=self.vectors)


def _depends_on_row(dim: Dim) -> bool:
    return any(name.startswith("%row") for name in dims.symbols(dim))


def _loads(expr: Expr) -> Iterator[Load]:
    """The loads in an expression."""
    if isinstance(expr, Load):
        yield expr
    elif isinstance(expr, Call):
        for argument in expr.args:
            yield from _loads(argument)


def _calls(expr: Expr) -> int | None:
    """Number of calls in `expr`, None when one is not cheap."""
    if not isinstance(expr, Call):
        return 0
    if expr.fn not in _CHEAP:
        return None
    total = 1
    for argument in expr.args:
        inner = _calls(argument)
        if inner is None:
            return None
        total += inner
    return total


__all__ = ["emit_body", "split", "tile_rows", "uniform_stride"]
