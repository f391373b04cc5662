"""`ir.sparse.SparseVector` as LLVM IR.

A visit holds its part of x in two registers, in which each step looks up an element for every lane. Sums go to several
accumulators in turn, a visit each, which the processor works on side by side.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from ingot.compiler.ir.dims import substitute, symbol
from ingot.compiler.ir.sparse import SparseVector
from ingot.compiler.ir.templates import row_places
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import declarations, flow
from ingot.compiler.targets.cpu.epilogue import PANEL, TAIL, Epilogue, Span
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import I64, Value, const
from ingot.compiler.targets.cpu.functions import F32, I8, I32, constant, widened
from ingot.compiler.targets.cpu.microkernel import Tile, multiply_add
from ingot.compiler.targets.cpu.rows import RowOffsets
from ingot.runtime.dtypes import f32

CHAINS = 3  # accumulators
STEPS = 8  # of a visit, a guess: what loops are expected to run


def emit_body(
    b: ir.IRBuilder,
    template: SparseVector,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of the panels under "panel".

    Raises IrError where the level has no instructions for the template's table and width.
    """
    lanes = level.lanes(4)
    if level.arch != "x86-64" or (template.width, template.table) != (lanes, 2 * lanes):
        raise IrError(f"no look-up in {template.table} elements for {template.width} lanes at level {level.name}")
    _Body(b, template, scope, lanes).panels(*ranges["panel"])


class _Body:
    def __init__(self, b: ir.IRBuilder, template: SparseVector, scope: Scope, lanes: int) -> None:
        self.b, self.template, self.scope, self.lanes = b, template, scope, lanes
        self.rows = RowOffsets(template.rows, frozenset((template.columns.var,)))
        self.epilogue = Epilogue(b, template, self.rows, lanes, 1, 1, copied=True)
        self.rows.allocate(b, 3)  # tiles look ahead
        self.kind, self.numbers = widened(F32, lanes), widened(I32, lanes)
        offset = substitute(template.x.offset, row_places(template.rows, 0))
        self.x = b.gep(scope.buffer(template.x.buffer)[0], [emit_dim(b, offset, scope)], source_etype=F32)
        self.indices, self.values = scope.buffer(template.indices)[0], scope.buffer(template.values)[0]

    def panels(self, begin: Value, end: Value) -> None:
        """The panels of the chunk."""
        b, template = self.b, self.template
        self.rows.fill(b, self.scope.child(b), const(0), const(1))
        inner = self.scope.child(b)
        zeros = [constant(0.0, self.kind)] * CHAINS

        def panel(number: Value, _: list[Value]) -> list[Value]:
            visit, last = (self._number(template.bounds, flow.add(b, number, i)) for i in (0, 1))
            start = self._number(template.ends, visit)
            _, *sums = flow.loop(b, visit, last, 1, [start, *zeros], self._visit, rounds=STEPS)
            while len(sums) > 1:
                sums = [b.fadd(sums[0], sums[1]), *sums[2:]]
            inner.symbols[PANEL] = number
            self._store(inner, number, sums[0])
            return []

        flow.loop(b, begin, end, 1, [], panel, rounds=8)

    def _number(self, buffer: str, place: Value) -> Value:
        b = self.b
        at = b.gep(self.scope.buffer(buffer)[0], [place], source_etype=I32)
        return b.zext(b.load(at, align=4, typ=I32), I64)

    def _visit(self, number: Value, carried: list[Value]) -> list[Value]:
        """A visit: its sums are added to the first of the accumulators, which then is the last."""
        b, lanes = self.b, self.lanes
        begin, total, *others = carried
        base = b.gep(self.x, [self._number(self.template.bases, number)], source_etype=F32)
        table = [self._load(base, const(i * lanes)) for i in (0, 1)]
        end = self._number(self.template.ends, flow.add(b, number, 1))

        def step(at: Value, sums: list[Value]) -> list[Value]:
            place = flow.multiply(b, at, lanes)
            narrow = b.load(
                b.gep(self.indices, [place], source_etype=I8), align=min(lanes, 16), typ=ir.VectorType(I8, lanes)
            )
            index = b.sext(narrow, self.numbers)
            absent = b.icmp_signed("<", index, constant(0, self.numbers))
            x = b.select(absent, constant(0.0, self.kind), self._looked_up(table, index))
            return [multiply_add(b, x, self._load(self.values, place), sums[0], f32)]

        (total,) = flow.loop(b, begin, end, 1, [total], step, nonempty=True, rounds=STEPS)
        return [end, *others, total]

    def _looked_up(self, table: list[Value], index: Value) -> Value:
        """The elements of the table that the low bits of the indices name."""
        b = self.b
        if self.lanes == 16:
            name = "llvm.x86.avx512.vpermi2var.ps.512"
            return declarations.call(b, name, self.kind, [table[0], index, table[1]])
        low, high = (
            declarations.call(b, "llvm.x86.avx2.permps", self.kind, [part, index]) for part in table
        )
        upper = b.icmp_signed("<", b.shl(index, constant(28, self.numbers)), constant(0, self.numbers))
        return b.select(upper, high, low)

    def _load(self, pointer: Value, at: Value) -> Value:
        return self.b.load(self.b.gep(pointer, [at], source_etype=F32), align=4, typ=self.kind)

    def _store(self, scope: Scope, number: Value, sums: Value) -> None:
        b, template, epilogue = self.b, self.template, self.epilogue
        tile, span = Tile(1, 1, 1, self.lanes), Span(const(0), const(0), const(1))
        left = emit_dim(b, template.columns.extent - symbol(PANEL) * template.width, scope)
        cut = b.icmp_signed("<", left, const(template.width))
        apart, direct = scope.child(b), scope.child(b)

        def staged() -> None:
            epilogue.stage(tile, [[[sums]]])
            epilogue.finish_staged(apart, number, 1, span)

        if epilogue.staged:
            staged()
        elif epilogue.whole:
            epilogue.finish(direct, tile, [[[sums]]], span)
        else:
            flow.branch(b, cut, staged, lambda: epilogue.finish(direct, tile, [[[sums]]], span), TAIL)
