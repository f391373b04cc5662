"""Products of 8-bit integers, several at a time: u8 elements of A by i8 weights, summed exactly in i32.

Eight at a time for two rows and two columns with Arm's i8mm (``usmmla``); else four where the processor has VNNI
(``vpdpbusd``, which does not saturate) or Arm's dot products (``usdot`` with i8mm; else ``sdot`` of elements of A less
128, which are signed); else two, as 16-bit integers (``vpmaddwd``), or four where the weights are such that sums of
four products fit 16 bits (`lower.short_sums`), at which the older ``vpmaddubsw`` saturates.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import declarations, functions
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value
from ingot.compiler.targets.cpu.functions import I8, I16, I32, I64, memory_type
from ingot.compiler.targets.cpu.microkernel import OneRow, OneStep, Product
from ingot.runtime.dtypes import DType

SIGN = 128  # a u8 element less this is the signed byte that has its bits but the highest
_QUADS = {4: "128", 8: "256", 16: "512"}
_BYTES = {4: "ssse3.pmadd.ub.sw.128", 8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"}
_PAIRS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}


def product(level: Level, dot: int, shift: int = 0) -> Product | None:
    """What multiplies `dot` elements at a time, `shift` taken off those of A, on `level`; None for one. Raises IrError
    where nothing does."""
    if dot == 1 and not shift:
        return None
    if dot == 8 and level.matrices and not shift:
        return Matrices()
    if dot == 4 and level.dot == 4 and shift == (SIGN if level.signed_dot else 0):
        return Quads() if level.arch == "x86-64" else ArmQuads(signed=level.signed_dot)
    if level.dot == 2 and not shift and dot in (2, 4):
        return Pairs() if dot == 2 else ShortSums()
    less = f" less {shift}" if shift else ""
    raise IrError(f"{level.name} does not sum {dot} products of 8-bit integers{less} at a time")


def _joined(b: ir.IRBuilder, low: Value, high: Value) -> Value:
    count = low.type.count + high.type.count
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, count), list(range(count))))


@dataclass(frozen=True)
class Quads(OneRow):
    """Four products a lane of x86-64 with VNNI. Vectors are [lanes] i32, each four bytes."""

    dot: int = 4

    @property
    def digit_bits(self) -> int:
        """Bits of the signed bytes that others are multiplied by: all."""
        return 8

    def spread(self, b: ir.IRBuilder, at: Sequence[Value], dtype: DType, lanes: int | None) -> Value:
        """Four bytes for every lane."""
        return functions.splat(b, b.load(at[0], align=1, typ=I32), lanes or 1)

    def vector(self, b: ir.IRBuilder, at: Value, dtype: DType, lanes: int | None) -> Value:
        """Four bytes for each lane."""
        return b.load(at, align=4, typ=ir.VectorType(I32, lanes or 1))

    def together(self, b: ir.IRBuilder, rows: Sequence[Value]) -> Value:
        """The bytes of up to four vectors, those of a lane together; past the last vector there may be anything."""
        lanes = rows[0].type.count
        pairs = [_joined(b, rows[i], rows[min(i + 1, len(rows) - 1)]) for i in (0, min(2, len(rows) - 1))]
        picks = [row * lanes + lane for lane in range(lanes) for row in range(4)]
        mask = ir.Constant(ir.VectorType(I32, 4 * lanes), picks)
        return b.bitcast(b.shuffle_vector(pairs[0], pairs[1], mask), ir.VectorType(I32, lanes))

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """total + x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3 in every lane"""
        lanes = total.type.count
        bytes_ = ir.VectorType(I8, 4 * lanes)
        operands = [total, b.bitcast(x, bytes_), b.bitcast(y, bytes_)]
        return declarations.call(b, f"llvm.x86.avx512.vpdpbusd.{_QUADS[lanes]}", total.type, operands)


@dataclass(frozen=True)
class ArmQuads(Quads):
    """Four products a lane of AArch64, of signed bytes or of u8 by i8. Vectors are [lanes] i32, each four bytes."""

    signed: bool = False

    def spread(self, b: ir.IRBuilder, at: Sequence[Value], dtype: DType, lanes: int | None) -> Value:
        """Four bytes for every lane, less `SIGN` where they must be signed."""
        whole = super().spread(b, at, dtype, lanes)
        if not self.signed:
            return whole
        flips = ir.Constant(whole.type, [I32(-0x7F7F7F80)] * whole.type.count)  # 0x80 in every byte
        return b.xor(whole, flips)

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """total + x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3 in every lane"""
        lanes = total.type.count
        bytes_, wide = ir.VectorType(I8, 4 * lanes), ir.VectorType(I32, 4 * lanes)
        x, y = b.bitcast(x, bytes_), b.bitcast(y, bytes_)
        if lanes == 4:
            name = "sdot" if self.signed else "usdot"
            return declarations.call(b, f"llvm.aarch64.neon.{name}.v4i32.v16i8", total.type, [total, x, y])
        # SVE's instructions have intrinsics for vectors of any length alone; of this one makes the same.
        products = b.mul((b.sext if self.signed else b.zext)(x, wide), b.sext(y, wide))
        name = f"llvm.vector.partial.reduce.add.v{lanes}i32.v{4 * lanes}i32"
        return declarations.call(b, name, total.type, [total, products])


@dataclass(frozen=True)
class Matrices(OneStep):
    """2 x 8 by 8 x 2 bytes in every 128 bits of AArch64's vectors with i8mm. What is summed of two columns of B lies
    together, as do eight elements of each; sums are [lanes] i32, for each two columns those of a row and of the next.
    """

    dot: int = 8
    rows: int = 2

    def spread(self, b: ir.IRBuilder, at: Sequence[Value], dtype: DType, lanes: int | None) -> Value:
        """Eight bytes of a row, and of the next where there is one, for every two columns."""
        whole: Value = ir.Constant(ir.VectorType(I64, 2), [I64(0), I64(0)])
        for number, row in enumerate(at):
            whole = b.insert_element(whole, b.load(row, align=1, typ=I64), I32(number))
        whole = b.bitcast(whole, ir.VectorType(I8, 16))
        if lanes == 4:
            return whole
        first = _scalable(b, whole)
        every = declarations.call(b, "llvm.aarch64.sve.dupq.lane.nxv16i8", first.type, [first, I64(0)])
        return _fixed(b, every, 4 * (lanes or 1))

    def vector(self, b: ir.IRBuilder, at: Value, dtype: DType, lanes: int | None) -> Value:
        """Eight bytes for each of half as many columns as there are lanes."""
        return b.load(at, align=4, typ=ir.VectorType(I8, 4 * (lanes or 1)))

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """The sums of eight products on top of `total`."""
        lanes = total.type.count
        if lanes == 4:
            return declarations.call(b, "llvm.aarch64.neon.usmmla.v4i32.v16i8", total.type, [total, x, y])
        operands = [_scalable(b, operand) for operand in (total, x, y)]
        return _fixed(b, declarations.call(b, "llvm.aarch64.sve.usmmla.nxv4i32", operands[0].type, operands), lanes)

    def results(self, b: ir.IRBuilder, sums: Sequence[Value], rows: int) -> list[list[Value]]:
        """The vectors of each row: two of `sums` hold one vector of a row and of the next."""
        lanes = sums[0].type.count
        found: list[list[Value]] = []
        for row in range(rows):
            picks = [place for place in range(2 * lanes) if place % 4 // 2 == row]
            mask = ir.Constant(ir.VectorType(I32, lanes), picks)
            found.append([b.shuffle_vector(x, y, mask) for x, y in zip(sums[::2], sums[1::2], strict=True)])
        return found


@dataclass(frozen=True)
class ShortSums(Quads):
    """Four products a lane of x86-64 without VNNI, two of which are summed in 16 bits, as are those of two steps. The
    weights are such that these sums never saturate."""

    @property
    def steps(self) -> int:
        """2"""
        return 2

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """total + x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3 in every lane"""
        return self.add_steps(b, [x], [y], total)

    def add_steps(self, b: ir.IRBuilder, x: Sequence[Value], y: Sequence[Value], total: Value) -> Value:
        """The same of one step or two."""
        lanes = total.type.count
        bytes_, short = ir.VectorType(I8, 4 * lanes), ir.VectorType(I16, 2 * lanes)
        halves = [
            declarations.call(b, f"llvm.x86.{_BYTES[lanes]}", short, [b.bitcast(u, bytes_), b.bitcast(w, bytes_)])
            for u, w in zip(x, y, strict=True)
        ]
        whole = halves[0] if len(halves) == 1 else b.add(*halves)
        ones = ir.Constant(short, [I16(1)] * (2 * lanes))
        return b.add(total, declarations.call(b, _PAIRS[lanes], total.type, [whole, ones]))


@dataclass(frozen=True)
class Pairs(OneRow):
    """Two products a lane as 16-bit integers. Vectors are [2 * lanes] i16; operands are 16 bits wide in memory, or 8,
    which are widened as they are loaded."""

    dot: int = 2

    def spread(self, b: ir.IRBuilder, at: Sequence[Value], dtype: DType, lanes: int | None) -> Value:
        """Two elements, of 8 or of 16 bits, for every lane."""
        count = lanes or 1
        if dtype.bytes == 2:
            return b.bitcast(functions.splat(b, b.load(at[0], align=2, typ=I32), count), ir.VectorType(I16, 2 * count))
        whole = functions.splat(b, b.load(at[0], align=1, typ=I16), 2 * count)
        bytes_ = ir.VectorType(I8, 4 * count)
        picks = [place for lane in range(count) for place in (4 * lane, 4 * count, 4 * lane + 1, 4 * count)]
        mask = ir.Constant(ir.VectorType(I32, 4 * count), picks)
        apart = b.shuffle_vector(b.bitcast(whole, bytes_), ir.Constant(bytes_, None), mask)  # a zero above each
        return b.bitcast(apart, ir.VectorType(I16, 2 * count))

    def vector(self, b: ir.IRBuilder, at: Value, dtype: DType, lanes: int | None) -> Value:
        """Two elements for each lane."""
        count, kind = 2 * (lanes or 1), memory_type(dtype)
        return b.sext(b.load(at, align=2 * dtype.bytes, typ=ir.VectorType(kind, count)), ir.VectorType(I16, count))

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """total + x0 * y0 + x1 * y1 in every lane"""
        return b.add(total, declarations.call(b, _PAIRS[total.type.count], total.type, [x, y]))


class _Scalable(ir.Type):
    """A vector of as many bits as the processor has: `count` elements for each 128 of them."""

    def __init__(self, element: ir.IntType) -> None:
        self.element, self.count = element, 128 // element.width

    def _to_string(self) -> str:
        return f"<vscale x {self.count} x {self.element}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Scalable) and self.element == other.element

    def __hash__(self) -> int:
        return hash((_Scalable, self.element))

    @property
    def suffix(self) -> str:
        """How intrinsics spell it in their names."""
        return f"nx{functions.suffix(ir.VectorType(self.element, self.count))}"


def _scalable(b: ir.IRBuilder, vector: Value) -> Value:
    """A register that begins with `vector`."""
    kind = _Scalable(vector.type.element)
    name = f"llvm.vector.insert.{kind.suffix}.{functions.suffix(vector.type)}"
    return declarations.call(b, name, kind, [ir.Constant(kind, ir.Undefined), vector, I64(0)])


def _fixed(b: ir.IRBuilder, register: Value, count: int) -> Value:
    """The first `count` elements of a register."""
    kind = ir.VectorType(register.type.element, count)
    name = f"llvm.vector.extract.{functions.suffix(kind)}.{register.type.suffix}"
    return declarations.call(b, name, kind, [register, I64(0)])
