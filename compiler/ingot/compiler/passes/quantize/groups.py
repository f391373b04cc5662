"""Weights in groups: codes of a few bits with a scale, and a zero point, for each run of a column's elements.

A weight is a matrix [K, N] whose first axis is summed by the product. Codes are fitted to least squares: ranges are
clipped by a searched ratio, as in "Post-training 4-bit quantization of convolution networks" (Banner et al. 2019), and
the scale is then solved for with the codes fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType

Array: TypeAlias = NDArray[Any]
Fit: TypeAlias = "tuple[Array, Array]"  # scales and zero points, of one shape, in the type of the weights

CHUNK = 1 << 16  # elements that are fitted at a time: what is made of them stays in the caches
RATIOS = tuple(1 - 0.05 * i for i in range(13))  # of the range of a group, from which the best is taken
REFITS = 2  # times that the scale is solved for and the codes are taken anew
EXACT_BITS = 8  # from which clipping never pays: the whole range is taken


@dataclass(frozen=True)
class WeightForm:
    """How a weight [K, N] is stored: `bits` (2, 3, 4 or 8) an element, and a scale for each `group` rows of a column, 0
    for the whole column. Symmetric codes are signed, others unsigned with a zero point of as many bits; three bits lie
    in elements of four. Scales are f32 or f16 numbers."""

    bits: int = 4
    group: int = 32
    symmetric: bool = True
    scale: Literal["f32", "f16"] = "f32"

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 8):
            raise QuantisationError(f"weights of {self.bits} bits: 2, 3, 4 and 8 are supported")
        if self.group != 0 and not 16 <= self.group <= 1024:
            raise QuantisationError(f"groups of {self.group} rows: 16 to 1024 are supported, 0 for whole columns")
        if self.scale not in ("f32", "f16"):
            raise QuantisationError(f"scales of type {self.scale!r}: f32 and f16 are supported")

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return self.low + (1 << self.bits) - 1

    @property
    def stored(self) -> DType:
        """The element type that codes are stored in."""
        return dtypes.BY_NAME[f"{'i' if self.symmetric else 'u'}{4 if self.bits == 3 else self.bits}"]

    @property
    def stored_bits(self) -> int:
        """The bits that a code takes in a file."""
        return 4 if self.bits == 3 else self.bits

    def rows(self, depth: int) -> int:
        """The rows of a group in a weight of `depth` rows."""
        return min(self.group, depth) or max(depth, 1)

    def bytes(self, depth: int, columns: int) -> int:
        """What a weight [depth, columns] takes in a file."""
        groups = math.ceil(depth / self.rows(depth)) * columns
        zeros = 0 if self.symmetric else math.ceil(groups * self.stored_bits / 8)
        return math.ceil(depth * columns * self.stored_bits / 8) + groups * (2 if self.scale == "f16" else 4) + zeros

    def grid(self, low: Array, high: Array) -> Fit:
        """Scales and zero points for ranges low <= 0 <= high. A range of width 0 gets the scale 1."""
        top = -self.low - 1 if self.symmetric else self.high
        wide = np.maximum(-low, high) if self.symmetric else high - low
        scale = self.rounded(wide / top)
        scale = np.where(wide > 0, scale, 1).astype(scale.dtype)
        zero = np.zeros_like(scale) if self.symmetric else np.clip(np.rint(-low / scale), self.low, self.high)
        return scale, zero

    def rounded(self, scale: Array) -> Array:
        """Scales as they are stored: finite and not 0, in the type that they had."""
        limits = np.finfo(np.float16 if self.scale == "f16" else np.float32)
        return np.clip(scale, limits.smallest_normal, limits.max).astype(limits.dtype).astype(scale.dtype)

    def codes(self, w: Array, fit: Fit) -> Array:
        """The codes nearest to w, as floats; ties to even."""
        scale, zero = fit
        codes = w / scale
        np.rint(codes, out=codes)
        codes += zero
        return np.clip(codes, self.low, self.high, out=codes)


@dataclass(frozen=True, eq=False)
class Grouped:
    """A weight [K, N] in codes (i8 or u8), with scales f32 [groups, N] and zero points [groups, N] of the codes' type,
    None where they are 0."""

    form: WeightForm
    codes: Array
    scale: Array
    zero: Array | None

    @staticmethod
    def of(form: WeightForm, codes: Array, fit: Fit) -> Grouped:
        """Codes and their fit, both as floats, in the types that they are stored in."""
        kind = np.int8 if form.symmetric else np.uint8
        zero = None if form.symmetric else fit[1].astype(kind)
        return Grouped(form, codes.astype(kind), fit[0].astype(np.float32), zero)

    @property
    def group(self) -> int:
        """The rows of a group; the last may have fewer."""
        return self.form.rows(self.codes.shape[0])

    @property
    def bytes(self) -> int:
        """What it takes in a file."""
        return self.form.bytes(*self.codes.shape)

    def offsets(self) -> Array:
        """The codes less their zero points, f32 [K, N]."""
        offsets = self.codes.astype(np.float32)
        return offsets if self.zero is None else offsets - self.spread(self.zero)

    def values(self) -> Array:
        """The weight that this stands for, f32 [K, N]."""
        return self.offsets() * self.spread(self.scale)

    def spread(self, parameter: Array) -> Array:
        """One row of `parameter` [groups, N] for each row of the weight."""
        return np.repeat(parameter, self.group, axis=0)[: self.codes.shape[0]]


def blocks_of(w: Array, form: WeightForm) -> Array:
    """w [K, N] as [groups, rows of a group, N], with zeros where the last group has fewer rows."""
    depth, columns = w.shape
    rows = form.rows(depth)
    groups = math.ceil(depth / rows)
    if groups * rows != depth:
        w = np.concatenate([w, np.zeros((groups * rows - depth, columns), w.dtype)])
    return w.reshape(groups, rows, columns)


def pieces(blocks: Array) -> Iterator[tuple[slice, slice]]:
    """Parts of [groups, rows, N] of about CHUNK elements."""
    groups, rows, columns = blocks.shape
    width = max(1, min(columns, CHUNK // max(rows, 1)))
    count = max(1, CHUNK // max(rows * width, 1))
    for first in range(0, groups, count):
        for left in range(0, columns, width):
            yield slice(first, first + count), slice(left, left + width)


def fit(blocks: Array, form: WeightForm, importance: Array | None = None) -> Fit:
    """Scales and zero points [groups, N] for weights [groups, rows, N] that make the squared error of each group small,
    that of each row weighted by `importance` [groups, rows]."""
    scale = np.empty((blocks.shape[0], blocks.shape[2]), blocks.dtype)
    zero = np.empty_like(scale)
    for part in pieces(blocks):
        weight = None if importance is None else importance[part[0]][:, :, None].astype(blocks.dtype)
        scale[part], zero[part] = _fitted(np.ascontiguousarray(blocks[part[0], :, part[1]]), form, weight)
    return scale, zero


def _fitted(w: Array, form: WeightForm, weight: Array | None) -> Fit:
    low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
    best = form.grid(low, high)
    if form.bits >= EXACT_BITS:
        return best
    least = np.full(low.shape, np.inf, w.dtype)
    for ratio in RATIOS:
        best, least, _ = _better(w, form, weight, form.grid(low * ratio, high * ratio), best, least)
    for _ in range(REFITS):
        refit = rescaled(w, form.codes(w, _column(best)) - best[1][:, None], form, weight, best)
        best, least, improved = _better(w, form, weight, refit, best, least)
        if not improved:
            break
    return best


def _better(
    w: Array, form: WeightForm, weight: Array | None, new: Fit, best: Fit, least: Array
) -> tuple[Fit, Array, bool]:
    """The better of two fits for each group, its error, and whether the new one is it anywhere."""
    error = form.codes(w, _column(new))
    error -= new[1][:, None]
    error *= new[0][:, None]
    error -= w
    np.square(error, out=error)
    if weight is not None:
        error *= weight
    total = error.sum(1)
    better = total < least
    kept = np.where(better, new[0], best[0]), np.where(better, new[1], best[1])
    return kept, np.where(better, total, least), bool(better.any())


def rescaled(w: Array, offsets: Array, form: WeightForm, weight: Array | None, fit: Fit) -> Fit:
    """The fit with the scales of least squares for codes less zero points `offsets` [groups, rows, N]."""
    heavy = offsets if weight is None else offsets * weight
    squares, products = (heavy * offsets).sum(1), (heavy * w).sum(1)
    usable = (squares > 0) & (products > 0)
    solved = np.divide(products, squares, out=np.ones_like(products), where=usable)
    return np.where(usable, form.rounded(solved), fit[0]), fit[1]


def _column(fit: Fit) -> Fit:
    """A fit as it broadcasts to [groups, rows, N]."""
    return fit[0][:, None], fit[1][:, None]


def encode(w: Array, form: WeightForm, found: Fit) -> Grouped:
    """w [K, N] in the codes nearest to it."""
    blocks = blocks_of(w, form)
    codes = np.empty(blocks.shape, np.int8 if form.symmetric else np.uint8)
    for first, columns in pieces(blocks):
        made = form.codes(blocks[first, :, columns], (found[0][first, None, columns], found[1][first, None, columns]))
        codes[first, :, columns] = made
    return Grouped.of(form, codes.reshape(-1, w.shape[1])[: w.shape[0]], found)


def nearest(w: Array, form: WeightForm, importance: Array | None = None) -> Grouped:
    """w [K, N] rounded to nearest, with ranges that make the squared error small, that of each row weighted by
    `importance` [K], such as the second moments of the activations that it is multiplied by."""
    if importance is not None:
        importance = blocks_of(importance[:, None], form)[:, :, 0]
    return encode(w, form, fit(blocks_of(w, form), form, importance))


def output_error(difference: Array, moment: Array) -> float:
    """The mean squared error, summed over outputs, of a product whose weight [K, N] is off by `difference`, for
    activations with the second moment `moment` [K, K]: the trace of ``d.T @ moment @ d``."""
    return float(np.vdot(difference, moment @ difference))
