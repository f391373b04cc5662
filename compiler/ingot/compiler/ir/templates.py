"""Contraction templates of level 2: kernels whose schedule a target knows by heart, each with its plain nest as oracle.

The weight operand of a `Contraction` is *packed* in panels: element (k, n) of matrix `i` lies at
``b_offset + ((n // width) * K + k) * width + n % width`` with k running over segments and run in order, and columns
past the last one present and zero. With `dot` above 1 that many consecutive k of a column lie together, for
instructions that sum so many products: ``b_offset + ((n // width) * K + k - k % dot) * width + (n % width) * dot +
k % dot``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ingot.compiler.ir.dims import Dim, ceil_divide, product, substitute, symbol
from ingot.compiler.ir.loops import Accumulate, Axis, Call, Const, Expr, For, Let, Load, Local, Stmt, Store
from ingot.runtime.dtypes import DType, boolean, f32


@dataclass(frozen=True, slots=True)
class Contraction:
    """``acc[batch, rows, n] = sum over segments and run of a * b``, then `stores` with ``Local("acc")``.

    Covers matmul (one row axis, no segments), batched matmul (batch axes), convolution as implicit GEMM over
    channels-last data (rows = image, oy, ox; segments = ky [, kx]; run = kx and channels, contiguous), grouped
    convolution (group as a batch axis). `a` and the loads in `stores` have offsets over the axes' variables (affine,
    except that floor division and modulo may occur in row variables); `stores` also use ``columns.var``.
    A chunk covers `row_block` rows (of the product of the row axes) times `panel_block` panels of one batch point.
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
        factors: tuple[Expr, ...] = (self.a, Load(self.b, packed))
        if self.narrow:
            factors = tuple(Call("cast", (factor,), self.accumulator) for factor in factors)
        if self.shift:
            shift = Const(self.shift, self.accumulator)
            factors = Call("sub", (factors[0], shift), self.accumulator), factors[1]
        step: Stmt = Accumulate("acc", "add", Call("mul", factors, self.accumulator))
        for axis in reversed((*self.segments, self.run)):
            step = For(axis.var, axis.extent, (step,))
        grid = tuple(Axis(axis.var, axis.extent) for axis in (*self.batch, *self.rows, self.columns))
        return grid, (Let("acc", self.zero), step, *self.stores)


@dataclass(frozen=True, slots=True)
class Depthwise:
    """``acc[rows, x, c] = sum over taps of a[.., c] * w[tap, c]``, then `stores` with ``Local("acc")``.

    Channels-last: `a`, `w` and all loads and stores are contiguous (stride 1) or constant (stride 0) in
    ``channels.var``. `w` is the buffer's load with an offset over taps and channels. `x` is the axis that register
    tiles run along.
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
    narrow: bool = False  # whether `a` has another type than the sums

    @property
    def grid(self) -> tuple[Axis, ...]:
        """One axis: the collapsed rows."""
        return (Axis("row", product(axis.extent for axis in self.rows), self.row_block),)

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest."""
        a: Expr = Call("cast", (self.a,), self.accumulator) if self.narrow else self.a
        step: Stmt = Accumulate("acc", "add", Call("mul", (a, self.w), self.accumulator))
        for axis in reversed(self.taps):
            step = For(axis.var, axis.extent, (step,))
        grid = tuple(Axis(axis.var, axis.extent) for axis in (*self.rows, self.x, self.channels))
        zero = Const(0.0 if self.accumulator.is_float else 0, self.accumulator)
        return grid, (Let("acc", zero), step, *self.stores)


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
