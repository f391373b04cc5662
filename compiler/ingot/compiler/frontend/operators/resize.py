"""Resize and Upsample: one Gather (nearest) or Resample (linear, cubic) an axis.

Where an element of the result lies in the operand, and the weights of its neighbours, are written as a graph over the
positions 0, 1, .. of the axis: with constant extents it folds to tables at compile time, with symbolic ones it runs.
Coordinates are computed in f32, as the standard's formulas give them and ONNX Runtime does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import TypeAlias

import numpy as np

from ingot.compiler.frontend.context import Context, Dims
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ir.types import show_shape
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.movement import Gather, Iota, Reshape
from ingot.compiler.ops.quantised import working_type
from ingot.compiler.ops.reduction import ReduceSum
from ingot.compiler.ops.resample import Resample
from ingot.compiler.ops.shape_arithmetic import contents
from ingot.runtime.dtypes import f32, i64, string

TABLE = Table()
onnx_op = TABLE.onnx_op

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",  # opsets 11 and 12 alone
)
MOST_TAPS = 1 << 20  # elements that one may be made of, per element that the filter reaches
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


Number: TypeAlias = float | Value
"""Known, or an f32 scalar that is computed from data."""
Roi: TypeAlias = tuple[Number, Number]


@dataclass(frozen=True)
class Filter:
    """How values between elements are found: the attributes of a Resize."""

    mode: str = "nearest"
    coordinates: str = "asymmetric"
    nearest: str = "floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


@dataclass(frozen=True)
class Stretch:
    """One axis to be resized. `scale` is None where it is the quotient of the extents; `roi` is (start, end)."""

    axis: int
    extent: Dim
    size: Dim
    scale: Number | None
    roi: Roi


class Arithmetic:
    """Small f32 vectors and numbers as graph nodes."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def __call__(self, op: Callable[..., Node], a: Number, b: Number) -> Value:
        return self.ctx.build(op, self.number(a), self.number(b))

    def number(self, value: Number) -> Value:
        return value if isinstance(value, Value) else self.ctx.constant(value, f32)

    def whole(self, value: Value, what: str) -> Dim:
        """The number, rounded down, as a dim."""
        return self.ctx.size(self.ctx.build(ops.Cast, self.ctx.build(ops.Floor, value), i64), what)

    def dim(self, dim: Dim) -> Value:
        if isinstance(dim, int):
            return self.number(dim)
        return self.ctx.build(ops.Cast, self.ctx.dim_values((dim,), True), f32)

    def choose(self, condition: Value, a: Value, b: Number) -> Value:
        return self.ctx.build(ops.Where, condition, a, self.number(b))


def resize(ctx: Context, x: Value, stretches: Sequence[Stretch], how: Filter) -> Value:
    """x with each axis of `stretches` resized; those that shrink most come first."""
    dtype = x.dtype
    if how.mode != "nearest" and not dtype.is_float:
        if dtype == string:
            raise ctx.unsupported(f"{ctx.node.op_type} of {x.type} finds values between elements: use mode 'nearest'")
        x = ctx.build(ops.Cast, x, f32)
    outside: list[Value] = []

    def growth(stretch: Stretch) -> float:
        size, extent = stretch.size, stretch.extent
        if isinstance(size, int) and isinstance(extent, int) and extent > 0:
            return size / extent
        return stretch.scale if isinstance(stretch.scale, float) else 1.0

    for stretch in sorted(stretches, key=growth):
        if _is_whole(stretch, how):
            continue
        place = _places(ctx, stretch, how)
        if how.coordinates == "tf_crop_and_resize":
            mask = _outside(ctx, place, stretch.extent)
            outside.append(ctx.build(Reshape, mask, (stretch.size, *(1,) * (x.rank - 1 - stretch.axis))))
        if how.mode == "nearest":
            x = ctx.build(Gather, x, _nearest(ctx, place, stretch.extent, how.nearest), stretch.axis)
        else:
            indices, weights = _neighbours(ctx, place, stretch, how)
            x = ctx.build(Resample, x, indices, ctx.cast(weights, working_type(x.dtype)), stretch.axis)
    for mask in outside:
        x = ctx.build(ops.Where, mask, ctx.constant(how.extrapolation, x.dtype), x)
    return ctx.cast(x, dtype)


def _is_whole(stretch: Stretch, how: Filter) -> bool:
    """Whether every element of the axis stays where it is."""
    if how.coordinates == "tf_crop_and_resize" and stretch.roi != (0.0, 1.0):
        return False
    return stretch.size == stretch.extent and (stretch.scale is None or stretch.scale == 1.0)


def _scale(ctx: Context, stretch: Stretch) -> Value:
    a = Arithmetic(ctx)
    if stretch.scale is not None:
        return a.number(stretch.scale)
    return a(ops.Div, a.dim(stretch.size), a.dim(stretch.extent))


def _places(ctx: Context, stretch: Stretch, how: Filter) -> Value:
    """Where the elements 0, 1 .. of the resized axis lie in the operand's: f32 [size]."""
    a = Arithmetic(ctx)
    position: Value = ctx.build(ops.Cast, counted(ctx, stretch.size, i64), f32)
    scale = _scale(ctx, stretch)
    size, last = a.dim(stretch.size), a.dim(stretch.extent - 1)

    def half_pixel() -> Value:
        return a(ops.Sub, a(ops.Div, a(ops.Add, position, 0.5), scale), 0.5)

    several = ctx.build(ops.Greater, size, a.number(1.0))
    gaps = a(ops.Max, a(ops.Sub, size, 1.0), 1.0)
    match how.coordinates:
        case "half_pixel":
            return half_pixel()
        case "half_pixel_symmetric":
            wanted = a(ops.Mul, scale, a.dim(stretch.extent))
            share = a(ops.Sub, a.number(1.0), a(ops.Div, size, wanted))
            return a(ops.Add, a(ops.Mul, share, a(ops.Mul, a.dim(stretch.extent), 0.5)), half_pixel())
        case "pytorch_half_pixel":
            return a.choose(several, half_pixel(), 0.0)
        case "align_corners":
            return a(ops.Div, a(ops.Mul, position, last), gaps)
        case "tf_half_pixel_for_nn":
            return a(ops.Div, a(ops.Add, position, 0.5), scale)
        case "asymmetric":
            return a(ops.Div, position, scale)
        case _:
            start, end = stretch.roi
            first = a(ops.Mul, last, start)
            length, middle = _difference(ctx, stretch.roi), a(ops.Mul, a(ops.Add, start, end), 0.5)
            step = a(ops.Div, a(ops.Mul, a(ops.Mul, position, length), last), gaps)
            return a.choose(several, a(ops.Add, first, step), a(ops.Mul, last, middle))


def _difference(ctx: Context, roi: Roi) -> Number:
    start, end = roi
    if isinstance(start, Value) or isinstance(end, Value):
        return Arithmetic(ctx)(ops.Sub, end, start)
    return end - start


def _outside(ctx: Context, place: Value, extent: Dim) -> Value:
    a = Arithmetic(ctx)
    below = ctx.build(ops.Less, place, a.number(0.0))
    return ctx.build(ops.Or, below, ctx.build(ops.Greater, place, a.dim(extent - 1)))


def _kept(ctx: Context, index: Value, extent: Dim) -> Value:
    """Whole f32 numbers as i64 indices inside the axis."""
    a = Arithmetic(ctx)
    return ctx.build(ops.Cast, ctx.build(ops.Clip, index, a.number(0.0), a.dim(extent - 1)), i64)


def _nearest(ctx: Context, place: Value, extent: Dim, rounding: str) -> Value:
    a = Arithmetic(ctx)
    low = ctx.build(ops.Floor, place)
    if rounding == "floor":
        return _kept(ctx, low, extent)
    if rounding == "ceil":
        return _kept(ctx, ctx.build(ops.Ceil, place), extent)
    up = ops.Greater if rounding == "round_prefer_floor" else ops.GreaterOrEqual
    further = ctx.build(up, a(ops.Sub, place, low), a.number(0.5))
    return _kept(ctx, a(ops.Add, low, ctx.build(ops.Cast, further, f32)), extent)


def _neighbours(ctx: Context, place: Value, stretch: Stretch, how: Filter) -> tuple[Value, Value]:
    """Indices and weights [size, taps] of the elements that each result element is made of."""
    a = Arithmetic(ctx)
    reach = 1 if how.mode == "linear" else 2
    narrow = _narrowing(ctx, stretch) if how.antialias else 1.0
    column = ctx.build(Reshape, place, (stretch.size, 1))
    low = ctx.build(ops.Floor, column)
    indices = a(ops.Add, low, _taps(ctx, reach, narrow))
    distance = ctx.build(ops.Abs, a(ops.Mul, a(ops.Sub, indices, column), narrow))
    weights = _triangle(ctx, distance) if how.mode == "linear" else cubic(ctx, distance, how.cubic_a)
    if how.exclude_outside:
        weights = a.choose(_outside(ctx, indices, stretch.extent), a.number(0.0), weights)
    if how.exclude_outside or how.antialias:
        total = ctx.build(ReduceSum, weights, (1,), True)
        weights = a(ops.Div, weights, total)
    return _kept(ctx, indices, stretch.extent), weights


def _narrowing(ctx: Context, stretch: Stretch) -> Number:
    """What distances are multiplied by where the filter is stretched: 1, or the scale where that is less."""
    scale = stretch.scale
    if scale is None and isinstance(stretch.size, int) and isinstance(stretch.extent, int):
        scale = stretch.size / max(stretch.extent, 1)
    if isinstance(scale, float):
        return min(scale, 1.0) or 1.0
    return Arithmetic(ctx)(ops.Min, _scale(ctx, stretch), 1.0)


def _taps(ctx: Context, reach: int, narrow: Number) -> Value:
    """Where the elements that count lie from that below a place: f32 [1, taps]."""
    if isinstance(narrow, float):
        first = math.floor(-reach / narrow) + 1
        return ctx.constant(np.arange(first, 2 - first, dtype=np.float32).reshape(1, -1))
    # An axis of which nothing is left may have any scale: nothing of it is computed, but its taps are counted.
    a = Arithmetic(ctx)
    wide = a(ops.Div, float(reach), a(ops.Max, narrow, 1 / MOST_TAPS))
    beyond = ctx.build(ops.Cast, ctx.build(ops.Ceil, wide), i64)
    half = ctx.size(beyond, "the elements that one is made of", reach * MOST_TAPS)
    first = a(ops.Sub, 1.0, a.dim(half))
    return ctx.build(Reshape, ctx.build(Iota, first, a.number(1.0), half * 2), (1, half * 2))


def _triangle(ctx: Context, distance: Value) -> Value:
    """``max(0, 1 - d)``"""
    a = Arithmetic(ctx)
    return a(ops.Max, a(ops.Sub, a.number(1.0), distance), 0.0)


def cubic(ctx: Context, distance: Value, coefficient: float) -> Value:
    """The cubic convolution kernel, ``a`` its slope at 1 (Keys 1981, equation 4)."""
    a, c = Arithmetic(ctx), coefficient

    def polynomial(*terms: float) -> Value:
        result: Value = a.number(terms[0])
        for term in terms[1:]:
            result = a(ops.Add, a(ops.Mul, result, distance), term)
        return result

    near, far = polynomial(c + 2, -(c + 3), 0.0, 1.0), polynomial(c, -5 * c, 8 * c, -4 * c)
    within = ctx.build(ops.LessOrEqual, distance, a.number(1.0))
    reached = ctx.build(ops.Less, distance, a.number(2.0))
    return a.choose(within, near, a.choose(reached, far, 0.0))


# -- rows -------------------------------------------------------------------------------------------------------------


def scaled(ctx: Context, extent: Dim, scale: float) -> Dim:
    """``floor(extent * scale)``, computed by the model where the scale of a symbolic dim is no simple fraction."""
    if isinstance(extent, int):
        return math.floor(np.float32(extent) * np.float32(scale))
    ratio = Fraction(scale)
    if ratio.denominator > 1 << 10:
        a = Arithmetic(ctx)
        return a.whole(a(ops.Mul, a.dim(extent), scale), "a resized extent")
    return extent * ratio.numerator // ratio.denominator


def _scales(ctx: Context, value: Value, count: int) -> tuple[Number, ...]:
    found = ctx.array(value)
    if found is not None:
        return tuple(float(s) for s in found.ravel())
    return _numbers(ctx, value, "scales", count)


def _numbers(ctx: Context, value: Value, what: str, count: int) -> tuple[Number, ...]:
    """The elements of a list of `count` floats; those that are not known are computed when the model runs."""
    if value.rank == 1 and not value.type.is_static:
        ctx.equal(value.shape[0], count)
    elements = contents(value)
    listed = [] if elements is None else elements.ravel().tolist()
    if elements is not None and all(isinstance(e, int) for e in listed):
        return tuple(float(e) for e in listed)
    if value.rank != 1 or not value.type.is_static or not value.dtype.is_float:
        raise ctx.unsupported(f"{what} that are {value.type}", "give a list of floats of fixed length")
    wide = ctx.cast(value, f32)
    return tuple(ctx.element(wide, i) for i in range(int(value.shape[0])))


def by_scales(
    ctx: Context, x: Value, scales: Sequence[Number], axes: Sequence[int], how: Filter, roi: Sequence[Roi]
) -> Value:
    """x resized by one factor for each of `axes`."""
    if len(scales) != len(axes) or any(isinstance(s, float) and not s > 0 for s in scales):
        raise ctx.error(f"scales {list(scales)} do not fit axes {list(axes)} of {x.type}")
    scales = [_positive(ctx, s) if isinstance(s, Value) else s for s in scales]
    stretches = [
        Stretch(axis, x.shape[axis], _scaled_size(ctx, x.shape[axis], s, r, how), s, r)
        for axis, s, r in zip(axes, scales, roi, strict=True)
    ]
    return resize(ctx, x, stretches, how)


def _positive(ctx: Context, scale: Value) -> Value:
    ctx.require(ctx.build(ops.Greater, scale, ctx.constant(0, f32)), "a scale is not greater than 0")
    return ctx.checked(scale)[0]


def _scaled_size(ctx: Context, extent: Dim, scale: Number, roi: Roi, how: Filter) -> Dim:
    part = _difference(ctx, roi) if how.coordinates == "tf_crop_and_resize" else 1.0
    if isinstance(scale, float) and isinstance(part, float):
        return scaled(ctx, extent, scale * part)
    a = Arithmetic(ctx)
    return a.whole(a(ops.Mul, a.dim(extent), a(ops.Mul, scale, part)), "a resized extent")


def _fitted(ctx: Context, x: Value, sizes: Dims, axes: Sequence[int], policy: str) -> tuple[Dims, Number | None]:
    """Sizes that keep the proportions of x, and the one scale that gives them."""
    if policy == "stretch":
        return sizes, None
    extents = [x.shape[axis] for axis in axes]
    if policy not in ("not_larger", "not_smaller"):
        raise ctx.error(f"unknown keep_aspect_ratio_policy {policy!r}")
    pairs = [(s, d) for s, d in zip(sizes, extents, strict=True) if isinstance(s, int) and isinstance(d, int)]
    if len(pairs) == len(extents):
        ratios = [s / d for s, d in pairs]
        scale = min(ratios) if policy == "not_larger" else max(ratios)
        return tuple(math.floor(scale * d + 0.5) for _, d in pairs), scale
    a = Arithmetic(ctx)
    quotients: list[Value] = [a(ops.Div, a.dim(s), a.dim(d)) for s, d in zip(sizes, extents, strict=True)]
    common = reduce(lambda p, q: a(ops.Min if policy == "not_larger" else ops.Max, p, q), quotients)
    fitted = (a(ops.Add, a(ops.Mul, common, a.dim(d)), 0.5) for d in extents)
    return tuple(a.whole(size, "a resized extent") for size in fitted), common


@onnx_op("Upsample", since=1)
def upsample_attributes(ctx: Context) -> Results:
    x = ctx.operand(0)
    how = Filter(_mode(ctx))
    scales = ctx.floats("scales")
    if scales is None:  # opset 1
        scales = (1.0, 1.0, ctx.attribute("height_scale", 1.0), ctx.attribute("width_scale", 1.0))
    return by_scales(ctx, x, scales, range(x.rank), how, _whole_roi(x.rank))


@onnx_op("Upsample", since=9)
@onnx_op("Resize", since=10)
def resize_scales(ctx: Context) -> Results:
    x = ctx.operand(0)
    scales = _scales(ctx, ctx.operand(1), x.rank)
    return by_scales(ctx, x, scales, range(x.rank), Filter(_mode(ctx)), _whole_roi(x.rank))


def _mode(ctx: Context) -> str:
    mode = {"bilinear": "linear"}.get(found := ctx.attribute("mode", "nearest"), found)
    if mode not in ("nearest", "linear", "cubic"):
        raise ctx.error(f"unknown mode {mode!r}")
    return mode


def _whole_roi(count: int) -> list[Roi]:
    return [(0.0, 1.0)] * count


@onnx_op("Resize", since=11)
def resize_any(ctx: Context) -> Results:
    x, region, scales, sizes = ctx.operand(0), ctx.optional(1), ctx.optional(2), ctx.optional(3)
    how = Filter(
        _mode(ctx),
        ctx.attribute("coordinate_transformation_mode", "half_pixel"),
        ctx.attribute("nearest_mode", "round_prefer_floor"),
        ctx.attribute("cubic_coeff_a", -0.75),
        bool(ctx.attribute("exclude_outside", 0)),
        bool(ctx.attribute("antialias", 0)),
        ctx.attribute("extrapolation_value", 0.0),
    )
    policy = ctx.attribute("keep_aspect_ratio_policy", "stretch")
    if how.coordinates not in COORDINATES or how.nearest not in NEAREST:
        raise ctx.error(f"unknown coordinate_transformation_mode {how.coordinates!r} or nearest_mode {how.nearest!r}")
    listed = ctx.ints("axes")
    axes = ctx.axes(listed, x.rank) if listed is not None else tuple(range(x.rank))
    roi = _whole_roi(len(axes))
    if how.coordinates == "tf_crop_and_resize":
        if region is None:
            raise ctx.error("there is no region of interest")
        found = ctx.array(region)
        known = None if found is None else tuple(map(float, found.ravel()))
        numbers = _numbers(ctx, region, "a roi", 2 * len(axes)) if known is None else known
        if len(numbers) != 2 * len(axes):
            raise ctx.error(f"the region of interest has not the {2 * len(axes)} numbers of {len(axes)} axes")
        roi = list(zip(numbers[: len(axes)], numbers[len(axes) :], strict=True))
    if sizes is not None and sizes.shape != (0,):
        if scales is not None and scales.shape != (0,):
            raise ctx.error("scales and sizes are given, only one is allowed")
        wanted = ctx.dims(3, "the sizes", len(axes))
        if len(wanted) != len(axes):
            raise ctx.error(f"sizes {show_shape(wanted)} do not fit axes {list(axes)} of {x.type}")
        wanted, scale = _fitted(ctx, x, wanted, axes, policy)
        stretches = [
            Stretch(axis, x.shape[axis], size, scale, r) for axis, size, r in zip(axes, wanted, roi, strict=True)
        ]
        return resize(ctx, x, stretches, how)
    if scales is None:
        raise ctx.error("neither scales nor sizes are given")
    return by_scales(ctx, x, _scales(ctx, scales, len(axes)), axes, how, roi)
