"""What was chosen for a contraction group and what the cost model thought of the alternatives, for those who ask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from ingot.compiler.ir.program import Launch, Step
from ingot.compiler.ir.sparse import SparseProduct, SparseVector
from ingot.compiler.ir.templates import Contraction, Strassen
from ingot.compiler.lower import sparse, sparse_plans, strassen
from ingot.compiler.lower.block_weights import is_weight
from ingot.compiler.lower.choices import inner_of, is_plain, operands_of, products_of, signature_of
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.contraction import Group, dot_of, machine_for, widths_for
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.schedules import Algorithm, Decision, Option, Schedule
from ingot.compiler.lower.tiles import WIDTHS, ContractionTile, Extents, predict, tiles_by_width
from ingot.compiler.lower.winograd import algorithms_of, expected_cycles, transform_cycles
from ingot.compiler.ops.linear import Conv, MatMul

ProductTemplate: TypeAlias = Contraction | SparseProduct | SparseVector | Strassen
"""Templates of products and convolutions, of which a group has one."""


def explain(context: Context, group: Group, steps: Sequence[Step]) -> None:
    """Tell the context's listener what the kernels of `steps`, those of `group`, are and might have been."""
    note = context.schedules.note
    if note is None:
        return
    signature = signature_of(context, group)
    launches = [step for step in steps if isinstance(step, Launch)]
    bodies = (item.kernel.body for item in launches)
    template = next((body for body in bodies if isinstance(body, ProductTemplate)), None)
    if signature is None or template is None:
        return
    chosen = schedule_of(group, launches, template)
    options = context.explained.get(signature)
    if options is None or options[0].schedule != chosen:
        apart = isinstance(template, Contraction) and not strassen.takes(context, template)
        others = (
            option
            for option in analytical_options(context, group)
            if option.schedule != chosen and not (apart and option.schedule.algorithm == "strassen")
        )
        options = context.explained[signature] = (option_of(context, group, chosen), *others)
    names = tuple(item.kernel.name for item in launches)
    note(Decision(signature, names, group.node.origin, options))


def schedule_of(group: Group, launches: Sequence[Launch], template: ProductTemplate) -> Schedule:
    """The schedule that the launches of `group` have: their contraction is `template`."""
    if isinstance(template, SparseProduct | SparseVector):
        return sparse.schedule_of(template)
    if isinstance(template, Strassen):
        return strassen.schedule_of(template.width, template)
    points = next((axis.extent for axis in template.batch if axis.var == "_p"), 0)  # of Winograd's algorithm alone
    algorithm: Algorithm = "direct"
    if isinstance(group.anchor, Conv) and len(launches) > 2 and points:
        algorithm = next(name for name, each in algorithms_of(group.anchor).items() if points == each.points)
    assert isinstance(template.row_block, int) and isinstance(template.panel_block, int)
    return Schedule(
        algorithm, template.width, template.tile_rows, template.row_block, template.panel_block, template.order
    )


def analytical_options(context: Context, group: Group, among: tuple[int, ...] = WIDTHS) -> list[Option]:
    """For each algorithm and those of the widths `among` that the weights may have, what the cost model would choose.
    Strassen's algorithm needs rows that lie together, of which nothing is known here."""
    machine, (_, w) = context.machine, operands_of(group)
    found: list[Schedule] = []
    for algorithm in _algorithms(context, group):
        extents = extents_of(context, group, algorithm)
        dot = _dot(context, group) if algorithm == "direct" else 1
        widths = widths_for(context, w, extents.columns, dot, among)
        for tile in tiles_by_width(_machine(context, group, algorithm), extents, widths):
            assert isinstance(tile.row_block, int) and isinstance(tile.panel_block, int)
            found.append(Schedule(algorithm, tile.width, tile.tile_rows, tile.row_block, tile.panel_block))
        if algorithm == "direct" and may_be_halved(context, group):
            m, n, k = extents.rows, extents.columns, extents.depth
            halved = (strassen.likely_schedule(machine, width, m, n, k) for width in widths if width in WIDTHS)
            found += [schedule for schedule in halved if schedule is not None]
    without_zeros = sparse_plans.likely_schedule(context, group)
    found += [] if without_zeros is None else [without_zeros]
    return [option_of(context, group, schedule) for schedule in found]


def may_be_halved(context: Context, group: Group) -> bool:
    """Whether a group has what Strassen's algorithm takes, but for its extents and where its rows lie."""
    anchor = group.anchor
    if isinstance(anchor, Conv) and any(extent != 1 for extent in group.resolve(anchor.w).type.shape[2:]):
        return False
    plain = is_plain(context, group, products_of(context, group))
    return plain and extents_of(context, group, "direct").batch == 1


def _algorithms(context: Context, group: Group) -> Sequence[Algorithm]:
    if isinstance(group.anchor, Conv):
        return tuple(expected_cycles(context, group, group.anchor))
    return ("direct",)


def extents_of(context: Context, group: Group, algorithm: Algorithm) -> Extents:
    """The contraction that `group`, all of whose extents are constant, comes to with an algorithm."""
    anchor = group.anchor
    if isinstance(anchor, MatMul):
        a, b = operands_of(group)
        *lead, rows, columns = anchor.type.static_shape()
        depth, batch = a.type.static_shape()[-1], math.prod(lead)
        if is_weight(b) and math.prod(b.type.static_shape()[:-2]) == 1:
            rows, batch = rows * batch, 1
        return Extents(rows, columns, _steps(context, group, depth), batch)
    assert isinstance(anchor, Conv)
    w = group.resolve(anchor.w)
    out, inner, *taps = w.type.static_shape()
    images, *spatial = anchor.type.static_shape()
    spatial = spatial[:-1] if anchor.channels_last else spatial[1:]
    form = algorithms_of(anchor).get(algorithm)
    if form is not None:
        return Extents(images * form.tiles(spatial), out, inner, form.points)
    depth = _steps(context, group, inner) * math.prod(taps)
    return Extents(images * math.prod(spatial), out // anchor.group, depth, anchor.group)


def _steps(context: Context, group: Group, depth: int) -> int:
    """Multiply-adds that a sum of `depth` products takes."""
    return -(-depth // _dot(context, group))


def _dot(context: Context, group: Group) -> int:
    return dot_of(context, *operands_of(group), inner_of(group))


def _machine(context: Context, group: Group, algorithm: Algorithm) -> Machine:
    """The machine as an algorithm's products find it."""
    return machine_for(context, _dot(context, group)) if algorithm == "direct" else context.machine


def option_of(context: Context, group: Group, schedule: Schedule) -> Option:
    """What the cost model expects of a schedule of `group`."""
    if schedule.algorithm == "sparse":
        return sparse_plans.option_of(context, group, schedule)
    machine = _machine(context, group, schedule.algorithm)
    extents = extents_of(context, group, schedule.algorithm)
    tile = ContractionTile(schedule.width, schedule.tile_rows, schedule.row_block, schedule.panel_block)
    if schedule.algorithm == "strassen":
        (tile,) = tiles_by_width(machine, extents, (schedule.width,))
    arithmetic, memory = predict(machine, extents, tile)
    if schedule.algorithm == "strassen":
        arithmetic *= strassen.share(machine, schedule.width, extents.rows, extents.columns, extents.depth)
    form = algorithms_of(group.anchor).get(schedule.algorithm) if isinstance(group.anchor, Conv) else None
    if form is not None:
        arithmetic += transform_cycles(machine, form, extents.rows, extents.depth, extents.columns)
    microseconds = max(arithmetic, memory) / machine.cycles_per_microsecond
    return Option(schedule, microseconds, "compute" if arithmetic >= memory else "bandwidth")
