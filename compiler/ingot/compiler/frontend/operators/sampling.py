"""GridSample and RoiAlign: an image read at places that the data gives.

Channels are made the last axis, so that every neighbour of a place is one row of a Gather; the rows are weighted and
summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as cartesian

import numpy as np

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.operators.resize import Arithmetic, cubic
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean
from ingot.runtime.dtypes import f32, i64

TABLE = Table()
onnx_op = TABLE.onnx_op


class _Image:
    """An image [N, C, *spatial] as rows of channels."""

    def __init__(self, ctx: Context, x: Value) -> None:
        self.ctx = ctx
        self.spatial: Dims = x.type.shape[2:]
        turned = ctx.build(Transpose, x, (0, *range(2, x.rank), 1))
        self.images: Dim = x.shape[0]
        self.rows = ctx.build(Reshape, turned, (dims.product((x.shape[0], *self.spatial)), x.shape[1]))

    def pixels(self, images: Value, index: Sequence[Value]) -> Value:
        """The channels at integer places inside the image: [*places, C]. `images` (i64) chooses the image."""
        total: Value = images
        for extent, place in zip(self.spatial, index, strict=True):
            scaled = self.ctx.build(ops.Mul, total, self.ctx.dim_values((extent,), True))
            total = self.ctx.pointwise(ops.Add, scaled, place)
        return self.ctx.build(Gather, self.rows, total, 0)


def _kept(ctx: Context, place: Value, extent: Dim) -> Value:
    """Whole f32 numbers as i64 places inside an axis; NaN becomes 0."""
    a = Arithmetic(ctx)
    number = a.choose(ctx.build(ops.Equal, place, place), place, 0.0)
    return ctx.build(ops.Cast, ctx.build(ops.Clip, number, a.number(0.0), a.dim(extent - 1)), i64)


def _reflected(ctx: Context, place: Value, low: Value, high: Value) -> Value:
    """`place` mirrored at both borders as often as it takes to lie between them."""
    a = Arithmetic(ctx)
    span = a(ops.Max, a(ops.Sub, high, low), 1e-30)
    period = a(ops.Mul, span, 2.0)
    moved = a(ops.Mod, a(ops.Sub, place, low), period)
    folded = a(ops.Min, moved, a(ops.Sub, period, moved))
    outside = ctx.build(ops.Or, ctx.build(ops.Less, place, low), ctx.build(ops.Greater, place, high))
    return a.choose(outside, a(ops.Add, low, folded), place)


@onnx_op("GridSample", since=16)
def grid_sample(ctx: Context) -> Results:
    x, grid = ctx.operand(0), ctx.operand(1)
    mode = ctx.attribute("mode", "bilinear" if ctx.opset < 20 else "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    padding, corners = ctx.attribute("padding_mode", "zeros"), bool(ctx.attribute("align_corners", 0))
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise ctx.error(f"unknown mode {mode!r} or padding_mode {padding!r}")
    rank = x.rank - 2
    if rank < 1 or grid.rank != x.rank or grid.shape[-1] != rank or not x.dtype.is_float:
        raise ctx.error(f"the grid {grid.type} does not fit {x.type}")
    a, image = Arithmetic(ctx), _Image(ctx, x)
    out: Dims = grid.type.shape[1:-1]
    places = grid if grid.dtype == f32 else ctx.build(ops.Cast, grid, f32)
    ctx.equal(x.shape[0], grid.shape[0])
    images = ctx.build(Reshape, counted(ctx, x.shape[0], i64), (x.shape[0], *(1,) * len(out)))
    lines: list[_Line] = []
    for axis, extent in enumerate(image.spatial):
        part = ctx.build(Slice, places, (*(0,) * (rank + 1), rank - 1 - axis), (*grid.shape[:-1], 1), (1,) * grid.rank)
        place = ctx.build(Reshape, part, grid.type.shape[:-1])
        lines.append(_Line(ctx, place, extent, mode, padding, corners))
    total: Value | None = None
    for taps in cartesian(*(line.taps for line in lines)):
        index, weight = [tap[0] for tap in taps], None
        for _, share in taps:
            if share is not None:
                weight = share if weight is None else a(ops.Mul, weight, share)
        term = image.pixels(images, index)
        if weight is not None:
            column = ctx.build(Reshape, weight, (*weight.shape, 1))
            column = column if column.dtype == x.dtype else ctx.build(ops.Cast, column, x.dtype)
            term = ctx.build(ops.Mul, term, column)
        total = term if total is None else ctx.build(ops.Add, total, term)
    assert total is not None
    return ctx.build(Transpose, total, (0, total.rank - 1, *range(1, total.rank - 1)))


class _Line:
    """Where a grid's coordinate falls on one axis: places inside it, each with its weight (None is 1)."""

    def __init__(self, ctx: Context, given: Value, extent: Dim, mode: str, padding: str, corners: bool) -> None:
        self.ctx, self.extent, self.padding = ctx, extent, padding
        a = Arithmetic(ctx)
        size = a.dim(extent)
        shifted = a(ops.Add, given, 1.0)
        if corners:
            self.low, self.high = a.number(0.0), a.dim(extent - 1)
            place: Value = a(ops.Mul, a(ops.Mul, shifted, 0.5), self.high)
        else:
            self.low, self.high = a.number(-0.5), a(ops.Sub, size, 0.5)
            place = a(ops.Mul, a(ops.Sub, a(ops.Mul, shifted, size), 1.0), 0.5)
        if mode == "nearest":
            place = ctx.build(ops.Round, place)
        if mode == "cubic":  # the neighbours alone are kept inside, as PyTorch does
            pass
        elif padding == "border":
            place = ctx.build(ops.Clip, place, a.number(0.0), a.dim(extent - 1))
        elif padding == "reflection":
            place = _reflected(ctx, place, self.low, self.high)
        if mode == "nearest":
            self.taps = [self._tap(place, None)]
            return
        first = ctx.build(ops.Floor, place)
        if mode == "linear":
            share = a(ops.Sub, place, first)
            self.taps = [
                self._tap(first, a(ops.Sub, a.number(1.0), share)),
                self._tap(a(ops.Add, first, 1.0), share),
            ]
            return
        self.taps = []
        for step in (-1.0, 0.0, 1.0, 2.0):
            neighbour = a(ops.Add, first, step)
            distance = ctx.build(ops.Abs, a(ops.Sub, neighbour, place))
            self.taps.append(self._tap(neighbour, cubic(ctx, distance, -0.75)))

    def _tap(self, place: Value, weight: Value | None) -> tuple[Value, Value | None]:
        """A whole place as an index; outside of the axis it weighs nothing, or stands for one inside."""
        ctx, a = self.ctx, Arithmetic(self.ctx)
        if self.padding == "zeros":
            above = ctx.build(ops.GreaterOrEqual, place, a.number(0.0))
            inside = ctx.build(ops.And, above, ctx.build(ops.LessOrEqual, place, a.dim(self.extent - 1)))
            weight = a.choose(inside, a.number(1.0) if weight is None else weight, 0.0)
        elif self.padding == "reflection":
            place = ctx.build(ops.Round, _reflected(ctx, place, self.low, self.high))
        return _kept(ctx, place, self.extent), weight


@onnx_op("RoiAlign", since=10)
def roi_align(ctx: Context) -> Results:
    """Each bin of a region is the mean (or maximum) of `sampling_ratio` ** 2 places, read bilinearly."""
    x, rois, batch = ctx.operand(0), ctx.operand(1), ctx.operand(2)
    height, width = ctx.attribute("output_height", 1), ctx.attribute("output_width", 1)
    samples, scale = ctx.attribute("sampling_ratio", 0), ctx.attribute("spatial_scale", 1.0)
    mode, pixels = ctx.attribute("mode", "avg"), "output_half_pixel"
    if ctx.opset >= 16:
        pixels = ctx.attribute("coordinate_transformation_mode", "half_pixel")
    if mode not in ("avg", "max") or pixels not in ("half_pixel", "output_half_pixel"):
        raise ctx.error(f"unknown mode {mode!r} or coordinate_transformation_mode {pixels!r}")
    if samples < 1:
        raise ctx.unsupported("RoiAlign with a number of samples that depends on the regions", "set sampling_ratio")
    if x.rank != 4 or rois.rank != 2 or x.dtype != f32:
        raise ctx.error(f"regions {rois.type} do not fit {x.type}: f32 images of rank 4 are needed")
    a, image, count = Arithmetic(ctx), _Image(ctx, x), rois.shape[0]
    images = batch if batch.dtype == i64 else ctx.build(ops.Cast, batch, i64)
    images = ctx.build(Reshape, images, (count, *(1,) * 4))

    def corner(column: int) -> Value:
        part = ctx.build(Slice, rois, (0, column), (count, 1), (1, 1))
        scaled = a(ops.Mul, part, scale)
        return a(ops.Sub, scaled, 0.5) if pixels == "half_pixel" else scaled

    def line(start: Value, end: Value, bins: int, extent: Dim) -> tuple[Value, Value, Value, Value]:
        """Places of all samples along one axis, [regions, bins * samples]: two neighbours and their weights."""
        length = a(ops.Sub, end, start)
        if pixels != "half_pixel":
            length = a(ops.Max, length, 1.0)
        steps = np.arange(bins).repeat(samples) + np.tile((np.arange(samples) + 0.5) / samples, bins)
        share = ctx.constant((steps / bins).astype(np.float32).reshape(1, -1))
        place = a(ops.Add, start, a(ops.Mul, length, share))
        far = ctx.build(
            ops.Or, ctx.build(ops.Less, place, a.number(-1.0)), ctx.build(ops.Greater, place, a.dim(extent))
        )
        place = ctx.build(ops.Clip, place, a.number(0.0), a.dim(extent - 1))
        low = ctx.build(ops.Floor, place)
        above = a(ops.Sub, place, low)
        below = a(ops.Sub, a.number(1.0), above)
        below, above = (a.choose(far, a.number(0.0), w) for w in (below, above))
        return _kept(ctx, low, extent), _kept(ctx, a(ops.Add, low, 1.0), extent), below, above

    rows = line(corner(1), corner(3), height, x.shape[2])
    columns = line(corner(0), corner(2), width, x.shape[3])
    tall = [ctx.build(Reshape, v, (count, height, samples, 1, 1)) for v in rows]
    wide = [ctx.build(Reshape, v, (count, 1, 1, width, samples)) for v in columns]
    join: Callable[..., ops.Binary] = ops.Add if mode == "avg" else ops.Max
    total: Value | None = None
    for i, j in cartesian((0, 1), (0, 1)):
        weight = a(ops.Mul, tall[2 + i], wide[2 + j])
        pixel = image.pixels(images, (tall[i], wide[j]))
        term = ctx.build(ops.Mul, pixel, ctx.build(Reshape, weight, (*weight.shape, 1)))
        total = term if total is None else ctx.build(join, total, term)
    assert total is not None
    pooled = ctx.build(ReduceMean if mode == "avg" else ReduceMax, total, (2, 4), False)
    return ctx.build(Transpose, pooled, (0, 3, 1, 2))
