"""`ir.sparse.SparseProduct` as LLVM IR.

The sums of a chunk, all columns of a panel for its rows, lie on the stack, column by column. Block by block of the
depth each visit takes the sums of its columns into registers and goes through its steps: a step multiplies vectors of
rows, which are read from X where its offset says, by its values, one for each column. Visits come longest first, so
that the number of steps, which ends the loop, is most often that of the visit before. When all blocks are done, squares
of the sums are transposed and stored as those of other products are (`epilogue`).
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llvmlite import ir

from ingot.compiler.ir.dims import modulo, substitute, symbol
from ingot.compiler.ir.sparse import SparseProduct
from ingot.compiler.ir.templates import row_places
from ingot.compiler.targets.cpu import flow, microkernel
from ingot.compiler.targets.cpu.epilogue import PANEL, TAIL, Epilogue, Span
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import I64, Value, const
from ingot.compiler.targets.cpu.functions import F32, I32, constant, splat, widened
from ingot.compiler.targets.cpu.microkernel import Tile, multiply_add
from ingot.compiler.targets.cpu.rows import RowOffsets
from ingot.runtime.dtypes import f32

FIRST = "%first"  # the symbol bound to the chunk's first row
STEPS = 16  # of a visit, a guess: what loops are expected to run
ALIGNED = 64  # bytes


def emit_body(
    b: ir.IRBuilder,
    template: SparseProduct,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of every axis of ``template.grid`` by its variable."""
    _Body(b, template, ranges, level).chunk(scope)


class _Body:
    """The emission of one product; the methods go from the outermost loop inwards."""

    def __init__(
        self, b: ir.IRBuilder, template: SparseProduct, ranges: Mapping[str, tuple[Value, Value]], level: Level
    ) -> None:
        self.b, self.template = b, template
        self.lanes = lanes = min(level.lanes(4), template.width)
        self.block = template.run * template.lines
        self.whole = template.lines > 1 or modulo(template.row_count, self.block) == 0
        self.vectors = -(-template.run // lanes)  # of a line
        self.pitch = self.vectors * lanes * template.lines  # of a column's sums
        (self.panel, _), (self.begin, self.end) = ranges["panel"], ranges["row"]
        self.rows = RowOffsets(template.rows, frozenset((template.columns.var,)))
        self.epilogue = Epilogue(b, template, self.rows, lanes, lanes, 1, copied=True)
        self.rows.allocate(b, self.block + 2 * lanes)  # tiles look ahead
        self.sums = flow.stack(b, F32, template.most_columns * self.pitch)
        self.kind = widened(F32, lanes if lanes > 1 else None)

    def chunk(self, scope: Scope) -> None:
        """The sums with as many vectors as there are rows for, then the stores."""
        b, template = self.b, self.template
        inner = scope.child(b)
        self.rows.fill(b, inner, self.begin, self.end)
        inner.symbols[FIRST] = self.begin
        offset = substitute(template.x.offset, row_places(template.rows, symbol(FIRST)))
        self.x = b.gep(scope.buffer(template.x.buffer)[0], [emit_dim(b, offset, inner)], source_etype=F32)
        self.buffers = {
            name: scope.buffer(name)[0]
            for name in (template.starts, template.bounds, template.slots, template.ends)
        }
        self.offsets, self.values = scope.buffer(template.offsets)[0], scope.buffer(template.values)[0]
        self.first = self._number(template.starts, self.panel)
        self.last = self._number(template.starts, flow.add(b, self.panel, 1))
        self.count = const(self.block) if self.whole else flow.subtract(b, self.end, self.begin)
        self._by_vectors(self._vector_counts())
        self._stores(scope.child(b))

    def _number(self, buffer: str, place: Value) -> Value:
        """An element of a buffer of the pattern."""
        b = self.b
        at = b.gep(self.buffers[buffer], [place], source_etype=I32)
        return b.zext(b.load(at, align=4, typ=I32), I64)

    # -- sums ---------------------------------------------------------------------------------------------------------

    def _vector_counts(self) -> list[int]:
        """For how many vectors of rows there is code: those of a whole chunk, and those of a shorter one."""
        most, total = self.vectors * self.template.lines, self.template.row_count
        if self.whole:
            return [most]
        if isinstance(total, int):
            return sorted({-(-(total % self.block) // self.lanes), most} if total > self.block else {most})
        counts = [most]
        while counts[0] > 1:
            counts.insert(0, counts[0] // 2)
        return counts

    def _by_vectors(self, counts: Sequence[int]) -> None:
        """The sums with the first of `counts` vectors that are enough."""
        b, (least, *others) = self.b, counts
        if not others:
            self._blocks(least)
            return
        fits = b.icmp_signed("<=", self.count, const(least * self.lanes))
        flow.branch(b, fits, lambda: self._blocks(least), lambda: self._by_vectors(others))

    def _blocks(self, vectors: int) -> None:
        """The blocks of the depth; the first one begins with zeros."""
        b, template = self.b, self.template
        base = flow.multiply(b, self.panel, template.depths)
        self._visits(vectors, base, is_first=True)

        def block(number: Value, _: list[Value]) -> list[Value]:
            self._visits(vectors, flow.add(b, base, number), is_first=False)
            return []

        flow.loop(b, const(1), const(template.depths), 1, [], block)

    def _visits(self, vectors: int, block: Value, *, is_first: bool) -> None:
        """All visits of a block of the depth."""
        b, template = self.b, self.template
        visit, last = (self._number(template.bounds, flow.add(b, block, i)) for i in (0, 1))
        start = self._number(template.ends, visit)

        def body(number: Value, carried: list[Value]) -> list[Value]:
            begin = carried[0]
            end = self._number(template.ends, flow.add(b, number, 1))
            slot = self._number(template.slots, number)
            places = [
                b.gep(self.sums, [flow.multiply(b, flow.add(b, slot, i), self.pitch)], source_etype=F32)
                for i in range(template.together)
            ]
            zero = constant(0.0, self.kind)
            sums = [
                zero if is_first else self._load(place, v * self.lanes, ALIGNED)
                for place in places
                for v in range(vectors)
            ]
            sums = flow.loop(
                b, begin, end, 1, sums, self._step(vectors), nonempty=not is_first, rounds=STEPS
            )
            for i, place in enumerate(places):
                for v in range(vectors):
                    at = b.gep(place, [const(v * self.lanes)], source_etype=F32)
                    b.store(sums[i * vectors + v], at, align=self._alignment)
            return [end]

        flow.loop(b, visit, last, 1, [start], body, rounds=STEPS * 4)

    def _step(self, vectors: int) -> Callable[[Value, list[Value]], list[Value]]:
        """One step of a visit, for so many vectors of rows."""
        b, template, lanes = self.b, self.template, self.lanes
        per_line = min(vectors, self.vectors)

        def step(number: Value, sums: list[Value]) -> list[Value]:
            at = b.gep(self.offsets, [number], source_etype=I32)
            offset = b.zext(b.load(at, align=4, typ=I32), I64)
            x = b.gep(self.x, [offset], source_etype=F32)
            rows = [
                self._load(x, v // per_line * template.line_stride + v % per_line * lanes, 4) for v in range(vectors)
            ]
            first = b.gep(self.values, [flow.multiply(b, number, template.together)], source_etype=F32)
            after: list[Value] = []
            for i in range(template.together):
                value = b.load(b.gep(first, [const(i)], source_etype=F32), align=4, typ=F32)
                spread = splat(b, value, lanes if lanes > 1 else None)
                after += [
                    multiply_add(b, row, spread, total, f32)
                    for row, total in zip(rows, sums[i * vectors : (i + 1) * vectors], strict=True)
                ]
            return after

        return step

    @property
    def _alignment(self) -> int:
        return min(ALIGNED, 4 * self.lanes)

    def _load(self, pointer: Value, elements: int, align: int) -> Value:
        at = self.b.gep(pointer, [const(elements)], source_etype=F32)
        return self.b.load(at, align=min(align, 4 * self.lanes), typ=self.kind)

    # -- stores -------------------------------------------------------------------------------------------------------

    def _stores(self, scope: Scope) -> None:
        """Squares of rows by columns, for each square of rows all columns of the panel."""
        b, template, lanes = self.b, self.template, self.lanes
        if template.lines == 1:
            whole = self.count if not self.whole else const(self.block)
            rest = b.urem(whole, const(lanes)) if not self.whole else const(self.block % lanes)
            whole = flow.subtract(b, whole, rest)

            squares = scope.child(b)

            def square(row: Value, _: list[Value]) -> list[Value]:
                self._columns(squares, row, Span(flow.add(b, self.begin, row), row, const(lanes)))
                return []

            flow.loop(b, const(0), whole, lanes, [], square, rounds=4)
            cut = Span(flow.add(b, self.begin, whole), whole, rest)
            known = flow.as_constant(rest)
            if known is None:
                after = scope.child(b)  # before the branch
                some = b.icmp_signed(">", rest, const(0))
                flow.branch(b, some, lambda: self._columns(after, whole, cut), None, TAIL)
            elif known:
                self._columns(scope.child(b), whole, cut)
            return

        lines = scope.child(b)

        def line(number: Value, _: list[Value]) -> list[Value]:
            for v in range(self.vectors):
                slot = flow.add(b, flow.multiply(b, number, template.run), v * lanes)
                place = flow.multiply(b, flow.add(b, flow.multiply(b, number, self.vectors), v), lanes)
                rows = const(min(lanes, template.run - v * lanes))
                self._columns(lines, place, Span(flow.add(b, self.begin, slot), slot, rows))
            return []

        flow.loop(b, const(0), const(template.lines), 1, [], line)

    def _columns(self, scope: Scope, place: Value, span: Span) -> None:
        """The columns of the panel for the rows of `span`, whose sums begin at `place` of each column."""
        b, template, lanes, epilogue = self.b, self.template, self.lanes, self.epilogue
        width, count = template.width, flow.as_constant(span.rows)
        inner = scope.child(b)

        def group(column: Value, _: list[Value]) -> list[Value]:
            number = b.udiv(flow.add(b, self.first, column), const(width))
            inner.symbols[PANEL] = number
            sums = self._transposed(flow.add(b, flow.multiply(b, column, self.pitch), place))
            tile = Tile(lanes if count is None else count, 1, width // lanes, lanes)
            part = [rows[: tile.rows] for rows in sums]
            apart, direct = inner.child(b), inner.child(b)

            def staged() -> None:
                epilogue.stage(tile, part)
                epilogue.finish_staged(apart, number, 1, span)

            if epilogue.staged or count is None:
                staged()
            elif epilogue.whole:
                epilogue.finish(direct, tile, part, span)
            else:
                left = emit_dim(b, template.columns.extent - symbol(PANEL) * width, inner)
                cut = b.icmp_signed("<", left, const(width))
                apart, direct = inner.child(b), inner.child(b)
                flow.branch(b, cut, staged, lambda: epilogue.finish(direct, tile, part, span), TAIL)
            return []

        flow.loop(b, const(0), flow.subtract(b, self.last, self.first), width, [], group, rounds=8)

    def _transposed(self, start: Value) -> list[list[list[Value]]]:
        """The sums of `width` columns from the element `start` on, as the epilogue takes them: by row."""
        b, lanes = self.b, self.lanes
        first = b.gep(self.sums, [start], source_etype=F32)
        squares = [
            microkernel.transpose(b, [self._load(first, (v + i) * self.pitch, ALIGNED) for i in range(lanes)])
            for v in range(0, self.template.width, lanes)
        ]
        return [[list(vectors) for vectors in zip(*squares, strict=True)]]

