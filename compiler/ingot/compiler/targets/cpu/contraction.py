"""`ir.templates.Contraction` as LLVM IR: matmul and convolution as one (indirect) GEMM over packed panels.

A chunk walks its rows in blocks whose part of A stays in the second-level cache; for each block its panels, and for
each panel the register tiles of the block (`microkernel`), while the next panel is fetched ahead. Where the panels of a
chunk are small enough to stay cached it is the other way round, tiles outside: results are then written along their
rows. Rows are shared out evenly among the tiles, so a tile has at least half its rows. What follows the sum is in
`epilogue`.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, ceil_divide, symbol
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import amx, flow, microkernel
from ingot.compiler.targets.cpu.amx import Tiles
from ingot.compiler.targets.cpu.block_kernel import BlockKernel, Streams
from ingot.compiler.targets.cpu.blocking import Blocking
from ingot.compiler.targets.cpu.digits import DigitKernel, Rows
from ingot.compiler.targets.cpu.epilogue import PANEL, TAIL, Epilogue, Span
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import F32, memory_type, widened
from ingot.compiler.targets.cpu.listed import listed
from ingot.compiler.targets.cpu.microkernel import Depth, MicroKernel, Operand, Prefetch, over_axes
from ingot.compiler.targets.cpu.rows import RowOffsets

MOSTLY = (1000, 1)  # odds that rows are finite
UNPACKED = 256  # steps of the depth that weights of a few bits are written out for: they stay in the first-level cache


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
    over_axes(b, template.batch, ranges, scope, _Body(b, template, ranges, level).chunk)


@dataclass(frozen=True)
class _Block:
    """A block of rows: its first row, how many rows and tiles it has, and how they are shared out:
    `Blocking.shared_out`."""

    begin: Value
    count: Value
    tiles: Value
    least: Value
    larger: Value


@dataclass(frozen=True)
class _Panel:
    """`group` panels from `number` on: where they start; `cut` (i1) tells whether they reach past the last column, it
    is None where they never do."""

    number: Value
    group: int
    start: Value
    cut: Value | None
    streams: tuple[Streams, ...] = ()  # where weights are of a few bits


class _Body:
    """The emission of one contraction; the methods go from the outermost loop inwards."""

    def __init__(
        self, b: ir.IRBuilder, template: Contraction, ranges: Mapping[str, tuple[Value, Value]], level: Level
    ) -> None:
        self.b, self.template, self.ranges, self.level = b, template, ranges, level
        self.blocking = blocking = Blocking(template, level)
        self.lanes, self.most = blocking.lanes, blocking.most
        self.block_rows, self.sizes = blocking.block_rows, blocking.sizes
        inner = (*template.segments, template.run, template.columns)
        self.rows = RowOffsets(template.rows, frozenset(axis.var for axis in inner))
        # Where weights are of a few bits: what the rows of the tile that is emitted are in digits, steps of the last
        # part of the depth while a panel is multiplied part by part, and where it and the sums lie then.
        self.digits: Rows | None = None
        self.last: int | None = None
        self.unpacked: Value | None = None
        self.partial: Value | None = None
        if blocking.unpacks:
            self.unpacked = flow.stack(b, F32, UNPACKED * template.width)
            self.partial = flow.stack(b, F32, self.block_rows * template.width)
        self._separate_a()
        self.panels_inside = blocking.order == "tiles" and template.blocks is None
        group = max(blocking.grouped_panels(rows) for rows in range(1, blocking.most_grouped + 1))
        if blocking.tiles:
            group = max(group, amx.PANELS)
        begins = not blocking.tiles and blocking.together == 1
        self.epilogue = Epilogue(
            b, template, self.rows, self.lanes, self.most, group, copied=blocking.tiles, begins=begins
        )
        self.rows.allocate(b, self.block_rows + 2 * self.most)  # tiles look ahead

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
        dot = self.template.dot
        while segments and segments[-1][1] == run[0] * run[1]:  # the run goes on where the segment ends
            extent, _ = segments.pop()
            run = (extent * run[0], run[1])
        self.a_steps, self.a_run = segments, (run[0] // dot, run[1] * dot)
        self.a_part, self.a_base = self.rows.part(rest)

    # -- loops --------------------------------------------------------------------------------------------------------

    def chunk(self, scope: Scope) -> None:
        """The row blocks of the chunk, and in each its panels."""
        b, template = self.b, self.template
        begin, end = self.ranges["row"]
        self.depth = Depth(
            tuple((emit_dim(b, e, scope), emit_dim(b, s, scope)) for e, s in self.a_steps),
            (emit_dim(b, self.a_run[0], scope), emit_dim(b, self.a_run[1], scope)),
        )
        pointer, self.a_dtype = scope.buffer(template.a.buffer)
        self.b_dtype = scope.buffer(template.b)[1]
        self.a_start = b.gep(pointer, [emit_dim(b, self.a_base, scope)], source_etype=memory_type(self.a_dtype))
        self.panel_size = emit_dim(b, template.panel_size, scope)
        self.tiles: Tiles | None = None
        if not self.blocking.tiles:
            self._blocks(scope, begin, end)
            return
        assert isinstance(self.a_run[0], int)
        self.tiles = Tiles(b, self.depth, self.a_run[0] * amx.DOT)
        self.tiles.configure()
        self._blocks(scope, begin, end)
        self.tiles.release()

    def _blocks(self, scope: Scope, begin: Value, end: Value) -> None:
        """The blocks of the chunk's rows."""
        b, template = self.b, self.template
        inner = scope.child(b)
        total, chunk = template.row_count, template.row_block
        if isinstance(total, int) and isinstance(chunk, int) and total <= min(chunk, self.block_rows):
            tiles, least, larger = self.blocking.shared_out(total)
            self.rows.fill(b, inner, const(0), const(total))
            sizes = (total, max(tiles, 1), least, larger)
            self._panels(inner, _Block(const(0), *(const(size) for size in sizes)))
            return

        def body(row: Value, _: list[Value]) -> list[Value]:
            count = flow.minimum(b, flow.subtract(b, end, row), const(self.block_rows))
            self.rows.fill(b, inner, row, flow.add(b, row, count))
            tiles = b.udiv(b.add(count, const(self.most - 1)), const(self.most))
            together = self.blocking.together
            units = count if together == 1 else b.udiv(b.add(count, const(together - 1)), const(together))
            least = b.udiv(units, tiles)
            larger = b.sub(units, b.mul(tiles, least))
            self._panels(inner, _Block(row, count, tiles, flow.multiply(b, least, together), larger))
            return []

        flow.loop(b, begin, end, self.block_rows, [], body)

    def _panels(self, scope: Scope, block: _Block) -> None:
        """The panels of one block of rows; groups of panels while a block has so few rows that it is one small tile."""
        begin, end = self.ranges["panel"]
        total = self.template.row_count
        if isinstance(total, int):
            if self.tiles is not None:
                self._in_tiles(scope, block, begin, end)
            elif total in self.sizes and (self.blocking.grouped_panels(total) > 1 or self.blocking.digits(total)):
                self._grouped(scope, block, begin, end, total)
            elif self.panels_inside:
                self._tiles_outside(scope, block, begin, end)
            else:
                self._panel_loop(scope, block, begin, end, 1, self.sizes)
            return
        order = self._tiles_outside if self.panels_inside else self._tiles_inside
        if self.tiles is not None:
            order = self._in_tiles
        if 1 not in self.sizes:
            order(scope, block, begin, end)
            return
        single = self.b.icmp_signed("==", block.count, const(1))
        inner = scope.child(self.b)
        flow.branch(
            self.b,
            single,
            lambda: self._grouped(inner, block, begin, end, 1),
            lambda: order(inner, block, begin, end),
        )

    def _grouped(self, scope: Scope, block: _Block, begin: Value, end: Value, rows: int) -> None:
        """Whole panels in groups, then the others one by one; the block is one tile of `rows` rows."""
        b, found = self.b, self.blocking.digits(rows)
        if found is None:
            self._in_groups(scope, block, begin, end, rows)
            return
        operands = self._row_operands(scope.child(b), rows, Span(block.begin, const(0), const(rows)))
        element = memory_type(self.a_dtype)
        starts = [b.gep(each.pointer, [const(each.displacement)], source_etype=element) for each in operands]
        blocks = self.template.blocks
        assert blocks is not None
        digits = Rows(b, found[0], starts, self.lanes, -blocks.zero if blocks.zeros is None else -1)

        def emit(digits: Rows | None) -> None:
            self.digits = digits
            self._in_groups(scope.child(b), block, begin, end, rows)
            self.digits = None

        flow.branch(b, digits.finite, lambda: emit(digits), lambda: emit(None), MOSTLY)

    def _in_groups(self, scope: Scope, block: _Block, begin: Value, end: Value, rows: int) -> None:
        b = self.b
        group = self.blocking.grouped_panels(rows)
        whole = end
        if not self.epilogue.whole:
            whole = flow.minimum(b, end, emit_dim(b, self.template.columns.extent // self.template.width, scope))
        span = flow.maximum(b, flow.subtract(b, whole, begin), const(0))
        last = flow.add(b, begin, b.sub(span, b.urem(span, const(group))))
        self._panel_loop(scope, block, begin, last, group, (rows,))
        self._panel_loop(scope, block, last, end, 1, (rows,))

    def _in_tiles(self, scope: Scope, block: _Block, begin: Value, end: Value) -> None:
        """For each group of panels that have tiles at the same time, then for those that are left, all rows."""
        most = self.template.panel_block
        group = min(amx.PANELS, most) if isinstance(most, int) else amx.PANELS
        rest = self.b.urem(flow.maximum(self.b, flow.subtract(self.b, end, begin), const(0)), const(group))
        last = flow.subtract(self.b, end, rest)
        self._panel_loop(scope, block, begin, last, group, self.sizes)
        self._panel_loop(scope, block, last, end, 1, self.sizes)

    def _tiles_inside(self, scope: Scope, block: _Block, begin: Value, end: Value) -> None:
        self._panel_loop(scope, block, begin, end, 1, self.sizes)

    def _panel_loop(
        self, scope: Scope, block: _Block, begin: Value, end: Value, group: int, sizes: tuple[int, ...]
    ) -> None:
        """For each panel (or group of panels) all tiles of the block."""
        inner = scope.child(self.b)

        def body(number: Value, _: list[Value]) -> list[Value]:
            panel = self._panel(inner, number, group)
            if panel.streams and self.unpacked is not None and sizes != (1,):
                self._unpacked(inner, block, panel, sizes)
                return []
            ahead = self._fetch_ahead(block, panel)
            tiles = inner.child(self.b)

            def tile(index: Value, span: Span) -> None:
                self._variants(tiles, panel, span, sizes, None if ahead is None else ahead(index), span.rows)

            self._tile_loop(block, sizes, tile)
            return []

        flow.loop(self.b, begin, end, group, [], body, rounds=8)

    def _tiles_outside(self, scope: Scope, block: _Block, begin: Value, end: Value) -> None:
        """For each tile of the block all panels."""
        inner = scope.child(self.b)

        def tile(_: Value, span: Span) -> None:
            tiles = inner.child(self.b)

            def body(number: Value, _: list[Value]) -> list[Value]:
                self._variants(tiles, self._panel(tiles, number, 1), span, self.sizes, None, None)
                return []

            flow.loop(self.b, begin, end, 1, [], body, rounds=8)

        self._tile_loop(block, self.sizes, tile)

    def _panel(self, scope: Scope, number: Value, group: int) -> _Panel:
        """Bind the panel's number in `scope`, and find where it starts and whether it is whole."""
        b, template = self.b, self.template
        scope.symbols[PANEL] = number
        offset = template.b_offset + symbol(PANEL) * template.panel_size
        pointer = scope.buffer(template.b)[0]
        start = b.gep(pointer, [emit_dim(b, offset, scope)], source_etype=memory_type(self.b_dtype))
        cut = None
        if not self.epilogue.whole:
            left = emit_dim(b, template.columns.extent - symbol(PANEL) * template.width, scope)
            cut = b.icmp_signed("<", left, const(template.width * group))
        return _Panel(number, group, start, cut, self._streams(scope, start, group))

    def _streams(self, scope: Scope, start: Value, group: int) -> tuple[Streams, ...]:
        """Where the words, scales and zero points of a group of panels begin, where weights are of a few bits."""
        blocks, b, template = self.template.blocks, self.b, self.template
        if blocks is None:
            return ()
        size = ceil_divide(template.depth, blocks.size) * template.width

        def parameters(buffer: str, number: int) -> Value:
            pointer, dtype = scope.buffer(buffer)
            place = emit_dim(b, (symbol(PANEL) + number) * size, scope)
            return b.gep(pointer, [place], source_etype=memory_type(dtype))

        return tuple(
            Streams(
                b.gep(start, [flow.multiply(b, self.panel_size, i)], source_etype=memory_type(self.b_dtype)),
                parameters(blocks.scales, i),
                None if blocks.zeros is None else parameters(blocks.zeros, i),
            )
            for i in range(group)
        )

    def _tile_loop(self, block: _Block, sizes: tuple[int, ...], tile: Callable[[Value, Span], None]) -> None:
        """``tile(number, rows)`` for the tiles of a block; the larger ones come first."""
        b = self.b

        def body(index: Value, carried: list[Value]) -> list[Value]:
            (slot,) = carried
            rows, together = block.least, self.blocking.together
            if len(sizes) > 1:
                more = b.zext(b.icmp_signed("<", index, block.larger), flow.I64)
                rows = b.add(rows, flow.multiply(b, more, together))
            if together > 1:
                rows = flow.minimum(b, rows, flow.subtract(b, block.count, slot))
            tile(index, Span(flow.add(b, block.begin, slot), slot, rows))
            return [flow.add(b, slot, rows)]

        if as_constant(block.tiles) == 1:
            body(const(0), [const(0)])
        else:
            flow.loop(b, const(0), block.tiles, 1, [const(0)], body, nonempty=True, rounds=8)

    def _fetch_ahead(self, block: _Block, panel: _Panel) -> Callable[[Value], Prefetch] | None:
        """What each tile of a block, by its number, fetches of the panel after this one; None for nothing.

        The tiles share the next panel out among them, and each spreads its part over its k loop.
        """
        b, elements, run, total = self.b, self.template.depth, self.a_run[0], self.template.row_count
        if panel.group > 1 or self.tiles or panel.streams or not isinstance(elements, int) or not isinstance(run, int):
            return None
        size, depth = elements * self.template.width * self.b_dtype.bytes, elements // self.template.dot
        if run <= microkernel.UNROLL_WHOLE or not self.blocking.fetches:
            return None
        rounds = depth // run * (run // microkernel.UNROLL)
        # Symbolic rows may come to a single tile, which then fetches the whole panel.
        tiles = -(-min(total, self.block_rows) // self.most) if isinstance(total, int) else 1
        lines = -(-size // (rounds * tiles * microkernel.LINE))
        step = b.udiv(const(-(-size // rounds)), block.tiles)
        share = b.mul(step, const(rounds))
        following = b.gep(panel.start, [const(size)], source_etype=ir.IntType(8))
        return lambda tile: Prefetch(b.gep(following, [b.mul(tile, share)], source_etype=ir.IntType(8)), step, lines)

    # -- one tile -----------------------------------------------------------------------------------------------------

    def _variants(
        self,
        scope: Scope,
        panel: _Panel,
        span: Span,
        sizes: tuple[int, ...],
        fetch: Prefetch | None,
        ahead: Value | None,
    ) -> None:
        """The tile with as many rows as it has: one micro-kernel for each count.

        `ahead` is how many rows further on the next tile lies; None when it lies in the next panel.
        """
        b = self.b
        if self.tiles is not None and sizes != (1,):
            self._multiply_in(self.tiles, scope.child(b), panel, span)
            self.epilogue.finish_staged(scope.child(b), panel.number, panel.group, span)
            return
        self._by_size(scope, span, sizes, lambda inner, count: self._tile(inner, count, panel, span, fetch, ahead))
        after = scope.child(b)
        if self.epilogue.staged:
            self.epilogue.finish_staged(after, panel.number, panel.group, span)
        elif panel.cut is not None:
            flow.branch(
                b,
                panel.cut,
                lambda: self.epilogue.finish_staged(after, panel.number, panel.group, span),
                None,
                TAIL,
            )

    def _by_size(
        self, scope: Scope, span: Span, sizes: tuple[int, ...], emit: Callable[[Scope, int], None]
    ) -> None:
        """``emit(scope, rows)`` for the number of rows that a tile has, one of `sizes`."""
        b = self.b
        scopes = [scope.child(b) for _ in sizes]
        if len(sizes) == 1:
            emit(scopes[0], sizes[0])
            return
        joined = b.append_basic_block("joined")
        blocks = [b.append_basic_block(f"rows{count}") for count in sizes]
        # The row counts are among `sizes` by construction; the last stands for "else".
        choice = b.switch(span.rows, blocks[-1])
        for count, target in zip(sizes[:-1], blocks[:-1], strict=True):
            choice.add_case(const(count), target)
        for count, target, inner in zip(sizes, blocks, scopes, strict=True):
            b.position_at_end(target)
            emit(inner, count)
            b.branch(joined)
        b.position_at_end(joined)

    # -- weights of a few bits ----------------------------------------------------------------------------------------

    def _unpacked(self, scope: Scope, block: _Block, panel: _Panel, sizes: tuple[int, ...]) -> None:
        """A panel of weights of a few bits for all tiles of a block of rows: written out as f32 a part of the depth
        after the other, which the tiles multiply; their sums lie on the stack between two parts."""
        b, template, width = self.b, self.template, self.template.width
        depth = template.depth
        assert isinstance(depth, int) and template.blocks is not None
        last = depth - max(depth - 1, 0) // UNPACKED * UNPACKED
        exact = replace(template.blocks, factored=False)
        kernel = BlockKernel(
            b, self._plan(1, 1), exact, [], panel.streams, depth, const(1), resident=True
        )
        if depth > last:

            def clear(at: Value, _: list[Value]) -> list[Value]:
                b.store(F32(0.0), b.gep(self.partial, [at], source_etype=F32), align=4)
                return []

            flow.loop(b, const(0), flow.multiply(b, block.count, width), 1, [], clear)

        def part(first: Value, _: list[Value]) -> list[Value]:
            kernel.unpack(first, UNPACKED, self.unpacked)
            inner = scope.child(b)

            def tile(_: Value, span: Span) -> None:
                def emit(rows: Scope, count: int) -> None:
                    sums = self._of_part(rows, count, span, first, UNPACKED, starts=True)
                    for at, value in zip(self._partial_places(count, span), _flat(sums), strict=True):
                        b.store(value, at, align=4)

                self._by_size(inner, span, sizes, emit)

            self._tile_loop(block, sizes, tile)
            return []

        flow.loop(b, const(0), const(depth - last), UNPACKED, [], part)
        kernel.unpack(const(depth - last), last, self.unpacked)
        self.last = last

        def tile(_: Value, span: Span) -> None:
            self._variants(scope.child(b), panel, span, sizes, None, span.rows)

        self._tile_loop(block, sizes, tile)
        self.last = None

    def _partial_places(self, count: int, span: Span) -> list[Value]:
        """Where the vectors of a tile's sums lie between two parts of the depth, row by row."""
        b, width = self.b, self.template.width
        start = b.gep(self.partial, [flow.multiply(b, span.slot, width)], source_etype=F32)
        return [b.gep(start, [const(at)], source_etype=F32) for at in range(0, count * width, self.lanes)]

    def _of_part(
        self, scope: Scope, count: int, span: Span, first: Value, steps: int, *, starts: bool
    ) -> list[list[list[Value]]]:
        """The sums of a tile over `steps` steps from `first` on, on top of those so far where it `starts` with any."""
        b, stride = self.b, self.depth.run[1]
        element = memory_type(self.a_dtype)
        skip = flow.multiply(b, stride, first) if as_constant(stride) is None else flow.multiply(b, first, stride)
        rows = [
            Operand(b.gep(each.pointer, [skip], source_etype=element), each.displacement)
            for each in self._row_operands(scope, count, span)
        ]
        tile = self._plan(count, 1)
        types = self.a_dtype, self.template.accumulator, self.template.accumulator
        depth = Depth((), (const(steps), stride))
        kernel = MicroKernel(b, tile, types, rows, [Operand(self.unpacked)], depth, apart=self.epilogue.is_long)
        if not starts:
            return kernel.emit()
        vector = widened(F32, tile.lanes if tile.lanes > 1 else None)
        loaded = [b.load(at, align=4, typ=vector) for at in self._partial_places(count, span)]
        return kernel.emit([[loaded[i * tile.vectors : (i + 1) * tile.vectors] for i in range(count)]])

    # -- the sums of a tile -------------------------------------------------------------------------------------------

    def _tile(
        self, scope: Scope, count: int, panel: _Panel, span: Span, fetch: Prefetch | None, ahead: Value | None
    ) -> None:
        b, epilogue = self.b, self.epilogue
        tile = self._plan(count, panel.group)
        operands = self._row_operands(scope, count, span)
        if panel.group == 1:
            epilogue.touch(scope.child(b), count, span, next_panel=ahead is None)
        if panel.streams:
            sums = self._of_blocks(scope.child(b), tile, operands, panel, span)
        else:
            kernel = MicroKernel(
                b,
                tile,
                (self.a_dtype, self.b_dtype, self.template.accumulator),
                operands,
                self._panel_operands(panel),
                self.depth,
                fetch,
                product=self.blocking.product,
                apart=epilogue.is_long,
                listed=listed(b, self.template, scope, panel.number, panel.group),
            )
            sums = kernel.emit(epilogue.starts(scope.child(b), tile))
        inner = scope.child(b)
        if epilogue.staged:
            epilogue.stage(tile, sums)
        elif panel.cut is None:
            epilogue.finish(inner, tile, sums, span)
        else:
            flow.branch(
                b, panel.cut, lambda: epilogue.stage(tile, sums), lambda: epilogue.finish(inner, tile, sums, span), TAIL
            )

    def _of_blocks(
        self, scope: Scope, tile: microkernel.Tile, operands: list[Operand], panel: _Panel, span: Span
    ) -> list[list[list[Value]]]:
        """The sums of products with weights of a few bits."""
        template, found = self.template, self.blocking.digits(tile.rows)
        assert template.blocks is not None and isinstance(template.depth, int)
        if self.last is not None:
            depth = template.depth
            return self._of_part(
                scope, tile.rows, span, const(depth - self.last), self.last, starts=depth > self.last
            )
        if self.digits is not None and found is not None:
            return DigitKernel(self.b, tile, template.blocks, self.digits, panel.streams, found[1]).emit()
        sums = tile.rows * tile.panels * tile.vectors
        resident = 3 * sums <= self.level.vector_registers - 4
        kernel = BlockKernel(
            self.b, tile, template.blocks, operands, panel.streams, template.depth, self.depth.run[1], resident=resident
        )
        return kernel.emit()

    def _multiply_in(self, tiles: Tiles, scope: Scope, panel: _Panel, span: Span) -> None:
        """The sums of a tile's rows and the panels of a group, to where the epilogue finds them."""
        b, part = self.b, self.a_part

        def address(number: Value) -> Value:
            if part is None:
                return self.a_start
            at = self.rows.at(b, scope, part, b.add(span.row, number), b.add(span.slot, number), 0)
            return b.gep(self.a_start, [at], source_etype=memory_type(self.a_dtype))

        stride: Dim | None = 0 if part is None else self.rows.strides[part]
        even = None if stride is None else (address(const(0)), emit_dim(b, stride, scope))
        element = memory_type(self.b_dtype)
        operands = self._panel_operands(panel)
        starts = [b.gep(each.pointer, [const(each.displacement)], source_etype=element) for each in operands]
        tiles.multiply(amx.Rows(span.rows, address, even), starts, self.epilogue.places(panel.group))

    def _plan(self, rows: int, group: int) -> microkernel.Tile:
        """The tile for `rows` rows of `group` panels. Panels that are left over from groups are summed in the order of
        those in groups: equal columns of weights give equal results."""
        width, lanes, registers = self.template.width, self.lanes, self.level.vector_registers
        taken = self.blocking.filled(rows)
        tile = replace(microkernel.plan(taken, width, lanes, registers, group), rows=rows)
        most, panels = self.blocking.grouped_panels(rows), self.template.panels
        if isinstance(panels, int) and panels < most:  # there are no groups
            return tile
        return replace(tile, chains=microkernel.plan(taken, width, lanes, registers, most).chains)

    def _row_operands(self, scope: Scope, count: int, span: Span) -> list[Operand]:
        """Where the rows of A start."""
        b, element = self.b, memory_type(self.a_dtype)
        if self.a_part is None:
            return [Operand(self.a_start)] * count
        stride = self.rows.strides[self.a_part]
        if isinstance(stride, int):
            first = self.rows.at(b, scope, self.a_part, span.row, span.slot, 0)
            pointer = b.gep(self.a_start, [first], source_etype=element)
            return [Operand(pointer, i * stride) for i in range(count)]
        starts = [self.rows.at(b, scope, self.a_part, span.row, span.slot, i) for i in range(count)]
        return [Operand(b.gep(self.a_start, [s], source_etype=element)) for s in starts]

    def _panel_operands(self, panel: _Panel) -> list[Operand]:
        size = as_constant(self.panel_size)
        if size is not None:
            return [Operand(panel.start, i * size) for i in range(panel.group)]
        element = memory_type(self.b_dtype)
        shifts = [flow.multiply(self.b, self.panel_size, i) for i in range(panel.group)]
        return [Operand(self.b.gep(panel.start, [shift], source_etype=element)) for shift in shifts]


def _flat(sums: list[list[list[Value]]]) -> list[Value]:
    return [value for panel in sums for row in panel for value in row]
