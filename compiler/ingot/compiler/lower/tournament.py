"""Choosing elements of a row from the best down: the best of every block is kept, and the best block gives its best.

Of equal elements the first comes first, and NaN before everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, symbol
from ingot.compiler.ir.graph import Origin
from ingot.compiler.ir.loops import Accumulate, Call, Const, Expr, For, Index, Let, Local, Stmt
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.nest import KernelBuilder, index_value
from ingot.compiler.lower.reduction import highest, lowest
from ingot.compiler.lower.views import View
from ingot.runtime.dtypes import DType, boolean, i64

BLOCK = 128  # elements whose best is kept, where the extent is not known


@dataclass(frozen=True)
class Order:
    """The order elements are chosen in: what the best of some is, and which follow a given one."""

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


@dataclass(frozen=True)
class Tournament:
    """The statements. `best` and `held` hold value and position of each block's best; the position of a block without
    elements left is the extent. `rows` are the variables of the axes other than `axis`; only elements that `accept`
    holds for take part."""

    x: View
    axis: int
    order: Order
    best: View
    held: View
    rows: tuple[str, ...]
    block: int
    accept: Callable[[Expr], Expr] | None = None

    @classmethod
    def over(
        cls,
        context: Context,
        x: View,
        axis: int,
        largest: bool,
        rows: tuple[str, ...],
        *,
        origin: Origin,
        accept: Callable[[Expr], Expr] | None = None,
    ) -> Tournament:
        """A tournament along `axis` of `x`, with storages of its own."""
        extent, dtype = x.shape[axis], x.storage.dtype
        block = max(8, -(-isqrt(extent) // 8) * 8) if isinstance(extent, int) else BLOCK
        others = tuple(d for a, d in enumerate(x.shape) if a != axis)
        shape = (*others, ceil_divide(extent, block))
        best, held = (context.temp(TensorType(kind, shape), origin=origin) for kind in (dtype, i64))
        return cls(x, axis, Order(dtype, largest), best, held, rows, block, accept)

    @property
    def extent(self) -> Dim:
        """Elements to choose from."""
        return self.x.shape[self.axis]

    @property
    def blocks(self) -> Dim:
        """Number of blocks of a row."""
        return self.best.shape[-1]

    @property
    def value(self) -> Local:
        """What `choose` has chosen."""
        return Local("_value", self.order.dtype)

    @property
    def place(self) -> Local:
        """The position of what `choose` has chosen, the extent where nothing is left."""
        return Local("_place", i64)

    def index(self, place: Dim) -> list[Dim]:
        """The index of an element of the row."""
        index: list[Dim] = [symbol(n) for n in self.rows]
        index.insert(self.axis, place)
        return index

    def refill(self, build: KernelBuilder, number: Dim, stem: str, after: tuple[Local, Local] | None) -> list[Stmt]:
        """Find the best element of block `number`, of those that come after the given one."""
        order, dtype = self.order, self.order.dtype
        start = number * self.block
        count = minimum(self.block, self.extent - start)
        top, found = Local(f"_top_{stem}", dtype), Local(f"_found_{stem}", i64)
        nothing = index_value(self.extent)

        def element(name: str) -> tuple[Expr, Expr, Expr | None]:
            place = start + symbol(name)
            value = build.load(self.x, self.x.at(self.index(place)))
            accepted = None if self.accept is None else self.accept(value)
            later = None if after is None else order.follows(value, Index(place), *after)
            counts = Call("and", (accepted, later), boolean) if accepted and later else accepted or later
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

    def choose(self, build: KernelBuilder) -> tuple[Stmt, ...]:
        """Define `value` and `place` as the best of the blocks' bests."""
        order = self.order
        row = [symbol(n) for n in self.rows]
        top, winner = Local("_top", order.dtype), Local("_winner", i64)

        def alive(name: str) -> tuple[Expr, Expr]:
            where = [*row, symbol(name)]
            position = build.load(self.held, self.held.at(where))
            left = Call("lt", (position, index_value(self.extent)), boolean)
            return build.load(self.best, self.best.at(where)), left

        held, left = alive("_c")
        again, still = alive("_d")
        hit = Call("and", (order.equal(again, top), still), boolean)
        candidate = Call("select", (hit, Index(symbol("_d")), Const(2**62, i64)), i64)
        kept = Call("select", (left, held, order.worst), order.dtype)
        chosen = [*row, symbol("_block")]
        return (
            Let(top.name, order.worst),
            For("_c", self.blocks, (order.fold(top.name, kept),), "vector"),
            Let(winner.name, Const(2**62, i64)),
            For("_d", self.blocks, (Accumulate(winner.name, "min", candidate),), "vector"),
            Let("_block", Call("min", (winner, index_value(self.blocks - 1)), i64)),
            Let(self.value.name, build.load(self.best, self.best.at(chosen))),
            Let(self.place.name, build.load(self.held, self.held.at(chosen))),
        )

    def next(self, build: KernelBuilder) -> list[Stmt]:
        """Let the block of what `choose` has chosen find its next."""
        return self.refill(build, symbol("_block"), "b", (self.value, self.place))
