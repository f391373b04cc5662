"""AffineGrid, GridSample, RoiAlign, MaxRoiPool and DeformConv: an image read at places that the data gives.

Channels are made the last axis, so that every neighbour of a place is one row of a Gather; the rows are weighted and
summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as cartesian

import numpy as np

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.operators.resize import Arithmetic, cubic
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Concat, Gather, Reshape, Slice, Transpose
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


@onnx_op("AffineGrid", since=20)
def affine_grid(ctx: Context) -> Results:
    """theta [N, r, r + 1] times the coordinates (x, y, .., 1) of each place, from -1 to 1: [N, *extents, r].

    The standard's own body of the operator fails for one image.
    """
    theta, (images, _, *extents) = ctx.operand(0), ctx.dims(1, "the size")
    rank, corners, a = len(extents), bool(ctx.attribute("align_corners", 0)), Arithmetic(ctx)
    if rank not in (2, 3) or theta.rank != 3 or theta.shape[1:] != (rank, rank + 1) or not theta.dtype.is_float:
        raise ctx.error(f"theta {theta.type} does not fit an image of {rank} axes")
    ctx.equal(theta.shape[0], images)
    ones = ctx.expand(a.number(1.0), (*extents, 1))
    lines: list[Value] = []
    for axis, extent in enumerate(extents):
        gaps = a(ops.Max, a.dim(extent - 1), 1.0) if corners else a.dim(extent)
        middle = a(ops.Mul, a.dim(extent - 1), 0.5)
        place = a(ops.Sub, ctx.build(ops.Cast, counted(ctx, extent, i64), f32), middle)
        line = a(ops.Div, a(ops.Mul, place, 2.0), gaps)
        line = ctx.build(Reshape, line, (*(1,) * axis, extent, *(1,) * (rank - axis)))
        lines.insert(0, ctx.expand(line, (*extents, 1)))
    coordinates: Value = ctx.build(Concat, (*lines, ones), rank)
    coordinates = ctx.build(Reshape, coordinates, (dims.product(extents), rank + 1))
    if theta.dtype != f32:
        coordinates = ctx.build(ops.Cast, coordinates, theta.dtype)
    grid = ctx.build(MatMul, coordinates, ctx.build(Transpose, theta, (0, 2, 1)))
    return ctx.build(Reshape, grid, (theta.shape[0], *extents, rank))


@onnx_op("GridSample", since=16)
def grid_sample(ctx: Context) -> Results:
    x, grid = ctx.operand(0), ctx.operand(1)
    mode = ctx.attribute("mode", "bilinear" if ctx.opset < 20 else "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    padding, corners = ctx.attribute("padding_mode", "zeros"), bool(ctx.attribute("align_corners", 0))
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise ctx.error(f"unknown mode {mode!r} or padding_mode {padding!r}")
    rank = x.rank - 2
    if rank < 1 or grid.rank != x.rank or grid.shape[-1] != rank:
        raise ctx.error(f"the grid {grid.type} does not fit {x.type}")
    if not x.dtype.is_float:
        raise ctx.unsupported(f"GridSample of {x.dtype.name}", "cast the image to a float type and the result back")
    a, image = Arithmetic(ctx), _Image(ctx, x)
    out: Dims = grid.type.shape[1:-1]
    places = ctx.cast(grid, f32)
    ctx.equal(x.shape[0], grid.shape[0])
    images = ctx.build(Reshape, counted(ctx, x.shape[0], i64), (x.shape[0], *(1,) * len(out)))
    lines: list[_Line] = []
    for axis, extent in enumerate(image.spatial):
        part = ctx.build(Slice, places, (*(0,) * (rank + 1), rank - 1 - axis), (*grid.shape[:-1], 1), (1,) * grid.rank)
        place = ctx.build(Reshape, part, grid.type.shape[:-1])
        lines.append(_Line(ctx, place, extent, mode, padding, corners))
    total: Value | None = None
    for taps in cartesian(*(line.taps for line in lines)):
        index, weight = [tap.place for tap in taps], None
        for tap in taps:
            if tap.weight is not None:
                weight = tap.weight if weight is None else a(ops.Mul, weight, tap.weight)
        term = _shown(ctx, image.pixels(images, index), [tap.inside for tap in taps])
        if weight is not None:
            column = ctx.build(Reshape, weight, (*weight.shape, 1))
            term = ctx.build(ops.Mul, term, ctx.cast(column, x.dtype))
        total = term if total is None else ctx.build(ops.Add, total, term)
    assert total is not None
    return ctx.build(Transpose, total, (0, total.rank - 1, *range(1, total.rank - 1)))


@dataclass(frozen=True)
class _Tap:
    """A place inside an axis (i64) and its weight, None for 1. Where `inside` does not hold, what lies there counts as
    0; None: it always does."""

    place: Value
    weight: Value | None
    inside: Value | None


class _Line:
    """Where a grid's coordinate falls on one axis: the places next to it."""

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

    def _tap(self, place: Value, weight: Value | None) -> _Tap:
        """A whole place; outside of the axis there is nothing, or it stands for one inside."""
        ctx, inside = self.ctx, None
        if self.padding == "zeros":
            inside = _inside(ctx, place, self.extent)
        elif self.padding == "reflection":
            place = ctx.build(ops.Round, _reflected(ctx, place, self.low, self.high))
        return _Tap(_kept(ctx, place, self.extent), weight, inside)


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
    if x.rank != 4 or rois.rank != 2 or not x.dtype.is_float:
        raise ctx.error(f"regions {rois.type} do not fit {x.type}: images of floats of rank 4 are needed")
    rois = ctx.cast(rois, f32)
    a, image, count = Arithmetic(ctx), _Image(ctx, x), rois.shape[0]
    images = ctx.build(Reshape, ctx.cast(batch, i64), (count, *(1,) * 4))

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
        weight = ctx.cast(a(ops.Mul, tall[2 + i], wide[2 + j]), x.dtype)
        pixel = image.pixels(images, (tall[i], wide[j]))
        term = ctx.build(ops.Mul, pixel, ctx.build(Reshape, weight, (*weight.shape, 1)))
        total = term if total is None else ctx.build(join, total, term)
    assert total is not None
    pooled = ctx.build(ReduceMean if mode == "avg" else ReduceMax, total, (2, 4), False)
    return ctx.build(Transpose, pooled, (0, 3, 1, 2))


@onnx_op("DeformConv", since=19)
def deform_conv(ctx: Context) -> Results:
    """A convolution whose taps lie where the offsets say (Dai et al. 2017), each weighted by a mask (Zhu et al. 2019).

    All places that a filter reads are gathered as the columns of a matrix, which the filters multiply.
    """
    x, w, offset, bias, mask = ctx.operand(0), ctx.operand(1), ctx.operand(2), ctx.optional(3), ctx.optional(4)
    group, parts = ctx.attribute("group", 1), ctx.attribute("offset_group", 1)
    if x.rank != 4 or w.rank != 4 or offset.rank != 4 or not x.dtype.is_float:
        raise ctx.unsupported(f"DeformConv of {x.type} by {w.type} with offsets {offset.type}", "rank 4 is supported")
    fixed = (x.shape[1], *w.shape)
    if not all(isinstance(d, int) for d in fixed):
        raise ctx.unsupported(f"DeformConv of {x.type} by {w.type}", "channels and filters must be constant")
    channels, filters, depth, height, width = (d for d in fixed if isinstance(d, int))
    given = ctx.ints("kernel_shape") or (height, width)
    strides, dilations = ctx.ints("strides") or (1, 1), ctx.ints("dilations") or (1, 1)
    pads, taps = ctx.ints("pads") or (0, 0, 0, 0), height * width
    if given != (height, width) or group < 1 or filters % group or depth * group != channels or channels % parts:
        raise ctx.error(f"the filters {w.type} do not fit {x.type} in {group} groups and {parts} offset groups")
    if len(strides) != 2 or len(dilations) != 2 or len(pads) != 4:
        raise ctx.error(f"strides {list(strides)}, dilations {list(dilations)} and pads {list(pads)} need two axes")
    ctx.equal(offset.shape[0], x.shape[0])
    ctx.equal(offset.shape[1], 2 * parts * taps)
    images, out = x.shape[0], offset.shape[2:]
    moves = ctx.cast(ctx.build(Reshape, offset, (images, parts, taps, 2, *out)), f32)
    columns = [
        _read_deformed(ctx, x, moves, mask, part, (height, width), strides, pads, dilations) for part in range(parts)
    ]
    joined = ctx.concat(columns, 4)
    turned = ctx.build(Transpose, joined, (0, 4, 1, 2, 3))
    matrix = ctx.build(Reshape, turned, (images, group, depth * taps, dims.product(out)))
    product = ctx.build(MatMul, ctx.build(Reshape, w, (group, filters // group, depth * taps)), matrix)
    result: Value = ctx.build(Reshape, product, (images, filters, *out))
    return result if bias is None else ctx.build(ops.Add, result, ctx.build(Reshape, bias, (filters, 1, 1)))


def _read_deformed(
    ctx: Context,
    x: Value,
    moves: Value,
    mask: Value | None,
    part: int,
    kernel: tuple[int, int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> Value:
    """What the taps of all filters read from the channels of one offset group: [N, taps, rows, columns, channels].

    `moves` is [N, groups, taps, 2, rows, columns].
    """
    images, groups, taps, _, *out = moves.shape
    a, channels = Arithmetic(ctx), x.shape[1] // groups
    own = ctx.build(Slice, x, (0, channels * part, 0, 0), (images, channels, *x.shape[2:]), (1,) * 4)
    image = _Image(ctx, own)
    numbers = ctx.build(Reshape, counted(ctx, images, i64), (images, 1, 1, 1))
    lines: list[list[tuple[Value, Value, Value]]] = []
    for axis, extent in enumerate(image.spatial):
        size = (images, 1, taps, 1, *out)
        moved = ctx.build(Slice, moves, (0, part, 0, axis, 0, 0), size, (1,) * 6)
        step = np.indices(kernel)[axis].reshape(-1, 1, 1) * dilations[axis] - pads[axis]
        start = ctx.build(ops.Cast, counted(ctx, out[axis], i64), f32)
        start = a(ops.Mul, ctx.build(Reshape, start, (out[axis], 1) if axis == 0 else (out[axis],)), strides[axis])
        place = a(ops.Add, a(ops.Add, start, ctx.constant(step, f32)), ctx.build(Reshape, moved, (images, taps, *out)))
        first = ctx.build(ops.Floor, place)
        share = a(ops.Sub, place, first)
        ends = (first, a(ops.Sub, a.number(1.0), share)), (a(ops.Add, first, 1.0), share)
        lines.append([(_kept(ctx, at, extent), weight, _inside(ctx, at, extent)) for at, weight in ends])
    total: Value | None = None
    for (row, tall, high), (column, wide, broad) in cartesian(*lines):
        weight = a(ops.Mul, tall, wide)
        if mask is not None:
            own_mask = ctx.build(Reshape, mask, (images, groups, taps, *out))
            cut = ctx.build(Slice, own_mask, (0, part, 0, 0, 0), (images, 1, taps, *out), (1,) * 5)
            shown = ctx.build(Reshape, cut, (images, taps, *out))
            weight = a(ops.Mul, weight, ctx.cast(shown, f32))
        weight = ctx.cast(weight, x.dtype)
        pixel = _shown(ctx, image.pixels(numbers, (row, column)), (high, broad))
        term = ctx.build(ops.Mul, pixel, ctx.build(Reshape, weight, (*weight.shape, 1)))
        total = term if total is None else ctx.build(ops.Add, total, term)
    assert total is not None
    return total


def _inside(ctx: Context, place: Value, extent: Dim) -> Value:
    """Whether a whole place is inside of an axis."""
    a = Arithmetic(ctx)
    above = ctx.build(ops.GreaterOrEqual, place, a.number(0.0))
    return ctx.build(ops.And, above, ctx.build(ops.LessOrEqual, place, a.dim(extent - 1)))


def _shown(ctx: Context, pixels: Value, inside: Sequence[Value | None]) -> Value:
    """`pixels` [*places, C], 0 where one of `inside` [*places] does not hold: what is read there instead may be NaN."""
    whole: Value | None = None
    for each in inside:
        if each is not None:
            whole = each if whole is None else ctx.build(ops.And, whole, each)
    if whole is None:
        return pixels
    column = ctx.build(Reshape, whole, (*whole.type.shape, 1))
    return ctx.build(ops.Where, column, pixels, ctx.constant(0.0, pixels.dtype))


@onnx_op("MaxRoiPool")
def max_roi_pool(ctx: Context) -> Results:
    """The maximum of each bin of a region (Girshick 2015): over rows, then over columns, of those inside the bin.

    A region is [image, left, top, right, bottom] and includes its last row and column; an empty bin gives 0.
    """
    x, rois, pooled = ctx.operand(0), ctx.operand(1), ctx.required_ints("pooled_shape")
    scale = ctx.attribute("spatial_scale", 1.0)
    if x.rank != 4 or rois.rank != 2 or len(pooled) != 2 or min(pooled) < 1 or not x.dtype.is_float:
        raise ctx.error(f"regions {rois.type} and bins {list(pooled)} do not fit {x.type}: floats of rank 4 are needed")
    rois = ctx.cast(rois, f32)
    ctx.equal(rois.shape[1], 5)
    a, count = Arithmetic(ctx), rois.shape[0]
    columns = [ctx.build(Slice, rois, (0, i), (count, 1), (1, 1)) for i in range(5)]
    # Halves round away from zero, as the C library's round does; coordinates are not negative.
    left, top, right, bottom = (ctx.build(ops.Floor, a(ops.Add, a(ops.Mul, c, scale), 0.5)) for c in columns[1:])

    def inside(start: Value, end: Value, bins: int, extent: Dim) -> Value:
        """bool [regions, bins, extent]: which rows (or columns) lie in each bin."""
        length = a(ops.Max, a(ops.Add, a(ops.Sub, end, start), 1.0), 1.0)
        step = a(ops.Div, length, float(bins))
        number = ctx.constant(np.arange(bins, dtype=np.float32).reshape(1, bins))
        first = a(ops.Add, ctx.build(ops.Floor, a(ops.Mul, step, number)), start)
        beyond = a(ops.Add, ctx.build(ops.Ceil, a(ops.Mul, step, a(ops.Add, number, 1.0))), start)
        first, beyond = (ctx.build(Reshape, v, (count, bins, 1)) for v in (first, beyond))
        place = ctx.build(ops.Cast, counted(ctx, extent, i64), f32)
        return ctx.build(
            ops.And, ctx.build(ops.GreaterOrEqual, place, first), ctx.build(ops.Less, place, beyond)
        )

    (tall, wide), (rows, width) = pooled, x.shape[2:]
    images = ctx.build(Reshape, ctx.build(ops.Cast, columns[0], i64), (count,))
    seen = ctx.build(Reshape, ctx.build(Gather, x, images, 0), (count, x.shape[1], 1, rows, width))
    nothing = ctx.constant(float("-inf"), x.dtype)
    chosen = ctx.build(Reshape, inside(top, bottom, tall, rows), (count, 1, tall, rows, 1))
    strips = ctx.build(ReduceMax, ctx.build(ops.Where, chosen, seen, nothing), (3,), False)
    strips = ctx.build(Reshape, strips, (count, x.shape[1], tall, 1, width))
    chosen = ctx.build(Reshape, inside(left, right, wide, width), (count, 1, 1, wide, width))
    largest = ctx.build(ReduceMax, ctx.build(ops.Where, chosen, strips, nothing), (4,), False)
    return ctx.build(ops.Where, ctx.build(ops.Equal, largest, nothing), ctx.constant(0.0, x.dtype), largest)
