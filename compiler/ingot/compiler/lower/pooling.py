"""Pooling, arg-reductions, cumulative sums and products as loop nests."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.ir.dims import Dim, ceil_divide, maximum, minimum, product, symbol
from ingot.compiler.ir.graph import Node
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Let, Local, Reduction, Stmt
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.contraction import wide_type
from ingot.compiler.lower.nest import CHUNK, grain_for, index_value, loop_names
from ingot.compiler.lower.reduction import COLUMN_BLOCK, highest, lowest
from ingot.compiler.ops import linear, reduction
from ingot.runtime.dtypes import boolean, i64


def lower_window(context: Context, node: Node) -> bool:
    """Lower a pool, an arg-reduction, cumulative sums or products; False when `node` is none of them."""
    match node:
        case linear.MaxPool() | linear.AveragePool():
            _pool(context, node)
        case reduction.ArgMax() | reduction.ArgMin():
            _arg(context, node)
        case reduction.CumSum():
            _cumulative(context, node, "add", 0)
        case reduction.CumProd():
            _cumulative(context, node, "mul", 1)
        case _:
            return False
    return True


def _pool(context: Context, node: linear.MaxPool | linear.AveragePool) -> None:
    x, y = context.view(node.x), context.destination(node)
    rank = len(node.kernel)
    if not node.channels_last:
        order = (0, *range(2, rank + 2), 1)
        x, y = x.transpose(order), y.transpose(order)
    dtype = node.type.dtype
    kind = wide_type(dtype)
    outs = loop_names(rank, "o")
    taps = loop_names(rank, "t")
    build = kernel(context, node)
    index: list[Dim] = [symbol("_b")]
    counts: list[Dim] = []
    whole: list[Dim] = []
    loops: list[tuple[str, Dim]] = []
    for axis in range(rank):
        extent = x.shape[1 + axis]
        low, high = node.pads[axis], node.pads[rank + axis]
        dilation, size = node.dilations[axis], node.kernel[axis]
        start = symbol(outs[axis]) * node.strides[axis] - low
        inside = low == 0 and high == 0 and not node.ceil_mode
        first: Dim = 0 if low == 0 else maximum(0, -(start // dilation))
        last: Dim = size if inside else minimum(size, (extent - start + dilation - 1) // dilation)
        loops.append((taps[axis], last - first if inside else maximum(0, last - first)))
        index.append(start + (symbol(taps[axis]) + first) * dilation)
        counts.append(last - first)
        # Windows that reach past the padding (ceil_mode) count only what lies inside it.
        beyond = (extent + high - start + dilation - 1) // dilation
        whole.append(minimum(size, beyond) if node.ceil_mode else size)
    value: Expr = build.load(x, x.at([*index, symbol("_c")]))
    if isinstance(node, linear.MaxPool):
        start_value, step = Const(lowest(dtype), dtype), Accumulate("acc", "max", value)
        result: Expr = Local("acc", dtype)
    else:
        if kind != dtype:
            value = Call("cast", (value,), kind)
        start_value, step = Const(0.0, kind), Accumulate("acc", "add", value)
        count = product(whole) if node.include_pad else product(counts)
        divisor: Expr = (
            Const(float(count), kind) if isinstance(count, int) else Call("cast", (index_value(count),), kind)
        )
        result = Call("div", (Local("acc", kind), divisor), kind)
        if kind != dtype:
            result = Call("cast", (result,), dtype)
    body: tuple[Stmt, ...] = (step,)
    for name, extent in reversed(loops):
        body = (For(name, extent, body),)
    where = [symbol("_b"), *(symbol(o) for o in outs), symbol("_c")]
    statements: tuple[Stmt, ...] = (Let("acc", start_value), *body, build.store(y, y.at(where), result))
    channels = x.shape[-1]
    inner: tuple[Stmt, ...] = (For("_c", channels, statements, "vector"),)
    for name, extent in zip(reversed(outs[1:]), reversed(y.shape[2:-1]), strict=True):
        inner = (For(name, extent, inner),)
    work = product(node.kernel)
    inside_row = product((*y.shape[2:-1], channels)) * work
    grid = [Axis("_b", x.shape[0]), Axis(outs[0], y.shape[1], grain_for(inside_row, CHUNK))]
    context.run(build.launch(grid, inner, origin=node.origin, flops=product(node.type.shape) * work))


def _arg(context: Context, node: reduction.ArgMax | reduction.ArgMin) -> None:
    """Two passes: the extremum, then the first (or last) place where it, or a NaN, stands."""
    x, y = context.view(node.x), context.destination(node)
    dtype = node.x.type.dtype
    rank, axis = node.x.rank, node.axis
    names = loop_names(rank)
    index: Sequence[Dim] = [symbol(n) for n in names]
    extent = node.x.type.shape[axis]
    build = kernel(context, node)
    value = build.load(x, x.at(index))
    biggest = isinstance(node, reduction.ArgMax)
    best = Local("best", dtype)
    hit: Expr = Call("eq", (value, best), boolean)
    if dtype.is_float:
        hit = Call("or", (hit, Call("isnan", (value,), boolean)), boolean)
    place = index_value(index[axis])
    miss = Const(-1, i64) if node.last else index_value(extent)
    candidate = Call("select", (hit, place, miss), i64)
    where: list[Dim] = [0 if a == axis else i for a, i in enumerate(index) if node.keepdims or a != axis]
    statements: tuple[Stmt, ...] = (
        Let("best", Const(lowest(dtype) if biggest else highest(dtype), dtype)),
        For(names[axis], extent, (Accumulate("best", "max" if biggest else "min", value),)),
        Let("found", miss),
        For(
            names[axis] + "b",
            extent,
            _renamed(names[axis], Accumulate("found", "max" if node.last else "min", candidate)),
        ),
        build.store(y, y.at(where), Local("found", i64)),
    )
    grid = [Axis(n, d) for a, (n, d) in enumerate(zip(names, node.x.type.shape, strict=True)) if a != axis]
    context.run(build.launch(grid or (Axis("_point", 1),), statements, origin=node.origin))


def _renamed(name: str, step: Accumulate) -> tuple[Stmt, ...]:
    from ingot.compiler.ir.dims import substitute
    from ingot.compiler.lower.nest import map_dims

    renamed: Stmt = map_dims(step, lambda d: substitute(d, {name: symbol(name + "b")}))
    return (renamed,)


def _cumulative(context: Context, node: reduction.Cumulative, combine: Reduction, identity: int) -> None:
    """One pass along the axis; lanes run along the last axis where it is another one."""
    x, y = context.view(node.x), context.destination(node)
    dtype, shape, axis = node.type.dtype, node.x.type.shape, node.axis
    names, last = loop_names(node.x.rank), node.x.rank - 1
    index: list[Dim] = [symbol(n) for n in names]
    if node.reverse:
        index[axis] = shape[axis] - 1 - symbol(names[axis])
    if axis != last:
        index[last] = symbol("_column") * COLUMN_BLOCK + symbol("_lane")
    build = kernel(context, node)
    kind = wide_type(dtype)
    value: Expr = build.load(x, x.at(index))
    total: Expr = Local("total", kind)
    if kind != dtype:
        value, total = Call("cast", (value,), kind), Call("cast", (total,), dtype)
    take = Accumulate("total", combine, value)
    put = build.store(y, y.at(index), total)
    order: tuple[Stmt, ...] = (put, take) if node.exclusive else (take, put)
    start = Const(float(identity) if kind.is_float else identity, kind)
    statements: tuple[Stmt, ...] = (Let("total", start), For(names[axis], shape[axis], order))
    grid = [Axis(n, d) for a, (n, d) in enumerate(zip(names, shape, strict=True)) if a not in (axis, last)]
    if axis != last:
        inside = minimum(COLUMN_BLOCK, shape[last] - symbol("_column") * COLUMN_BLOCK)
        statements = (For("_lane", inside, statements, "vector"),)
        grid.append(Axis("_column", ceil_divide(shape[last], COLUMN_BLOCK)))
    elif grid:
        grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(shape[axis], CHUNK))
    context.run(build.launch(grid or (Axis("_point", 1),), statements, origin=node.origin, flops=product(shape)))
