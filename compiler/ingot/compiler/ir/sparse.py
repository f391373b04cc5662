"""The template of level 2 for products with sparse matrices: the pattern is data that the kernel reads.

A *panel* is some neighbouring columns, a *block* of the depth a part of it whose part of X stays near. For every block
of every panel there is a list of *visits*, each to `together` neighbouring columns that have elements there: what a
visit adds to their sums are its *steps*. A step is an offset into X and `together` values; X lies transposed, so that
the rows of one step are neighbours and make vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingot.compiler.ir.dims import Dim, minimum, product, substitute, symbol
from ingot.compiler.ir.loops import (
    Accumulate,
    Axis,
    Call,
    Const,
    Expr,
    For,
    Index,
    Let,
    Load,
    Stmt,
    Store,
    When,
)
from ingot.runtime.dtypes import DType, boolean, f32, i64


@dataclass(frozen=True, slots=True)
class SparseProduct:
    """``acc[rows, n] = sum over the steps of n of x[.. + offset] * value``, then `stores` with ``Local("acc")``.

    `x` is the load of a row's element for a step of offset 0: its offset is over the variables of `rows`. A chunk has
    one panel and `lines` times `run` rows: those of a line are neighbours in X, and lines lie `line_stride` elements
    apart. Vectors reach past a line's end to a whole number of them, so X has elements there, of whatever value. Rows
    are a whole number of chunks, unless there is one line.

    All buffers of the pattern are i32. `starts` [panels + 1] has the first column of each panel, a multiple of `width`
    (the vector width of the stores), `bounds` [panels * depths + 1] the first visit of each block of the depth of each
    panel, `slots` [visits] a visit's first column, counted in its panel, `ends` [visits + 1] where the steps of a visit
    begin, and those of the one before end; `offsets` [steps] are elements of X, and `values` f32 [steps, together]. The
    first block of the depth visits all columns of its panel, in lists without a step where they have no element.
    """

    rows: tuple[Axis, ...]
    columns: Axis  # of constant extent
    depth: int  # K
    x: Load
    run: int
    lines: int
    line_stride: int
    starts: str
    bounds: str
    slots: str
    ends: str
    offsets: str
    values: str
    panels: int
    depths: int
    together: int
    most_columns: int  # of a panel, a multiple of `width`
    width: int
    stores: tuple[Store, ...]
    accumulator: DType = f32

    @property
    def row_count(self) -> Dim:
        """M, the product of the row axes."""
        return product(axis.extent for axis in self.rows)

    @property
    def grid(self) -> tuple[Axis, ...]:
        """Panels, and for each the rows by blocks: a panel's steps stay in a cache while they are used."""
        return Axis("panel", self.panels), Axis("row", self.row_count, self.run * self.lines)

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest, which looks for each column's visits among all."""
        n, visit, step, lane = symbol(self.columns.var), symbol("_visit"), symbol("_step"), symbol("_lane")
        place = symbol("_panel") * self.depths + symbol("_depth")
        x = Load(self.x.buffer, self.x.offset + symbol("_offset"))
        value = Load(self.values, (step + symbol("_s")) * self.together + lane)
        steps = (
            Let("_offset", _whole(self.offsets, step + symbol("_s"))),
            Accumulate("acc", "add", Call("mul", (x, value), f32)),
        )
        column = Call("sub", (Index(n), _whole(self.starts, symbol("_panel"))), i64)
        visits = (
            Let("_visit", Call("add", (_whole(self.bounds, place), Index(symbol("_v"))), i64)),
            Let("_lane", Call("sub", (column, _whole(self.slots, visit)), i64)),
            When(
                Call("and", (_compared("ge", lane, 0), _compared("lt", lane, self.together)), boolean),
                (
                    Let("_step", _whole(self.ends, visit)),
                    Let("_steps", _between(self.ends, visit)),
                    For("_s", symbol("_steps"), steps),
                ),
            ),
        )
        block = (Let("_visits", _between(self.bounds, place)), For("_v", symbol("_visits"), visits))
        sums = For("_panel", self.panels, (For("_depth", self.depths, block),))
        grid = tuple(Axis(axis.var, axis.extent) for axis in (*self.rows, self.columns))
        return grid, (Let("acc", Const(0.0, f32)), sums, *self.stores)


@dataclass(frozen=True, slots=True)
class SparseVector:
    """``acc[n] = sum over the steps of n's panel of x[.. + base + index] * value`` for one row, then `stores` with
    ``Local("acc")``.

    A panel has `width` columns, which are the lanes. A visit is to `table` neighbouring elements of x, from `bases`
    (i32, [visits]) on, which registers hold: each of its steps has an index into them and a value for each column,
    `indices` i8 and `values` f32, both [steps, width]. A column without an element has a negative index and adds
    nothing. i32 `bounds` [panels + 1] has the first visit of each panel, `ends` [visits + 1] where the steps of a visit
    begin, and those of the one before end. `x` is the load of the row's first element.
    """

    rows: tuple[Axis, ...]  # of extent 1
    columns: Axis  # of constant extent
    depth: int  # K
    x: Load
    bounds: str
    bases: str
    ends: str
    indices: str
    values: str
    panels: int
    grain: int  # panels of a chunk
    table: int
    width: int
    stores: tuple[Store, ...]
    accumulator: DType = f32

    @property
    def grid(self) -> tuple[Axis, ...]:
        """Panels."""
        return (Axis("panel", self.panels, self.grain),)

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest."""
        n = symbol(self.columns.var)
        panel, place = n // self.width, (symbol("_step") + symbol("_s")) * self.width + n % self.width
        x = Load(self.x.buffer, self.x.offset + symbol("_base") + symbol("_index"))
        product = Call("mul", (x, Load(self.values, place)), f32)
        steps = (
            Let("_index", _whole(self.indices, place)),
            When(_compared("ge", symbol("_index"), 0), (Accumulate("acc", "add", product),)),
        )
        visits = (
            Let("_visit", Call("add", (_whole(self.bounds, panel), Index(symbol("_v"))), i64)),
            Let("_base", _whole(self.bases, symbol("_visit"))),
            Let("_step", _whole(self.ends, symbol("_visit"))),
            Let("_steps", _between(self.ends, symbol("_visit"))),
            For("_s", symbol("_steps"), steps),
        )
        block = (Let("_visits", _between(self.bounds, panel)), For("_v", symbol("_visits"), visits))
        grid = tuple(Axis(axis.var, axis.extent) for axis in (*self.rows, self.columns))
        return grid, (Let("acc", Const(0.0, f32)), *block, *self.stores)


@dataclass(frozen=True, slots=True)
class BlockTranspose:
    """``y[(i * K + k) * size + j] = x[block number i, row j, k]`` for k below K and j below `size`.

    `x` is the load over the variables of `blocks`, `rows` and `depth`, affine in the latter two and contiguous (stride
    1) in the depth. The extent of `rows` may follow the block: past the last row that one is repeated.
    """

    blocks: tuple[Axis, ...]
    rows: Axis
    depth: Axis  # of constant extent
    x: Load
    y: str
    size: int

    @property
    def grid(self) -> tuple[Axis, ...]:
        """The blocks."""
        return self.blocks

    def nest(self) -> tuple[tuple[Axis, ...], tuple[Stmt, ...]]:
        """The same computation as a plain loop nest."""
        j, k = symbol("_j"), symbol(self.depth.var)
        value = Load(self.x.buffer, substitute(self.x.offset, {self.rows.var: minimum(j, self.rows.extent - 1)}))
        store = Store(self.y, (self.number * self.depth.extent + k) * self.size + j, value)
        grid = tuple(Axis(axis.var, axis.extent) for axis in self.blocks)
        return grid, (For(self.depth.var, self.depth.extent, (For("_j", self.size, (store,)),)),)

    @property
    def number(self) -> Dim:
        """The block's number, the last axis fastest."""
        number: Dim = 0
        for axis in self.blocks:
            number = number * axis.extent + symbol(axis.var)
        return number


def _whole(buffer: str, place: Dim) -> Expr:
    """The number at a place, as i64."""
    return Call("cast", (Load(buffer, place),), i64)


def _compared(fn: str, x: Dim, y: int) -> Expr:
    return Call(fn, (Index(x), Const(y, i64)), boolean)


def _between(buffer: str, place: Dim) -> Expr:
    """The number at the next place less the one at `place`."""
    return Call("sub", (_whole(buffer, place + 1), _whole(buffer, place)), i64)
