"""Analytical tile sizes for the contraction templates: register tile, panel width and what one chunk covers.

The model counts cycles. A register tile costs, per step of the depth, the larger of its multiply-adds, its loads and
the latency of its accumulators; what does not fill a tile or a panel is waste. Chunks are cut so that there are four to
eight for each of up to eight threads, where each still has `CHUNK_MICROSECONDS` of work, and that the rows and panels
of a chunk re-use each other from the caches. The number of threads is never asked for: results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingot.compiler.ir.dims import Dim, bounds, ceil_divide, evaluate, maximum, minimum, symbols
from ingot.compiler.lower.machine import Machine

if TYPE_CHECKING:
    from ingot.compiler.ir.templates import Order

CHUNK_MICROSECONDS = 8  # of work, at least, before a launch is cut
BYTES_CHUNK_MICROSECONDS = 4  # the same for products of bytes: what is done to their sums takes as long again
BLOCKS_CHUNK_MICROSECONDS = 24  # and where weights are of a few bits, of f32's work: a row of them takes a third of it
BYTES_DEPTHWISE_MICROSECONDS = 6  # and where each channel has a filter of its own
MOST_CHUNKS = 64  # of one launch with constant extents: eight for each of eight threads
TYPICAL = 128  # what symbolic extents are assumed to come to, within their ranges
TILE_OVERHEAD = 12  # cycles to start and end one register tile
WIDTHS = (16, 24, 8)  # columns of a panel
PANEL_WIDTHS = (8, 16, 24, 32, 48)  # those that a schedule may have
MOST_ROWS = 12  # of a register tile

_QUERIES = 16  # queries a panel of the attention kernel

Ranges = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ContractionTile:
    """`ir.templates.Contraction`'s schedule: panel width, rows of a register tile, rows and panels of a chunk, order of
    the loops."""

    width: int
    tile_rows: int
    row_block: Dim
    panel_block: Dim
    order: Order = "auto"


@dataclass(frozen=True)
class Extents:
    """A contraction of constant extents: `rows` x `depth` by `depth` x `columns`, `batch` times."""

    rows: int
    columns: int
    depth: int
    batch: int = 1


def typical(dim: Dim, ranges: Ranges) -> int:
    """A likely small value of `dim`, at least 1: each symbol at the low end of its range, or scaled up together until
    the whole is `TYPICAL` where it would be less.

    Schedules are made for small extents on purpose: more chunks than needed cost little, too few leave threads idle.
    """
    names = symbols(dim)
    lows = {name: max(1, ranges.get(name, (1, 1))[0]) for name in names}
    least = max(1, evaluate(dim, lows))
    if not names or least >= TYPICAL:
        return least
    high = max(1, bounds(dim, {name: ranges.get(name, (1, TYPICAL)) for name in names})[1])
    return max(least, min(TYPICAL, high))


def vectors_of(machine: Machine, width: int, element_bytes: int) -> int:
    """Vector registers that a row of a panel takes."""
    lanes = min(machine.lanes(element_bytes), width)
    while width % lanes:
        lanes //= 2
    return width // lanes


def tile_cycles(machine: Machine, rows: int, width: int, element_bytes: int = 4, panels: int = 1) -> float:
    """Cycles that a register tile of `rows` x `panels` panels takes for one step of the depth."""
    vectors = vectors_of(machine, width, element_bytes) * panels
    count = _ceil(rows, machine.rows_together) * machine.rows_together * vectors
    latency = machine.fma_latency if count >= machine.fma_latency else machine.fma_latency / 2  # split along the depth
    loads = rows + vectors * machine.rows_together
    return max(count / machine.fma_rate, loads / machine.load_rate, latency)


def most_rows(machine: Machine, width: int, element_bytes: int = 4) -> int:
    """Rows of the largest register tile whose accumulators, panel vectors and one broadcast fit the registers."""
    vectors = vectors_of(machine, width, element_bytes)
    rows, together = min(MOST_ROWS, (machine.vector_registers - vectors - 1) // vectors), machine.rows_together
    return max(together, rows - rows % together)


def choose_contraction(
    machine: Machine,
    *,
    rows: Dim,
    columns: Dim,
    depth: Dim,
    batch: Dim = 1,
    ranges: Ranges | None = None,
    element_bytes: int = 4,
    widths: Sequence[int] = WIDTHS,
    chunk: float = CHUNK_MICROSECONDS,
) -> ContractionTile:
    """The schedule of a contraction of `rows` x `depth` by `depth` x `columns`, `batch` times.

    `ranges` bounds the symbols of the dims, `widths` are those to choose among, `chunk` is the least work of a chunk in
    microseconds. With symbolic rows, columns or depth
    the panels of a chunk are a dim that keeps small launches in one piece.
    """
    known = ranges or {}
    m, n, k, count = (typical(dim, known) for dim in (rows, columns, depth, batch))
    best: tuple[float, int, int] | None = None
    for candidate in widths:
        most = most_rows(machine, candidate, element_bytes)
        cost = _serial(machine, Extents(m, n, k), candidate, most, element_bytes)
        if best is None or cost < 0.96 * best[0]:  # the first width suits every instruction set: leave it for a gain
            best = cost, candidate, most
    assert best is not None
    serial, chosen, tile = best
    row_block, panel_block = _blocks(machine, m, _ceil(n, chosen), k, count, chosen, tile, serial, chunk)
    return ContractionTile(
        chosen, tile, *_symbolic(machine, rows, columns, depth, known, chosen, row_block, panel_block)
    )


def _serial(machine: Machine, extents: Extents, width: int, most: int, element_bytes: int) -> float:
    """Cycles of one batch point on one thread, in tiles of `most` rows, where nothing waits for memory."""
    panels, tiles = _ceil(extents.columns, width), _ceil(extents.rows, most)
    least, larger = divmod(extents.rows, tiles)
    cycles = 0.0
    for size, number in ((least + 1, larger), (least, tiles - larger)):
        if number:
            cycles += number * (extents.depth * _grouped(machine, size, width, panels, element_bytes) + TILE_OVERHEAD)
    return panels * cycles


def predict(machine: Machine, extents: Extents, tile: ContractionTile) -> tuple[float, float]:
    """What `tile`, whose blocks are ints, is expected to take on one thread: cycles of arithmetic, with the waste and
    the reading of its chunks, and cycles that the memory beyond the second-level cache needs for all operands once."""
    m, n, k, batch = extents.rows, extents.columns, extents.depth, extents.batch
    row_block, panel_block = tile.row_block, tile.panel_block
    assert isinstance(row_block, int) and isinstance(panel_block, int)
    panels = _ceil(n, tile.width)
    serial = _serial(machine, extents, tile.width, tile.tile_rows, 4)
    chunks = _ceil(m, row_block) * _ceil(panels, panel_block)
    arithmetic = serial + chunks * _reading(machine, k, panels, tile.width, row_block, panel_block)
    far = machine.l3_rate if 4 * k * panels * tile.width * batch > machine.l2 // 2 else machine.l2_rate
    return batch * arithmetic, batch * 4.0 * (m * k + k * n + m * n) / far


def tiles_by_width(machine: Machine, extents: Extents, widths: Sequence[int] = WIDTHS) -> list[ContractionTile]:
    """The tile that the cost model would choose for each panel width, blocks and all."""
    found: list[ContractionTile] = []
    for width in widths:
        most = most_rows(machine, width)
        serial = _serial(machine, extents, width, most, 4)
        panels = _ceil(extents.columns, width)
        blocks = _blocks(machine, extents.rows, panels, extents.depth, extents.batch, width, most, serial)
        found.append(ContractionTile(width, most, *blocks))
    return found


def _reading(machine: Machine, k: int, panels: int, width: int, row_block: int, panel_block: int) -> float:
    """Cycles that a chunk waits for its rows and panels, which it reads once from further away."""
    far = machine.l3_rate if k * panels * width * 4 > machine.l2 // 2 else machine.l2_rate
    return 0.5 * 4.0 * k * (row_block + panel_block * width) / far


def _grouped(machine: Machine, rows: int, width: int, panels: int, element_bytes: int) -> float:
    """Cycles a step and panel: tiles of very few rows take several panels at once."""
    alone = tile_cycles(machine, rows, width, element_bytes)
    if rows > 3 or panels == 1:
        return alone
    group = min(panels, 4)
    return min(alone, tile_cycles(machine, rows, width, element_bytes, group) / group)


def _blocks(
    machine: Machine,
    m: int,
    panels: int,
    k: int,
    batch: int,
    width: int,
    tile: int,
    serial: float,
    chunk: float = CHUNK_MICROSECONDS,
) -> tuple[int, int]:
    """(rows, panels) of one chunk of `chunk` microseconds or more, for the typical extents. `serial` is the cycles of
    one batch point."""
    least = chunk * machine.cycles_per_microsecond
    wanted = max(1, min(MOST_CHUNKS, int(serial * batch / least)))
    best: tuple[float, int, int] | None = None
    for row_parts in _parts(_ceil(m, tile)):
        row_block = min(m, _ceil(_ceil(m, row_parts), tile) * tile)
        for panel_parts in _parts(panels):
            panel_block = _ceil(panels, panel_parts)
            row_chunks, panel_chunks = _ceil(m, row_block), _ceil(panels, panel_block)
            chunks = batch * row_chunks * panel_chunks
            if chunks > max(wanted, batch):
                continue
            waste = row_chunks * row_block * panel_chunks * panel_block / (m * panels)
            work = serial / (row_chunks * panel_chunks)
            reading = _reading(machine, k, panels, width, row_block, panel_block)
            # At the end of a launch each of t threads waits for half a chunk: the mean over 2, 4 and 8 threads.
            idle = 2.3 / chunks if wanted > 1 else 0.0
            cost = waste * (1 + reading / work) * (1 + idle)
            if best is None or cost < best[0] - 1e-9:
                best = cost, row_block, panel_block
    assert best is not None
    return best[1], best[2]


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _parts(count: int) -> list[int]:
    """Numbers of parts worth trying for `count` units."""
    return sorted({min(count, p) for p in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)})


def _symbolic(
    machine: Machine,
    rows: Dim,
    columns: Dim,
    depth: Dim,
    ranges: Ranges,
    width: int,
    row_block: int,
    panel_block: int,
) -> tuple[Dim, Dim]:
    """The blocks for extents that may be symbolic: where rows or depth may be small, a chunk takes more panels."""
    panels = ceil_divide(columns, width)
    if isinstance(rows, int) and isinstance(depth, int):
        return row_block, panel_block if isinstance(columns, int) else minimum(panel_block, maximum(panels, 1))
    steps = int(CHUNK_MICROSECONDS * machine.cycles_per_microsecond * machine.fma_rate * machine.lanes_f32) // width
    here = minimum(maximum(rows, 1), row_block)
    low, high = bounds(rows, ranges) if not isinstance(rows, int) else (rows, rows)
    if low >= row_block or high <= 0:
        here = row_block
    enough = ceil_divide(steps, here * maximum(depth, 1))
    return row_block, minimum(maximum(panels, 1), maximum(panel_block, enough))


def choose_depthwise(
    machine: Machine,
    *,
    rows: Dim,
    columns: Dim,
    channels: Dim,
    taps: int,
    ranges: Ranges | None = None,
    chunk: float = CHUNK_MICROSECONDS,
) -> Dim:
    """`row_block` of a depthwise convolution: rows of a chunk, each of `columns` positions of `channels` channels, of
    `chunk` microseconds or more."""
    known = ranges or {}
    line, count = typical(columns, known) * typical(channels, known), typical(rows, known)
    # A tap is a load and a multiply-add; the loads come from the second-level cache or beyond.
    cycles = max(1.0, line / machine.lanes_f32 * max(taps / machine.load_rate * 1.8, 4.0))
    enough = max(1, int(chunk * machine.cycles_per_microsecond / cycles))
    block = max(enough, _ceil(count, MOST_CHUNKS))
    if isinstance(rows, int):
        return -(-count // max(1, count // block))
    return block


def choose_attention(
    machine: Machine,
    *,
    batch: Dim,
    queries: Dim,
    keys: Dim,
    depth: Dim,
    value: Dim,
    ranges: Ranges | None = None,
) -> Dim:
    """`query_block` of an attention kernel: a multiple of its panels of 16 queries, or all queries."""
    known = ranges or {}
    points, count, length = (typical(dim, known) for dim in (batch, queries, keys))
    size = typical(depth, known) + typical(value, known)
    budget = CHUNK_MICROSECONDS * machine.cycles_per_microsecond * 0.8 * machine.fma_rate * machine.lanes_f32
    enough = max(1, _ceil(int(budget), (_QUERIES * length * size)))
    panels = _ceil(count, _QUERIES)
    parts = max(1, min(panels // enough, _ceil(MOST_CHUNKS, points)))
    block = _QUERIES * _ceil(panels, parts)
    if isinstance(queries, int):
        return min(block, max(queries, 1))
    if isinstance(keys, int):
        return block
    return maximum(block, _QUERIES * ceil_divide(int(budget) // (_QUERIES * size), maximum(keys, 1)))
