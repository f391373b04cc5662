"""Row addresses of a contraction: the parts of element offsets that depend on the row.

The rows of a contraction are the product of several axes (image, y, x), while register tiles take consecutive rows
wherever they lie. Where an offset moves by one stride from row to row it is computed; otherwise the offsets of a block
of rows are written to a table on the stack once, for all panels of the block.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.dims import Expr as DimExpr
from ingot.compiler.ir.loops import Axis, Call, Expr, Index, Load, Store
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import flow
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.flow import I64, Value, const


def split(dim: Dim, names: frozenset[str]) -> tuple[Dim, Dim]:
    """(part, rest) with dim = part + rest where exactly the terms of `part` contain one of `names`."""
    if isinstance(dim, int):
        return 0, dim
    part: Dim = 0
    rest: Dim = 0
    for monomial, c in dim.terms:
        term = DimExpr(((monomial, c),)) if monomial else c
        if dims.symbols(term) & names:
            part = part + term
        else:
            rest = rest + term
    return part, rest


def uniform_stride(part: Dim, axes: Sequence[Axis]) -> Dim | None:
    """The stride s with ``part == s * row`` for rows counted over `axes` (last fastest), None where there is none."""
    stride: Dim | None = None
    step: Dim = 0
    for axis in reversed(axes):
        if axis.extent == 1:
            part = dims.substitute(part, {axis.var: 0})
            continue
        affine = dims.coefficient(part, axis.var)
        if affine is None or dims.symbols(affine[0]) & {a.var for a in axes}:
            return None
        own, part = affine
        if stride is None:
            stride = own
        elif own != step:
            return None
        step = own * axis.extent
    return None if part != 0 else stride if stride is not None else 0


class RowOffsets:
    """The distinct row parts of a kernel's offsets, each replaced by a symbol that is bound row by row."""

    def __init__(self, axes: Sequence[Axis], others: frozenset[str]) -> None:
        """`others` are the variables of the inner loops, which no row part may contain."""
        self.axes = tuple(axes)
        self.names = frozenset(axis.var for axis in axes)
        self.others = others
        self.parts: list[Dim] = []
        self.strides: list[Dim | None] = []
        self.tables: dict[int, Value] = {}

    def part(self, dim: Dim) -> tuple[int | None, Dim]:
        """(number of the row part of `dim`, rest of it); None when `dim` is the same for every row."""
        part, rest = split(dim, self.names)
        if part == 0:
            return None, rest
        if dims.symbols(part) & self.others:
            raise IrError(f"offset {dims.show(dim)} multiplies a row variable with an inner loop variable")
        if part not in self.parts:
            self.parts.append(part)
            self.strides.append(uniform_stride(part, self.axes))
        return self.parts.index(part), rest

    @staticmethod
    def symbol_name(number: int) -> str:
        """The symbol that stands for row part `number`."""
        return f"%row{number}"

    def dim(self, dim: Dim) -> Dim:
        """`dim` with its row part replaced by that part's symbol."""
        number, rest = self.part(dim)
        return rest if number is None else rest + symbol(self.symbol_name(number))

    def expr(self, expr: Expr) -> Expr:
        """`expr` with the row parts of all its dims replaced by symbols."""
        match expr:
            case Load(offset=offset):
                return replace(expr, offset=self.dim(offset))
            case Index(dim=dim):
                return Index(self.dim(dim))
            case Call(args=args):
                return replace(expr, args=tuple(self.expr(a) for a in args))
            case _:
                return expr

    def store(self, store: Store) -> Store:
        """`store` with the row parts of its offset and value replaced by symbols."""
        return Store(store.buffer, self.dim(store.offset), self.expr(store.value))

    def allocate(self, b: ir.IRBuilder, rows: int) -> None:
        """Reserve the tables for blocks of at most `rows` rows; all parts must be known by now."""
        for number, stride in enumerate(self.strides):
            if stride is None:
                self.tables[number] = flow.stack(b, I64, rows)

    def fill(self, b: ir.IRBuilder, scope: Scope, begin: Value, end: Value) -> None:
        """Write the tables for rows ``begin .. end``; one round for each stretch along the last axis."""
        if not self.tables:
            return
        *outer, last = self.axes
        extent = emit_dim(b, last.extent, scope)
        outside = scope.child(b)

        def stretch(row: Value) -> Value:
            scope = outside
            scope.symbols[last.var] = b.srem(row, extent)
            rest = b.sdiv(row, extent)
            for position, axis in reversed(list(enumerate(outer))):
                if position == 0:
                    scope.symbols[axis.var] = rest
                else:
                    size = emit_dim(b, axis.extent, scope)
                    scope.symbols[axis.var] = b.srem(rest, size)
                    rest = b.sdiv(rest, size)
            first = scope.symbols[last.var]
            length = flow.minimum(b, b.sub(extent, first), b.sub(end, row))
            slot = b.sub(row, begin)
            for number, table in self.tables.items():
                self._fill_stretch(b, scope, number, b.gep(table, [slot], source_etype=I64), first, length)
            return b.add(row, length, flags=("nsw",))

        before = b.block
        head, body, done = (b.append_basic_block(name) for name in ("stretches", "stretch", "rows"))
        b.branch(head)
        b.position_at_end(head)
        row = b.phi(I64)
        row.add_incoming(begin, before)
        b.cbranch(b.icmp_signed("<", row, end), body, done)
        b.position_at_end(body)
        following = stretch(row)
        row.add_incoming(following, b.block)
        b.branch(head)
        b.position_at_end(done)

    def _fill_stretch(
        self, b: ir.IRBuilder, scope: Scope, number: int, table: Value, first: Value, length: Value
    ) -> None:
        part, var = self.parts[number], self.axes[-1].var
        affine = dims.coefficient(part, var)
        inner = scope.child(b)
        if affine is not None:
            start, step = emit_dim(b, part, scope), emit_dim(b, affine[0], scope)

        def body(i: Value, carried: list[Value]) -> list[Value]:
            if affine is not None:
                value = carried[0]
            else:
                inner.symbols[var] = b.add(first, i)
                value = emit_dim(b, part, inner)
            b.store(value, b.gep(table, [i], source_etype=I64), align=8)
            return [b.add(value, step)] if affine is not None else []

        flow.loop(b, const(0), length, 1, [start] if affine is not None else [], body, nonempty=True)

    def at(self, b: ir.IRBuilder, scope: Scope, number: int, row: Value, slot: Value, step: int) -> Value:
        """The value of part `number` for row ``row + step``, which is entry ``slot + step`` of the block."""
        stride = self.strides[number]
        if stride is None:
            entry = b.gep(self.tables[number], [flow.add(b, slot, step)], source_etype=I64)
            return b.load(entry, align=8, typ=I64)
        s = emit_dim(b, stride, scope)
        return flow.add(b, flow.multiply(b, row, s), flow.multiply(b, s, step))
