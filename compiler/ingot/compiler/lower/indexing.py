"""Gather, scatter, top-k and compaction as loop nests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ingot.compiler.ir.dims import Dim, bounds, ceil_divide, minimum, product, symbol
from ingot.compiler.ir.graph import Constant, Node, describe
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Index, Let, Local, Stmt, When
from ingot.compiler.ir.templates import Lookup
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.movement import loops_over
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value, loop_names
from ingot.compiler.lower.pointwise import Moved, copy, materialise
from ingot.compiler.lower.tables import find_table
from ingot.compiler.lower.tournament import Tournament
from ingot.compiler.lower.views import View, coalesce, dense_strides
from ingot.compiler.ops.indexing import Compact, Scatter, TopK
from ingot.compiler.ops.movement import Gather
from ingot.runtime.dtypes import DType, boolean, i8, i64, u8

ENTRIES = 256  # of a table for bytes
BYTES_CHUNK = 1 << 16  # bytes that are looked up in some 5 us
COLUMNS = 512  # elements of a scattered row that make one chunk


def lower_indexing(context: Context, node: Node) -> bool:
    """Lower a Gather, Scatter, TopK or Compact; False when `node` is none of them."""
    match node:
        case Gather():
            if not _lookup(context, node):
                _gather(context, node)
        case Scatter():
            _scatter(context, node)
        case TopK():
            _top_k(context, node)
        case Compact():
            _compact(context, node)
        case _:
            return False
    return True


def checked_index(raw: Expr, dtype: DType, extent: Dim, name: str) -> tuple[tuple[Stmt, ...], Expr]:
    """Statements that define the i64 local `name`, an index counted from the front; and whether it is out of range."""
    if dtype != i64:
        raw = Call("cast", (raw,), i64)
    given, place, start = Local(f"{name}_raw", i64), Local(name, i64), Const(0, i64)
    from_end = Call("add", (given, index_value(extent)), i64)
    wrapped = Call("select", (Call("lt", (given, start), boolean), from_end, given), i64)
    below, beyond = Call("lt", (place, start), boolean), Call("ge", (place, index_value(extent)), boolean)
    return (Let(given.name, raw), Let(name, wrapped)), Call("or", (below, beyond), boolean)


def _gather(context: Context, node: Gather) -> None:
    """A row of what lies inside the axis for every index; indices known to be in range are not checked."""
    table, target = find_table(context, node.data, node.axis), context.destination(node)
    axis = node.axis
    before, picks, after = node.data.type.shape[:axis], node.indices.type.shape, node.data.type.shape[axis + 1 :]
    there = all(bounds(extent, context.ranges)[0] > 0 for extent in (*before, *after))  # else nobody looks at the index
    if table.width is None and there and all(extent == 1 for extent in picks):
        _gather_one(context, node, table.view, target)
        return
    names = loop_names(len(before) + len(picks) + len(after))
    where: list[Dim] = [symbol(n) for n in names]
    chosen, inner = where[len(before) : len(before) + len(picks)], where[len(where) - len(after) :]
    build = kernel(context, node)
    source = table.at([*where[: len(before)], symbol("_place"), *inner])
    element: Expr = build.load(table.view, source)
    if table.view.storage.dtype != target.storage.dtype:
        element = Call("cast", (element,), target.storage.dtype)
    body: tuple[Stmt, ...] = (build.store(target, target.at(where), element),)
    body = loops_over(names[len(names) - len(after) :], after, body)
    statements = _placed(context, node, build, (), chosen, body)
    grid = [Axis(n, e) for n, e in zip(names, (*before, *picks), strict=False)]
    if grid:
        grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(product(after), CHUNK))
    context.run(build.launch(grid or (Axis("_point", 1),), statements, origin=node.origin))


def _gather_one(context: Context, node: Gather, data: View, target: View) -> None:
    """What lies at one index: a copy, in the order of loops that suits both sides."""
    axis, chosen = node.axis, (0,) * node.indices.rank

    def without(view: View, count: int) -> View:
        shape, strides = ((*each[:axis], *each[axis + count :]) for each in (view.shape, view.strides))
        return View(view.storage, shape, strides, view.offset)

    def around(build: KernelBuilder, grid: tuple[Axis, ...], body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        return _placed(context, node, build, grid, chosen, body)

    moved = Moved(around, source=symbol("_place") * data.strides[axis])
    copy(context, without(data, 1), without(target, node.indices.rank), node.origin, node.name, moved)


def _placed(
    context: Context,
    node: Gather,
    build: KernelBuilder,
    shared: Sequence[Axis],
    chosen: Sequence[Dim],
    body: tuple[Stmt, ...],
) -> tuple[Stmt, ...]:
    """`body` where the local `_place` is the index at `chosen`, which is checked unless it is known. Of the points
    along the axes that share an index the first tells that it is out of range."""
    known = _known_indices(context, node)
    if known is not None:
        return (Let("_place", build.load(known, known.at(chosen))), *body)
    indices, axis = context.view(node.indices), node.axis
    raw = build.load(indices, indices.at(chosen))
    status, number = context.fault(f"{describe(node)}: an index is out of range for axis {axis}")
    fetch, bad = checked_index(raw, node.indices.type.dtype, node.data.type.shape[axis], "_place")
    report: Stmt = build.store(status, 0, Const(number, i64))
    for each in shared:
        report = When(Call("eq", (Index(symbol(each.var)), Const(0, i64)), boolean), (report,))
    return (*fetch, When(bad, (report,), body))


def _lookup(context: Context, node: Gather) -> bool:
    """A table of bytes that bytes are the indices of; False where it is something else."""
    if not isinstance(node.data, Constant) or node.data.type.shape != (ENTRIES,) or node.indices.dtype != u8:
        return False
    if node.data.dtype not in (u8, i8):
        return False
    x, target = context.view(node.indices), context.destination(node)
    y = target
    if x.shape and x.strides[-1] != 1:
        x = materialise(context, x, node.origin)
    if y.shape and y.strides[-1] != 1:
        y = context.temp(node.type, origin=node.origin)
    extents, strides = coalesce(y.shape, [y.strides, x.strides])
    if not extents or any(each[-1] != 1 for each in strides):  # the last axis has one element
        extents, strides = [*extents, 1], [[*each, 1] for each in strides]
    *names, last = loop_names(len(extents))
    outer = [Axis(name, extent) for name, extent in zip(names, extents, strict=False)]
    index: list[Dim] = [symbol(name) for name in (*names, last)]
    inner = Axis(last, extents[-1])
    if outer:
        outer[-1] = replace(outer[-1], grain=grain_for(extents[-1], BYTES_CHUNK))
    else:
        block = symbol("_block") * BYTES_CHUNK
        outer = [Axis("_block", ceil_divide(extents[0], BYTES_CHUNK))]
        inner, index[0] = Axis(last, minimum(BYTES_CHUNK, extents[0] - block)), block + index[0]
    build = kernel(context, node)
    places = [
        sum((i * step for i, step in zip(index, steps, strict=True)), view.offset)
        for view, steps in ((y, strides[0]), (x, strides[1]))
    ]
    template = Lookup(
        tuple(outer),
        inner,
        build.load(x, places[1]),
        build.parameter(context.view(node.data), "read"),
        build.store(y, places[0], Local("element", node.data.dtype)),
    )
    context.run(build.launch(template.grid, template, origin=node.origin))
    if y is not target:
        copy(context, y, target, node.origin)
    return True


def _known_indices(context: Context, node: Gather) -> View | None:
    """Constant indices counted from the front, None where they are not constant or one is out of range."""
    extent = node.data.type.shape[node.axis]
    if not isinstance(node.indices, Constant) or not isinstance(extent, int):
        return None
    given = node.indices.data.astype(np.int64)
    if ((given < -extent) | (given >= extent)).any():
        return None
    storage = context.weight(node.indices, ("indices", extent), np.where(given < 0, given + extent, given), i64)
    return View(storage, given.shape, dense_strides(given.shape))


def _scatter(context: Context, node: Scatter) -> None:
    """A copy of the data, then the updates: in order along the axis, free of order along the others."""
    target = context.destination(node)
    copy(context, context.view(node.data), target, node.origin)
    shape, axis, last = node.updates.type.shape, node.axis, node.updates.rank - 1
    updates, indices = context.view(node.updates), context.view(node.indices).expand(shape)
    names = loop_names(node.updates.rank)
    where: list[Dim] = [symbol(n) for n in names]
    build = kernel(context, node)
    status, number = context.fault(f"{describe(node)}: an index is out of range for axis {axis}")
    row = axis != last and indices.strides[last] == 0  # whole rows are written: one index, a vector of elements
    if row:
        where[last] = symbol("_block") * COLUMNS + symbol(names[last])
    fetch, bad = checked_index(
        build.load(indices, indices.at(where)), node.indices.type.dtype, node.data.type.shape[axis], "_place"
    )
    place = target.at([*where[:axis], symbol("_place"), *where[axis + 1 :]])
    value: Expr = build.load(updates, updates.at(where))
    if node.reduction != "none":
        value = Call(node.reduction, (build.load(target, place), value), node.type.dtype)
    store: Stmt = build.store(target, place, value)
    grid = [Axis(n, d) for a, (n, d) in enumerate(zip(names, shape, strict=True)) if a != axis]
    if row:
        width = minimum(COLUMNS, shape[last] - symbol("_block") * COLUMNS)
        store = For(names[last], width, (store,), "vector")
        grid[-1] = Axis("_block", ceil_divide(shape[last], COLUMNS))
    elif grid:
        grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(shape[axis], CHUNK))
    fault = build.store(status, 0, Const(number, i64))
    body = For(names[axis], shape[axis], (*fetch, When(bad, (fault,), (store,))))
    context.run(build.launch(grid or (Axis("_point", 1),), (body,), origin=node.origin))


def _top_k(context: Context, node: TopK) -> None:
    """A tournament: the best of every block is kept; k times the best block gives its best and finds the next."""
    x, axis = context.view(node.x), node.axis
    values, places = (context.destination(v) for v in node.results())
    outer = [a for a in range(node.x.rank) if a != axis]
    rows = tuple(node.x.type.shape[a] for a in outer)
    names = loop_names(len(rows), "r")
    game = Tournament.over(context, x, axis, node.largest, names, origin=node.origin)
    grid = [Axis(n, d) for n, d in zip(names, rows, strict=True)]
    build = kernel(context, node)
    first = game.refill(build, symbol("_b"), "a", None)
    launch = build.launch([*grid, Axis("_b", game.blocks, grain_for(game.block, CHUNK))], first, origin=node.origin)
    context.run(launch)
    build = kernel(context, node)
    chosen = game.index(symbol("_j"))
    body = For(
        "_j",
        node.k,
        (
            *game.choose(build),
            build.store(values, values.at(chosen), game.value),
            build.store(places, places.at(chosen), game.place),
            *game.next(build),
        ),
    )
    if grid:
        work = product((node.k, game.block)) * 4
        grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(work, CHUNK))
    context.run(build.launch(grid or (Axis("_point", 1),), (body,), origin=node.origin))


def _compact(context: Context, node: Compact) -> None:
    """One walk over the mask; a place beyond the promised number of true elements is never written."""
    mask, target = context.view(node.x), context.destination(node)
    (extent,) = node.x.type.shape
    build = kernel(context, node)
    count = Local("_count", i64)
    store = build.store(target, target.at([symbol("_count")]), index_value(symbol("_i")))
    room = Call("lt", (count, index_value(node.count)), boolean)
    found = Call("and", (build.load(mask, mask.at([symbol("_i")])), room), boolean)
    step = When(found, (store, Accumulate("_count", "add", Const(1, i64))))
    body = (Let("_count", Const(0, i64)), For("_i", extent, (step,)))
    context.run(build.launch((Axis("_point", 1),), body, origin=node.origin))
