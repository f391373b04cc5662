"""Grids of 8 bits on which floats lie as they are, such as the weights of models that were quantised once and then
written as floats."""

from __future__ import annotations

import numpy as np

from ingot.compiler.ir.graph import Array
from ingot.compiler.passes.quantize.grid import Grid
from ingot.runtime.dtypes import i8

STEPS = 255  # between the ends of a grid
CLOSE = 1e-2  # of a step: how far rounding may carry a multiple of a step that is known to a few bits less than f32 has


def exact_grid(data: Array, channels: int | None, *, bits: int = 8) -> Grid | None:
    """The grids of i8, one for each index of axis `channels` (None: one), whose points all elements of the f32 `data`
    are: ``dequantised(quantised(data))`` gives the same bits, but for the sign of zeros. None where there are none."""
    rows = data.reshape(1, -1) if channels is None else np.moveaxis(data, channels, 0).reshape(data.shape[channels], -1)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scales, zeros = np.empty(len(rows), np.float32), np.empty(len(rows), np.int8)
    for i, row in enumerate(rows):
        step = step_of(row)
        if step is None:
            return None
        numbers = np.rint(row / step)
        low, high = min(float(numbers.min(initial=0)), 0.0), max(float(numbers.max(initial=0)), 0.0)
        if low >= least and high <= most:
            zero = 0.0
        elif high - low <= most - least:
            zero = least - low
        else:
            return None
        scales[i], zeros[i] = step, int(zero)
    shape = [1] * data.ndim
    if channels is not None:
        shape[channels] = data.shape[channels]
    placed = shape if channels is not None else []
    return Grid(scales.reshape(placed), zeros.reshape(placed), i8, bits)


def step_of(row: Array) -> np.float32 | None:
    """The largest s of f32 for which every element of `row` is an integer times s, rounded once, with at most 255 steps
    from the smallest to the largest or to 0; None where there is none."""
    sizes = np.unique(np.abs(row[row != 0]))
    if sizes.size == 0:
        return np.float32(1)
    if sizes.size > STEPS:
        return None
    wide = sizes.astype(np.float64)
    smallest = float(np.diff(wide, prepend=0.0).min())  # a step, or a small multiple of one
    if smallest * STEPS < wide[-1] * (1 - CLOSE):
        return None
    for parts in range(1, int(STEPS * smallest / wide[-1] + CLOSE) + 1):
        steps = wide * (parts / smallest)
        numbers = np.rint(steps)
        if float(np.abs(steps - numbers).max()) < CLOSE * parts and (step := _exact(sizes, numbers)) is not None:
            return step
    return None


def _exact(sizes: Array, numbers: Array) -> np.float32 | None:
    """The step of f32 that gives `sizes`, times `numbers` and rounded; None where no float does."""
    half = np.spacing(sizes).astype(np.float64) / 2
    wide = sizes.astype(np.float64)
    low, high = float(((wide - half) / numbers).max()), float(((wide + half) / numbers).min())
    middle = np.float32((low + high) / 2)
    for step in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))):
        if bool((numbers.astype(np.float32) * step == sizes).all()):
            return step
    return None
