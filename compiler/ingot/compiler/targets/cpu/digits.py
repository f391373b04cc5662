"""Rows of f32 times weights of a few bits by products of bytes, for a row or two, where reading weights in the form in
which they lie is all the work that there is time for.

A block of a row is an integer of 23 bits an element times a power of two, and that integer is three digits, each a
signed byte: ``65536 * d2 + 256 * d1 + d0``. Weights are multiplied by digits, four at a time, in integers and so
exactly; what is lost is less than half a unit in the last place of a block's largest element, as much as sums in f32
lose. Where elements may be rounded to 8 bits a single digit is all there is, of which 127 is the block's largest
element. AVX2's sums of two products would saturate 16 bits for weights of 8 bits: there digits have seven, of which
three are 20 bits. Rows that are not finite have no such form: `Rows.finite` says so, and they are multiplied as floats.
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

DIGITS = 3  # of an element that is not rounded
LONGEST = 256  # elements with a power of two in common
ROOM = 48 << 10  # bytes of the stack that rows may take
BITS = 21  # of the integers, below the first that the largest element of a block has
LEAST_BITS = 20  # of those that are chosen such that sums fit 32 bits
TINY = 2.0**-100  # the least magnitude that is the largest of a part
EXPONENT = 23  # the lowest bit of an f32's exponent
BIAS = 127
LEAST = 23  # the least biased exponent that a block is given: the power of two of its digits is a normal number
INFINITE = 0xFF << EXPONENT
ROUNDING = 1.5 * 2**EXPONENT  # added to a number it leaves an integer in the lowest bits
WORDS = 8  # written out, at most
VECTORS = 8  # of a part of a row, written out, at most
_PAIRS = {
    8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    16: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
}


@dataclass(frozen=True)
class Halves:
    """Products of bytes by digits, where x86-64 has no VNNI: sums of two do not saturate 16 bits where bytes are below
    128, or digits have seven bits."""

    digit_bits: int

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """total + x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3 in every lane"""
        lanes = total.type.count
        bytes_, halves = ir.VectorType(I8, 4 * lanes), ir.VectorType(I16, 2 * lanes)
        operands = [b.bitcast(x, bytes_), b.bitcast(y, bytes_)]
        of_bytes, of_halves = _PAIRS[lanes]
        pairs = declarations.call(b, of_bytes, halves, operands)
        sums = declarations.call(b, of_halves, total.type, [pairs, constant(1, halves)])
        return b.add(total, sums)


Multiplier: TypeAlias = Quads | Halves
Step: TypeAlias = Callable[[Value, int | None, list[Value]], list[Value]]


def multiplier(level: Level, bits: int, lanes: int) -> Multiplier | None:
    """What multiplies weights of `bits` bits by digits in vectors of `lanes`, None where nothing does."""
    if level.arch == "x86-64":
        if level.dot == 4:
            return Quads() if lanes in (4, 8, 16) else None
        return Halves(8 if bits < 8 else 7) if lanes in _PAIRS else None
    if level.dot != 4 or (level.signed_dot and bits == 8):
        return None
    return ArmQuads(signed=level.signed_dot)


@dataclass(frozen=True)
class Plan:
    """How a depth is cut: `count` parts of `length` steps, the last perhaps shorter, each a block of the weights or a
    part of the only one. An element is an integer of so many `digits` of `digit_bits` bits each: `bits` of it are below
    the first that a part's largest element has, or that one is the `largest` there is. Where sums of a part fit 32 bits
    as whole numbers they are `joined`."""

    depth: int
    length: int
    per: int
    digits: int
    digit_bits: int
    joined: bool
    bits: int = BITS
    largest: int | None = None

    @staticmethod
    def of(blocks: Blocks, depth: int, rows: int, digit_bits: int) -> Plan | None:
        """The plan for some rows, and digits of at most 8 bits; None where there is none."""
        length = min(blocks.size, LONGEST)
        if not blocks.factored or not depth or length < blocks.size < depth:
            return None
        cut = depth, length, blocks.per_word
        if blocks.coarse or digit_bits < 8:
            digits = DIGITS if not blocks.coarse else -(-8 // digit_bits)
            largest = (2 ** (digit_bits - 1) - 1) * sum(2 ** (digit_bits * i) for i in range(digits))
            joined = length * 2**blocks.bits * largest < 2**31
            plan = Plan(*cut, digits, digit_bits, joined, largest=largest)
        else:
            bits = min(BITS, 30 - blocks.bits - (length - 1).bit_length())  # a sum has 31
            joined = bits >= LEAST_BITS
            plan = Plan(*cut, DIGITS, digit_bits, joined, bits if joined else BITS)
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
    def sums(self) -> int:
        """Sums of a part's digits that are kept."""
        return 1 if self.joined else self.digits

    @property
    def bytes(self) -> int:
        """Bytes of a row: its digits, and for each part what they are multiplied by and their sums."""
        return self.digits * self.filled + 4 * (1 + self.sums) * self.count


class Rows:
    """The digits of rows of A, which begin at `starts`, on the stack. Sums of digits are kept times `factor`."""

    def __init__(self, b: ir.IRBuilder, plan: Plan, starts: Sequence[Value], lanes: int, factor: int) -> None:
        self.b, self.plan, self.lanes, self.factor = b, plan, lanes, factor
        count = len(starts)
        self.digits = flow.stack(b, I8, count * plan.digits * plan.filled)
        self.units = flow.stack(b, F32, count * plan.count)
        self.sums = flow.stack(b, I32, count * plan.count * plan.sums)
        top: Value = I32(0)
        for row, start in enumerate(starts):
            top = self._row(row, start, top)
        self.finite = b.icmp_unsigned("<", top, I32(INFINITE))

    # -- where things lie ---------------------------------------------------------------------------------------------

    def digit(self, row: int, place: int, k: Value, more: int = 0) -> Value:
        """Where the digit `place` of element ``k + more`` of a row lies."""
        at = self.b.gep(self.digits, [k], source_etype=I8)
        skip = (row * self.plan.digits + place) * self.plan.filled + more
        return self.b.gep(at, [const(skip)], source_etype=I8)

    def unit(self, row: int, part: Value) -> Value:
        """Where that by which the integers of a part of a row are multiplied lies."""
        return self.b.gep(self.units, [flow.add(self.b, part, row * self.plan.count)], source_etype=F32)

    def sum(self, row: int, part: Value, place: int) -> Value:
        """Where the sum of the digits of a part of a row lies; of whole numbers where they are joined."""
        at = flow.multiply(self.b, flow.add(self.b, part, row * self.plan.count), self.plan.sums)
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
        for place in range(plan.digits):
            for k in range(plan.depth, plan.filled):
                b.store(I8(0), self.digit(row, place, const(0), k), align=1)
        return top

    def _part(self, row: int, start: Value, part: Value, first: Value, steps: int, top: Value) -> Value:
        b, plan, lanes = self.b, self.plan, self.lanes
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
            if vectors <= VECTORS * lanes:
                for k in range(0, vectors, lanes):
                    wide = vector(const(k), wide)
            else:
                wide = flow.loop(b, const(0), const(vectors), lanes, wide, vector)
            folded = [fold(x) for x in wide]
            if vectors == steps:
                return folded
            alone = flow.loop(b, const(vectors), const(steps), 1, [I32(0)] * count, single)
            return [join(x, y) for x, y in zip(folded, alone, strict=True)]

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
        unit, inverse = self._unit(most)
        b.store(unit, self.unit(row, part), align=4)
        factors = {width: functions.splat(b, inverse, width) for width in (lanes, None)}

        def split(k: Value, width: int | None, carried: list[Value]) -> list[Value]:
            kind = widened(I32, width)
            moved = b.fadd(b.fmul(load(k, width), factors[width]), constant(ROUNDING, widened(F32, width)))
            found = [b.sub(b.bitcast(moved, kind), constant(0x4B400000, kind))]
            shift = constant(plan.digit_bits, kind)
            while len(found) < plan.digits:
                found.append(b.ashr(b.add(found[-1], constant(2 ** (plan.digit_bits - 1), kind)), shift))
            for place, digits in enumerate(found):
                if plan.digit_bits < 8 and place + 1 < plan.digits:
                    digits = b.sub(digits, b.shl(found[place + 1], shift))
                b.store(b.trunc(digits, widened(I8, width)), self.digit(row, place, k), align=1)
            return [b.add(x, y) for x, y in zip(carried, found[: plan.sums], strict=True)]

        sums = over(split, folded("add"), b.add, plan.sums)
        for place, total in enumerate(sums):  # of numbers, of what is above their last digits, ...
            above = b.shl(sums[place + 1], I32(plan.digit_bits)) if place + 1 < plan.sums else I32(0)
            b.store(b.mul(b.sub(total, above), I32(self.factor)), self.sum(row, part, place), align=4)
        return larger(most, top)

    def _unit(self, most: Value) -> tuple[Value, Value]:
        """By what the integers of a part whose largest magnitude has the bits `most` are multiplied, and its elements
        to become those."""
        b, bits, largest = self.b, self.plan.bits, self.plan.largest
        if largest is not None:
            magnitude = b.bitcast(most, F32)
            magnitude = b.select(b.fcmp_ordered(">", magnitude, F32(TINY)), magnitude, F32(TINY))
            return b.fmul(magnitude, F32(1 / largest)), b.fdiv(F32(largest), magnitude)
        exponent = b.and_(most, I32(INFINITE))
        least = I32(LEAST << EXPONENT)
        exponent = b.select(b.icmp_unsigned(">", exponent, least), exponent, least)
        power = b.bitcast(b.sub(exponent, I32(bits << EXPONENT)), F32)
        return power, b.bitcast(b.sub(constant((2 * BIAS + bits) << EXPONENT, I32), exponent), F32)


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
        digits = plan.digits
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
            unit = functions.splat(b, b.load(self.rows.unit(r, part), align=4, typ=F32), tile.lanes)
            for c, scale in enumerate(scales):
                number = r * len(self.columns) + c
                total = self._number(sums[digits * number : digits * (number + 1)], steps)
                found.append(multiply_add(b, total, b.fmul(unit, scale), totals[number], f32))
        return found

    def _starts(self, part: Value, place: Value) -> list[Value]:
        """What the sums of a part start from: the zero points times the sums of the digits, negative."""
        b, plan, lanes = self.b, self.plan, self.tile.lanes
        zeros = None
        if self.blocks.zeros is not None:
            zeros = [b.zext(self._load(self.panels[p].zeros, place, v, I8), self.word) for p, v in self.columns]
        rest = [constant(0, self.word)] * (plan.digits - plan.sums)
        sums: list[Value] = []
        for r in range(self.tile.rows):
            kept = [b.load(self.rows.sum(r, part, i), align=4, typ=I32) for i in range(plan.sums)]
            less = [functions.splat(b, each, lanes) for each in kept]
            for c in range(len(self.columns)):
                sums += [*(less if zeros is None else [b.mul(zeros[c], each) for each in less]), *rest]
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
                    for i in range(self.plan.digits):
                        at = self.rows.digit(r, i, k, number * self.plan.per + 4 * quad)
                        y = functions.splat(b, b.load(at, align=1, typ=I32), tile.lanes)
                        for c, each in enumerate(x):
                            place = self.plan.digits * (r * len(self.columns) + c) + i
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
        b, size = self.b, self.plan.digit_bits
        shift = constant(size, self.word)
        if self.plan.joined:
            whole = digits[-1]
            for each in reversed(digits[:-1]):
                whole = b.add(b.shl(whole, shift), each)
            return b.sitofp(whole, self.kind)
        low, middle, high = digits
        below = b.sitofp(b.add(b.shl(middle, shift), low), self.kind)
        if steps * 2**self.blocks.bits * 2 ** (2 * size - 1) >= 2**31:  # that might not fit
            upper = b.sitofp(middle, self.kind)
            below = multiply_add(b, upper, constant(float(2**size), self.kind), b.sitofp(low, self.kind), f32)
        return multiply_add(b, b.sitofp(high, self.kind), constant(float(4**size), self.kind), below, f32)

    def _load(self, start: Value, index: Value, vector: int, element: ir.Type, more: int = 0) -> Value:
        """The vector number `vector` of a row that begins ``index + more`` elements behind `start`."""
        at = self.b.gep(start, [index], source_etype=element)
        if shift := more + vector * self.tile.lanes:
            at = self.b.gep(at, [const(shift)], source_etype=element)
        return self.b.load(at, align=1 if element is I8 else 4, typ=widened(element, self.tile.lanes))
