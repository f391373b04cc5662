"""`ir.templates.Strassen` as LLVM IR.

A chunk walks the depth block by block, in each its pairs of panels, and for each pair the seven products one after the
other, so that the panel of a product stays in the first-level cache while the tiles of all rows use it. A panel that is
a sum of B's quarters is made by the first tile that multiplies it. Sums that several quarters of the result share wait
on the stack, where later products go on from them; a quarter that is complete goes from the accumulators to its place.
Meanwhile the next pair of panels is fetched.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ingot.compiler.ir.templates import Quarter, Strassen, depth_blocks
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import flow, microkernel
from ingot.compiler.targets.cpu.epilogue import PANEL, Epilogue, Span
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import constant, register_type, widened
from ingot.compiler.targets.cpu.microkernel import Depth, MicroKernel, Operand, Prefetch, over_axes
from ingot.compiler.targets.cpu.rows import RowOffsets
from ingot.runtime.dtypes import f32

UNROLL = 4  # vectors a round of the loop that clears unfinished results
MOST_ROWS = 12  # of a tile
COMPLETED = {3: Quarter(1, 0), 4: Quarter(1, 1), 2: Quarter(0, 1), 1: Quarter(0, 0)}

Sums = list[list[list[Value]]]  # accumulators, as the micro-kernel gives them


def emit_body(
    b: ir.IRBuilder,
    template: Strassen,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of every axis of ``template.grid`` by its variable."""
    body = _Body(b, template, ranges, level)
    over_axes(b, template.batch, ranges, scope, body.chunk)


class _Body:
    """The emission of one product; the methods go from the outermost loop inwards."""

    def __init__(
        self, b: ir.IRBuilder, template: Strassen, ranges: Mapping[str, tuple[Value, Value]], level: Level
    ) -> None:
        self.b, self.template, self.ranges, self.level = b, template, ranges, level
        lanes = min(level.lanes(4), template.width)
        depth = template.run.extent
        blocks = depth_blocks(depth) if isinstance(depth, int) else None
        if blocks is None or not isinstance(depth, int) or template.width % lanes:
            raise IrError(f"a depth of {2 * depth} in panels of {template.width} cannot be halved")
        self.blocks, self.depth, self.lanes = blocks, depth // blocks, lanes
        self.vectors = template.width // lanes
        self.most = microkernel.fitting_rows(self.vectors, level.vector_registers, template.pitch, f32, MOST_ROWS)
        self.unit = max(1, self.most // 3)
        self.rows = RowOffsets(template.rows, frozenset((template.columns.var,)))
        self.epilogue = Epilogue(b, template, self.rows, lanes, self.most, 1)
        self.element = register_type(f32)
        if self.epilogue.scratch is None:
            self.epilogue.scratch = flow.stack(b, self.element, self.most * template.width)
        self.table = template.row_block + self.most  # pairs of rows, with those that tiles reach past the end
        self.rows.allocate(b, 2 * (self.table + self.most))  # tiles look ahead
        self.waiting = [flow.stack(b, self.element, self.table * template.width) for _ in range(3)]
        self.panel_size = self.depth * template.width
        self.panels = [flow.stack(b, self.element, self.panel_size) for _ in range(2)]
        self.quarter = self.table * template.width  # elements of a quarter of the result that is not complete
        if blocks > 1:
            self.partial = flow.stack(b, self.element, 4 * self.quarter * template.panel_block)

    # -- loops --------------------------------------------------------------------------------------------------------

    def chunk(self, scope: Scope) -> None:
        b, template = self.b, self.template
        begin, end = self.ranges["row"]
        first, last = self.ranges["panel"]
        total = emit_dim(b, template.row_count, scope)
        self.operand = flow.multiply(b, emit_dim(b, template.padded_rows, scope), template.pitch)  # elements of one
        self.sums, self.weights = scope.buffer(template.sums)[0], scope.buffer(template.b)[0]
        known = template.half_rows, template.row_block
        self.whole = isinstance(known[0], int) and known[0] % known[1] == 0
        count = const(known[1]) if self.whole else flow.subtract(b, end, begin)
        even = self.whole and isinstance(template.row_count, int) and template.row_count % 2 == 0
        self.begin = flow.multiply(b, begin, 2)
        limit = flow.subtract(b, total, self.begin)  # rows that there are from here on
        self.counts = count, count if even else flow.minimum(b, count, b.ashr(limit, const(1)))
        rows = flow.minimum(b, limit, flow.multiply(b, count, 2))
        self.rows.fill(b, scope.child(b), self.begin, flow.add(b, self.begin, rows))
        self.sums_here = b.gep(self.sums, [flow.multiply(b, begin, template.pitch)], source_etype=self.element)
        pairs = flow.subtract(b, last, first)
        if self.blocks > 1:
            self._clear(self.partial, 4 * self.quarter * template.panel_block)

        def block(number: Value, _: list[Value]) -> list[Value]:
            def pair(index: Value, _: list[Value]) -> list[Value]:
                self._pair(scope.child(b), number, b.add(first, index), index)
                return []

            flow.loop(b, const(0), pairs, 1, [], pair, rounds=4)
            return []

        if self.blocks == 1:
            block(const(0), [])
        else:
            flow.loop(b, const(0), const(self.blocks), 1, [], block)

    def _pair(self, scope: Scope, block: Value, pair: Value, index: Value) -> None:
        """All tiles of a block of the depth and a pair of panels, which is number `index` of the chunk."""
        b, template = self.b, self.template
        whole = 2 * self.blocks * self.panel_size  # elements of a packed panel
        here = b.add(b.mul(pair, const(whole)), flow.multiply(b, block, self.panel_size))

        def place(quarter: Quarter) -> Value:
            offset = quarter.lower * whole // 2 + quarter.right * whole * template.pairs
            return b.gep(self.weights, [flow.add(b, here, offset)], source_etype=self.element)

        b11, b12, b21, b22 = (place(Quarter(*q)) for q in ((0, 0), (0, 1), (1, 0), (1, 1)))
        first, second = self.panels
        # Of the seven in their order, the last of the sums of B's quarters make use of those before them.
        panels = {
            0: _Panel(b11),
            5: _Panel(first, ((b22, 1), (b12, -1), (b11, 1))),
            6: _Panel(second, ((b22, 1), (b12, -1))),
            3: _Panel(second, ((b21, 1), (first, -1))),
            4: _Panel(first, ((b12, 1), (b11, -1))),
            2: _Panel(b22),
            1: _Panel(b21),
        }
        start = b.gep(self.sums_here, [flow.multiply(b, block, self.depth)], source_etype=self.element)
        numbers = pair, flow.add(b, pair, template.pairs)
        ahead = [b.gep(each, [const(whole)], source_etype=self.element) for each in (b11, b12, b21, b22)]
        for number, panel in panels.items():
            following = ahead.pop() if ahead else None

            def tile(
                slot: Value,
                rows: int,
                is_first: bool,
                number: int = number,
                panel: _Panel = panel,
                following: Value | None = following,
            ) -> None:
                fetch = None if following is None else self._fetch(following, slot)
                source = panel if is_first else _Panel(panel.pointer)
                _Tile(self, scope.child(b), start, source, numbers, index, block, slot, rows, fetch).emit(number)

            self._tiles(tile, is_summed=bool(panel.terms))

    def _fetch(self, pointer: Value, slot: Value) -> Prefetch:
        """The share of the tile from row `slot` on in fetching a quarter of the next pair's panels."""
        b, count = self.b, self.counts[0]
        rounds = self.depth // microkernel.UNROLL
        size = self.panel_size * 4
        known = as_constant(count)
        rows = known or self.most
        tiles = -(-rows // self.most)
        lines = -(-size // (rounds * tiles * microkernel.LINE))
        per_row = -(-size // rows)
        at = b.gep(pointer, [flow.multiply(b, slot, per_row)], source_etype=ir.IntType(8))
        return Prefetch(at, const(-(-size // (rounds * tiles))), lines)

    def _tiles(self, tile: Callable[[Value, int, bool], None], *, is_summed: bool) -> None:
        """The tiles of the block's rows: equal ones where their number is known, else full ones and a smaller one; the
        first and the last may reach past the end. Where the panel `is_summed` the first one is apart: it makes it."""
        b, count = self.b, self.counts[0]
        known = as_constant(count)

        def tiles(begin: Value, end: Value, rows: int) -> None:
            flow.loop(b, begin, end, rows, [], lambda slot, _: (tile(slot, rows, False), [])[1], rounds=4)

        if known is not None:
            parts = -(-known // self.most)
            least, larger = divmod(known, parts)
            split = larger * (least + 1)
            begin = 0
            if is_summed:
                begin = least + (larger > 0)
                tile(const(0), begin, True)
            tiles(const(begin), const(split), least + 1)
            tiles(const(max(begin, split)), const(known), least)
            return
        begin = const(0)
        if is_summed:
            begin = const(self.most)
            tile(const(0), self.most, True)
        rest = flow.maximum(b, b.sub(count, begin), const(0))
        whole = b.add(begin, b.sub(rest, b.urem(rest, const(self.most))))
        tiles(begin, whole, self.most)
        rest = b.sub(count, whole)
        done = b.append_basic_block("tiles.done")
        for rows in range(self.unit, self.most + self.unit, self.unit):
            fits, more = b.append_basic_block(f"tile{rows}"), b.append_basic_block("more")
            low = b.icmp_signed(">", rest, const(rows - self.unit))
            b.cbranch(b.and_(low, b.icmp_signed("<=", rest, const(rows))), fits, more)
            b.position_at_end(fits)
            tile(whole, min(rows, self.most), False)
            b.branch(done)
            b.position_at_end(more)
        b.branch(done)
        b.position_at_end(done)

    # -- vectors ------------------------------------------------------------------------------------------------------

    def _clear(self, pointer: Value, elements: int) -> None:
        b = self.b
        zero = constant(0, widened(self.element, self.lanes if self.lanes > 1 else None))
        unroll = next(u for u in (UNROLL, 2, 1) if elements // self.lanes % u == 0)

        def body(at: Value, _: list[Value]) -> list[Value]:
            for i in range(unroll):
                self._store(pointer, flow.add(b, at, i * self.lanes), zero)
            return []

        flow.loop(b, const(0), const(elements), unroll * self.lanes, [], body)

    def _load(self, pointer: Value, at: Value) -> Value:
        address = self.b.gep(pointer, [at], source_etype=self.element)
        return self.b.load(address, align=4, typ=widened(self.element, self.lanes if self.lanes > 1 else None))

    def _store(self, pointer: Value, at: Value, value: Value) -> None:
        self.b.store(value, self.b.gep(pointer, [at], source_etype=self.element), align=4)


@dataclass(frozen=True)
class _Panel:
    """A panel of B, or of signed `terms` of its quarters, which the first tile that reads it stores there."""

    pointer: Value
    terms: tuple[tuple[Value, int], ...] = ()


class _SummingKernel(MicroKernel):
    """A micro-kernel that makes its panel on the way: adding and storing hide behind the multiply-adds."""

    def __init__(self, terms: tuple[tuple[Value, int], ...], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.terms = terms

    def _vector(self, panel: Operand, index: Value, shift: int) -> Value:
        b = self.b
        total: Value | None = None
        for pointer, sign in self.terms:
            value = super()._vector(Operand(pointer), index, shift)
            total = value if total is None else (b.fadd if sign > 0 else b.fsub)(total, value)
        b.store(total, self._address(panel, index, shift, f32), align=4)
        return total


class _Tile:
    """A register tile of one of the seven products."""

    def __init__(
        self,
        body: _Body,
        scope: Scope,
        start: Value,
        panel: _Panel,
        numbers: tuple[Value, Value],
        index: Value,
        block: Value,
        slot: Value,
        rows: int,
        fetch: Prefetch | None,
    ) -> None:
        self.body, self.b, self.scope, self.fetch = body, body.b, scope, fetch
        self.start, self.panel, self.numbers = start, panel, numbers
        self.index, self.block, self.slot, self.rows = index, block, slot, rows
        self.shape = microkernel.Tile(rows, 1, body.vectors, body.lanes)  # one chain: sums go on

    def emit(self, number: int) -> None:
        """Product `number` of the tile; their order, 0, 5, 6, 3, 4, 2, 1, shares sums: those of 0, 5, 6 pile up."""
        b, body = self.b, self.body
        at = flow.multiply(b, self.slot, body.template.width)
        first, second, third = (b.gep(each, [at], source_etype=body.element) for each in body.waiting)
        if number in COMPLETED:
            self._touch(COMPLETED[number])
        match number:
            case 0:
                self._wait(first, self._product(0, None))
            case 5:
                self._wait(second, self._product(5, self._waiting(first)))
            case 6:
                self._wait(third, self._product(6, self._waiting(second)))
            case 3:
                self._complete(Quarter(1, 0), self._product(3, self._waiting(third)))
            case 4:
                sums = self._product(4, None)
                self._wait(second, self._plus(sums, second))
                self._complete(Quarter(1, 1), self._plus(sums, third))
            case 2:
                self._complete(Quarter(0, 1), self._product(2, self._waiting(second)))
            case _:
                self._complete(Quarter(0, 0), self._product(1, self._waiting(first)))

    def _span(self, quarter: Quarter, rows: Value) -> Span:
        """The tile's rows of a quarter of the result: every other one."""
        place = flow.add(self.b, flow.multiply(self.b, self.slot, 2), quarter.lower)
        return Span(flow.add(self.b, self.body.begin, place), place, rows, 2)

    def _touch(self, quarter: Quarter) -> None:
        """Fetch where the next tile's results go."""
        b, body = self.b, self.body
        inner = self.scope.child(b)
        inner.symbols[PANEL] = self.numbers[quarter.right]
        body.epilogue.touch(inner, self.rows, self._span(quarter, const(self.rows)), next_panel=False)

    def _product(self, number: int, start: Sums | None) -> Sums:
        """`start` and the product of that number."""
        body, b, pitch = self.body, self.b, self.body.template.pitch
        at = flow.add(b, flow.multiply(b, body.operand, number), flow.multiply(b, self.slot, pitch))
        a = b.gep(self.start, [at], source_etype=body.element)
        operands = [Operand(a, i * pitch) for i in range(self.rows)]
        depth = Depth((), (const(body.depth), const(1)))
        arguments = b, self.shape, (f32, f32, f32), operands, [Operand(self.panel.pointer)], depth, self.fetch
        terms = self.panel.terms
        kernel = _SummingKernel(terms, *arguments) if terms else MicroKernel(*arguments)
        return kernel.emit(start)

    def _complete(self, quarter: Quarter, sums: Sums) -> None:
        """A quarter has all its products of this block of the depth: store it, or keep it for the next block."""
        body, b = self.body, self.b
        if body.blocks == 1:
            self._finish(quarter, sums)
            return
        offset = (2 * quarter.lower + quarter.right) * body.quarter
        at = b.add(b.mul(self.index, const(4 * body.quarter)), b.mul(self.slot, const(body.template.width)))
        place = b.gep(body.partial, [flow.add(b, at, offset)], source_etype=body.element)
        sums = self._plus(sums, place)
        last = b.icmp_signed("==", self.block, const(body.blocks - 1))
        flow.branch(b, last, lambda: self._finish(quarter, sums), lambda: self._wait(place, sums))

    def _finish(self, quarter: Quarter, sums: Sums) -> None:
        """The stores of a quarter's tile."""
        body, b, half = self.body, self.b, quarter.lower
        epilogue, panel = body.epilogue, self.numbers[quarter.right]
        left = flow.subtract(b, body.counts[half], self.slot)
        known = body.counts[half] is body.counts[0] and body.whole
        is_cut = quarter.right == 1 and not epilogue.whole  # of the last panel some columns are not there

        def whole() -> None:
            inner = self.scope.child(b)
            inner.symbols[PANEL] = panel
            epilogue.finish(inner, self.shape, sums, self._span(quarter, const(self.rows)))

        def staged() -> None:
            rows = flow.minimum(b, left, const(self.rows)) if not known else const(self.rows)
            epilogue.stage(self.shape, sums)

            def stores() -> None:
                epilogue.finish_staged(self.scope.child(b), panel, 1, self._span(quarter, rows))

            flow.branch(b, b.icmp_signed(">", rows, const(0)), stores, None)

        if epilogue.staged:
            staged()
        elif known and not is_cut:
            whole()
        else:
            rest = ir.IntType(1)(0) if known else b.icmp_signed("<", left, const(self.rows))
            if is_cut:
                rest = b.or_(rest, b.icmp_signed("==", panel, const(2 * body.template.pairs - 1)))
            flow.branch(b, rest, staged, whole, (1, 32))

    # -- tiles on the stack -------------------------------------------------------------------------------------------

    def _places(self) -> list[list[Value]]:
        width, lanes = self.body.template.width, self.body.lanes
        return [[const(i * width + v * lanes) for v in range(self.shape.vectors)] for i in range(self.rows)]

    def _wait(self, pointer: Value, sums: Sums) -> None:
        for row, places in zip(sums[0], self._places(), strict=True):
            for value, at in zip(row, places, strict=True):
                self.body._store(pointer, at, value)

    def _waiting(self, pointer: Value) -> Sums:
        return [[[self.body._load(pointer, at) for at in places] for places in self._places()]]

    def _plus(self, sums: Sums, pointer: Value) -> Sums:
        pairs = zip(sums[0], self._waiting(pointer)[0], strict=True)
        return [[[self.b.fadd(x, y) for x, y in zip(row, other, strict=True)] for row, other in pairs]]



