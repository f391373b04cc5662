"""`ir.templates.Lookup` as LLVM IR: tables of bytes in registers.

With AVX-512's VBMI the table is four registers, of which ``vpermi2b`` picks from two at a time by seven bits. With AVX2
it is sixteen of 16 bytes: ``vpshufb`` picks from each by the lower four bits, ``vpblendvb`` chooses among them by the
upper ones. What is left of a row, and other processors, read the table from memory.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Mapping

from llvmlite import ir

from ingot.compiler.ir import dims
from ingot.compiler.ir.templates import Lookup
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import declarations, flow
from ingot.compiler.targets.cpu.expressions import Scope, emit_dim
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import I64, Value, const
from ingot.compiler.targets.cpu.functions import I8, I16, I32
from ingot.compiler.targets.cpu.microkernel import over_axes

ENTRIES = 256
Pick = Callable[[ir.IRBuilder, Value], Value]  # the entries for a vector of bytes


def emit_body(
    b: ir.IRBuilder,
    template: Lookup,
    scope: Scope,
    ranges: Mapping[str, tuple[Value, Value]],
    level: Level,
) -> None:
    """Emit one chunk: `ranges` gives ``begin, end`` of every outer axis by its variable. Raises IrError where a row is
    not contiguous."""
    var = template.inner.var
    for offset in (template.x.offset, template.y.offset):
        affine = dims.coefficient(offset, var)
        if affine is None or affine[0] != 1:
            raise IrError(f"the offset {dims.show(offset)} of a table's row is not contiguous in {var!r}")
    table = scope.buffer(template.table)[0]
    lanes, pick = _picking(b, table, level)

    def row(inner: Scope) -> None:
        places = {var: 0}
        pointers = [
            b.gep(scope.buffer(name)[0], [emit_dim(b, dims.substitute(offset, places), inner)], source_etype=I8)
            for name, offset in ((template.x.buffer, template.x.offset), (template.y.buffer, template.y.offset))
        ]
        extent = emit_dim(b, template.inner.extent, inner)
        whole: Value = const(0)
        if pick is not None:
            whole = b.and_(extent, const(-lanes))
            _vectors(b, pointers[0], pointers[1], whole, lanes, pick)
        _elements(b, pointers[0], pointers[1], whole, extent, table)

    over_axes(b, template.outer, ranges, scope, row)


def _vectors(b: ir.IRBuilder, x: Value, y: Value, end: Value, lanes: int, pick: Pick) -> None:
    kind = ir.VectorType(I8, lanes)

    def body(i: Value, _: list[Value]) -> list[Value]:
        bytes_ = b.load(b.gep(x, [i], source_etype=I8), align=1, typ=kind)
        b.store(pick(b, bytes_), b.gep(y, [i], source_etype=I8), align=1)
        return []

    flow.loop(b, const(0), end, lanes, [], body, rounds=64)


def _elements(b: ir.IRBuilder, x: Value, y: Value, begin: Value, end: Value, table: Value) -> None:
    def body(i: Value, _: list[Value]) -> list[Value]:
        number = b.zext(b.load(b.gep(x, [i], source_etype=I8), align=1, typ=I8), I64)
        entry = b.load(b.gep(table, [number], source_etype=I8), align=1, typ=I8)
        b.store(entry, b.gep(y, [i], source_etype=I8), align=1)
        return []

    flow.loop(b, begin, end, 1, [], body, rounds=8)


def _picking(b: ir.IRBuilder, table: Value, level: Level) -> tuple[int, Pick | None]:
    """How many bytes are looked up at a time, and how; None where no instruction does."""
    if level.vector_bytes == 64 and "avx512vbmi" in level.required:
        return 64, _by_seven_bits(b, table)
    if level.arch == "x86-64" and level.vector_bytes >= 32:
        return 32, _by_four_bits(b, table)
    return 1, None


def _parts(b: ir.IRBuilder, table: Value, size: int) -> list[Value]:
    kind = ir.VectorType(I8, size)
    return [
        b.load(b.gep(table, [const(at)], source_etype=I8), align=1, typ=kind) for at in range(0, ENTRIES, size)
    ]


def _by_seven_bits(b: ir.IRBuilder, table: Value) -> Pick:
    parts = _parts(b, table, 64)

    def pick(b: ir.IRBuilder, x: Value) -> Value:
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        lower, upper = (declarations.call(b, name, x.type, [parts[i], x, parts[i + 1]]) for i in (0, 2))
        return b.select(b.icmp_signed("<", x, ir.Constant(x.type, None)), upper, lower)

    return pick


def _by_four_bits(b: ir.IRBuilder, table: Value) -> Pick:
    twice = ir.Constant(ir.VectorType(I32, 32), [lane % 16 for lane in range(32)])
    parts = [b.shuffle_vector(part, part, twice) for part in _parts(b, table, 16)]

    def pick(b: ir.IRBuilder, x: Value) -> Value:
        low = b.and_(x, ir.Constant(x.type, [I8(15)] * 32))
        found = [declarations.call(b, "llvm.x86.avx2.pshuf.b", x.type, [part, low]) for part in parts]
        words = b.bitcast(x, ir.VectorType(I16, 16))
        for bit in range(4, 8):  # the sign of each byte becomes the bit
            moved = b.shl(words, ir.Constant(words.type, [I16(7 - bit)] * 16))
            chosen = b.icmp_signed("<", b.bitcast(moved, x.type), ir.Constant(x.type, None))
            found = [b.select(chosen, odd, even) for even, odd in zip(found[::2], found[1::2], strict=True)]
        return found[0]

    return pick
