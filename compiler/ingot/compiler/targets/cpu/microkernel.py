"""The register micro-kernel: a tile of rows times packed panels, accumulated over the whole depth in registers.

Per k it loads each panel's row of `width` elements once, broadcasts one element of every row of A and issues
rows x vectors fused multiply-adds. With at least two FMAs in flight for every cycle of their latency and no more loads
than FMAs, the loop runs at the speed of the FMA units (Goto and van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", 2008). A `Product` may take several k, and several rows, at a time.
"""

# pyright: basic
# llvmlite is untyped.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llvmlite import ir

from ingot.compiler.ir.loops import Axis
from ingot.compiler.targets.cpu import declarations, flow, functions
from ingot.compiler.targets.cpu.expressions import Scope
from ingot.compiler.targets.cpu.flow import Value, as_constant, const
from ingot.compiler.targets.cpu.functions import constant, memory_type, register_type, widened
from ingot.compiler.targets.cpu.vecmath.lanes import lane_numbers
from ingot.runtime.dtypes import DType

UNROLL = 4  # k steps a round of the innermost loop
UNROLL_WHOLE = 12  # a run of at most this many steps is most often written out without a loop
HOT = 1000  # what the register allocator is told of the k loop: nothing else may cost it a register
LINE = 64  # bytes of a cache line
WAY_BYTES, WAYS = 4096, 8  # addresses this far apart share a set of the first-level cache, which has so many ways
LATENCY = 8  # independent accumulators that keep two FMA units of latency 4 busy


@dataclass(frozen=True, slots=True)
class Tile:
    """`rows` x `panels` panels of `vectors` vectors of `lanes` elements; `chains` partial sums along k for each."""

    rows: int
    panels: int
    vectors: int
    lanes: int
    chains: int = 1


@dataclass(frozen=True, slots=True)
class Depth:
    """The k loops: (extent, stride in elements of A) for each segment axis, outermost first, then the run's."""

    segments: tuple[tuple[Value, Value], ...]
    run: tuple[Value, Value]


@dataclass(frozen=True, slots=True)
class Operand:
    """One stream of the micro-kernel: elements at ``pointer[displacement + index]``."""

    pointer: Value
    displacement: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """Further steps of each panel: how many, where those of a number begin in A, counted in elements from the start of
    each row, and their weights."""

    count: int
    place: Callable[[int, Value], Value]  # of a panel of the tile and a number
    panels: Sequence[Operand]


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Fetch ahead: each round of `UNROLL` k steps touches `lines` cache lines from `pointer` on and moves by `step`
    bytes."""

    pointer: Value
    step: Value
    lines: int


def plan(rows: int, width: int, lanes: int, registers: int, panels: int = 1) -> Tile:
    """The tile for `rows` rows and `panels` panels, with as many chains along k as hide the FMA latency."""
    lanes = min(lanes, width)
    while width % lanes:
        lanes //= 2
    vectors = width // lanes
    count = rows * panels * vectors
    chains = 1
    while count * chains < LATENCY and count * chains * 2 <= registers - 4 and chains < UNROLL:
        chains *= 2
    return Tile(rows, panels, vectors, lanes, chains)


def fitting_rows(vectors: int, registers: int, stride: int | None, dtype: DType, most: int = 12) -> int:
    """The most rows, up to `most`, of a tile whose sums, panel vectors and one broadcast fit the registers; fewer where
    rows of A that lie `stride` elements apart all fall into one set of the first-level cache."""
    rows = max(1, min(most, (registers - vectors - 1) // vectors))
    if stride and stride * dtype.bytes % WAY_BYTES == 0:
        rows = min(rows, WAYS)
    return rows


def lanes_below(b: ir.IRBuilder, left: Value, lanes: int) -> Value:
    """The mask of the first `left` of `lanes` lanes, a constant where `left` is one."""
    known = as_constant(left)
    if known is not None:
        return ir.Constant(ir.VectorType(functions.I1, lanes), [int(lane < known) for lane in range(lanes)])
    numbers = ir.Constant(ir.VectorType(flow.I64, lanes), [const(lane) for lane in range(lanes)])
    return b.icmp_signed("<", numbers, functions.splat(b, left, lanes))


def over_axes(
    b: ir.IRBuilder,
    axes: Sequence[Axis],
    ranges: Mapping[str, tuple[Value, Value]],
    scope: Scope,
    inside: Callable[[Scope], None],
) -> None:
    """`inside` at every point of `axes` within their `ranges` (for batch axes most often one)."""
    if not axes:
        inside(scope)
        return
    first, *others = axes
    inner = scope.child(b)

    def body(index: Value, _: list[Value]) -> list[Value]:
        inner.symbols[first.var] = index
        over_axes(b, others, ranges, inner, inside)
        return []

    begin, end = ranges[first.var]
    flow.loop(b, begin, end, 1, [], body)


def prefetch(b: ir.IRBuilder, pointer: Value, *, write: bool = False, locality: int = 3) -> None:
    """Ask for the cache line at `pointer`; never faults. `locality` 3 is L1, 2 is L2."""
    i32 = ir.IntType(32)
    declarations.call(b, "llvm.prefetch.p0", ir.VoidType(), [pointer, i32(int(write)), i32(locality), i32(1)])


class Product(Protocol):
    """What a step of the depth is: `dot` elements of A and of B at a time, and how they are multiplied.

    One that takes several `rows` of A makes the sums of all of them, for fewer columns, in each vector.
    """

    @property
    def dot(self) -> int:
        """Elements of A (and of B, a column) that one step takes."""
        ...

    @property
    def rows(self) -> int:
        """Rows of A that are multiplied together."""
        ...

    def spread(self, b: ir.IRBuilder, at: Sequence[Value], dtype: DType, lanes: int | None) -> Value:
        """`dot` elements of A from each of `at` on, at most `rows`, for every column."""
        ...

    def vector(self, b: ir.IRBuilder, at: Value, dtype: DType, lanes: int | None) -> Value:
        """`dot` elements of B from `at` on for each of ``lanes / rows`` columns."""
        ...

    @property
    def steps(self) -> int:
        """Steps that are summed before their sum goes on top of what there is."""
        ...

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """The sum of the products on top of `total`."""
        ...

    def add_steps(self, b: ir.IRBuilder, x: Sequence[Value], y: Sequence[Value], total: Value) -> Value:
        """The sums of the products of up to `steps` steps on top of `total`."""
        ...

    def results(self, b: ir.IRBuilder, sums: Sequence[Value], rows: int) -> list[list[Value]]:
        """The vectors of sums of each of `rows` rows that were multiplied together."""
        ...


class OneStep:
    """What is multiplied a step at a time."""

    @property
    def steps(self) -> int:
        """1"""
        return 1

    def add_steps(self, b: ir.IRBuilder, x: Sequence[Value], y: Sequence[Value], total: Value) -> Value:
        """The products of the only step on top of `total`."""
        return self.add(b, x[0], y[0], total)

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """The sum of the products on top of `total`."""
        raise NotImplementedError


class OneRow(OneStep):
    """What is multiplied a row at a time."""

    @property
    def rows(self) -> int:
        """1"""
        return 1

    def results(self, b: ir.IRBuilder, sums: Sequence[Value], rows: int) -> list[list[Value]]:
        """`sums` as they are."""
        return [list(sums)]


@dataclass(frozen=True)
class Single(OneRow):
    """One product at a time, in the type of the sums."""

    dtype: DType
    dot: int = 1

    def spread(self, b: ir.IRBuilder, at: Sequence[Value], dtype: DType, lanes: int | None) -> Value:
        """One element for every lane."""
        scalar = b.load(at[0], align=dtype.bytes, typ=memory_type(dtype))
        return functions.splat(b, self._widen(b, scalar, dtype), lanes)

    def vector(self, b: ir.IRBuilder, at: Value, dtype: DType, lanes: int | None) -> Value:
        """One element for each lane."""
        return self._widen(b, b.load(at, align=dtype.bytes, typ=widened(memory_type(dtype), lanes)), dtype)

    def add(self, b: ir.IRBuilder, x: Value, y: Value, total: Value) -> Value:
        """x * y + total"""
        return multiply_add(b, x, y, total, self.dtype)

    def _widen(self, b: ir.IRBuilder, loaded: Value, dtype: DType) -> Value:
        return functions.cast(b, functions.from_memory(b, loaded, dtype), dtype, self.dtype)


def multiply_add(b: ir.IRBuilder, x: Value, y: Value, total: Value, dtype: DType) -> Value:
    """x * y + total: one FMA where the target has it, wrapping arithmetic for integers."""
    if not dtype.is_float:
        return b.add(b.mul(x, y), total)
    return functions.intrinsic(b, "fmuladd", total.type, [x, y, total], total.type)


def row_tiles(
    b: ir.IRBuilder, count: Value, most: int, scope: Scope, tile: Callable[[Value, int, Scope], None]
) -> None:
    """Share `count` rows out among tiles of at most `most` and emit ``tile(first row, rows, scope)`` for each size."""
    known = as_constant(count)
    if known is not None:
        tiles = max(1, -(-known // most))
        least, larger = divmod(known, tiles)
        split = larger * (least + 1)
        spans = [(0, split, least + 1), (split, known, least)]
        for begin, end, rows in spans:
            if begin < end:
                inner = scope.child(b)
                _tile_loop(b, const(begin), const(end), rows, inner, tile)
        return
    whole = b.sub(count, b.urem(count, const(most)))
    _tile_loop(b, const(0), whole, most, scope.child(b), tile)
    rest = b.sub(count, whole)
    after = b.append_basic_block("tiles.done")
    blocks = [b.append_basic_block(f"tile{rows}") for rows in range(1, most)]
    scopes = [scope.child(b) for _ in blocks]
    choice = b.switch(rest, after)
    for rows, (block, inner) in enumerate(zip(blocks, scopes, strict=True), 1):
        choice.add_case(const(rows), block)
        b.position_at_end(block)
        tile(whole, rows, inner)
        b.branch(after)
    b.position_at_end(after)


def _tile_loop(
    b: ir.IRBuilder, begin: Value, end: Value, rows: int, scope: Scope, tile: Callable[[Value, int, Scope], None]
) -> None:
    def body(slot: Value, _: list[Value]) -> list[Value]:
        tile(slot, rows, scope)
        return []

    flow.loop(b, begin, end, rows, [], body, rounds=8)


def transpose(b: ir.IRBuilder, vectors: list[Value]) -> list[Value]:
    """The columns of a square of vectors (as many as each has lanes, a power of two), by blocks of growing size."""
    count = len(vectors)
    step = 1
    while step < count:
        low = [lane if not lane & step else count + lane - step for lane in range(count)]
        high = [lane + step if not lane & step else count + lane for lane in range(count)]
        masks = [lane_numbers(tuple(picks)) for picks in (low, high)]
        moved = list(vectors)
        for i in range(count):
            if not i & step:
                moved[i] = b.shuffle_vector(vectors[i], vectors[i + step], masks[0])
                moved[i + step] = b.shuffle_vector(vectors[i], vectors[i + step], masks[1])
        vectors = moved
        step *= 2
    return vectors


class MicroKernel:
    """Emits the k loops of one tile into a builder.

    `dtypes` are those of A, of B and of the sums. `rows` and `panels` name where each row of A and each panel of B
    starts; both are indexed in elements. `step` is the distance between two steps in a panel, its width (times the
    elements that a step takes) unless given. `product` is what a step does, one product unless given. With `apart`
    short depths are loops too: code that follows one and writes to memory is not mixed with its loads, for which there
    would be too few registers.
    """

    def __init__(
        self,
        b: ir.IRBuilder,
        tile: Tile,
        dtypes: tuple[DType, DType, DType],
        rows: Sequence[Operand],
        panels: Sequence[Operand],
        depth: Depth,
        ahead: Prefetch | None = None,
        step: Value | None = None,
        product: Product | None = None,
        *,
        apart: bool = False,
        listed: Listed | None = None,
    ) -> None:
        self.b = b
        self.listed = listed
        self.written_out = UNROLL - 1 if apart and not depth.segments else UNROLL_WHOLE
        self.tile = tile
        self.a_dtype, self.b_dtype, self.dtype = dtypes
        self.panels = panels
        self.depth = depth
        self.ahead = ahead
        self.product = product or Single(self.dtype)
        together = self.product.rows
        self.groups = [rows[start : start + together] for start in range(0, len(rows), together)]
        self.vectors = tile.vectors * together  # of a panel for each group of rows
        self.step = const(tile.vectors * tile.lanes * self.product.dot) if step is None else step
        self.lanes = tile.lanes if tile.lanes > 1 else None

    def emit(self, start: list[list[list[Value]]] | None = None) -> list[list[list[Value]]]:
        """Emit the loops; returns the sums as ``[panel][row][vector]``, on top of `start` if there is one."""
        tile, b = self.tile, self.b
        per_row, per_panel = self.vectors, self.vectors * len(self.groups)
        count = tile.panels * per_panel * tile.chains
        sums = [constant(0, widened(register_type(self.dtype), self.lanes))] * count
        if start is not None:
            first = [value for panel in start for row in panel for value in row]
            sums[: len(first)] = first
        state = [const(0), *([self.ahead.pointer] if self.ahead else []), *sums]
        state = self._segment(0, const(0), state)
        sums = state[2:] if self.ahead else state[1:]
        while len(sums) > count // tile.chains:
            half = len(sums) // 2
            combine = b.fadd if self.dtype.is_float else b.add
            sums = [combine(x, y) for x, y in zip(sums[:half], sums[half:], strict=True)]
        if self.listed:
            sums = self._further(self.listed, sums)
        found: list[list[list[Value]]] = []
        for p in range(tile.panels):
            rows: list[list[Value]] = []
            for r, group in enumerate(self.groups):
                at = p * per_panel + r * per_row
                rows += self.product.results(b, sums[at : at + per_row], len(group))
            found.append(rows)
        return found

    def _segment(self, level: int, offset: Value, state: list[Value]) -> list[Value]:
        """The loops from segment axis `level` inwards; `offset` is where this segment starts in every row of A."""
        if level == len(self.depth.segments):
            return self._run(offset, state)
        extent, stride = self.depth.segments[level]

        def body(_: Value, carried: list[Value]) -> list[Value]:
            start, *inner = carried
            inner = self._segment(level + 1, start, inner)
            return [flow.add(self.b, start, stride), *inner]

        if flow.as_constant(extent) == 1:
            return self._segment(level + 1, offset, state)
        return flow.loop(self.b, const(0), extent, 1, [offset, *state], body, rounds=4)[1:]

    def _run(self, offset: Value, state: list[Value]) -> list[Value]:
        """The innermost loop: `UNROLL` steps a round, then what is left."""
        extent, stride = self.depth.run
        b = self.b
        steps = flow.as_constant(extent)
        if steps is not None and steps <= self.written_out:
            return self._steps(offset, state, steps)
        if steps is not None:
            whole: Value = const(steps - steps % UNROLL)
        else:
            whole = b.and_(extent, const(-UNROLL))

        def round_(_: Value, carried: list[Value]) -> list[Value]:
            position, *inner = carried
            inner = self._steps(position, inner, UNROLL, fetch=True)
            return [flow.add(b, position, flow.multiply(b, stride, UNROLL)), *inner]

        def counted(position: Value, carried: list[Value]) -> list[Value]:
            return self._steps(position, carried, UNROLL, fetch=True)

        def single(_: Value, carried: list[Value]) -> list[Value]:
            position, *inner = carried
            return [flow.add(b, position, stride), *self._steps(position, inner, 1)]

        if as_constant(stride) == 1:  # the position counts the steps
            position, rounds = flow.add(b, offset, whole), HOT if steps is None else steps // UNROLL
            known = steps is not None
            state = flow.loop(b, offset, position, UNROLL, state, counted, nonempty=known, rounds=rounds)
        else:
            position, *state = flow.loop(b, const(0), whole, UNROLL, [offset, *state], round_, rounds=HOT)
        if steps is not None:
            return self._steps(position, state, steps % UNROLL)
        return flow.loop(b, whole, extent, 1, [position, *state], single, rounds=2)[1:]

    def _steps(self, position: Value, state: list[Value], count: int, *, fetch: bool = False) -> list[Value]:
        """`count` consecutive k steps from element `position` of every row; advances the panel index."""
        b, tile = self.b, self.tile
        if count == 0:
            return state
        index, *rest = state
        pointer = rest.pop(0) if self.ahead else None
        sums = list(rest)
        if fetch and self.ahead and pointer is not None:
            for line in range(self.ahead.lines):
                prefetch(b, b.gep(pointer, [const(LINE * line)], source_etype=ir.IntType(8)), locality=2)
            pointer = b.gep(pointer, [self.ahead.step], source_etype=ir.IntType(8))
        together = self.product.steps
        for k in range(0, count, together):
            places = [
                (*self._moved(position, self.depth.run[1], each), *self._moved(index, self.step, each))
                for each in range(k, min(k + together, count))
            ]
            self._step(places, sums, k // together % tile.chains)
        index = flow.add(b, index, flow.multiply(b, self.step, count))
        return [index, *([pointer] if pointer is not None else []), *sums]

    def _step(self, places: Sequence[tuple[Value, int, Value, int]], sums: list[Value], chain: int) -> None:
        """k steps that are summed together, on the sums of `chain`: for each what lies at ``here + shift`` of every row
        and at ``there + offset`` of every panel."""
        b, tile, product = self.b, self.tile, self.product
        per_row, per_panel = self.vectors, self.vectors * len(self.groups)
        elements = tile.lanes * product.dot // product.rows
        first = chain * tile.panels * per_panel
        columns = [(p, v) for p in range(tile.panels) for v in range(per_row)]

        def vectors(p: int, v: int) -> list[Value]:
            return [self._vector(self.panels[p], there, offset + v * elements) for _, _, there, offset in places]

        def spread(group: Sequence[Operand]) -> list[Value]:
            return [self._broadcast(group, here, shift) for here, shift, _, _ in places]

        if product.rows > 1 and len(self.groups) < len(columns):  # B comes a vector at a time, for rows that are kept
            kept = [spread(group) for group in self.groups]
            for p, v in columns:
                y = vectors(p, v)
                for r, x in enumerate(kept):
                    at = first + p * per_panel + r * per_row + v
                    sums[at] = product.add_steps(b, x, y, sums[at])
            return
        loaded = [vectors(p, v) for p, v in columns]
        for r, group in enumerate(self.groups):
            x = spread(group)
            for (p, v), y in zip(columns, loaded, strict=True):
                at = first + p * per_panel + r * per_row + v
                sums[at] = product.add_steps(b, x, y, sums[at])

    def _further(self, listed: Listed, sums: list[Value]) -> list[Value]:
        """The further steps of each panel, on top of `sums`, which are of one chain."""
        b, product, per_row = self.b, self.product, self.vectors
        elements = self.tile.lanes * product.dot // product.rows

        def body(number: Value, carried: list[Value]) -> list[Value]:
            sums = list(carried)
            index = flow.multiply(b, self.step, number)
            for p, panel in enumerate(listed.panels):
                place = listed.place(p, number)
                loaded = [self._vector(panel, index, v * elements) for v in range(per_row)]
                for r, group in enumerate(self.groups):
                    x = self._broadcast(group, place, 0)
                    for v, y in enumerate(loaded):
                        at = (p * len(self.groups) + r) * per_row + v
                        sums[at] = product.add(b, x, y, sums[at])
            return sums

        return flow.loop(b, const(0), const(listed.count), 1, sums, body, rounds=listed.count)

    def _moved(self, index: Value, stride: Value, k: int) -> tuple[Value, int]:
        """``index + k * stride`` as an index and a constant."""
        known = flow.as_constant(stride)
        if known is not None:
            return index, k * known
        return flow.add(self.b, index, flow.multiply(self.b, stride, k)), 0

    def _vector(self, panel: Operand, index: Value, shift: int) -> Value:
        at = self._address(panel, index, shift, self.b_dtype)
        return self.product.vector(self.b, at, self.b_dtype, self.lanes)

    def _broadcast(self, rows: Sequence[Operand], index: Value, shift: int) -> Value:
        at = [self._address(row, index, shift, self.a_dtype) for row in rows]
        return self.product.spread(self.b, at, self.a_dtype, self.lanes)

    def _address(self, operand: Operand, index: Value, shift: int, dtype: DType) -> Value:
        at, element = operand.pointer, memory_type(dtype)
        if flow.as_constant(index) is not None:
            shift += flow.as_constant(index) or 0
        else:
            at = self.b.gep(at, [index], source_etype=element)
        shift += operand.displacement
        return self.b.gep(at, [const(shift)], source_etype=element) if shift else at
