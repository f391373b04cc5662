"""Spectra whose sizes or axis are computed when the model runs: the matrices are computed as well.

A transform of n points multiplies by sines and cosines of the n-th parts of a turn: as many different numbers, computed
in f64, from which the matrix is gathered.
"""

from __future__ import annotations

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.axes import axes_from_data, shaped
from ingot.compiler.frontend.operators.creation import counted
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Concat, Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import CumSum, ReduceMax, ReduceMin, ReduceProd
from ingot.runtime.dtypes import DType, f64, i64


def _basis(ctx: Context, points: Dim, rows: Dim, bins: Dim) -> tuple[Value, Value]:
    """The cosines and sines (f64 [rows, bins]) of ``2 pi n k / points`` for n < rows and k < bins."""
    circle = ctx.build(ops.Mul, counted(ctx, points, f64), ctx.constant(2 * np.pi, f64))
    angle = ctx.build(ops.Div, circle, ctx.build(ops.Cast, ctx.dim_values((points,), True), f64))
    row = ctx.build(Reshape, counted(ctx, rows, i64), (rows, 1))
    turns = ctx.build(ops.Mul, row, counted(ctx, bins, i64))
    number = ctx.build(ops.Max, ctx.dim_values((points,), True), ctx.constant(1, i64))
    place = ctx.build(ops.Mod, turns, number)
    cosine, sine = (ctx.build(Gather, ctx.build(function, angle), place, 0) for function in (ops.Cos, ops.Sin))
    return cosine, sine


def _matrix(ctx: Context, columns: list[list[Value]], rows: Dim, bins: Dim, dtype: DType) -> Value:
    """[rows * parts, bins * results] of values [rows, bins] by part of the operand and of the result."""
    parts: list[Value] = []
    for row in columns:
        joined = ctx.concat([ctx.build(Reshape, v, (rows, bins, 1)) for v in row], 2)
        parts.append(ctx.build(Reshape, joined, (rows, 1, bins, len(row))))
    whole = ctx.build(Reshape, ctx.concat(parts, 1), (rows * len(columns), bins * len(columns[0])))
    return ctx.cast(whole, dtype)


def transformed(ctx: Context, x: Value, points: Dim, *, inverse: bool, half: bool) -> Value:
    """The transform of x [outer, n, inner, 1 or 2] along n, cut or filled up with zeros to `points` points:
    [outer, bins, inner, 2], where `bins` are all, or with `half` those up to the middle. The inverse of a half spectrum
    is real: [outer, points, inner, 1]."""
    outer, extent, inner, parts = x.shape
    from_half = half and inverse
    bins = points // 2 + 1 if half else points
    taken = ctx.assumptions.smallest(extent, bins if from_half else points)
    x = ctx.build(Slice, x, (0,) * 4, (outer, taken, inner, parts), (1,) * 4)
    turned = ctx.build(Transpose, x, (0, 2, 1, 3))
    rows = ctx.build(Reshape, turned, (outer * inner, taken * parts))
    result = points if from_half else bins
    cosine, sine = _basis(ctx, points, taken, result)
    if inverse:
        share = ctx.build(ops.Reciprocal, ctx.build(ops.Cast, ctx.dim_values((points,), True), f64))
        if from_half:  # every bin but the first, and the middle one, stands for two
            number = ctx.build(Reshape, counted(ctx, taken, i64), (taken, 1))
            twice = ctx.build(ops.Mul, number, ctx.constant(2, i64))
            ends = (ctx.constant(0, i64), ctx.dim_values((points,), True))
            single = ctx.build(ops.Or, *(ctx.build(ops.Equal, twice, end) for end in ends))
            weight = ctx.build(ops.Where, single, ctx.constant(1.0, f64), ctx.constant(2.0, f64))
            share = ctx.build(ops.Mul, share, weight)
        cosine, sine = (ctx.build(ops.Mul, v, share) for v in (cosine, sine))
    back = ctx.build(ops.Neg, sine)
    if from_half:
        columns = [[cosine], [back]]
    else:
        columns = [[cosine, sine], [back, cosine]] if inverse else [[cosine, back], [sine, cosine]]
    matrix = _matrix(ctx, columns[:parts], taken, result, x.dtype)
    product = ctx.build(MatMul, rows, matrix)
    split = ctx.build(Reshape, product, (outer, inner, result, 1 if from_half else 2))
    return ctx.build(Transpose, split, (0, 2, 1, 3))


def dft(ctx: Context, x: Value, axis: int | Value, points: Value | None, *, inverse: bool, half: bool) -> Value:
    """DFT of [.., n, .., parts] along an axis that may be computed, with so many points as is computed."""
    parts = int(x.shape[-1])
    front = x.shape[:-1]
    if isinstance(axis, int):
        outer, extent, inner = dims.product(front[:axis]), front[axis], dims.product(front[axis + 1 :])
        mask = None
    else:
        outer, extent, inner, mask = _around(ctx, x, axis)
        (x,) = ctx.checked(x)
    if points is not None:
        count = ctx.size(ctx.cast(ctx.scalar(points), i64), "the transform's length")
    elif half and inverse:
        count = ctx.assumptions.largest((extent - 1) * 2, 0)
    else:
        count = extent
    found = transformed(ctx, ctx.build(Reshape, x, (outer, extent, inner, parts)), count, inverse=inverse, half=half)
    bins, last = found.shape[1], found.shape[3]
    if isinstance(axis, int):
        return ctx.build(Reshape, found, (*front[:axis], bins, *front[axis + 1 :], last))
    assert mask is not None
    extents = ctx.build(ops.Where, mask, ctx.dim_values((bins,), True), ctx.dim_values(front, False))
    return shaped(ctx, found, ctx.build(Concat, (extents, ctx.constant([last])), 0))


def _around(ctx: Context, x: Value, axis: Value) -> tuple[Dim, Dim, Dim, Value]:
    """The product of the extents before a computed axis, its own extent, the product of those after it but the last,
    and which of the axes but the last it is (bool [rank - 1])."""
    front = x.rank - 1
    chosen = axes_from_data(ctx, axis, x.rank)
    if chosen.count != 1:
        raise ctx.error(f"one axis is needed, not {chosen.count}")
    is_last = ctx.element(chosen.mask, front)
    ctx.require(ctx.build(ops.Not, is_last), "the axis is the last one, which holds real and imaginary parts")
    (mask,) = ctx.checked(ctx.build(Slice, chosen.mask, (0,), (front,), (1,)))
    extents, one = ctx.dim_values(x.shape[:-1], False), ctx.constant(1, i64)
    passed = ctx.build(CumSum, ctx.build(ops.Cast, mask, i64), 0, False, False)
    after = ctx.build(ops.And, ctx.build(ops.Greater, passed, ctx.constant(0, i64)), ctx.build(ops.Not, mask))
    before = ctx.build(ops.Equal, passed, ctx.constant(0, i64))

    def product(which: Value) -> Dim:
        return ctx.size(ctx.build(ReduceProd, ctx.build(ops.Where, which, extents, one), (0,), False), "an extent")

    return product(before), product(mask), product(after), mask


def stft(ctx: Context, x: Value, step: Value, length: Dim, window: Value | None, half: bool) -> Value:
    """STFT of [batch, n, parts] in steps that are computed, of frames whose length may be."""
    batch, extent, parts = x.shape
    if window is not None:
        ctx.equal(window.shape[0], length)
    zero, one = ctx.constant(0, i64), ctx.constant(1, i64)
    ctx.require(ctx.build(ops.Greater, step, zero), "the frame step is not greater than 0")
    size = ctx.dim_values((length,), True)
    left = ctx.build(ops.Sub, ctx.dim_values((extent,), True), size)
    fits = ctx.build(ops.And, ctx.build(ops.GreaterOrEqual, left, zero), ctx.build(ops.Greater, size, zero))
    ctx.require(fits, "the frame length is 0 or larger than the signal")
    left, step = ctx.checked(left, step)
    frames = ctx.size(ctx.build(ops.Add, ctx.build(ops.Div, left, step), one), "the number of frames")
    begins = ctx.build(Reshape, ctx.build(ops.Mul, counted(ctx, frames, i64), step), (frames, 1))
    cut = ctx.build(Gather, x, ctx.build(ops.Add, begins, counted(ctx, length, i64)), 1)
    if window is not None:
        cut = ctx.build(ops.Mul, cut, ctx.build(Reshape, window, (length, 1)))
    rows = ctx.build(Reshape, cut, (batch * frames, length, 1, parts))
    found = transformed(ctx, rows, length, inverse=False, half=half)
    return ctx.build(Reshape, found, (batch, frames, found.shape[1], 2))


def mel_weights(ctx: Context, given: tuple[Value, ...]) -> Value:
    """MelWeightMatrix (f64 [bins, bands]) of numbers of which some are computed."""
    whole = [ctx.cast(ctx.scalar(v), i64) for v in given[:3]]
    bands, length = (ctx.size(v, what) for v, what in zip(whole, ("the bands", "the transform's length"), strict=False))
    bins = length // 2 + 1

    def real(value: Value) -> Value:
        return ctx.cast(value, f64)

    def number(value: float) -> Value:
        return ctx.constant(value, f64)

    def mel(frequency: Value) -> Value:
        ratio = ctx.build(ops.Add, ctx.build(ops.Div, real(ctx.scalar(frequency)), number(700.0)), number(1.0))
        return ctx.build(ops.Mul, ctx.build(ops.Log, ratio), number(2595 / np.log(10)))

    bottom, top = mel(given[3]), mel(given[4])
    width = ctx.build(ops.Div, ctx.build(ops.Sub, top, bottom), real(ctx.dim_values((bands + 2,), True)))
    edges = ctx.build(ops.Add, bottom, ctx.build(ops.Mul, counted(ctx, bands + 2, f64), width))
    grown = ctx.build(ops.Exp, ctx.build(ops.Mul, edges, number(np.log(10) / 2595)))
    frequency = ctx.build(ops.Mul, ctx.build(ops.Sub, grown, number(1.0)), number(700.0))
    scaled = ctx.build(ops.Mul, frequency, real(ctx.dim_values((length + 1,), True)))
    place = ctx.build(ops.Floor, ctx.build(ops.Div, scaled, real(whole[2])))
    first, centre, last = (ctx.build(Slice, place, (i,), (bands,), (1,)) for i in range(3))
    most = real(ctx.dim_values((bins,), True))
    for inside in (
        ctx.build(ops.GreaterOrEqual, ctx.build(ReduceMin, place, (0,), False), number(0.0)),
        ctx.build(ops.LessOrEqual, ctx.build(ReduceMax, place, (0,), False), most),
        ctx.build(ops.Less, ctx.build(ReduceMax, centre, (0,), False), most),
    ):
        ctx.require(inside, "a band of the mel scale lies outside the spectrum")
    first, centre, last = ctx.checked(first, centre, last)
    bin_ = ctx.build(Reshape, counted(ctx, bins, f64), (bins, 1))

    def share(part: Value, all_: Value) -> Value:
        return ctx.build(ops.Div, part, ctx.build(ops.Max, all_, number(1.0)))

    rising = share(ctx.build(ops.Sub, bin_, first), ctx.build(ops.Sub, centre, first))
    falling = share(ctx.build(ops.Sub, last, bin_), ctx.build(ops.Sub, last, centre))
    at_centre = ctx.build(ops.And, ctx.build(ops.Equal, bin_, centre), ctx.build(ops.LessOrEqual, first, centre))
    up = ctx.build(ops.And, ctx.build(ops.LessOrEqual, first, bin_), ctx.build(ops.Less, bin_, centre))
    down = ctx.build(ops.And, ctx.build(ops.LessOrEqual, centre, bin_), ctx.build(ops.Less, bin_, last))
    beside = ctx.build(ops.Where, up, rising, ctx.build(ops.Where, down, falling, number(0.0)))
    return ctx.build(ops.Where, at_centre, number(1.0), beside)

