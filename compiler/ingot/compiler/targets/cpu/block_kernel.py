"""The micro-kernel of a contraction whose weights are of a few bits, as `ir.templates.Blocks` describes: they are
dequantised in registers.

A field of a word becomes a float without being moved: with the exponent of ``2**(23 - s)`` above it, a field that lies
at bit `s` is the number ``2**(23 - s) + q``, of which that power and the zero point are subtracted, exactly. So a
vector of weights takes two or three cheap instructions beside those of the products, and words one shift, for fields
that would lie beyond the mantissa.

Factored, the sums of a block are scaled once, on their way to the totals, which lie in the first-level cache where
registers are few.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from ingot.compiler.ir.templates import Blocks
from ingot.compiler.targets.cpu import flow, functions
from ingot.compiler.targets.cpu.flow import Value, const
from ingot.compiler.targets.cpu.functions import F32, I8, I32, constant, widened
from ingot.compiler.targets.cpu.microkernel import HOT, Operand, Tile, multiply_add
from ingot.runtime.dtypes import f32

MANTISSA = 23  # bits
UPPER = 16  # the lowest bit of a word's upper half
ROUND = 32  # steps of the depth that are written out, at most


@dataclass(frozen=True)
class Streams:
    """Where the words, scales and zero points of a panel begin."""

    words: Value
    scales: Value
    zeros: Value | None


class BlockKernel:
    """Emits the k loops of one tile into a builder: `depth` steps, `stride` elements of A apart, f32 `rows` by
    `panels`. With `resident` the totals stay in registers."""

    def __init__(
        self,
        b: ir.IRBuilder,
        tile: Tile,
        blocks: Blocks,
        rows: Sequence[Operand],
        panels: Sequence[Streams],
        depth: int,
        stride: Value,
        *,
        resident: bool,
    ) -> None:
        self.b, self.tile, self.blocks, self.rows, self.panels = b, tile, blocks, rows, panels
        self.depth, self.stride = depth, stride
        self.lanes = tile.lanes if tile.lanes > 1 else None
        self.kind = widened(F32, self.lanes)
        self.word = widened(I32, self.lanes)
        self.width = tile.lanes * tile.vectors
        self.columns = [(p, v) for p in range(tile.panels) for v in range(tile.vectors)]
        self.zero = constant(0.0, self.kind)
        self.size = min(blocks.size, depth)
        self.resident = resident or not blocks.factored or self.size == depth

    def emit(self) -> list[list[list[Value]]]:
        """Emit the loops; returns the sums as ``[panel][row][vector]``."""
        b, tile = self.b, self.tile
        count = tile.rows * len(self.columns)
        totals: list[Value] = [self.zero] * count
        self.scratch = None
        if not self.resident:
            self.scratch = flow.stack(b, F32, count * tile.lanes)
            for number in range(count):
                b.store(self.zero, self._place(number), align=4)
            totals = []
        if self.size:
            whole, rest = divmod(self.depth, self.size)

            def block(_: Value, carried: list[Value]) -> list[Value]:
                return self._block(carried, self.size)

            state = [const(0), const(0), const(0), *totals]
            if whole == 1:
                state = self._block(state, self.size)
            else:
                state = flow.loop(b, const(0), const(whole), 1, state, block)
            if rest:
                state = self._block(state, rest)
            totals = state[3:]
        if self.scratch is not None:
            totals = [b.load(self._place(number), align=4, typ=self.kind) for number in range(count)]
        found: list[list[list[Value]]] = [[[self.zero] * tile.vectors for _ in self.rows] for _ in self.panels]
        for number, value in enumerate(totals):
            r, column = divmod(number, len(self.columns))
            p, v = self.columns[column]
            found[p][r][v] = value
        return found

    def unpack(self, first: Value, steps: int, target: Value) -> None:
        """Write the weights of the only panel, scaled, from the step `first` on, which begins a word, to the f32 array
        `target`: `steps` steps and those that fill up the last word."""
        b, per = self.b, self.blocks.per_word

        def word(number: Value, _: list[Value]) -> list[Value]:
            k = flow.add(b, first, flow.multiply(b, number, per))
            place = flow.multiply(b, b.udiv(k, const(self.size)), self.width)
            self.biases = self._biases(place)
            self.scales = [self._load(self.panels[p].scales, place, v, F32) for p, v in self.columns]
            at = flow.multiply(b, b.udiv(k, const(per)), self.width)
            words = [self._load(self.panels[p].words, at, v, I32) for p, v in self.columns]
            high = [b.lshr(each, constant(UPPER, self.word)) for each in words]
            to = b.gep(target, [flow.multiply(b, number, per * self.width)], source_etype=F32)
            for step in range(per):
                chosen = high if self._lies(step)[0] else words
                for i, each in enumerate(chosen):
                    place_ = const(step * self.width + i * self.tile.lanes)
                    b.store(self._weight(each, step, i), b.gep(to, [place_], source_etype=F32), align=4)
            return []

        flow.loop(b, const(0), const(-(-steps // per)), 1, [], word)

    def _place(self, number: int) -> Value:
        """Where the total number `number` lies."""
        return self.b.gep(self.scratch, [const(number * self.tile.lanes)], source_etype=F32)

    # -- blocks -------------------------------------------------------------------------------------------------------

    def _block(self, state: list[Value], steps: int) -> list[Value]:
        """A block of `steps` steps: `state` is where it begins in the rows of A, in the words and in the scales of a
        panel, and the totals in registers."""
        b, blocks = self.b, self.blocks
        at, word, place, *totals = state
        scales = [self._load(self.panels[p].scales, place, v, F32) for p, v in self.columns]
        self.biases = self._biases(place)
        self.scales = None if blocks.factored else scales
        sums = [self.zero] * (len(self.rows) * len(self.columns)) if blocks.factored else totals
        at, word, *sums = self._words([at, word, *sums], steps)
        if blocks.factored:
            totals = [self._scaled(i, value, scales[i % len(scales)], totals) for i, value in enumerate(sums)]
            totals = totals if self.resident else []
        else:
            totals = sums
        return [at, word, flow.add(b, place, self.width), *totals]

    def _scaled(self, number: int, value: Value, scale: Value, totals: list[Value]) -> Value:
        """The total number `number` with the sum of a block."""
        b = self.b
        if self.resident:
            if self.size == self.depth:
                return b.fmul(value, scale)
            return multiply_add(b, value, scale, totals[number], f32)
        at = self._place(number)
        total = multiply_add(b, value, scale, b.load(at, align=4, typ=self.kind), f32)
        b.store(total, at, align=4)
        return total

    def _biases(self, place: Value) -> list[dict[int, Value]]:
        """What is taken off the floats of fields, by the bit where they lie, for each vector of a row of the panels."""
        b, blocks = self.b, self.blocks
        bits = sorted({self._lies(step)[1] for step in range(blocks.per_word)})
        if blocks.zeros is None:
            same = {s: constant(float(2 ** (MANTISSA - s) + blocks.zero), self.kind) for s in bits}
            return [same] * len(self.columns)
        found: list[dict[int, Value]] = []
        for p, v in self.columns:
            loaded = self._load(self.panels[p].zeros, place, v, I8)
            zero = b.uitofp(loaded, self.kind)
            found.append({s: b.fadd(zero, constant(float(2 ** (MANTISSA - s)), self.kind)) for s in bits})
        return found

    def _words(self, state: list[Value], steps: int) -> list[Value]:
        """`steps` steps from a word's first field on: rounds of some words, then those that are left."""
        per = self.blocks.per_word
        together = max(1, ROUND // per)
        rounds = steps // per // together

        def round_(_: Value, carried: list[Value]) -> list[Value]:
            return self._written_out(carried, together * per)

        if rounds > 1:
            state = flow.loop(self.b, const(0), const(rounds), 1, state, round_, rounds=max(rounds, HOT))
            steps -= rounds * together * per
        return self._written_out(state, steps) if steps else state

    def _written_out(self, state: list[Value], steps: int) -> list[Value]:
        """`steps` steps without a loop."""
        b, per = self.b, self.blocks.per_word
        at, word, *sums = state
        for first in range(0, steps, per):
            offset = first // per * self.width
            words = [self._load(self.panels[p].words, word, v, I32, offset) for p, v in self.columns]
            high = [b.lshr(each, constant(UPPER, self.word)) for each in words]
            for step in range(min(per, steps - first)):
                is_high, _ = self._lies(step)
                self._step(at, first + step, high if is_high else words, sums)
        at = flow.add(b, at, flow.multiply(b, self.stride, steps))
        return [at, flow.add(b, word, -(-steps // per) * self.width), *sums]

    def _step(self, at: Value, step: int, words: list[Value], sums: list[Value]) -> None:
        """One step: its products, on the sums; its elements are in `words`."""
        b = self.b
        weights = [self._weight(word, step, i) for i, word in enumerate(words)]
        for r, row in enumerate(self.rows):
            x = self._spread(row, at, step)
            for i, w in enumerate(weights):
                number = r * len(words) + i
                sums[number] = multiply_add(b, x, w, sums[number], f32)

    # -- elements -----------------------------------------------------------------------------------------------------

    def _lies(self, step: int) -> tuple[bool, int]:
        """Whether a step's element is looked for in the upper half of a word, and its lowest bit there or else in the
        whole word."""
        per, bits = self.blocks.per_word, self.blocks.bits
        lowest = step % 4 * 8 + step % per // 4 * bits
        return (True, lowest - UPPER) if lowest + bits > MANTISSA else (False, lowest)

    def _weight(self, word: Value, step: int, column: int) -> Value:
        """The weights of a step in words, or their upper halves, less their zero points; scaled unless that is done to
        the sums."""
        b, (_, s) = self.b, self._lies(step)
        mask = (2**self.blocks.bits - 1) << s
        power = struct.unpack("<i", struct.pack("<f", 2.0 ** (MANTISSA - s)))[0]
        bits = b.or_(b.and_(word, constant(mask, self.word)), constant(power, self.word))
        weight = b.fsub(b.bitcast(bits, self.kind), self.biases[column][s])
        return weight if self.scales is None else b.fmul(weight, self.scales[column])

    def _load(self, start: Value, index: Value, vector: int, element: ir.Type, more: int = 0) -> Value:
        """The vector number `vector` of a row that begins ``index + more`` elements behind `start`."""
        at = self.b.gep(start, [index], source_etype=element)
        if shift := more + vector * self.tile.lanes:
            at = self.b.gep(at, [const(shift)], source_etype=element)
        return self.b.load(at, align=1 if element is I8 else 4, typ=widened(element, self.lanes))

    def _spread(self, row: Operand, at: Value, step: int) -> Value:
        """The element of a row of A `step` steps behind `at`, in every lane."""
        b = self.b
        shift = flow.multiply(b, self.stride, step)
        known = flow.as_constant(shift)
        place = at if known is not None else flow.add(b, at, shift)
        pointer = b.gep(row.pointer, [place], source_etype=F32)
        if more := row.displacement + (known or 0):
            pointer = b.gep(pointer, [const(more)], source_etype=F32)
        return functions.splat(b, b.load(pointer, align=4, typ=F32), self.lanes)
