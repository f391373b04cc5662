"""Spectra: Fourier transforms as products with constant matrices, window functions' frames as convolutions.

Where sizes or axes are computed when the model runs, see `operators/spectra.py`.
"""

from __future__ import annotations

import numpy as np

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.errors import UnsupportedError
from ingot.compiler.frontend.operators import spectra
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.frontend.weights import dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Value
from ingot.compiler.ops import pointwise as ops
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Pad, Reshape, Slice, Transpose
from ingot.runtime.dtypes import f32, i64

TABLE = Table()
onnx_op = TABLE.onnx_op

LONGEST = 1 << 13  # points a transform by matrix may have: the matrix has their square


def _basis(points: int, bins: int, inverse: bool) -> Array:
    """``exp(-2 pi i n k / points)`` for n < points and k < bins as [points, bins, 2], computed in f64."""
    turns = np.outer(np.arange(points), np.arange(bins)) % points / points
    angle = 2 * np.pi * turns * (1 if inverse else -1)
    return np.stack((np.cos(angle), np.sin(angle)), -1) / (points if inverse else 1)


def _whole(ctx: Context, index: int) -> int | Value | None:
    """A scalar input: an int where it is known, None where it is left out."""
    value = ctx.optional(index)
    if value is None:
        return None
    known = ctx.known(value)
    if known is None or not isinstance(known[0], int):
        return value
    return known[0]


def _symbolic_parts(ctx: Context, x: Value) -> UnsupportedError:
    return ctx.unsupported(f"a transform of {x.type}: whether it is real or complex is not known", "pin its last dim")


def _flag(ctx: Context, name: str, default: int) -> bool:
    value = ctx.attribute(name, default)
    if value not in (0, 1):
        raise ctx.error(f"attribute {name!r} of {ctx.node.op_type} is {value}: it must be 0 or 1")
    return value == 1


@onnx_op("DFT", since=17)
def dft_attribute(ctx: Context) -> Results:
    return _dft(ctx, ctx.attribute("axis", 1))


@onnx_op("DFT", since=20)
def dft(ctx: Context) -> Results:
    axis = _whole(ctx, 2)
    return _dft(ctx, -2 if axis is None else axis)


def _dft(ctx: Context, axis: int | Value) -> Value:
    """[.., n, .., 1 or 2] -> [.., bins, .., 2]: the axis and the parts are turned to the end and multiplied."""
    x, points = ctx.operand(0), _whole(ctx, 1)
    inverse, half = _flag(ctx, "inverse", 0), _flag(ctx, "onesided", 0)
    if x.rank < 2 or not x.dtype.is_float:
        raise ctx.error(f"DFT of {x.type}: floats with an axis for real and imaginary parts are needed")
    parts = x.shape[-1]
    if not isinstance(parts, int):
        raise _symbolic_parts(ctx, x)
    axis = ctx.axis(axis, x.rank) if isinstance(axis, int) else axis
    if axis == x.rank - 1 or parts not in (1, 2):
        raise ctx.error(f"DFT of {x.type} along axis {axis}: the last axis holds real and imaginary parts")
    if half and parts != (2 if inverse else 1):
        taken, given = ("complex", "real") if inverse else ("real", "complex")
        raise ctx.error(f"DFT with onesided = 1 and inverse = {int(inverse)} takes {taken} data, {x.type} is {given}")
    extent = x.shape[axis] if isinstance(axis, int) else None
    if not isinstance(axis, int) or not isinstance(extent, int) or isinstance(points, Value):
        length = ctx.constant(points, i64) if isinstance(points, int) else points
        return spectra.dft(ctx, x, axis, length, inverse=inverse, half=half)
    count = extent if points is None else points
    if half and inverse:
        count = (extent - 1) * 2 if points is None else points
        return _real_from_half(ctx, x, axis, count)
    if count > LONGEST:
        raise ctx.unsupported(f"DFT of {count} points", f"at most {LONGEST} points are supported")
    bins = count // 2 + 1 if half else count
    basis = _basis(count, bins, inverse)
    real, imaginary = basis[..., 0], basis[..., 1]
    matrix = np.stack((real, imaginary), -1).reshape(count, 1, 2 * bins)
    if parts == 2:
        turned = np.stack((-imaginary, real), -1).reshape(count, 1, 2 * bins)
        matrix = np.concatenate((matrix, turned), 1)
    return _transformed(ctx, x, axis, count, matrix.reshape(count * int(parts), 2 * bins), (bins, 2))


def _real_from_half(ctx: Context, x: Value, axis: int, count: int) -> Value:
    """The real signal whose spectrum's first half is x: every bin but the first (and the middle one) counts twice."""
    bins = count // 2 + 1
    basis = _basis(count, bins, True)
    twice = np.full(bins, 2.0)
    twice[0] = 1.0
    if count % 2 == 0:
        twice[-1] = 1.0
    signs = np.stack((basis[..., 0], -basis[..., 1]), -1) * twice[:, None]  # [n, k, part]
    matrix = signs.transpose(1, 2, 0).reshape(2 * bins, count)
    return _transformed(ctx, x, axis, bins, matrix, (count, 1))


def _transformed(ctx: Context, x: Value, axis: int, count: int, matrix: Array, result: tuple[int, int]) -> Value:
    """x cut or padded to `count` along `axis`, times `matrix`; the axis and the parts become `result`."""
    if x.shape[axis] < count:
        ends = [0] * x.rank
        ends[axis] = count - x.shape[axis]
        x = ctx.build(Pad, x, (*(0,) * x.rank, *ends), "constant", None)
    elif x.shape[axis] > count:
        sizes = tuple(count if a == axis else d for a, d in enumerate(x.type.shape))
        x = ctx.build(Slice, x, (0,) * x.rank, sizes, (1,) * x.rank)
    outer = [a for a in range(x.rank - 1) if a != axis]
    turned = ctx.build(Transpose, x, (*outer, axis, x.rank - 1))
    rows = ctx.build(Reshape, turned, (dims.product(x.shape[a] for a in outer), matrix.shape[0]))
    product = ctx.build(MatMul, rows, ctx.constant(matrix, x.dtype))
    split = ctx.build(Reshape, product, (*(x.shape[a] for a in outer), *result))
    back = (*range(axis), len(outer), *range(axis, len(outer)), len(outer) + 1)
    return ctx.build(Transpose, split, back)


@onnx_op("STFT", since=17)
def stft(ctx: Context) -> Results:
    """[batch, n, 1] -> [batch, frames, bins, 2]: a convolution whose filters are the windowed sines and cosines."""
    x, step, window, given = ctx.operand(0), _whole(ctx, 1), ctx.optional(2), _whole(ctx, 3)
    if x.rank == 2:
        x = ctx.build(Reshape, x, (*x.shape, 1))
    if not isinstance(x.shape[-1], int):
        raise _symbolic_parts(ctx, x)
    if x.rank != 3 or x.shape[2] not in (1, 2) or not x.dtype.is_float or (isinstance(step, int) and step < 1):
        raise ctx.error(f"STFT of {x.type}: [batch, n, 1 or 2] and a positive step are needed")
    if given is None:
        length: Dim = window.shape[0] if window is not None else x.shape[1]
    elif isinstance(given, Value):
        length = ctx.size(ctx.cast(ctx.scalar(given), i64), "the frame length")
    else:
        length = given
    parts = 2 if x.shape[2] == 2 else 1
    half = _flag(ctx, "onesided", 1)
    if half and parts == 2:
        problem = f"STFT of complex data ({x.type}) has no one-sided result"
        raise ctx.error(problem, "set onesided to 0; its default is 1")
    if not isinstance(step, int) or not isinstance(length, int):
        pace = ctx.constant(step, i64) if isinstance(step, int) else ctx.cast(ctx.scalar(ctx.operand(1)), i64)
        return spectra.stft(ctx, x, pace, length, window, half)
    bins = length // 2 + 1 if half else length
    basis = _basis(length, bins, False).transpose(1, 2, 0)  # [bins, part, n]
    if parts == 2:
        turned = np.stack((-basis[:, 1], basis[:, 0]), 1)
        basis = np.stack((basis, turned), 2)
    filters: Value = ctx.constant(basis.reshape(2 * bins, parts, length), x.dtype)
    if window is not None:
        ctx.equal(window.shape[0], length)
        filters = ctx.pointwise(ops.Mul, filters, window)
    signal = ctx.build(Transpose, x, (0, 2, 1))
    frames = ctx.build(Conv, signal, filters, None, (step,), (0, 0), (1,), 1, False)
    turned_back = ctx.build(Transpose, frames, (0, 2, 1))
    return ctx.build(Reshape, turned_back, (x.shape[0], frames.shape[2], bins, 2))


@onnx_op("MelWeightMatrix", since=17)
def mel_weight_matrix(ctx: Context) -> Results:
    """Triangular filters on the mel scale, at the bins of a one-sided spectrum."""
    operands = tuple(ctx.operand(i) for i in range(5))
    code = ctx.attribute("output_datatype", 1)
    to = f32 if code == 1 else dtype_of(code, "the result of MelWeightMatrix")
    given = [ctx.array(v) for v in operands]
    if any(v is None for v in given):
        computed = spectra.mel_weights(ctx, operands)
        return ctx.cast(computed, to)
    bands, length, rate, low, high = (v.item() for v in given if v is not None)
    bins = int(length) // 2 + 1
    bottom, top = (2595 * np.log10(1 + f / 700) for f in (low, high))
    edges = bottom + np.arange(int(bands) + 2) * ((top - bottom) / (int(bands) + 2))
    places = np.floor((int(length) + 1) * (700 * (10 ** (edges / 2595) - 1)) / rate).astype(np.int64)
    if not np.all((places >= 0) & (places <= bins)):
        raise ctx.error("a band of the mel scale lies outside the spectrum")
    matrix = np.zeros((bins, int(bands)))
    for band in range(int(bands)):
        first, centre, last = places[band : band + 3]
        for k in range(first, centre):
            matrix[k, band] = (k - first) / (centre - first)
        if first <= centre:
            matrix[centre, band] = 1.0
        for k in range(centre, last):
            matrix[k, band] = (last - k) / (last - centre)
    return ctx.constant(matrix, to)
