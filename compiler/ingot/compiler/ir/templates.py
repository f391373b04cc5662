"""Contraction templates of level 2: kernels whose schedule a target knows by heart, each with its plain nest as oracle.

The weight operand of a `Contraction` is *packed* in panels: element (k, n) of matrix `i` lies at
``b_offset + ((n // width) * K + k) * width + n % width`` with k running over segments and run in order, and columns
past the last one present and zero. With `dot` above 1 that many consecutive k of a column lie together, for
instructions that sum so many products: ``b_offset + ((n // width) * K + k - k % dot) * width + (n % width) * dot +
k % dot``.

Weights of a few bits (`Blocks`) are packed in the same panels, as many consecutive k of a column to each u32 as it
holds: element (k, n) is in the word ``b_offset + ((n // width) * ceil(K / per) + k // per) * width + n % width``, `per`
being ``32 // bits``. Four neighbours are in its four bytes, the next four above them in the same bytes: the lowest bit
is number ``k % 4 * 8 + k % per // 4 * bits``. Scales and zero points have one such row for each block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ingot.compiler.ir.dims import Dim, ceil_divide, product, substitute, symbol
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Index, Let, Load, Local, Stmt, Store, When
from ingot.runtime.dtypes import DType, boolean, f32, i32, i64, u32

Order: TypeAlias = Literal["auto", "tiles", "panels", "ahead"]
"""Loops of a contraction's chunk: register tiles outside and the panels of B inside, or panels outside ("ahead": with
each panel fetched while the tiles work on the one before). "auto" leaves it to the target."""

MOST_DEPTH = 768  # of a block of a `Strassen`: its panels stay in the second-level cache
LEAST_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Blocks:
    """Elements of B are ``(q - zero) * scale`` with q of `bits` bits, and `size` consecutive k of a column share one
    scale, f32 in the buffer `scales`, and one zero point, u8 in the buffer `zeros` or `zero` for all.

    With `factored` the scale multiplies the sum of each block, and not its elements. With `coarse` the elements of A
    may be rounded to 8 bits, with a scale for each block of a row.
    """

    bits: int
    size: int
    scales: str
    zeros: str | None
    zero: int
    factored: bool
    coarse: bool = False

    @property
    def per_word(self) -> int:
        """Elements of a u32."""
        return 32 // self.bits

    def element(self, b: str, word: Dim, k: Dim, place: Dim) -> Expr:
        """The element number `k` of a column, in the word `word` of `b`; its block's scale lies at `place`."""
        return self.field(Load(b, word), k, place)

    def field(self, word: Expr, k: Dim, place: Dim) -> Expr:
        """The same where the word is at hand."""
        lowest = k % 4 * 8 + k % self.per_word // 4 * self.bits
        shift = Const(lowest, u32) if isinstance(lowest, int) else Call("cast", (Index(lowest),), u32)
        bits = Call("bitand", (Call("shr", (word, shift), u32), Const(2**self.bits - 1, u32)), u32)
        number = Call("cast", (Call("bitcast", (bits,), i32),), f32)  # few processors convert numbers without a sign
        zero: Expr = Const(float(self.zero), f32)
        if self.zeros is not None:
            zero = Call("cast", (Load(self.zeros, place),), f32)
        return Call("mul", (Call("sub", (number, zero), f32), Load(self.scales, place)), f32)


@dataclass(frozen=True, slots=True)
class Contraction:
    """``acc[batch, rows, n] = sum over segments and run of a * b``, then `stores` with ``Local("acc")``.

    Covers matmul (one row axis, no segments), batched matmul (batch axes), convolution as implicit GEMM over
    channels-last data (rows = image, oy, ox; segments = ky [, kx]; run = kx and channels, contiguous), grouped
    convolution (group as a batch axis). `a` and the loads in `stores` have offsets over the axes' variables (affine,
    except that floor division and modulo may occur in row variables); `stores` also use ``columns.var``.
    A chunk covers `row_block` rows (of the product of the row axes) times `panel_block` panels of one batch point.

    With `listed` above 0 each panel has so many further steps of `dot` products, without batch axes: i64 `places`
    [panels, listed, segments and run] say where the elements of A begin, `rest` [panels, listed, width, dot] are the
    weights.
    """

    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: Axis
    segments: tuple[Axis, ...]
    run: Axis
    a: Load
    b: str
    b_offset: Dim  # over the batch variables: first element of the matrix's first panel
    width: int  # columns a panel (8, 16, 24, 32 ...)
    tile_rows: int  # rows a register tile
    row_block: Dim
    panel_block: Dim
    stores: tuple[Store, ...]
    accumulator: DType = f32
    dot: int = 1  # products of one multiply-add; above 1, A is contiguous along the run, a multiple of it long
    narrow: bool = False  # whether A and B have other types than the sums
    shift: int = 0  # what is taken off each element of A before it is multiplied: 128 makes u8 signed bytes
    order: Order = "auto"
    blocks: Blocks | None = None  # weights of a few bits: B holds u32, A and the sums are f32, there are no segments
    listed: int = 0  # further steps of a panel
    places: str = ""
    rest: str = ""

    @staticmethod
    def matmul(
        m: Dim, n: Dim, k: Dim, *, width: int = 16, tile_rows: int = 6, row_block: Dim = 6, panel_block: Dim = 1
    ) -> Contraction:
        """``c[i, j] = sum over k of a[i, k] * b[k, j]``; a [m, k] and c [m, n] are dense and row-major.

        The plainest contraction: others are made of it by replacing what differs.
        """
        row, column, step = symbol("i"), symbol("j"), symbol("k")
        return Contraction(
            batch=(),
            rows=(Axis("i", m),),
            columns=Axis("j", n),
            segments=(),
            run=Axis("k", k),
            a=Load("a", row * k + step),
            b="b",
            b_offset=0,
            width=width,
            tile_rows=tile_rows,
            row_block=row_block,
            panel_block=panel_block,
            stores=(Store("c", row * n + column, Local("acc", f32)),),
        )

    @property
    def zero(self) -> Const:
        """What the sum starts from."""
        return Const(0.0 if self.accumulator.is_float else 0, self.accumulator)

    @property
    def row_count(self) -> Dim:
        """M, the product of the row axes."""
        return product(axis.extent for axis in self.rows)

    @property
    def depth(self) -> Dim:
        """K, the product of segments and run."""
        return product(axis.extent for axis in (*self.segments, self.run))

    @property
    def panels(self) -> Dim:
        """Number of packed panels."""
        return ceil_divide(self.columns.extent, self.width)

    @property
    def panel_size(self) -> Dim:
        """Elements of B that a panel takes."""
        steps = self.depth if self.blocks is None else ceil_divide(self.depth, self.blocks.per_word)
        return steps * self.width

    @property
    def flops(self) -> Dim:
        """Useful operations, two for each multiply-add."""
        points = product(axis.extent for axis in self.batch)
        return product((2, points, self.row_count, self.depth, self.columns.extent))

    @property
    def grid(self) -> tuple[Axis, ...]:
        """Batch axes, then row index and panel index with their blocks as grains."""
        return (
            *self.batch,
            Axis("row", self.row_count, self.row_block),
            Axis("panel", self.panels, self.panel_block),
        )

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest."""
        k: Dim = 0
        for axis in (*self.segments, self.run):
            k = k * axis.extent + symbol(axis.var)
        n = symbol(self.columns.var)
        packed = self.b_offset + ((n // self.width) * self.depth + k) * self.width + n % self.width
        if self.dot > 1:
            row = ((n // self.width) * self.depth + k - k % self.dot) * self.width
            packed = self.b_offset + row + (n % self.width) * self.dot + k % self.dot
        step = self._product(self.a, Load(self.b, packed) if self.blocks is None else self._element(k, n))
        for axis in reversed((*self.segments, self.run)):
            step = For(axis.var, axis.extent, (step,))
        grid = tuple(Axis(axis.var, axis.extent) for axis in (*self.batch, *self.rows, self.columns))
        return grid, (Let("acc", self.zero), step, *self._further(), *self.stores)

    def _product(self, a: Load, b: Expr) -> Stmt:
        """acc += a * b"""
        factors: tuple[Expr, ...] = (a, b)
        if self.narrow and self.blocks is None:
            factors = tuple(Call("cast", (factor,), self.accumulator) for factor in factors)
        if self.shift:
            shift = Const(self.shift, self.accumulator)
            factors = Call("sub", (factors[0], shift), self.accumulator), factors[1]
        return Accumulate("acc", "add", Call("mul", factors, self.accumulator))

    def _further(self) -> tuple[Stmt, ...]:
        """The further steps of a panel."""
        if not self.listed:
            return ()
        axes, n, each = (*self.segments, self.run), symbol(self.columns.var), symbol("_each")
        number = (n // self.width) * self.listed + symbol("_step")
        starts: dict[str, Dim] = {axis.var: symbol(f"_place{i}") for i, axis in enumerate(axes)}
        lets = [Let(f"_place{i}", Load(self.places, number * len(axes) + i)) for i in range(len(axes))]
        a = Load(self.a.buffer, substitute(self.a.offset, starts | {axes[-1].var: starts[axes[-1].var] + each}))
        weight = Load(self.rest, (number * self.width + n % self.width) * self.dot + each)
        steps = For("_each", self.dot, (self._product(a, weight),))
        return (For("_step", self.listed, (*lets, steps)),)

    def _element(self, k: Dim, n: Dim) -> Expr:
        """The element of B in row `k` and column `n` where it is one of a few bits."""
        assert self.blocks is not None
        panel, lane = n // self.width, n % self.width
        word = self.b_offset + panel * self.panel_size + k // self.blocks.per_word * self.width + lane
        place = (panel * ceil_divide(self.depth, self.blocks.size) + k // self.blocks.size) * self.width + lane
        return self.blocks.element(self.b, word, k, place)


@dataclass(frozen=True, slots=True)
class Strassen:
    """A `Contraction` of one run by one level of Strassen's algorithm: rows, columns and depth are halved, and seven
    products of sums of quarters (`PRODUCTS`) make up for eight, in S. Winograd's form with four sums on each side
    ("On multiplication of 2 x 2 matrices", 1971). The "upper" rows are the even ones, the "lower" the odd ones: what
    is not finite, or very large, in one row reaches its neighbour only.

    The quarters of A and their sums lie in the buffer `sums`, f32 [7, `padded_rows`, `pitch`] (and some rows more), of
    which ``run`` (half the depth) elements a row count; rows from ceil(M/2) on may hold anything, as may the last of
    the lower half where M is odd. Those of B are made on the way, from the panels that a `Contraction` has, an even
    number; of the last one some columns may not be there. A chunk covers `row_block` rows of the upper half, and theirs
    of the lower, times `panel_block` panels of the left half, and theirs of the right.
    """

    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: Axis
    run: Axis
    sums: str
    padded_rows: Dim
    pitch: int
    b: str
    width: int
    row_block: int
    panel_block: int
    stores: tuple[Store, ...]
    accumulator: DType = f32

    @property
    def row_count(self) -> Dim:
        """M, the product of the row axes."""
        return product(axis.extent for axis in self.rows)

    @property
    def half_rows(self) -> Dim:
        """Rows of the upper half."""
        return ceil_divide(self.row_count, 2)

    @property
    def flops(self) -> Dim:
        """Useful operations: those of the plain product."""
        points = product(axis.extent for axis in self.batch)
        return product((2, points, self.row_count, 2, self.run.extent, self.columns.extent))

    @property
    def pairs(self) -> int:
        """Panels of the left half."""
        assert isinstance(self.columns.extent, int)
        return -(-self.columns.extent // (2 * self.width))

    @property
    def grid(self) -> tuple[Axis, ...]:
        """Batch axes, then rows of the upper half and panels of the left half with their blocks as grains."""
        return (*self.batch, Axis("row", self.half_rows, self.row_block), Axis("panel", self.pairs, self.panel_block))

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest."""
        half, left, depth = self.half_rows, self.pairs * self.width, self.run.extent
        i, j, k = symbol("half_row"), symbol("half_column"), symbol(self.run.var)

        def element(quarter: Quarter) -> Expr:
            n = j + quarter.right * left
            place = ((n // self.width) * (depth * 2) + k + depth * quarter.lower) * self.width + n % self.width
            return Load(self.b, place)

        statements: list[Stmt] = []
        for number, each in enumerate(PRODUCTS):
            a = Load(self.sums, (self.padded_rows * number + i) * self.pitch + k)
            term = Call("mul", (a, signed_sum(each.b, element)), f32)
            step = Accumulate(f"p{number}", "add", term)
            statements += [Let(f"p{number}", Const(0.0, f32)), For(self.run.var, depth, (step,))]
        for quarter, terms in RESULTS.items():
            name = f"acc{quarter.lower}{quarter.right}"
            total: Expr = Local(f"p{terms[0]}", f32)
            for number in terms[1:]:
                total = Call("add", (total, Local(f"p{number}", f32)), f32)
            statements.append(Let(name, total))
            row = i * 2 + quarter.lower
            places = {**row_places(self.rows, row), self.columns.var: j + quarter.right * left}
            stores: tuple[Stmt, ...] = tuple(_placed(store, places, Local(name, f32)) for store in self.stores)
            for is_cut, at, extent in (
                (quarter.lower, row, self.row_count),
                (quarter.right, places[self.columns.var], self.columns.extent),
            ):
                if is_cut:
                    stores = (When(Call("lt", (Index(at), _index(extent)), boolean), stores),)
            statements += stores
        grid = tuple(Axis(axis.var, axis.extent) for axis in self.batch)
        return (*grid, Axis("half_row", half), Axis("half_column", left)), tuple(statements)


def depth_blocks(depth: int) -> int | None:
    """Into how many equal blocks half the depth of a `Strassen` is cut; None where none fit."""
    for count in range(-(-depth // MOST_DEPTH), depth // LEAST_DEPTH + 1):
        if depth % count == 0:
            return count
    return None


class Quarter(NamedTuple):
    """A quarter of a matrix: whether it has the lower rows, and the right columns."""

    lower: int
    right: int


Signs = Mapping[Quarter, int]


class Product(NamedTuple):
    """One of the seven products: the signed sums of quarters that it multiplies."""

    a: Signs
    b: Signs


_11, _12, _21, _22 = Quarter(0, 0), Quarter(0, 1), Quarter(1, 0), Quarter(1, 1)
PRODUCTS: tuple[Product, ...] = (
    Product({_11: 1}, {_11: 1}),
    Product({_12: 1}, {_21: 1}),
    Product({_12: 1, _21: -1, _22: -1, _11: 1}, {_22: 1}),
    Product({_22: 1}, {_21: 1, _22: -1, _12: 1, _11: -1}),
    Product({_21: 1, _22: 1}, {_12: 1, _11: -1}),
    Product({_21: 1, _22: 1, _11: -1}, {_22: 1, _12: -1, _11: 1}),
    Product({_11: 1, _21: -1}, {_22: 1, _12: -1}),
)
RESULTS: Mapping[Quarter, tuple[int, ...]] = {_11: (0, 1), _12: (0, 5, 4, 2), _21: (0, 5, 6, 3), _22: (0, 5, 6, 4)}


def signed_sum(signs: Signs, element: Callable[[Quarter], Expr]) -> Expr:
    """The sum of the elements of quarters, f32; the first sign is positive."""
    first, *rest = signs
    total = element(first)
    for quarter in rest:
        total = Call("add" if signs[quarter] > 0 else "sub", (total, element(quarter)), f32)
    return total


def _index(dim: Dim) -> Expr:
    return Const(dim, i64) if isinstance(dim, int) else Index(dim)


def row_places(axes: Sequence[Axis], row: Dim) -> dict[str, Dim]:
    """The variables of row axes (last fastest) at the row number `row`."""
    places: dict[str, Dim] = {}
    for position in range(len(axes) - 1, -1, -1):
        axis = axes[position]
        places[axis.var] = row % axis.extent if position else row
        row = row // axis.extent
    return places


def _placed(store: Store, places: Mapping[str, Dim], acc: Local) -> Store:
    """`store` with these values of variables, and `acc` for ``Local("acc")``."""

    def visit(expr: Expr) -> Expr:
        match expr:
            case Load(buffer=buffer, offset=offset):
                return Load(buffer, substitute(offset, places))
            case Index(dim=dim):
                return Index(substitute(dim, places))
            case Local(name="acc"):
                return acc
            case Call(fn=fn, args=args, dtype=dtype):
                return Call(fn, tuple(visit(a) for a in args), dtype)
            case _:
                return expr

    return Store(store.buffer, substitute(store.offset, places), visit(store.value))


@dataclass(frozen=True, slots=True)
class Depthwise:
    """``acc[rows, x, c] = sum over taps of a[.., c] * w[tap, c]``, then `stores` with ``Local("acc")``.

    Channels-last: `a`, `w` and all loads and stores are contiguous (stride 1) or constant (stride 0) in
    ``channels.var``. `w` is the buffer's load with an offset over taps and channels. `x` is the axis that register
    tiles run along. With `dot` above 1 that many taps below each other (of the first of two axes) are summed by one
    instruction: the u8 elements of `a` times i8 weights, which lie together for each channel, zero past the last tap.
    """

    rows: tuple[Axis, ...]  # e.g. image, oy
    x: Axis
    channels: Axis
    taps: tuple[Axis, ...]  # ky, kx: constant extents
    a: Load
    w: Load
    row_block: Dim  # rows a chunk
    stores: tuple[Store, ...]
    accumulator: DType = f32
    narrow: bool = False  # whether `a` or `w` have other types than the sums
    dot: int = 1  # taps of one multiply-add

    @property
    def grid(self) -> tuple[Axis, ...]:
        """One axis: the collapsed rows."""
        return (Axis("row", product(axis.extent for axis in self.rows), self.row_block),)

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest."""
        factors: tuple[Expr, ...] = (self.a, self.w)
        if self.narrow:
            factors = tuple(Call("cast", (factor,), self.accumulator) for factor in factors)
        step: Stmt = Accumulate("acc", "add", Call("mul", factors, self.accumulator))
        for axis in reversed(self.taps):
            step = For(axis.var, axis.extent, (step,))
        grid = tuple(Axis(axis.var, axis.extent) for axis in (*self.rows, self.x, self.channels))
        zero = Const(0.0 if self.accumulator.is_float else 0, self.accumulator)
        return grid, (Let("acc", zero), step, *self.stores)


@dataclass(frozen=True, slots=True)
class Lookup:
    """``y[outer, inner] = table[x[outer, inner]]`` for u8 elements of x and a table of 256 elements of 8 bits.

    x and y are contiguous along `inner`, whose extent may follow the outer variables. `y` stores ``Local("element")``.
    """

    outer: tuple[Axis, ...]  # at least one
    inner: Axis
    x: Load
    table: str
    y: Store

    @property
    def grid(self) -> tuple[Axis, ...]:
        """The outer axes."""
        return self.outer

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest."""
        place = Let("_place", Call("cast", (self.x,), i64))
        store = Store(self.y.buffer, self.y.offset, Load(self.table, symbol("_place")))
        grid = tuple(Axis(axis.var, axis.extent) for axis in self.outer)
        return grid, (For(self.inner.var, self.inner.extent, (place, store)),)


@dataclass(frozen=True, slots=True)
class Attention:
    """``out[batch, i, e] = softmax_j(scale * sum_d q[i, d] k[j, d] + mask[i, j]) @ v[j, e]`` without the score matrix.

    `q`, `k`, `v` are loads with affine offsets over the batch variables and (queries, depth), (keys, depth),
    (keys, value) variables; depth and value are contiguous (stride 1) with constant extents. `mask` is an expression
    over batch, queries and keys variables. A row whose scores are all -inf gives NaN, as softmax does, or 0 if `guard`
    is "masked"; with "nan" a row whose weights are NaN for whatever reason gives 0.
    A chunk covers `query_block` queries of one batch point.
    """

    batch: tuple[Axis, ...]
    queries: Axis
    keys: Axis
    depth: Axis
    value: Axis
    q: Load
    k: Load
    v: Load
    mask: Expr | None
    scale: float
    out: Store  # value contains Local("acc"); offset over batch, queries, value
    query_block: Dim
    guard: Literal["none", "masked", "nan"] = "none"

    @property
    def grid(self) -> tuple[Axis, ...]:
        """Batch axes, then queries by blocks."""
        return (*self.batch, Axis(self.queries.var, self.queries.extent, self.query_block))

    def _guarded(self, value: Expr, top: Local, norm: Local) -> Expr:
        if self.guard == "none":
            return value
        lost: Expr = Call("eq", (top, Const(float("-inf"), f32)), boolean)
        if self.guard == "nan":
            lost = Call("isnan", (norm,), boolean)
        return Call("select", (lost, Const(0.0, f32), value), f32)

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest (scores are computed three times, nothing is stored)."""

        def score(suffix: str) -> tuple[tuple[Stmt, ...], Local]:
            d = f"{self.depth.var}_{suffix}"
            rename = {self.depth.var: symbol(d)}
            total = Local(f"score_{suffix}", f32)
            q = Load(self.q.buffer, substitute(self.q.offset, rename))
            k = Load(self.k.buffer, substitute(self.k.offset, rename))
            body: list[Stmt] = [
                Let(f"dot_{suffix}", Const(0.0, f32)),
                For(d, self.depth.extent, (Accumulate(f"dot_{suffix}", "add", Call("mul", (q, k), f32)),)),
            ]
            scaled: Expr = Call("mul", (Local(f"dot_{suffix}", f32), Const(self.scale, f32)), f32)
            if self.mask is not None:
                scaled = Call("add", (scaled, self.mask), f32)
            body.append(Let(total.name, scaled))
            return tuple(body), total

        first, s1 = score("max")
        second, s2 = score("sum")
        third, s3 = score("out")
        top, norm = Local("top", f32), Local("norm", f32)

        def weight(s: Local) -> Expr:
            return Call("exp", (Call("sub", (s, top), f32),), f32)

        v_term = Call("mul", (weight(s3), self.v), f32)
        keys = (self.keys.var, self.keys.extent)
        value_loop = For(
            self.value.var,
            self.value.extent,
            (
                Let("total", Const(0.0, f32)),
                For(*keys, (*third, Accumulate("total", "add", v_term))),
                Let("acc", self._guarded(Call("div", (Local("total", f32), norm), f32), top, norm)),
                self.out,
            ),
        )
        grid = tuple(Axis(axis.var, axis.extent) for axis in (*self.batch, self.queries))
        body: tuple[Stmt, ...] = (
            Let("top", Const(float("-inf"), f32)),
            For(*keys, (*first, Accumulate("top", "max", s1))),
            Let("norm", Const(0.0, f32)),
            For(*keys, (*second, Accumulate("norm", "add", weight(s2)))),
            value_loop,
        )
        return grid, body
