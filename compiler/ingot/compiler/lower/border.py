"""Borders around what convolutions read, most often of zeros."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.ir.dims import Dim, multiply, product, symbol
from ingot.compiler.ir.loops import Axis, Call, Const, Expr, For, Index, Stmt, When
from ingot.compiler.ir.program import Launch
from ingot.compiler.lower.nest import CHUNK, KernelBuilder, grain_for, index_value, loop_names, zero
from ingot.compiler.lower.views import View
from ingot.runtime.dtypes import boolean, i64


def zero_border(
    name: str, view: View, halo: Sequence[tuple[int, int]], origin: tuple[str, ...], value: Const | None = None
) -> Launch:
    """The launch of a kernel called `name` that makes the `halo` elements around `view` `value`, 0 unless given. The
    axes after the last bordered one, of which there must be some, are dense."""
    bordered = [a for a, (low, high) in enumerate(halo) if low or high]
    inner = bordered[-1]
    rank = len(view.shape)
    names = loop_names(rank, "z")
    tail = product(view.shape[inner + 1 :])
    build = KernelBuilder(name)
    nothing = zero(view.storage.dtype) if value is None else value
    index = [symbol(n) - halo[a][0] for a, n in enumerate(names[: inner + 1])] + [0] * (rank - inner - 1)

    def clear(start: Dim, count: Dim, name: str) -> Stmt:
        """Zero `count` positions of axis `inner` from `start` on."""
        place = [*index[:inner], start, *([0] * (rank - inner - 1))]
        return For(name, multiply(count, tail), (build.store(view, view.at(place) + symbol(name), nothing),), "vector")

    low, high = halo[inner]
    extent = view.shape[inner]
    sides = [clear(-low, low, "_left")] if low else []
    if high:
        sides.append(clear(extent, high, "_right"))
    outer = [a for a in bordered if a != inner]
    body: tuple[Stmt, ...] = tuple(sides)
    if outer:
        outside: Expr = Const(False, boolean)
        for a in outer:
            below = Call("lt", (Index(symbol(names[a])), Const(halo[a][0], i64)), boolean)
            beyond = Call("ge", (Index(symbol(names[a])), index_value(view.shape[a] + halo[a][0])), boolean)
            for test in (below, beyond):
                outside = Call("or", (outside, test), boolean)
        whole = clear(-low, extent + low + high, "_all")
        body = (When(outside, (whole,), body),)
    grid = [Axis(names[a], view.shape[a] + halo[a][0] + halo[a][1]) for a in range(inner)]
    if not grid:
        grid = [Axis("_point", 1)]
    else:
        last = grid[-1]
        grid[-1] = Axis(last.var, last.extent, grain_for(multiply(low + high, tail), CHUNK * 4))
    return build.launch(grid, body, origin=origin)
