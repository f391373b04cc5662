"""How products with sparse weights are computed, and where that pays: constants of which many elements are zero,
whoever made them so.

What decides is the cost model: a pattern is worth a kernel of its own where that is faster than the plain product, or
than Winograd's algorithm. Its cycles were measured with Zen 4, with vectors of 32 and 64 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.lower import strassen
from ingot.compiler.lower.choices import sparsity_of, unfit, wanted_schedule
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.contraction import Group
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.schedules import Option, Schedule
from ingot.compiler.lower.sparsity import TOGETHER, Sparsity, steps_of_panels
from ingot.compiler.lower.tiles import CHUNK_MICROSECONDS, MOST_CHUNKS, Extents, predict, tiles_by_width, typical
from ingot.compiler.lower.winograd import expected_cycles
from ingot.compiler.ops.linear import Conv

LEAST_GAIN = 0.95  # of the plain product's time
SUMS = 1 << 14  # elements that a chunk's sums may take: 64 KiB
NEAR = 24 << 10  # bytes of X that stay in the first-level cache beside the rest
VECTORS = (1, 2, 4, 8)  # of rows, that a step multiplies
MOST_VECTORS = 14  # of a line, which is not cut: of a value and as many sums there are registers
DEPTHS = (1, 2, 4, 8)  # blocks of the depth: times as long as what stays in the first-level cache
FAR = 0.15  # what reading takes more for each time that a block is twice as large
STEP = 0.8  # cycles of a step beside its vectors
VISIT = 5.0  # cycles to start and end a list of steps, and those of a vector of sums that is read and written
SUM = 1.1
MOVED = 0.5  # cycles for each element of X that is transposed, and of a result
LOOKED_UP = (1.6, 0.2)  # cycles of a step of one row, and those of each lane
LAUNCHED = 2000  # cycles of a kernel more, and of finding what to read


@dataclass(frozen=True)
class Cut:
    """Chunks of `lines` lines of `run` rows each: `parts` are (vectors of rows, number of such chunks), the first those
    of a whole chunk. `step` is how many bytes of X a step of the depth takes in a chunk, `moved` how many elements of X
    are transposed and results stored in all."""

    run: int
    lines: int
    parts: tuple[tuple[int, int], ...]
    step: float
    moved: int

    @property
    def rows(self) -> int:
        """Rows of a chunk."""
        return self.run * self.lines

    @property
    def chunks(self) -> int:
        """Chunks of a panel."""
        return sum(number for _, number in self.parts)

    def columns(self, machine: Machine) -> int:
        """The columns whose sums a chunk has room for."""
        return SUMS // (self.parts[0][0] * machine.lanes_f32)


@dataclass(frozen=True)
class Plan:
    """How a sparse product is computed: `together` columns a visit, `depth` steps of the depth a block, `panels`
    panels; `cycles` on one thread."""

    together: int
    cut: Cut
    depth: int
    panels: int
    cycles: float

    @property
    def schedule(self) -> Schedule:
        """What stands for the plan in records."""
        return Schedule("sparse", self.cut.rows, self.together, self.depth, self.panels)


def choose_sparse(context: Context, group: Group, rows: Dim) -> Plan | None:
    """How a product or convolution with `rows` rows, of constant weights, is computed where these are sparse and that
    is expected to be faster than the other ways, or is wanted. Raises ScheduleError for a schedule that it cannot
    have."""
    wanted = wanted_schedule(context, group)
    if wanted is not None and wanted.algorithm != "sparse":
        return None
    sparsity, count = sparsity_of(context, group), typical(rows, context.ranges)
    cuts = () if sparsity is None else _cuts(context, group, sparsity, count)
    if sparsity is None or not cuts:
        if wanted is not None:
            raise unfit(group, wanted, "its weights are not sparse, or sparse kernels are not asked for")
        return None
    if wanted is not None:
        plan = _wanted(context.machine, wanted, sparsity, cuts)
        if plan is None:
            raise unfit(group, wanted, f"{count} rows and weights of {sparsity.shape} are not multiplied in this way")
        return plan
    plan = _best(context.machine, sparsity, cuts)
    if context.sparse == "on" or plan.cycles < LEAST_GAIN * _other(context, group, sparsity, count):
        return plan
    return None


def likely_schedule(context: Context, group: Group) -> Schedule | None:
    """How a group of constant extents would go this way, whether that pays or not; None where it cannot."""
    sparsity = sparsity_of(context, group)
    cuts = () if sparsity is None else _cuts(context, group, sparsity, _row_count(group, sparsity))
    if sparsity is None or not cuts:
        return None
    found = _best(context.machine, sparsity, cuts).schedule
    return None if _wanted(context.machine, found, sparsity, cuts) is None else found  # some cuts have no schedule


def option_of(context: Context, group: Group, schedule: Schedule) -> Option:
    """What the cost model expects of a schedule of `group`, of constant extents, whose weights are sparse."""
    sparsity = sparsity_of(context, group)
    assert sparsity is not None
    cuts = _cuts(context, group, sparsity, _row_count(group, sparsity))
    plan = _wanted(context.machine, schedule, sparsity, cuts)
    assert plan is not None
    return Option(schedule, plan.cycles / context.machine.cycles_per_microsecond, "compute")


def _row_count(group: Group, sparsity: Sparsity) -> int:
    return math.prod(group.anchor.type.static_shape()) // sparsity.shape[1]


def _other(context: Context, group: Group, sparsity: Sparsity, count: int) -> float:
    """What the other ways are expected to take on one thread, at best."""
    machine, (depth, columns) = context.machine, sparsity.shape
    if isinstance(group.anchor, Conv):
        expected = expected_cycles(context, group, group.anchor)
        if len(expected) > 1:
            images = group.anchor.type.shape[0]
            return typical(images, context.ranges) * min(expected.values()) * _arithmetic(machine) * machine.fma_rate
    extents = Extents(count, columns, depth)
    best = math.inf
    for tile in tiles_by_width(machine, extents):
        arithmetic, memory = predict(machine, extents, tile)
        if strassen.likely_schedule(machine, tile.width, count, columns, depth) is not None:
            arithmetic *= min(1.0, strassen.share(machine, tile.width, count, columns, depth))
        best = min(best, max(arithmetic, memory))
    return best


# -- rows -------------------------------------------------------------------------------------------------------------


def _cuts(context: Context, group: Group, sparsity: Sparsity, count: int) -> Sequence[Cut]:
    """How `count` rows may be cut; in no way where that is not possible."""
    anchor, lanes = group.anchor, context.machine.lanes_f32
    if isinstance(anchor, Conv) and has_window(anchor, group.resolve(anchor.w).type.static_shape()):
        return tuple(_of_lines(context, anchor, group.resolve(anchor.w).type.static_shape(), sparsity))
    depth, columns = sparsity.shape
    found: list[Cut] = []
    if context.machine.lookups and depth >= 2 * lanes and all(extent == 1 for extent in anchor.type.shape[:-1]):
        found.append(Cut(1, 1, ((1, 1),), 4.0, columns))
    for vectors in VECTORS:
        size = vectors * lanes
        if vectors > 1 and size >= 2 * count:
            break
        parts = ((vectors, count // size), (-(-(count % size) // lanes), int(count % size > 0)))
        found.append(Cut(size, 1, parts, 4 * size, count * (depth + columns)))
    return found


def has_window(node: Conv, filters: Sequence[int]) -> bool:
    """Whether the `filters` [O, I, *kernel] of a convolution have more than one tap, or meet its border."""
    return any(extent != 1 for extent in filters[2:]) or any(node.pads)


def _of_lines(context: Context, node: Conv, filters: Sequence[int], sparsity: Sparsity) -> Iterator[Cut]:
    """Those of a convolution: whole lines, as many as divide the height."""
    lanes, columns = context.machine.lanes_f32, sparsity.shape[1]
    images, height, width, _ = node.type.shape
    if not isinstance(height, int) or not isinstance(width, int) or not height * width:
        return
    taps, stride = math.prod(filters[2:]), node.strides[1]
    pitch = pitch_of(node, filters, lanes)
    reach = (filters[2] - 1) * node.dilations[0] + 1
    typically = typical(images, context.ranges)
    moved = typically * ((height - 1) * node.strides[0] + reach) * stride * pitch * filters[1]
    moved += typically * height * width * columns
    for lines in range(1, height + 1):
        vectors = lines * -(-width // lanes)
        if height % lines == 0 and vectors <= (MOST_VECTORS if lines == 1 else max(VECTORS)):
            read = ((lines - 1) * node.strides[0] + reach) * stride * pitch  # elements of a channel
            parts = ((vectors, typically * height // lines),)
            yield Cut(width, lines, parts, 4 * read / taps, moved)


def pitch_of(node: Conv, filters: Sequence[int], lanes: int) -> int:
    """Elements of X from one channel of a line to the next: of every `strides`-th pixel, in whole vectors."""
    width = node.type.shape[2]
    assert isinstance(width, int)
    reach = (width - 1) * node.strides[1] + (filters[3] - 1) * node.dilations[1] + 1
    pixels = -(-reach // node.strides[1])
    return -(-pixels // lanes) * lanes


# -- costs ------------------------------------------------------------------------------------------------------------


def _best(machine: Machine, sparsity: Sparsity, cuts: Sequence[Cut]) -> Plan:
    """The plan that the cost model expects to be the fastest; one column together fits with any cut."""
    plans = [
        _plan(machine, sparsity, together, cut, block)
        for cut in cuts
        for together in TOGETHER
        if _fits(machine, together, cut) and (together == 1 or cut.rows > 1)
        for block in _depths(cut, sparsity.shape[0])
    ]
    return min(plans, key=lambda plan: plan.cycles)


def _fits(machine: Machine, together: int, cut: Cut) -> bool:
    """Whether the sums of a visit, what it reads of X and a value are in registers."""
    vectors = cut.parts[0][0]
    return together * vectors + (vectors if together > 1 else 1) + 1 <= machine.vector_registers


def _depths(cut: Cut, depth: int) -> list[int]:
    """Steps of the depth of a block, worth trying."""
    if cut.rows == 1:
        return [depth]  # of one way
    near = max(16, int(NEAR / cut.step))
    counts = {-(-depth // (near * times)) for times in DEPTHS}
    return [-(-depth // count) for count in sorted(counts)]


def _arithmetic(machine: Machine) -> float:
    """Cycles of a multiplication of vectors: those of 64 bytes go one by one."""
    return max(1 / machine.fma_rate, 0.05 * machine.lanes_f32)


def _plan(machine: Machine, sparsity: Sparsity, together: int, cut: Cut, block: int) -> Plan:
    """The plan for blocks of so many steps of the depth, with what it is expected to take."""
    if cut.rows == 1:
        return _of_vector(machine, sparsity, cut)
    steps, visits = sparsity.steps[together], sparsity.visits(together, block)
    far = max(0.0, math.log2(block * cut.step / NEAR))
    reading = (0.35 + 0.044 * machine.lanes_f32) * (1 + FAR * far)
    cycles = LAUNCHED + MOVED * cut.moved
    for vectors, number in cut.parts:
        if number:
            step = max(together * vectors * _arithmetic(machine), vectors * reading) + STEP
            cycles += number * (steps * step + visits * (VISIT + SUM * together * vectors))
    least, most = _panels(machine, together, cut, sparsity)
    chunks = min(MOST_CHUNKS, int(cycles / machine.cycles_per_microsecond / CHUNK_MICROSECONDS))
    most = max(least, min(most, chunks // max(1, cut.chunks)))
    reading = cut.step * sparsity.shape[0] * cut.chunks / machine.l3_rate  # of all X, for each panel

    def cost(panels: int) -> float:
        """Two threads wait for each other, half a chunk in the end."""
        idle = 1 / (panels * cut.chunks) if chunks > 1 else 0.0
        return (cycles + panels * reading) * (1 + idle)

    panels = min(range(least, most + 1), key=cost)
    return Plan(together, cut, block, panels, cycles + panels * reading)


def _of_vector(machine: Machine, sparsity: Sparsity, cut: Cut) -> Plan:
    """The plan for one row: its steps are read once, and each looks up as many elements as there are lanes."""
    lanes, table = machine.lanes_f32, 2 * machine.lanes_f32
    most = steps_of_panels(sparsity.counts(1, table), lanes)
    steps, visits = int(most.sum()), int(np.count_nonzero(most))
    size = steps * lanes * 5  # bytes
    memory = size / (machine.l3_rate if size > machine.l2 // 2 else machine.l2_rate)
    step = LOOKED_UP[0] + LOOKED_UP[1] * lanes
    cycles = max(steps * step + visits * VISIT, memory) + MOVED * cut.moved + LAUNCHED / 2
    chunks = min(MOST_CHUNKS, int(cycles / machine.cycles_per_microsecond / CHUNK_MICROSECONDS))
    return Plan(1, cut, table, max(1, min(len(most), chunks)), cycles)


def _panels(machine: Machine, together: int, cut: Cut, sparsity: Sparsity) -> tuple[int, int]:
    """How many panels there are at least, whose sums fit, and at most."""
    width = max(machine.lanes_f32, together)
    most = -(-sparsity.shape[1] // width)
    if cut.rows == 1:
        return 1, most
    return -(-most // max(1, cut.columns(machine) // width)), most


def _wanted(machine: Machine, wanted: Schedule, sparsity: Sparsity, cuts: Sequence[Cut]) -> Plan | None:
    """The plan of a schedule; None for one that the extents do not allow."""
    together, cut = wanted.tile_rows, next((cut for cut in cuts if cut.rows == wanted.width), None)
    if cut is None or together not in TOGETHER or not _fits(machine, together, cut):
        return None
    least, most = _panels(machine, together, cut, sparsity)
    fits = 1 <= wanted.row_block <= sparsity.shape[0] and least <= wanted.panel_block <= most
    fits = fits and (cut.rows > 1 or (together, wanted.row_block) == (1, 2 * machine.lanes_f32))
    if not fits or wanted.order != "auto":
        return None
    return replace(_plan(machine, sparsity, together, cut, wanted.row_block), panels=wanted.panel_block)
