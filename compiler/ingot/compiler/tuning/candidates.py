"""Which schedules of a contraction are worth measuring beside the one that the cost model chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import get_args

from ingot.compiler.ir.templates import Contraction, Order
from ingot.compiler.lower import strassen
from ingot.compiler.lower.choices import operands_of, products_of
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.contraction import Group
from ingot.compiler.lower.explain import ProductTemplate, analytical_options, extents_of, may_be_halved
from ingot.compiler.lower.schedules import Algorithm, Schedule
from ingot.compiler.lower.sparse_plans import choose_sparse
from ingot.compiler.lower.tiles import MOST_CHUNKS, PANEL_WIDTHS, Extents, most_rows, vectors_of
from ingot.compiler.lower.winograd import choose_winograd
from ingot.compiler.ops.linear import Conv
from ingot.compiler.targets.cpu.blocking import Blocking
from ingot.compiler.targets.cpu.features import Level

HOPELESS = 1.25  # times the prediction of the best: what the cost model thinks so little of is not measured
FEW_ROWS = 3  # tiles of so few rows take their panels in groups: there is one order of loops


def alternatives(context: Context, group: Group) -> list[Schedule]:
    """Other algorithms and other panel widths than those that the cost model chooses; what promises most comes first
    of each."""
    chosen = analytical_choice(context, group)
    known = analytical_options(context, group, PANEL_WIDTHS)
    best: dict[Algorithm, float] = {}
    for option in known:
        best[option.schedule.algorithm] = min(option.predicted, best.get(option.schedule.algorithm, option.predicted))
    ranked = sorted(known, key=lambda option: option.predicted)
    others = [o.schedule for o in ranked if o.schedule.algorithm != chosen.algorithm]
    own = [
        o.schedule
        for o in ranked
        if o.schedule.algorithm == chosen.algorithm
        and o.schedule.width != chosen.width
        and o.predicted <= HOPELESS * best[chosen.algorithm]
    ]
    first_of_each = [next(s for s in others if s.algorithm == name) for name in best if name != chosen.algorithm]
    return _distinct((*first_of_each, *own[:2]), chosen)


def analytical_choice(context: Context, group: Group) -> Schedule:
    """The schedule that the cost model chooses, where rows lie together."""
    algorithm: Algorithm = "direct"
    form = choose_winograd(context, group, group.anchor) if isinstance(group.anchor, Conv) else None
    if form is not None:
        algorithm = form.name
    known = extents_of(context, group, algorithm)
    plan = choose_sparse(context, group, known.rows) if form is None else None
    if plan is not None:
        return plan.schedule
    w = operands_of(group)[1]
    products = products_of(context, group) if form is None else form.products(w)
    m, n, k = known.rows, known.columns, known.depth
    depth = k * products.dot if form is None else k
    tile = products.tile(context, w, rows=m, columns=n, depth=depth, batch=known.batch)
    assert isinstance(tile.row_block, int) and isinstance(tile.panel_block, int)
    if algorithm == "direct" and may_be_halved(context, group):
        halved = strassen.likely_schedule(context.machine, tile.width, m, n, k)
        if halved is not None and strassen.share(context.machine, tile.width, m, n, k) < strassen.LEAST_GAIN:
            return halved
    return Schedule(algorithm, tile.width, tile.tile_rows, tile.row_block, tile.panel_block)


def orders(chosen: Schedule, template: ProductTemplate, level: Level) -> list[Schedule]:
    """`chosen` with the other orders of its loops. `template` is its contraction."""
    if not isinstance(template, Contraction):
        return []
    blocking = Blocking(template, level)
    rows, panels = template.row_block, template.panel_block
    if blocking.sizes[-1] <= FEW_ROWS or not isinstance(rows, int) or not isinstance(panels, int):
        return []
    if panels == 1 or rows <= blocking.most:  # one panel, or one tile: nothing to be put in order
        return [] if panels == 1 else [replace(chosen, order=o) for o in ("panels", "ahead") if o != blocking.order]
    return [replace(chosen, order=o) for o in get_args(Order) if o not in ("auto", blocking.order)]


def neighbours(context: Context, group: Group, chosen: Schedule) -> list[Schedule]:
    """`chosen` with fewer rows a tile, and with chunks of other shapes; Strassen's algorithm, and products without
    zeros, have one."""
    if chosen.algorithm in ("strassen", "sparse"):
        return []
    extents = extents_of(context, group, chosen.algorithm)
    tiles = [replace(chosen, tile_rows=rows) for rows in _tile_rows(context, extents, chosen)]
    return _distinct((*_blocks(extents, chosen), *tiles), chosen)


def _tile_rows(context: Context, extents: Extents, chosen: Schedule) -> Iterator[int]:
    """Rows of a tile that cut the rows otherwise and still keep the multiply-add units busy."""
    machine = context.machine
    most = min(most_rows(machine, chosen.width), extents.rows)
    vectors = vectors_of(machine, chosen.width, 4)
    seen = {-(-extents.rows // chosen.tile_rows)}
    found = 0
    for rows in range(most, 1, -1):
        tiles = -(-extents.rows // rows)
        if tiles not in seen and rows * vectors >= 2 * machine.fma_latency and found < 3:
            seen.add(tiles)
            found += 1
            yield rows


def _blocks(extents: Extents, chosen: Schedule) -> Iterator[Schedule]:
    """Chunks of half and twice the rows or panels, longer and wider, as many that threads have work."""
    panels = -(-extents.columns // chosen.width)

    def chunks(rows: int, count: int) -> int:
        return -(-extents.rows // rows) * -(-panels // count)

    now = chunks(chosen.row_block, chosen.panel_block)
    step = chosen.tile_rows
    halves = max(step, chosen.row_block // 2 // step * step)
    shapes = [
        (min(extents.rows, 2 * chosen.row_block), chosen.panel_block),
        (chosen.row_block, min(panels, 2 * chosen.panel_block)),
        (halves, chosen.panel_block),
        (chosen.row_block, max(1, chosen.panel_block // 2)),
        (min(extents.rows, 2 * chosen.row_block), max(1, chosen.panel_block // 2)),
        (halves, min(panels, 2 * chosen.panel_block)),
        (extents.rows, max(1, -(-panels // max(1, now)))),
        (max(step, -(-extents.rows // max(1, now) // step) * step), panels),
    ]
    for rows, count in shapes:
        if now <= 2 * chunks(rows, count) and chunks(rows, count) <= max(2 * now, min(8, MOST_CHUNKS)):
            yield replace(chosen, row_block=min(rows, extents.rows), panel_block=count)


def _distinct(found: Iterable[Schedule], chosen: Schedule) -> list[Schedule]:
    return [schedule for schedule in dict.fromkeys(found) if schedule != chosen]


