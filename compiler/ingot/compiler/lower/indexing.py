"""Gather, scatter and top-k as loop nests."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, product, symbol
from ingot.compiler.ir.graph import Constant, Node, describe
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Index, Let, Local, Stmt, When
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.movement import loops_over
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value, loop_names
from ingot.compiler.lower.pointwise import copy
from ingot.compiler.lower.reduction import highest, lowest
from ingot.compiler.lower.views import View, dense_strides
from ingot.compiler.ops.indexing import Scatter, TopK
from ingot.compiler.ops.movement import Gather
from ingot.runtime.dtypes import DType, boolean, i64

COLUMNS = 512  # elements of a scattered row that make one chunk
BLOCK = 128  # elements whose best is kept, where the extent is not known


def lower_indexing(context: Context, node: Node) -> bool:
    """Lower a Gather, Scatter or TopK; False when `node` is none of them."""
    match node:
        case Gather():
            _gather(context, node)
        case Scatter():
            _scatter(context, node)
        case TopK():
            _top_k(context, node)
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
    data, target = context.view(node.data), context.destination(node)
    axis, extent = node.axis, node.data.type.shape[node.axis]
    before, picks, after = node.data.type.shape[:axis], node.indices.type.shape, node.data.type.shape[axis + 1 :]
    names = loop_names(len(before) + len(picks) + len(after))
    where: list[Dim] = [symbol(n) for n in names]
    chosen, inner = where[len(before) : len(before) + len(picks)], where[len(where) - len(after) :]
    build = kernel(context, node)
    source = data.at([*where[: len(before)], symbol("_place"), *inner])
    body: tuple[Stmt, ...] = (build.store(target, target.at(where), build.load(data, source)),)
    body = loops_over(names[len(names) - len(after) :], after, body)
    known = _known_indices(context, node)
    if known is not None:
        statements: tuple[Stmt, ...] = (Let("_place", build.load(known, known.at(chosen))), *body)
    else:
        indices = context.view(node.indices)
        raw = build.load(indices, indices.at(chosen))
        status, number = context.fault(f"{describe(node)}: an index is out of range for axis {axis}")
        fetch, bad = checked_index(raw, node.indices.type.dtype, extent, "_place")
        statements = (*fetch, When(bad, (build.store(status, 0, Const(number, i64)),), body))
    grid = [Axis(n, e) for n, e in zip(names, (*before, *picks), strict=False)]
    if grid:
        grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(product(after), CHUNK))
    context.run(build.launch(grid or (Axis("_point", 1),), statements, origin=node.origin))


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


@dataclass(frozen=True)
class _Order:
    """The order of a top-k: what the best of some elements is, and which elements follow a given one."""

    dtype: DType
    largest: bool

    @property
    def worst(self) -> Const:
        """What an element that does not count is taken for."""
        return Const(lowest(self.dtype) if self.largest else highest(self.dtype), self.dtype)

    def fold(self, name: str, value: Expr) -> Accumulate:
        """``name = best(name, value)``; NaN is better than anything."""
        return Accumulate(name, "max" if self.largest else "min", value)

    def equal(self, a: Expr, b: Expr) -> Expr:
        """a == b, NaN equal to itself."""
        same: Expr = Call("eq", (a, b), boolean)
        if not self.dtype.is_float:
            return same
        both = Call("and", (Call("isnan", (a,), boolean), Call("isnan", (b,), boolean)), boolean)
        return Call("or", (same, both), boolean)

    def follows(self, value: Expr, place: Expr, before: Expr, place_before: Expr) -> Expr:
        """Whether an element comes after another in the order."""
        worse: Expr = Call("lt" if self.largest else "gt", (value, before), boolean)
        if self.dtype.is_float:
            number = Call("not", (Call("isnan", (value,), boolean),), boolean)
            worse = Call("or", (worse, Call("and", (Call("isnan", (before,), boolean), number), boolean)), boolean)
        later = Call("and", (self.equal(value, before), Call("gt", (place, place_before), boolean)), boolean)
        return Call("or", (worse, later), boolean)


def _top_k(context: Context, node: TopK) -> None:
    """A tournament: the best of every block is kept; k times the best block gives its best and finds the next."""
    x, axis = context.view(node.x), node.axis
    values, places = (context.destination(v) for v in node.results())
    extent = node.x.type.shape[axis]
    block = max(8, -(-isqrt(extent) // 8) * 8) if isinstance(extent, int) else BLOCK
    blocks = ceil_divide(extent, block)
    outer = [a for a in range(node.x.rank) if a != axis]
    rows = tuple(node.x.type.shape[a] for a in outer)
    best = context.temp(TensorType(node.x.type.dtype, (*rows, blocks)), origin=node.origin)
    held = context.temp(TensorType(i64, (*rows, blocks)), origin=node.origin)
    names = loop_names(len(rows), "r")
    kernels = _Tournament(context, node, x, best, held, names, block)
    grid = [Axis(n, d) for n, d in zip(names, rows, strict=True)]
    build = kernel(context, node)
    first = kernels.refill(build, symbol("_b"), "a", None)
    launch = build.launch([*grid, Axis("_b", blocks, grain_for(block, CHUNK))], first, origin=node.origin)
    context.run(launch)
    build = kernel(context, node)
    body = For("_j", node.k, kernels.choose(build, values, places, blocks))
    if grid:
        work = product((node.k, block)) * 4
        grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(work, CHUNK))
    context.run(build.launch(grid or (Axis("_point", 1),), (body,), origin=node.origin))


@dataclass(frozen=True)
class _Tournament:
    """The statements of a top-k. `best` and `held` hold value and position of each block's best; the position of a
    block without elements left is the extent."""

    context: Context
    node: TopK
    x: View
    best: View
    held: View
    rows: tuple[str, ...]
    block: int

    @property
    def order(self) -> _Order:
        """The order elements are chosen in."""
        return _Order(self.x.storage.dtype, self.node.largest)

    @property
    def extent(self) -> Dim:
        """Elements to choose from."""
        return self.node.x.type.shape[self.node.axis]

    def index(self, place: Dim) -> list[Dim]:
        """The index of an element of the row."""
        index: list[Dim] = [symbol(n) for n in self.rows]
        index.insert(self.node.axis, place)
        return index

    def refill(self, build: KernelBuilder, number: Dim, stem: str, after: tuple[Local, Local] | None) -> list[Stmt]:
        """Find the best element of block `number`, of those that come after the given one."""
        order, dtype = self.order, self.x.storage.dtype
        start = number * self.block
        count = minimum(self.block, self.extent - start)
        top, found = Local(f"_top_{stem}", dtype), Local(f"_found_{stem}", i64)
        nothing = index_value(self.extent)

        def element(name: str) -> tuple[Expr, Expr, Expr | None]:
            place = start + symbol(name)
            value = build.load(self.x, self.x.at(self.index(place)))
            counts = None if after is None else order.follows(value, Index(place), *after)
            return value, Index(place), counts

        value, _, counts = element(f"_i_{stem}")
        kept = value if counts is None else Call("select", (counts, value, order.worst), dtype)
        again, place, counts = element(f"_h_{stem}")
        hit = order.equal(again, top)
        if counts is not None:
            hit = Call("and", (hit, counts), boolean)
        where = [*(symbol(n) for n in self.rows), number]
        return [
            Let(top.name, order.worst),
            For(f"_i_{stem}", count, (order.fold(top.name, kept),), "vector"),
            Let(found.name, nothing),
            For(
                f"_h_{stem}",
                count,
                (Accumulate(found.name, "min", Call("select", (hit, place, nothing), i64)),),
                "vector",
            ),
            build.store(self.best, self.best.at(where), top),
            build.store(self.held, self.held.at(where), found),
        ]

    def choose(self, build: KernelBuilder, values: View, places: View, blocks: Dim) -> tuple[Stmt, ...]:
        """Take the best of the blocks' bests, write it as result ``_j``, and find its block's next."""
        order, dtype = self.order, self.x.storage.dtype
        row = [symbol(n) for n in self.rows]
        top, winner = Local("_top", dtype), Local("_winner", i64)
        value, place = Local("_value", dtype), Local("_place", i64)

        def alive(name: str) -> tuple[Expr, Expr]:
            where = [*row, symbol(name)]
            position = build.load(self.held, self.held.at(where))
            left = Call("lt", (position, index_value(self.extent)), boolean)
            return build.load(self.best, self.best.at(where)), left

        held, left = alive("_c")
        again, still = alive("_d")
        hit = Call("and", (order.equal(again, top), still), boolean)
        candidate = Call("select", (hit, Index(symbol("_d")), Const(2**62, i64)), i64)
        last = Call("min", (winner, index_value(blocks - 1)), i64)
        chosen = [*row, symbol("_block")]
        return (
            Let(top.name, order.worst),
            For("_c", blocks, (order.fold(top.name, Call("select", (left, held, order.worst), dtype)),), "vector"),
            Let(winner.name, Const(2**62, i64)),
            For("_d", blocks, (Accumulate(winner.name, "min", candidate),), "vector"),
            Let("_block", last),
            Let(value.name, build.load(self.best, self.best.at(chosen))),
            Let(place.name, build.load(self.held, self.held.at(chosen))),
            build.store(values, values.at(self.index(symbol("_j"))), value),
            build.store(places, places.at(self.index(symbol("_j"))), place),
            *self.refill(build, symbol("_block"), "b", (value, place)),
        )
