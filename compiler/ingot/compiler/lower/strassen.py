"""Large products by one level of Strassen's algorithm (`ir.templates.Strassen`): seven products for eight.

What it costs beside the products: the sums of quarters of A, in a kernel of their own; those of B are made while they
are first multiplied. Rows that are known at run time only get both kernels, of which one has nothing to do. The weights
are the same packed panels; where they are of a few bits, a kernel writes them out as f32 first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ingot.compiler.ir.dims import Dim, bounds, ceil_divide, maximum, minimum, multiply, substitute, symbol
from ingot.compiler.ir.graph import Origin
from ingot.compiler.ir.loops import Axis, Call, Expr, For, Let, Load, Local, Stmt, Store
from ingot.compiler.ir.templates import PRODUCTS, Contraction, Quarter, Strassen, depth_blocks, row_places, signed_sum
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, merge_axes
from ingot.compiler.lower.schedules import Schedule
from ingot.compiler.lower.tiles import CHUNK_MICROSECONDS, MOST_CHUNKS, WIDTHS, typical
from ingot.runtime.dtypes import f32, u32

LEAST_GAIN = 0.96  # of the plain product's time
SHARE = 0.97  # of the peak that the loops of a product reach
TILE_CYCLES = 40  # to start and end a register tile
TILE_ROWS = 6
A_CYCLES = 2.0  # for each vector that is read or written to make the sums of A, which are larger than the caches
ROW_BLOCK = 112  # rows of a half, at most
STACK_ELEMENTS = 1 << 14  # that a chunk's unfinished results may take: 64 KiB
LEAST_ROWS = 32  # for fewer, the time is that of reading the weights
ROWS_TRIED = range(LEAST_ROWS, 1025, 16)
MOST_WIDENED = 16 << 20  # bytes of weights of a few bits as f32
PADDING = 12  # rows of a half that is known at run time only are a multiple of this; at least those of a tile


@dataclass(frozen=True)
class Plan:
    """How a product is split: the rows from which on it pays (0: always), and up to which (None: always); rows and
    panels, of a half, of a chunk."""

    least_rows: int
    row_block: int
    panel_block: int
    most_rows: int | None = None


def choose_strassen(context: Context, product: Contraction, wanted: Schedule | None = None) -> Plan | None:
    """A plan where the product has the form that the algorithm takes and it pays for likely numbers of rows, or is
    `wanted`. A schedule that is wanted has been found to be one that the extents allow (see `fits`)."""
    columns, depth, rows = product.columns.extent, product.depth, product.row_count
    if (wanted is not None and wanted.algorithm != "strassen") or not takes(context, product):
        return None
    assert isinstance(columns, int) and isinstance(depth, int)
    if wanted is not None:
        return Plan(0, wanted.row_block, wanted.panel_block)
    machine, width = context.machine, product.width

    def pays(count: int) -> bool:
        return share(machine, width, count, columns, depth) < LEAST_GAIN

    if isinstance(rows, int):
        return _plan(machine, width, rows, columns, depth) if rows >= LEAST_ROWS and pays(rows) else None
    low, high = bounds(rows, context.ranges)
    least = next((m for m in ROWS_TRIED if m <= high and pays(m)), None)
    if least is None:
        return None
    cached = 2 * (machine.l3 // (len(PRODUCTS) * 4 * (depth // 2)))  # rows whose sums of A stay in the outer cache
    most = None if high <= cached or pays(cached + PADDING) else cached
    if most is not None and most < max(least, low):
        return None
    count = max(least, low, typical(rows, context.ranges))
    plan = _plan(machine, width, count, columns, depth)
    return replace(plan, least_rows=0 if low >= least else least, most_rows=most)


def takes(context: Context, product: Contraction) -> bool:
    """Whether the algorithm can compute a product, whatever that takes."""
    plain = product.accumulator == f32 and product.dot == 1 and (not product.narrow or _may_widen(context, product))
    if not context.reorder or not plain or product.batch or product.segments or product.b_offset != 0:
        return False
    if not halves(context.machine, product.width, product.columns.extent, product.depth):
        return False
    return len(merge_axes(product.rows, (product.a,))[0]) <= 1  # rows that lie apart: their sums take too long


def _may_widen(context: Context, product: Contraction) -> bool:
    """Whether the panels of a product are weights of a few bits, and such that they may lie in memory as f32 while it
    is computed."""
    blocks, depth, panels = product.blocks, product.depth, product.panels
    if blocks is None or not context.forms.may_grow or not isinstance(depth, int) or not isinstance(panels, int):
        return False
    whole = depth % min(blocks.size, depth) == 0 if depth else False
    return whole and depth % blocks.per_word == 0 and 4 * depth * panels * product.width <= MOST_WIDENED


def halves(machine: Machine, width: int, columns: Dim, depth: Dim) -> bool:
    """Whether the panels of `width` columns, of whole vectors, and `depth` can be cut in two."""
    if width % min(machine.lanes_f32, width):
        return False
    if not isinstance(columns, int) or not isinstance(depth, int) or -(-columns // width) % 2 or depth % 2:
        return False
    return columns > 0 and depth > 0 and depth_blocks(depth // 2) is not None


def schedule_of(width: int, plan: Plan | Strassen) -> Schedule:
    """What stands for a plan in records, or for the template that came of it."""
    return Schedule("strassen", width, TILE_ROWS, plan.row_block, plan.panel_block)


def likely_schedule(machine: Machine, width: int, rows: int, columns: int, depth: int) -> Schedule | None:
    """How a product of these extents would go this way in panels of `width`, whether that pays or not; None where it
    cannot."""
    if rows < LEAST_ROWS or not halves(machine, width, columns, depth):
        return None
    return schedule_of(width, _plan(machine, width, rows, columns, depth))


def fits(machine: Machine, wanted: Schedule, rows: int, columns: int, depth: int) -> bool:
    """Whether a product of these extents can have a schedule of the algorithm."""
    if wanted.width not in WIDTHS or rows < LEAST_ROWS or not halves(machine, wanted.width, columns, depth):
        return False
    if not 1 <= wanted.row_block <= min(ROW_BLOCK, -(-rows // 2)):
        return False
    most = min(-(-columns // (2 * wanted.width)), _most_panels(wanted.row_block, wanted.width))
    return 1 <= wanted.panel_block <= most and (wanted.tile_rows, wanted.order) == (TILE_ROWS, "auto")


def _row_block(half: int) -> int:
    """Rows of a block of `half` rows: a divisor where there is a good one, else blocks are of nearly equal size."""
    count = -(-half // ROW_BLOCK)
    divisor = next((half // n for n in range(count, 2 * count + 1) if half % n == 0), None)
    return divisor if divisor is not None else -(-half // count)


def _most_panels(row_block: int, width: int) -> int:
    return max(1, STACK_ELEMENTS // (4 * row_block * width))


def share(machine: Machine, width: int, rows: int, columns: int, depth: int) -> float:
    """The time of the algorithm as a share of the plain product's, for `rows` rows and panels of `width` columns."""
    lanes, pairs = machine.lanes_f32, -(-columns // (2 * width))
    rate = lanes * machine.fma_rate * SHARE
    plain = rows * columns * depth / rate + -(-rows // TILE_ROWS) * 2 * pairs * TILE_CYCLES
    half = -(-rows // 2)
    blocks = depth_blocks(depth // 2) or 1
    products = 7 * half * (columns // 2) * (depth // 2) / rate
    tiles = 7 * -(-half // TILE_ROWS) * pairs * blocks * TILE_CYCLES
    of_a = half * (depth // 2) / lanes * 11 * A_CYCLES  # four vectors are read, seven written
    size = len(PRODUCTS) * half * (depth // 2) * 4
    if size > machine.l3:
        of_a += 3 * size / machine.memory_rate  # what is written is fetched before
    elif size > machine.l2:
        of_a += size / machine.l3_rate
    kept = (blocks - 1) * 8 * half * (columns // 2) / lanes
    return (products + tiles + of_a + kept) / plain


def _plan(machine: Machine, width: int, rows: int, columns: int, depth: int) -> Plan:
    """How a product that always goes this way is split."""
    half, pairs = -(-rows // 2), -(-columns // (2 * width))
    block = _row_block(half)
    row_blocks = -(-half // block)
    most = _most_panels(block, width)
    cycles = 7 * block * (depth // 2) * width / (machine.lanes_f32 * machine.fma_rate)  # of a pair of panels
    enough = max(1, int(CHUNK_MICROSECONDS * machine.cycles_per_microsecond / cycles))
    few = max(1, -(-pairs * row_blocks // MOST_CHUNKS))
    taken = min(pairs, most, max(enough, few, pairs * row_blocks // 32))
    return Plan(0, block, -(-pairs // -(-pairs // taken)))


def launch_strassen(
    context: Context, build: KernelBuilder, product: Contraction, plan: Plan, origin: Origin
) -> None:
    """The sums of quarters of A, then the products. `build` has the buffers of `product`, `origin` names its nodes."""
    assert isinstance(product.depth, int)
    half_depth, rows = product.depth // 2, product.row_count
    half = ceil_divide(rows, 2)
    padded = half if isinstance(half, int) else ceil_divide(half, PADDING) * PADDING
    template = Strassen(
        batch=_gate(rows, plan, inside=True),
        rows=product.rows,
        columns=product.columns,
        run=Axis(product.run.var, half_depth),
        sums="",
        padded_rows=padded,
        pitch=_pitch(half_depth),
        b=product.b,
        width=product.width,
        row_block=plan.row_block,
        panel_block=plan.panel_block,
        stores=product.stores,
    )
    size = padded
    for axis in template.batch:
        size = multiply(size, axis.extent)
    rows_of_sums = multiply(size, len(PRODUCTS)) + PADDING  # the last tile may reach past the end
    sums = context.temp(TensorType(f32, (rows_of_sums, template.pitch)))
    a, kept = product.a.buffer, _buffers(product.stores)
    blocks = product.blocks
    narrow = () if blocks is None else (product.b, blocks.scales, blocks.zeros)
    make = build.forked(context.unique("quarters"), lambda name: name == a)
    _sum_quarters(context, make, product, replace(template, sums=make.parameter(sums, "write")), origin)
    dropped = {a, *narrow} - kept
    final = build.forked(context.unique(build.name.rsplit("_", 1)[0]), lambda name: name not in dropped)
    template = replace(template, sums=final.parameter(sums, "read"))
    if blocks is not None:
        wide = context.temp(TensorType(f32, (product.panels, product.depth, product.width)))
        make = build.forked(context.unique("widen"), lambda name: name in narrow)
        _widen(context, make, product, template.batch, make.parameter(wide, "write"), origin)
        template = replace(template, b=final.parameter(wide, "read"))
    context.run(final.launch(template.grid, template, origin=origin, flops=template.flops))


def _buffers(item: Sequence[Store] | Expr) -> set[str]:
    """The buffers that stores or an expression use."""
    match item:
        case Load(buffer=buffer):
            return {buffer}
        case Call(args=args):
            return {name for argument in args for name in _buffers(argument)}
        case tuple() | list():
            return {name for store in item for name in (store.buffer, *_buffers(store.value))}
        case _:
            return set()


def _pitch(depth: int) -> int:
    """Elements from row to row of the sums: rows that lie a large power of two apart would share sets of the cache."""
    return depth + 16 if depth % 256 == 0 else depth


def _gate(rows: Dim, plan: Plan, *, inside: bool) -> tuple[Axis, ...]:
    """An axis that is empty unless the plan is for so many `rows` (with `inside`; else if it is); none where it is for
    all."""
    least, most = plan.least_rows, plan.most_rows
    if least == 0 and most is None:
        return ()
    fit: Dim = minimum(1, maximum(0, rows - least + 1))
    if most is not None:
        fit = multiply(fit, minimum(1, maximum(0, most + 1 - rows)))
    return (Axis("_rows_fit", fit if inside else 1 - fit),)


def gated(product: Contraction, plan: Plan) -> Contraction | None:
    """The plain product for the rows that the algorithm is not used for; None where it always is."""
    gate = _gate(product.row_count, plan, inside=False)
    return replace(product, batch=gate) if gate else None


def _sum_quarters(
    context: Context, build: KernelBuilder, product: Contraction, template: Strassen, origin: Origin
) -> None:
    depth = template.run.extent
    i, k = symbol("_i"), symbol("_q")
    statements: list[Stmt] = []
    quarters: dict[Quarter, Expr] = {}
    for lower in (0, 1):
        row = i * 2 + lower
        if template.padded_rows * 2 != product.row_count:
            row = minimum(row, product.row_count - 1)
        for right in (0, 1):
            places = {**row_places(product.rows, row), product.run.var: k + multiply(depth, right)}
            name = f"a{lower}{right}"
            statements.append(Let(name, Load(product.a.buffer, substitute(product.a.offset, places))))
            quarters[Quarter(lower, right)] = Local(name, f32)
    for number, each in enumerate(PRODUCTS):
        place = (template.padded_rows * number + i) * template.pitch + k
        statements.append(Store(template.sums, place, signed_sum(each.a, quarters.__getitem__)))
    grid = (*template.batch, Axis("_i", template.padded_rows, grain_for(multiply(depth, 11), CHUNK)))
    context.run(build.launch(grid, (For("_q", depth, tuple(statements), "vector"),), origin=origin))


def _widen(
    context: Context,
    build: KernelBuilder,
    product: Contraction,
    gate: tuple[Axis, ...],
    target: str,
    origin: Origin,
) -> None:
    """Write the panels of weights of a few bits to `target` as f32."""
    blocks, depth, width = product.blocks, product.depth, product.width
    assert blocks is not None and isinstance(depth, int)
    per, size = blocks.per_word, min(blocks.size, depth)
    panel, block, number, lane = (symbol(name) for name in ("_panel", "_block", "_word", "_lane"))
    first = (panel * depth + block * size + number * per) * width + lane  # of the word's elements
    word = (panel * (depth // per) + block * (size // per) + number) * width + lane
    place = (panel * (depth // size) + block) * width + lane
    statements: list[Stmt] = [Let("_bits", Load(product.b, word))]
    for k in range(per):
        statements.append(Store(target, first + k * width, blocks.field(Local("_bits", u32), k, place)))
    words = For("_word", size // per, (For("_lane", width, tuple(statements), "vector"),))
    grid = (*gate, Axis("_panel", product.panels, grain_for(depth * width, CHUNK)))
    context.run(build.launch(grid, (For("_block", depth // size, (words,)),), origin=origin))
