"""HQQ: "Half-Quadratic Quantization of Large Machine Learning Models" (Badri and Shaji 2023), which needs no data.

What is made small is the p-norm of the weights' errors with p < 1, which lets the few large ones be large. Errors are
split off by the shrinkage that half-quadratic splitting gives, and the grid is fitted to what remains. Zero points are
whole numbers here, so that beside them the scale is solved for; errors are measured in steps of the grid, so that the
result does not depend on the size of the weights.
"""

from __future__ import annotations

import numpy as np

from ingot.compiler.passes.quantize.groups import (
    Array,
    Fit,
    Grouped,
    WeightForm,
    blocks_of,
    encode,
    fit,
    pieces,
    rescaled,
)

NORM = 0.7
BETA, GROWTH = 10.0, 1.05  # the weight of the splitting's quadratic term, and its growth
ITERATIONS = 20


def hqq(w: Array, form: WeightForm, *, norm: float = NORM, iterations: int = ITERATIONS) -> Grouped:
    """w [K, N] in codes whose errors have a small `norm`-norm in each group, never a larger one than `nearest` has."""
    blocks = blocks_of(w, form)
    scale, zero = fit(blocks, form)
    for first, columns in pieces(blocks):
        part = np.ascontiguousarray(blocks[first, :, columns])
        start = scale[first, columns], zero[first, columns]
        scale[first, columns], zero[first, columns] = _fitted(part, form, start, norm, iterations)
    return encode(w, form, (scale, zero))


def _fitted(w: Array, form: WeightForm, start: Fit, norm: float, iterations: int) -> Fit:
    """The best fit [groups, N] that is met for w [groups, rows, N]."""
    now = best = start
    codes, residual, error = _lost(w, form, now, norm)
    least, beta = error, BETA
    for _ in range(iterations):
        size = np.abs(residual)
        # of residuals of 0, whose power is infinite, nothing is split off
        power = np.power(size, norm - 1, out=np.full_like(size, np.inf), where=size > 0)
        split = np.sign(residual) * np.maximum(size - norm / beta * power, 0)
        target = w - split * now[0][:, None]
        if not form.symmetric:
            moved = np.clip(np.rint((codes - target / now[0][:, None]).mean(1)), form.low, form.high)
            now = now[0], moved
        now = rescaled(target, codes - now[1][:, None], form, None, now)
        codes, residual, error = _lost(w, form, now, norm)
        better = error < least
        best = np.where(better, now[0], best[0]), np.where(better, now[1], best[1])
        least = np.where(better, error, least)
        beta *= GROWTH
    return best


def _lost(w: Array, form: WeightForm, now: Fit, norm: float) -> tuple[Array, Array, Array]:
    """The codes of w, what is lost in steps of the grid, and the norm of that, to the power of itself, as weights."""
    scale, zero = now[0][:, None], now[1][:, None]
    codes = form.codes(w, (scale, zero))
    residual = w / scale - (codes - zero)
    return codes, residual, np.power(np.abs(residual), norm).sum(1) * now[0] ** norm
