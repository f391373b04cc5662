"""Data movement: views where strides can say it, copy kernels where they cannot."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.ir.dims import Dim, maximum, minimum, modulo, product, symbol
from ingot.compiler.ir.graph import Constant, Node, Value, describe
from ingot.compiler.ir.loops import Axis, Call, Const, Expr, For, Index, Stmt
from ingot.compiler.ir.types import Shape
from ingot.compiler.lower.border import zero_border
from ingot.compiler.lower.context import Context, LoweringError, kernel
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value, loop_names, zero
from ingot.compiler.lower.pointwise import copy, fill, materialise, scalar_constant
from ingot.compiler.lower.views import View
from ingot.compiler.ops import movement as ops
from ingot.runtime.dtypes import i64


def view_of(context: Context, node: Node) -> Sequence[View] | None:
    """The views of the results of an op that moves no data, else None."""
    match node:
        case ops.Reshape(x=x):
            reshaped = context.view(x).reshape(node.type.shape)
            return None if reshaped is None else (reshaped,)
        case ops.Transpose(x=x, perm=perm):
            return (context.view(x).transpose(perm),)
        case ops.Expand(x=x):
            return (context.view(x).expand(node.type.shape),)
        case ops.Slice(x=x, starts=starts, sizes=sizes, steps=steps):
            return (context.view(x).slice(starts, sizes, steps),)
        case ops.Split(x=x, axis=axis, sizes=sizes):
            return _split(context.view(x), axis, sizes)
        case _:
            return None


def _split(view: View, axis: int, sizes: Shape) -> list[View]:
    parts: list[View] = []
    start: Dim = 0
    for size in sizes:
        starts = tuple(start if a == axis else 0 for a in range(len(view.shape)))
        shape = tuple(size if a == axis else d for a, d in enumerate(view.shape))
        parts.append(view.slice(starts, shape, (1,) * len(shape)))
        start = start + size
    return parts


def lower_movement(context: Context, node: Node) -> bool:
    """Lower a data movement op; False when `node` is not one."""
    match node:
        case ops.Reshape(x=x):
            dense = materialise(context, context.view(x), node.origin).reshape(node.type.shape)
            assert dense is not None
            _deliver(context, node, dense)
        case ops.Concat(parts=parts, axis=axis):
            target = context.destination(node)
            for part, place in zip(parts, _split(target, axis, tuple(p.type.shape[axis] for p in parts)), strict=True):
                source = context.view(part)
                if source.storage is not place.storage or source.offset != place.offset:
                    copy(context, source, place, node.origin, "concat")
        case ops.Pad():
            _pad(context, node)
        case ops.DimValues(dims=dims):
            target = context.destination(node)
            build = kernel(context, node)
            stores = [build.store(target, target.offset + i, index_value(d)) for i, d in enumerate(dims)]
            context.run(build.launch((Axis("_point", 1),), stores, origin=node.origin))
        case ops.Iota():
            _iota(context, node)
        case _:
            return False
    return True


def _deliver(context: Context, node: Node, source: View) -> None:
    """Make `source` the view of `node`'s result, copying it when the result has its place already."""
    if node in context.placements:
        copy(context, source, context.destination(node), node.origin)
    else:
        context.views[node] = source


def _literal(value: Value) -> Const:
    assert isinstance(value, Constant)
    return scalar_constant(value)


def may_be_written_inside(node: ops.Pad) -> bool:
    """Whether what is padded may be written where it is to lie, and a border around it: one of a constant, not along
    the last axis."""
    if node.mode != "constant" or not (node.value is None or isinstance(node.value, Constant)):
        return False
    plain = all(isinstance(p, int) and p >= 0 for p in node.pads)
    last = node.pads[node.x.rank - 1], node.pads[-1]
    return plain and node.x.rank > 1 and last == (0, 0) and any(p != 0 for p in node.pads)


def _pad(context: Context, node: ops.Pad) -> None:
    source = context.view(node.x)
    target = context.destination(node)
    rank = node.x.rank
    begin, end = node.pads[:rank], node.pads[rank:]
    # Negative pads crop: the part of the source that survives goes to its place.
    starts = tuple(maximum(0, -b) if b != 0 else 0 for b in begin)
    sizes = tuple(d + minimum(0, b) + minimum(0, e) for d, b, e in zip(node.x.type.shape, begin, end, strict=True))
    places = tuple(maximum(0, b) if b != 0 else 0 for b in begin)
    ones = (1,) * rank
    kept = source.slice(starts, sizes, ones)
    if node.mode == "constant":
        if node.x in context.placements and source.storage is target.storage:
            value = zero(node.type.dtype) if node.value is None else _literal(node.value)
            halo = [(b, e) for b, e in zip(begin, end, strict=True) if isinstance(b, int) and isinstance(e, int)]
            context.run(zero_border(context.unique("pad_fill"), source, halo, node.origin, value))
            return
        if node.value is not None and not isinstance(node.value, Constant):
            scalar = context.view(node.value)
            everywhere = View(scalar.storage, target.shape, (0,) * rank, scalar.offset)
            copy(context, everywhere, target, node.origin, "pad_fill")
        elif any(p != 0 for p in node.pads):
            value = zero(node.type.dtype) if node.value is None else scalar_constant(node.value)
            fill(context, target, value, node.origin, "pad_fill")
        copy(context, kept, target.slice(places, sizes, ones), node.origin, "pad")
        return
    names = loop_names(rank)
    index: list[Dim] = []
    for name, place, n, b, e in zip(names, places, sizes, begin, end, strict=True):
        i = symbol(name) - place
        if (b, e) == (0, 0):
            index.append(i)
            continue
        match node.mode:
            case "edge":
                i = minimum(maximum(i, 0), n - 1)
            case "reflect":
                near = isinstance(n, int) and isinstance(b, int) and isinstance(e, int) and max(b, e) < n
                if not near:  # perhaps further than to the other end
                    i = modulo(i, maximum(2 * (n - 1), 1))
                i = maximum(i, -i)
                back = n - 1 - i
                i = n - 1 - maximum(back, -back)
            case "wrap":
                i = modulo(i, n)
            case _:
                raise LoweringError(f"{describe(node)}: unknown pad mode {node.mode!r}")
        index.append(i)
    build = kernel(context, node)
    value = build.load(kept, kept.at(index))
    store = build.store(target, target.at([symbol(n) for n in names]), value)
    _launch_over(context, build, names, node.type.shape, (store,), node.origin)


def loops_over(names: Sequence[str], shape: Shape, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """`body` for all points of `shape`: nested loops, the innermost one a vector loop."""
    for position, (name, extent) in enumerate(zip(reversed(names), reversed(shape), strict=True)):
        body = (For(name, extent, body, "vector" if position == 0 else "serial"),)
    return body


def _launch_over(
    context: Context,
    build: KernelBuilder,
    names: Sequence[str],
    shape: Shape,
    body: tuple[Stmt, ...],
    origin: tuple[str, ...],
) -> None:
    """Launch `body` over all points of `shape`, the first of several axes on the grid."""
    if len(shape) < 2:
        context.run(build.launch((Axis("_point", 1),), loops_over(names, shape, body), origin=origin))
        return
    grid = (Axis(names[0], shape[0], grain_for(product(shape[1:]), CHUNK)),)
    context.run(build.launch(grid, loops_over(names[1:], shape[1:], body), origin=origin))


def pack_where_inside(context: Context, b: View, target: View, width: int, origin: tuple[str, ...]) -> None:
    """Pack run-time matrices [..., K, N] into `target` [..., panel, K, width], zero past column N."""
    *lead, depth, n = b.shape
    names = loop_names(len(lead) + 2)
    outer = [symbol(x) for x in names[:-2]]
    panel, k, c = symbol(names[-2]), symbol(names[-1]), symbol("_c")
    build = KernelBuilder(context.unique("pack"))
    column = panel * width + c
    inside = minimum(width, n - panel * width)
    place = target.at([*outer, panel, k, c])
    value = build.load(b, b.at([*outer, k, column]))
    rest = target.at([*outer, panel, k, inside + symbol("_rest")])
    body: tuple[Stmt, ...] = (
        For("_c", inside, (build.store(target, place, value),), "vector"),
        For("_rest", width - inside, (build.store(target, rest, zero(b.storage.dtype)),)),
    )
    grid = [Axis(x, d) for x, d in zip(names[:-2], lead, strict=True)]
    grid.append(Axis(names[-2], target.shape[-3]))
    context.run(build.launch(grid, (For(names[-1], depth, body),), origin=origin))


def _iota(context: Context, node: ops.Iota) -> None:
    start, step = context.view(node.start), context.view(node.step)
    target = context.destination(node)
    dtype = node.type.dtype
    build = kernel(context, node)
    position: Expr = Index(symbol("_i0"))
    if dtype != i64:
        position = Call("cast", (position,), dtype)
    first = scalar_constant(node.start) if isinstance(node.start, Constant) else build.load(start, start.offset)
    stride = scalar_constant(node.step) if isinstance(node.step, Constant) else build.load(step, step.offset)
    value = Call("add", (first, Call("mul", (position, stride), dtype)), dtype)
    store = build.store(target, target.at([symbol("_i0")]), value)
    context.run(build.launch((Axis("_point", 1),), (For("_i0", node.length, (store,), "vector"),), origin=node.origin))
