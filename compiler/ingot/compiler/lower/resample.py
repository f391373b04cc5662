"""Resampling along an axis as a loop nest: one weighted sum of a few rows for every row of the result."""

from __future__ import annotations

from ingot.compiler.ir.dims import Dim, product, symbol
from ingot.compiler.ir.graph import Node
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Let, Local, Stmt
from ingot.compiler.lower.context import Context, kernel
from ingot.compiler.lower.nest import CHUNK, grain_for, loop_names
from ingot.compiler.ops.resample import Resample

UNROLLED = 6  # taps that are written out, their indices and weights kept in registers


def lower_resample(context: Context, node: Node) -> bool:
    """Lower a Resample; False when `node` is none."""
    if not isinstance(node, Resample):
        return False
    x, indices, weights = context.view(node.x), context.view(node.indices), context.view(node.weights)
    target = context.destination(node)
    dtype, kind = node.type.dtype, node.weights.dtype
    shape, axis, taps = node.type.shape, node.axis, node.taps
    names = loop_names(len(shape))
    where: list[Dim] = [symbol(n) for n in names]
    build = kernel(context, node)

    def tap(number: Dim, name: str) -> tuple[list[Stmt], Expr]:
        """Statements that fetch a tap's index and weight, and its term."""
        place, weight = f"_p{name}", f"_w{name}"
        fetch: list[Stmt] = [
            Let(place, build.load(indices, indices.at([where[axis], number]))),
            Let(weight, build.load(weights, weights.at([where[axis], number]))),
        ]
        value: Expr = build.load(x, x.at([*where[:axis], symbol(place), *where[axis + 1 :]]))
        if dtype != kind:
            value = Call("cast", (value,), kind)
        return fetch, Call("mul", (value, Local(weight, kind)), kind)

    before: list[Stmt] = []
    inside: list[Stmt] = []
    if isinstance(taps, int) and taps <= UNROLLED:
        total: Expr | None = None
        for number in range(taps):
            fetch, term = tap(number, str(number))
            before += fetch
            total = term if total is None else Call("add", (total, term), kind)
        assert total is not None
    else:
        fetch, term = tap(symbol("_t"), "")
        inside += [Let("acc", Const(0.0, kind)), For("_t", taps, (*fetch, Accumulate("acc", "add", term)))]
        total = Local("acc", kind)
    result = total if dtype == kind else Call("cast", (total,), dtype)
    inside.append(build.store(target, target.at(where), result))
    last = len(shape) - 1
    if axis == last:
        body: tuple[Stmt, ...] = (For(names[last], shape[last], (*before, *inside), "vector"),)
    else:
        body = (For(names[last], shape[last], tuple(inside), "vector"),)
        for a in range(last - 1, axis, -1):
            body = (For(names[a], shape[a], body),)
        body = (*before, *body)
    outer = list(range(min(axis + 1, last)))
    grid = [Axis(names[a], shape[a]) for a in outer]
    if grid:
        grid[-1] = Axis(grid[-1].var, grid[-1].extent, grain_for(product(shape[len(outer) :]) * taps, CHUNK))
    flops = product(shape) * (2 * taps)
    context.run(build.launch(grid or (Axis("_point", 1),), body, origin=node.origin, flops=flops))
    return True
