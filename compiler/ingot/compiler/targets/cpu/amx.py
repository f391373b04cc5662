"""Products of bytes in Intel's AMX: u8 rows of A by i8 panels of B, summed exactly in i32.

A tile has 16 rows of 64 bytes. 16 rows of A, 64 bytes of their depth, are one; a panel of 16 columns whose weights lie
by fours (`ir.templates`, `dot` 4) is one after the other, 64 bytes of the depth each; so are the sums of 16 rows and a
panel. ``tdpbusd`` multiplies the first two on top of the third (Intel, "Architecture Instruction Set Extensions",
chapter 3). Tiles are named here, not by LLVM's register allocator: their shapes depend on the kernel alone, so one
configuration serves a chunk, and none is ever spilt.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from ingot.compiler.targets.cpu import declarations, flow
from ingot.compiler.targets.cpu.flow import Value, const
from ingot.compiler.targets.cpu.functions import I8
from ingot.compiler.targets.cpu.microkernel import Depth

ROWS = 16  # of a tile
COLUMNS = 16  # of a panel that is read as tiles
PANELS = 4  # at most, that are multiplied by the same rows: each has a tile of sums
STEP = 64  # bytes of a row of a tile
DOT = 4  # products of one sum
_TILES = 8
_PALETTE, _WIDTHS, _HEIGHTS = 0, 16, 48  # where the fields of a configuration, 64 bytes, begin


@dataclass(frozen=True)
class _Factors:
    """The tiles that `depth` bytes of A and B are loaded to."""

    a: int
    b: int
    depth: int


@dataclass(frozen=True)
class Rows:
    """The rows of A that a tile is made of: how many, at most `ROWS`, and the address of each by its number (i64).
    `even` is where the first lies and how many bytes they are apart, where they are so."""

    count: Value
    address: Callable[[Value], Value]
    even: tuple[Value, Value] | None


class Tiles:
    """Emits the products of one kernel. Between `configure` and `release` tiles belong to it."""

    def __init__(self, b: ir.IRBuilder, depth: Depth, run: int) -> None:
        """`depth` has the loops around the innermost, of `run` bytes, a multiple of `DOT`."""
        self.b, self.depth = b, depth
        self.whole = _Factors(PANELS, PANELS + 1, STEP)
        self.rest = _Factors(PANELS + 2, PANELS + 3, run % STEP)
        self.steps = run // STEP
        self.copy = flow.stack(b, I8, ROWS * STEP)

    def configure(self) -> None:
        """Give tiles their shapes."""
        fields = [0] * 64
        fields[_PALETTE] = 1
        shapes = [(panel, ROWS, COLUMNS * 4) for panel in range(PANELS)]
        for factors in (self.whole, self.rest):
            if factors.depth:
                shapes += [(factors.a, ROWS, factors.depth), (factors.b, factors.depth // DOT, COLUMNS * DOT)]
        for tile, height, width in shapes:
            fields[_HEIGHTS + tile], fields[_WIDTHS + 2 * tile] = height, width
        kind = ir.VectorType(I8, len(fields))
        place = flow.stack(self.b, I8, len(fields))
        self.b.store(ir.Constant(kind, [I8(field) for field in fields]), place, align=64)
        self._call("ldtilecfg", place)

    def release(self) -> None:
        """Forget all tiles: a thread that has none is cheaper to switch."""
        self._call("tilerelease")

    def multiply(self, rows: Rows, panels: Sequence[Value], sums: Sequence[Value]) -> None:
        """The products of `rows` by each of `panels`, at most `PANELS`, over the whole depth, to i32 [`ROWS`,
        `COLUMNS`] at each of `sums`, of which rows past the count hold anything."""
        for panel in range(len(panels)):
            self._call("tilezero", I8(panel))

        def copied(offset: Value, size: int) -> tuple[Value, Value]:
            return self._copied(rows, offset, size), const(STEP)

        if rows.even is None:
            self._products(panels, copied)
        else:
            first, stride = rows.even

            def direct(offset: Value, size: int) -> tuple[Value, Value]:
                return self._moved(first, offset), stride

            is_whole = self.b.icmp_signed("==", rows.count, const(ROWS))
            flow.branch(
                self.b, is_whole, lambda: self._products(panels, direct), lambda: self._products(panels, copied)
            )
        for panel, place in enumerate(sums):
            self._call("tilestored64", I8(panel), place, const(COLUMNS * 4))

    def _products(self, panels: Sequence[Value], rows: Callable[[Value, int], tuple[Value, Value]]) -> None:
        """All steps of the depth; ``rows(offset, size)`` gives address and stride of `size` bytes of every row."""

        def step(factors: _Factors, offset: Value, place: Value) -> Value:
            self._call("tileloadd64", I8(factors.a), *rows(offset, factors.depth))
            for panel, start in enumerate(panels):
                self._call("tileloadd64", I8(factors.b), self._moved(start, place), const(COLUMNS * DOT))
                self._call("tdpbusd", I8(panel), I8(factors.a), I8(factors.b))
            return flow.add(self.b, place, factors.depth * COLUMNS)

        def run(offset: Value, place: Value) -> Value:
            end = const(self.steps * STEP)
            (place,) = flow.loop(
                self.b,
                const(0),
                end,
                STEP,
                [place],
                lambda k, carried: [step(self.whole, flow.add(self.b, offset, k), *carried)],
            )
            return step(self.rest, flow.add(self.b, offset, end), place) if self.rest.depth else place

        def segment(level: int, offset: Value, place: Value) -> Value:
            if level == len(self.depth.segments):
                return run(offset, place)
            extent, stride = self.depth.segments[level]

            def body(_: Value, carried: list[Value]) -> list[Value]:
                start, inner = carried
                return [flow.add(self.b, start, stride), segment(level + 1, start, inner)]

            return flow.loop(self.b, const(0), extent, 1, [offset, place], body)[1]

        segment(0, const(0), const(0))

    def _copied(self, rows: Rows, offset: Value, size: int) -> Value:
        """`size` bytes of every row, `STEP` bytes apart; rows past the count are the last one's."""
        b = self.b
        last = flow.subtract(b, rows.count, 1)

        def row(number: Value, _: list[Value]) -> list[Value]:
            source = self._moved(rows.address(flow.minimum(b, number, last)), offset)
            target = self._moved(self.copy, flow.multiply(b, number, STEP))
            done = 0
            for count in (64, 32, 16, 8, 4):
                if done + count <= size:
                    part = b.load(self._moved(source, const(done)), align=1, typ=ir.VectorType(I8, count))
                    b.store(part, self._moved(target, const(done)), align=4)
                    done += count
            return []

        flow.loop(b, const(0), const(ROWS), 1, [], row)
        return self.copy

    def _moved(self, address: Value, by: Value) -> Value:
        return address if flow.as_constant(by) == 0 else self.b.gep(address, [by], source_etype=I8)

    def _call(self, name: str, *operands: Value) -> None:
        declarations.call(self.b, f"llvm.x86.{name}", ir.VoidType(), operands)
