"""Rows of f32 times weights of a few bits by products of bytes, for a row or two, where reading weights in the form in
which they lie is all the work that there is time for.

A block of a row is an integer of 23 bits an element times a power of two, and that integer is three digits, each a
signed byte: ``65536 * d2 + 256 * d1 + d0``. Weights are multiplied by digits, four at a time, in integers and so
exactly; what is lost is less than half a unit in the last place of a block's largest element, as much as sums in f32
lose. Rows that are not finite have no such form: `Rows.finite` says so, and they are multiplied as floats.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llvmlite import ir

from ingot.compiler.ir.templates import Blocks
from ingot.compiler.targets.cpu import declarations, flow, functions
from ingot.compiler.targets.cpu.block_kernel import Streams
from ingot.compiler.targets.cpu.dots import ArmQuads, Quads
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.flow import Value, const
from ingot.compiler.targets.cpu.functions import F32, I8, I16, I32, constant, widened
from ingot.compiler.targets.cpu.microkernel import HOT, LINE, Tile, multiply_add, prefetch
from ingot.runtime.dtypes import f32

DIGITS = 3
LONGEST = 256  # elements with a power of two in common
ROOM = 48 << 10  # bytes of the stack that rows may take
BITS = 21  # of the integers, below the first that the largest element of a block has
EXPONENT = 23  # the lowest bit of an f32's exponent
BIAS = 127
LEAST = 23  # the least biased exponent that a block is given: the power of two of its digits is a normal number
INFINITE = 0xFF << EXPONENT
ROUNDING = 1.5 * 2**EXPONENT  # added to a number it leaves an integer in the lowest bits
WORDS = 8  # written out, at most
_PAIRS = {
    8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    16: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
}


@dataclass(frozen=True)
class Nibbles:
    """Products of bytes below 16 by signed bytes, where x86-64 has no VNNI: sums of two never saturate 16 bits."""

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """total + x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3 in every lane"""
        lanes = total.type.count
        bytes_, halves = ir.VectorType(I8, 4 * lanes), ir.VectorType(I16, 2 * lanes)
        operands = [b.bitcast(x, bytes_), b.bitcast(y, bytes_)]
        of_bytes, of_halves = _PAIRS[lanes]
        pairs = declarations.call(b, of_bytes, halves, operands)
        sums = declarations.call(b, of_halves, total.type, [pairs, constant(1, halves)])
        return b.add(total, sums)


Multiplier: TypeAlias = Quads | Nibbles
Step: TypeAlias = Callable[[Value, int | None, list[Value]], list[Value]]


def multiplier(level: Level, bits: int, lanes: int) -> Multiplier | None:
    """What multiplies weights of `bits` bits by digits in vectors of `lanes`, None where nothing does."""
    if level.arch == "x86-64":
        if level.dot == 4:
            return Quads() if lanes in (4, 8, 16) else None
        return Nibbles() if bits < 8 and lanes in _PAIRS else None
    if level.dot != 4 or (level.signed_dot and bits == 8):
        return None
    return ArmQuads(signed=level.signed_dot)


@dataclass(frozen=True)
class Plan:
    """How a depth is cut: `count` parts of `length` steps, the last perhaps shorter, each a block of the weights or a
    part of the only one."""

    depth: int
    length: int
    per: int

    @staticmethod
    def of(blocks: Blocks, depth: int, rows: int) -> Plan | None:
        """The plan for some rows; None where there is none."""
        length = min(blocks.size, LONGEST)
        if not blocks.factored or not depth or length < blocks.size < depth:
            return None
        plan = Plan(depth, length, blocks.per_word)
        return plan if rows * plan.bytes <= ROOM else None

    @property
    def count(self) -> int:
        """Parts of a row."""
        return -(-self.depth // self.length)

    @property
    def filled(self) -> int:
        """Bytes of a row's digits in one place, those of whole words."""
        return -(-self.depth // self.per) * self.per

    @property
    def bytes(self) -> int:
        """Bytes of a row: its digits, and for each part a power of two and the sums of its digits."""
        return DIGITS * self.filled + 4 * (1 + DIGITS) * self.count


class Rows:
    """The digits of rows of A, which begin at `starts`, on the stack."""

    def __init__(self, b: ir.IRBuilder, plan: Plan, starts: Sequence[Value], lanes: int) -> None:
        self.b, self.plan, self.lanes = b, plan, lanes
        count = len(starts)
        self.digits = flow.stack(b, I8, count * DIGITS * plan.filled)
        self.powers = flow.stack(b, F32, count * plan.count)
        self.sums = flow.stack(b, I32, count * plan.count * DIGITS)
        top: Value = I32(0)
        for row, start in enumerate(starts):
            top = self._row(row, start, top)
        self.finite = b.icmp_unsigned("<", top, I32(INFINITE))

    # -- where things lie ---------------------------------------------------------------------------------------------

    def digit(self, row: int, place: int, k: Value, more: int = 0) -> Value:
        """Where the digit `place` of element ``k + more`` of a row lies."""
        at = self.b.gep(self.digits, [k], source_etype=I8)
        return self.b.gep(at, [const((row * DIGITS + place) * self.plan.filled + more)], source_etype=I8)

    def power(self, row: int, part: Value) -> Value:
        """Where the power of two of a part of a row lies."""
        return self.b.gep(self.powers, [flow.add(self.b, part, row * self.plan.count)], source_etype=F32)

    def sum(self, row: int, part: Value, place: int) -> Value:
        """Where the sum of the digits of a part of a row lies."""
        at = flow.multiply(self.b, flow.add(self.b, part, row * self.plan.count), DIGITS)
        return self.b.gep(self.sums, [flow.add(self.b, at, place)], source_etype=I32)

    # -- making them --------------------------------------------------------------------------------------------------

    def _row(self, row: int, start: Value, top: Value) -> Value:
        """The digits of one row; returns the bits of the largest magnitude of `top` and of all its elements."""
        b, plan = self.b, self.plan
        whole, rest = divmod(plan.depth, plan.length)

        def part(index: Value, carried: list[Value]) -> list[Value]:
            k = flow.multiply(b, index, plan.length)
            return [self._part(row, start, index, k, plan.length, carried[0])]

        (top,) = flow.loop(b, const(0), const(whole), 1, [top], part)
        if rest:
            top = self._part(row, start, const(whole), const(whole * plan.length), rest, top)
        for place in range(DIGITS):
            for k in range(plan.depth, plan.filled):
                b.store(I8(0), self.digit(row, place, const(0), k), align=1)
        return top

    def _part(self, row: int, start: Value, part: Value, first: Value, steps: int, top: Value) -> Value:
        b, lanes = self.b, self.lanes
        vectors = steps - steps % lanes

        def over(
            step: Step, fold: Callable[[Value], Value], join: Callable[[Value, Value], Value], count: int
        ) -> list[Value]:
            """`count` results of `step` for all vectors, folded, joined with those for single elements."""

            def vector(k: Value, carried: list[Value]) -> list[Value]:
                return step(flow.add(b, first, k), lanes, carried)

            def single(k: Value, carried: list[Value]) -> list[Value]:
                return step(flow.add(b, first, k), None, carried)

            wide = [constant(0, widened(I32, lanes))] * count
            wide = flow.loop(b, const(0), const(vectors), lanes, wide, vector)
            alone = flow.loop(b, const(vectors), const(steps), 1, [I32(0)] * count, single)
            return [join(fold(x), y) for x, y in zip(wide, alone, strict=True)]

        def load(k: Value, width: int | None) -> Value:
            at = b.gep(start, [k], source_etype=F32)
            return b.load(at, align=4, typ=widened(F32, width))

        def larger(x: Value, y: Value) -> Value:
            return b.select(b.icmp_unsigned(">", x, y), x, y)

        def largest(k: Value, width: int | None, carried: list[Value]) -> list[Value]:
            kind = widened(I32, width)
            return [larger(b.and_(b.bitcast(load(k, width), kind), constant(0x7FFFFFFF, kind)), carried[0])]

        def folded(name: str) -> Callable[[Value], Value]:
            return lambda x: functions.intrinsic(b, f"vector.reduce.{name}", I32, [x], x.type)

        (most,) = over(largest, folded("umax"), larger, 1)
        exponent = larger(b.and_(most, I32(INFINITE)), I32(LEAST << EXPONENT))
        b.store(b.bitcast(b.sub(exponent, I32(BITS << EXPONENT)), F32), self.power(row, part), align=4)
        inverse = b.bitcast(b.sub(constant((2 * BIAS + BITS) << EXPONENT, I32), exponent), F32)
        factors = {width: functions.splat(b, inverse, width) for width in (lanes, None)}

        def split(k: Value, width: int | None, carried: list[Value]) -> list[Value]:
            kind = widened(I32, width)
            moved = b.fadd(b.fmul(load(k, width), factors[width]), constant(ROUNDING, widened(F32, width)))
            number = b.sub(b.bitcast(moved, kind), constant(0x4B400000, kind))
            second = b.ashr(b.add(number, constant(128, kind)), constant(8, kind))
            third = b.ashr(b.add(second, constant(128, kind)), constant(8, kind))
            found = (number, second, third)
            for place, digits in enumerate(found):
                b.store(b.trunc(digits, widened(I8, width)), self.digit(row, place, k), align=1)
            return [b.add(x, y) for x, y in zip(carried, found, strict=True)]

        sums = over(split, folded("add"), b.add, DIGITS)
        for place, total in enumerate(sums):  # of numbers, of what is above their last digits, ...
            above = b.shl(sums[place + 1], I32(8)) if place + 1 < DIGITS else I32(0)
            b.store(b.sub(total, above), self.sum(row, part, place), align=4)
        return larger(most, top)


class DigitKernel:
    """Emits the k loops of one tile: the `rows` by `panels`."""

    def __init__(
        self, b: ir.IRBuilder, tile: Tile, blocks: Blocks, rows: Rows, panels: Sequence[Streams], by: Multiplier
    ) -> None:
        self.b, self.tile, self.blocks, self.rows, self.panels, self.by = b, tile, blocks, rows, panels, by
        self.plan = rows.plan
        self.word, self.kind = ir.VectorType(I32, tile.lanes), ir.VectorType(F32, tile.lanes)
        self.width = tile.lanes * tile.vectors
        self.columns = [(p, v) for p in range(tile.panels) for v in range(tile.vectors)]

    def emit(self) -> list[list[list[Value]]]:
        """Emit the loops; returns the sums as ``[panel][row][vector]``."""
        b, plan, tile = self.b, self.plan, self.tile
        whole, rest = divmod(plan.depth, plan.length)
        zero = constant(0.0, self.kind)

        def part(index: Value, carried: list[Value]) -> list[Value]:
            return self._part(index, carried, plan.length)

        totals = [zero] * (tile.rows * len(self.columns))
        totals = flow.loop(b, const(0), const(whole), 1, totals, part, rounds=whole)
        if rest:
            totals = self._part(const(whole), totals, rest)
        found: list[list[list[Value]]] = [[[zero] * tile.vectors for _ in range(tile.rows)] for _ in self.panels]
        for number, value in enumerate(totals):
            r, column = divmod(number, len(self.columns))
            p, v = self.columns[column]
            found[p][r][v] = value
        return found

    def _part(self, part: Value, totals: list[Value], steps: int) -> list[Value]:
        """A part of `steps` steps on top of the totals."""
        b, plan, tile = self.b, self.plan, self.tile
        block = part if plan.count == -(-plan.depth // self.blocks.size) else const(0)
        place = flow.multiply(b, block, self.width)
        sums = self._starts(part, place)
        k, words = flow.multiply(b, part, plan.length), -(-steps // plan.per)
        word = flow.multiply(b, part, plan.length // plan.per * self.width)
        rounds = words // WORDS

        def round_(_: Value, carried: list[Value]) -> list[Value]:
            at, position, *inner = carried
            self._words(at, position, WORDS, inner)
            return [flow.add(b, at, WORDS * plan.per), flow.add(b, position, WORDS * self.width), *inner]

        if rounds > 1:
            k, word, *sums = flow.loop(b, const(0), const(rounds), 1, [k, word, *sums], round_, rounds=HOT)
            words -= rounds * WORDS
        sums = list(sums)
        self._words(k, word, words, sums)
        scales = [self._load(self.panels[p].scales, place, v, F32) for p, v in self.columns]
        self._fetch([panel.scales for panel in self.panels], place, 0, -(-plan.depth // self.blocks.size))
        found: list[Value] = []
        for r in range(tile.rows):
            power = functions.splat(b, b.load(self.rows.power(r, part), align=4, typ=F32), tile.lanes)
            for c, scale in enumerate(scales):
                number = r * len(self.columns) + c
                total = self._number(sums[DIGITS * number : DIGITS * (number + 1)], steps)
                found.append(multiply_add(b, total, b.fmul(power, scale), totals[number], f32))
        return found

    def _starts(self, part: Value, place: Value) -> list[Value]:
        """What the sums of a part start from: the zero points times the sums of the digits, negative."""
        b, tile = self.b, self.tile
        sums: list[Value] = []
        zeros = None
        if self.blocks.zeros is not None:
            zeros = [b.zext(self._load(self.panels[p].zeros, place, v, I8), self.word) for p, v in self.columns]
        for r in range(tile.rows):
            digits = [b.load(self.rows.sum(r, part, i), align=4, typ=I32) for i in range(DIGITS)]
            if zeros is None:
                less = [functions.splat(b, b.mul(each, I32(-self.blocks.zero)), tile.lanes) for each in digits]
                sums += less * len(self.columns)
                continue
            wide = [functions.splat(b, b.neg(each), tile.lanes) for each in digits]
            sums += [b.mul(zero, each) for zero in zeros for each in wide]
        return sums

    def _words(self, k: Value, word: Value, count: int, sums: list[Value]) -> None:
        """The products of `count` words, on the sums, which are replaced."""
        b, tile, bits = self.b, self.tile, self.blocks.bits
        mask = constant((2**bits - 1) * 0x01010101, self.word)
        for number in range(count):
            words = [self._load(self.panels[p].words, word, v, I32, number * self.width) for p, v in self.columns]
            rows = self.plan.filled // self.plan.per
            self._fetch([panel.words for panel in self.panels], word, number * self.width, rows)
            for quad in range(self.plan.per // 4):
                x = [b.lshr(each, constant(quad * bits, self.word)) if quad else each for each in words]
                x = x if bits == 8 else [b.and_(each, mask) for each in x]
                for r in range(tile.rows):
                    for i in range(DIGITS):
                        at = self.rows.digit(r, i, k, number * self.plan.per + 4 * quad)
                        y = functions.splat(b, b.load(at, align=1, typ=I32), tile.lanes)
                        for c, each in enumerate(x):
                            place = DIGITS * (r * len(self.columns) + c) + i
                            sums[place] = self.by.add(b, each, y, sums[place])

    def _fetch(self, starts: Sequence[Value], index: Value, more: int, rows: int) -> None:
        """Fetch ahead what the next group of panels, each of `rows` rows, reads where this one reads the row `more`
        elements behind `index`."""
        b = self.b
        for start in starts:
            at = b.gep(start, [index], source_etype=I32)
            for line in range(0, 4 * self.width, LINE):
                distance = 4 * (len(self.panels) * rows * self.width + more) + line
                prefetch(b, b.gep(at, [const(distance)], source_etype=I8), locality=2)

    def _number(self, digits: Sequence[Value], steps: int) -> Value:
        """The sums of the digits as one number."""
        b = self.b
        low, middle, high = digits
        below = b.sitofp(b.add(b.shl(middle, constant(8, self.word)), low), self.kind)
        if steps * 2**self.blocks.bits * 2**15 >= 2**31:  # that might not fit
            upper = b.sitofp(middle, self.kind)
            below = multiply_add(b, upper, constant(256.0, self.kind), b.sitofp(low, self.kind), f32)
        return multiply_add(b, b.sitofp(high, self.kind), constant(65536.0, self.kind), below, f32)

    def _load(self, start: Value, index: Value, vector: int, element: ir.Type, more: int = 0) -> Value:
        """The vector number `vector` of a row that begins ``index + more`` elements behind `start`."""
        at = self.b.gep(start, [index], source_etype=element)
        if shift := more + vector * self.tile.lanes:
            at = self.b.gep(at, [const(shift)], source_etype=element)
        return self.b.load(at, align=1 if element is I8 else 4, typ=widened(element, self.tile.lanes))
