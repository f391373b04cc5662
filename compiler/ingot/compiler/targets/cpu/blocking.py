"""How a level runs a `Contraction`: rows of a tile and of a block, and which loop goes outside, where the template
leaves that open. All of it is known before a line is emitted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd

from ingot.compiler.ir.dims import coefficient, divisor
from ingot.compiler.ir.templates import Contraction, Order
from ingot.compiler.targets.cpu import amx, microkernel
from ingot.compiler.targets.cpu.digits import Multiplier, Plan, multiplier
from ingot.compiler.targets.cpu.dots import product
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.microkernel import Product
from ingot.compiler.targets.cpu.rows import split, uniform_stride

BLOCK_ROWS = 512  # most rows of a block: bounds the row tables
PREFETCH_BYTES = 16 << 10  # smaller panels are left to the hardware prefetchers
FEW_TILES = 12  # of rows: so often a panel is used at most before the next is needed
TILE_ROWS = 4  # fewer are not worth a tile
FEW_ROWS = 3  # of weights of a few bits that are multiplied digit by digit; those that take several panels at once
DIGIT_ROWS = 8  # that are multiplied as a single digit
PREFETCH_ROWS = 4  # fewer rows run at the speed of memory whatever is done


@dataclass(frozen=True)
class Blocking:
    """What a template comes to on a level."""

    template: Contraction
    level: Level

    @cached_property
    def lanes(self) -> int:
        """Elements of the vectors that a row of a panel is made of."""
        lanes = min(self.level.lanes(self.template.accumulator.bytes), self.template.width)
        while self.template.width % lanes:
            lanes //= 2
        return lanes

    @property
    def vectors(self) -> int:
        """Vectors of a row of a panel."""
        return self.template.width // self.lanes

    @cached_property
    def most(self) -> int:
        """Most rows of a register tile: the template's, less where registers are fewer, twice where they are many and
        vectors are long."""
        template, level = self.template, self.level
        if self.tiles:
            return amx.ROWS
        part, _ = split(template.a.offset, frozenset(axis.var for axis in template.rows))
        stride = uniform_stride(part, template.rows)
        known = stride if isinstance(stride, int) else None
        fitting = microkernel.fitting_rows(self.vectors, level.vector_registers, known, template.accumulator)
        rows = template.tile_rows
        while rows * self.vectors < microkernel.LATENCY and rows < fitting:
            rows *= 2
        rows = min(rows, fitting)
        return max(rows - rows % self.together, self.together)

    @cached_property
    def product(self) -> Product | None:
        """How bytes are multiplied, several at a time; None for one at a time."""
        return product(self.level, self.template.dot, self.template.shift)

    @cached_property
    def tiles(self) -> bool:
        """Whether bytes are multiplied in AMX's tiles: not where accesses are checked, in other panels, or for so few
        rows that most of a tile would be empty."""
        template, level, rows = self.template, self.level, self.template.row_count
        fits = (template.dot, template.width) == (amx.DOT, amx.COLUMNS) and isinstance(template.run.extent, int)
        return level.tiles and not level.checked and fits and not (isinstance(rows, int) and rows < TILE_ROWS)

    @property
    def together(self) -> int:
        """Rows that tiles have a multiple of, as they are multiplied together."""
        return amx.ROWS if self.tiles else self._paired

    @property
    def _paired(self) -> int:
        """Rows that a multiplication of registers takes."""
        return self.product.rows if self.product else 1

    def filled(self, rows: int) -> int:
        """`rows` of a register tile with those that are multiplied for nothing."""
        return -(-rows // self._paired) * self._paired

    @cached_property
    def block_rows(self) -> int:
        """Rows a block: those whose part of A takes half the second-level cache, as far as the depth is known."""
        depth = self.template.depth
        rows = BLOCK_ROWS
        if isinstance(depth, int) and depth:
            rows = min(rows, (self.level.l2 // 2) // (depth * self.weight_bytes))
        rows = max(rows - rows % self.most, 4 * self.most)
        fixed = self.template.row_block
        if not isinstance(fixed, int) or fixed < 1:
            return rows
        return -(-fixed // -(-fixed // rows))  # blocks of equal size: a last one of a row or two would read all panels

    @property
    def weight_bytes(self) -> int:
        """Bytes of an element of a panel as it is multiplied."""
        return max(self.template.accumulator.bytes // self.template.dot, 1)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The row counts that tiles may have, ascending."""
        total, chunk = self.template.row_count, self.template.row_block
        if not isinstance(chunk, int) or chunk < 1 or (self.tiles and not isinstance(total, int)):
            return tuple(range(1, self.most + 1))
        if isinstance(total, int):
            chunks = {min(chunk, total), total % chunk}
        else:  # of 196 rows an image, say, no chunk is left with a single one
            step = gcd(divisor(total), chunk)
            chunks = set(range(step, chunk + 1, step))
        blocks = {min(c, self.block_rows) for c in chunks} | {c % self.block_rows for c in chunks}
        sizes: set[int] = set()
        for count in blocks - {0}:
            tiles, least, larger = self.shared_out(count)
            sizes.add(count - larger * self.together - (tiles - 1) * least)  # the last one
            sizes |= {least + self.together} if larger else set()
            sizes |= {least} if tiles - larger > 1 else set()
        return tuple(sorted(sizes)) or (1,)

    def shared_out(self, count: int) -> tuple[int, int, int]:
        """How `count` rows are shared out among tiles: how many there are, the rows of one, and how many of them, the
        first ones, have as many more as are multiplied together. The last may have fewer."""
        tiles = -(-count // self.most)
        least, larger = divmod(-(-count // self.together), max(tiles, 1))
        return tiles, least * self.together, larger

    @cached_property
    def order(self) -> Order:
        """The order of loops, never "auto"."""
        if self.template.order != "auto":
            return self.template.order
        if self._panels_stay:
            return "tiles"
        return "ahead" if self._is_worth_fetching else "panels"

    @property
    def fetches(self) -> bool:
        """Whether a loop over panels fetches the next one ahead; there may be one for some rows only."""
        return self._is_worth_fetching if self.template.order == "auto" else self.order == "ahead"

    @property
    def _panels_stay(self) -> bool:
        """Whether the panels of a chunk stay cached, so that tiles go outside and panels inside. With few tiles it is
        their first use that counts: then each panel is fetched ahead while the tiles work on the one before."""
        count, depth, rows = self.template.panel_block, self.template.depth, self.template.row_count
        if not isinstance(count, int) or not isinstance(depth, int):
            return False
        if isinstance(rows, int) and rows <= FEW_TILES * self.most:
            return False
        size = count * depth * self.template.width * self.weight_bytes
        return count > 1 and size <= self.level.l2 // 4 and self.sizes[-1] > 3

    @property
    def _is_worth_fetching(self) -> bool:
        """Whether panels are so large, and rows so many, that the next panel is fetched by hand."""
        depth, rows = self.template.depth, self.template.row_count
        if not isinstance(depth, int) or depth * self.template.width * self.weight_bytes < PREFETCH_BYTES:
            return False
        return not (isinstance(rows, int) and rows < PREFETCH_ROWS)

    @property
    def unpacks(self) -> bool:
        """Whether panels of weights of a few bits are written out as f32 for the tiles of a block of rows."""
        rows = self.template.row_count
        return self.template.blocks is not None and not (isinstance(rows, int) and rows <= self.most)

    def digits(self, rows: int) -> tuple[Plan, Multiplier] | None:
        """How a tile of `rows` rows is multiplied digit by digit; None where it is not."""
        blocks, depth = self.template.blocks, self.template.depth
        if blocks is None or not isinstance(depth, int) or rows > self.most_grouped:
            return None
        step = coefficient(self.template.a.offset, self.template.run.var)
        if step is None or step[0] != 1:
            return None
        by = multiplier(self.level, blocks.bits, self.lanes)
        plan = None if by is None else Plan.of(blocks, depth, rows, by.digit_bits)
        return None if plan is None or by is None else (plan, by)

    @property
    def most_grouped(self) -> int:
        """Most rows of a tile that takes several panels at once, or digits."""
        blocks = self.template.blocks
        return min(DIGIT_ROWS, self.most) if blocks is not None and blocks.coarse else FEW_ROWS

    def grouped_panels(self, rows: int) -> int:
        """Panels that a tile of `rows` rows takes at once so that their accumulators fill the registers."""
        registers = self.level.vector_registers
        if rows > self.most_grouped:
            return 1
        if self.template.blocks is not None:
            found = self.digits(rows)
            if found is None:  # a total, a sum and a word for each vector
                return max(1, min(4, (registers - 4) // (3 * rows * self.vectors)))
            if found[0].digits == 1:  # a sum and a total, and a word
                return max(1, min(4, (registers - 6) // ((2 * rows + 1) * self.vectors)))
            return max(1, min(4, registers * 5 // 8 // (3 * rows * self.vectors)))  # three sums and a total
        taken = self.filled(rows)
        room = registers - 4 - taken
        return max(1, min(6, room // (taken * self.vectors)))
