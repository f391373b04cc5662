"""The weights of layers as integers, and their biases in units of the products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingot.compiler.ir.graph import Array, Value, constant
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.passes.quantize.grid import Grid
from ingot.compiler.passes.quantize.grids import exact_grid
from ingot.compiler.passes.quantize.layers import Layer
from ingot.runtime.dtypes import f32, i8, i32

LARGEST_BIAS = 2**30  # leaves as much of an i32 to the products
PARTS = np.linspace(1.0, 0.6, 21)  # of the largest magnitude: the ends of grids that are tried


@dataclass(frozen=True)
class WeightOptions:
    """`bits` 7 leaves room in the sums of two products that some runtimes keep in 16 bits; `per_channel`: one grid for
    each output channel, where the layer can have that. `clip`: the grid's end is where the squared error is least,
    instead of at the largest magnitude. `exact`: weights that lie on a grid keep it."""

    bits: int = 8
    per_channel: bool = True
    clip: bool = False
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a layer on a grid: `value` computes what `integers` stand for; `is_exact`: that is what they
    were."""

    grid: Grid
    integers: Array
    value: Value
    is_exact: bool


def quantised_weights(layer: Layer, options: WeightOptions) -> Weights:
    """The weights of a layer in i8, zero at 0. Raises QuantisationError for weights that are not finite."""
    channels = layer.channels if options.per_channel else None
    exact = exact_weights(layer, channels, options.bits) if options.exact else None
    if exact is not None and not exact.grid.zero_point.any():  # products with other zeros take longer
        return exact
    data = layer.weights()
    return _on(_grid(data, channels, options), data, layer, is_exact=False)


def exact_weights(layer: Layer, channels: int | None, bits: int = 8) -> Weights | None:
    """The weights of a layer on the grid that they lie on, None where there is none."""
    data = layer.weights()
    grid = exact_grid(data, channels, bits=bits)
    return None if grid is None else _on(grid, data, layer, is_exact=True)


def _on(grid: Grid, data: Array, layer: Layer, *, is_exact: bool) -> Weights:
    integers = grid.quantised(data)
    return Weights(grid, integers, grid.dequantise(constant(integers, origin=layer.node.origin)), is_exact)


def _grid(data: Array, channels: int | None, options: WeightOptions) -> Grid:
    axes = tuple(axis for axis in range(data.ndim) if axis != channels)
    most = np.abs(data).max(axes, keepdims=channels is not None)

    def grid(part: Array) -> Grid:
        end = most * part
        return Grid.spanning(-end, end, i8, symmetric=True, bits=options.bits)

    best = grid(np.ones_like(most))
    if not options.clip:
        return best
    parts: Array = np.ones_like(most)
    least: Array = np.full_like(most, np.inf, np.float64)
    for part in PARTS:
        tried = grid(np.full_like(most, part))
        error = tried.dequantised(tried.quantised(data)).astype(np.float64) - data
        total = np.square(error).sum(axes, keepdims=channels is not None)
        parts = np.where(total < least, part, parts)
        least = np.minimum(total, least)
    return grid(parts)


def quantised_bias(data: Array, x: Grid, w: Grid) -> Value | None:
    """A bias in i32, whose unit is the product of the scales of the activations, one grid, and of the weights. None
    where it does not fit, or is not finite."""
    if not np.isfinite(data).all():
        return None
    unit = (x.scale.astype(np.float64) * w.scale.astype(np.float64)).astype(np.float32).reshape(-1)
    if not (unit >= np.finfo(np.float32).tiny).all():
        return None
    numbers = np.rint(data.astype(np.float64) / unit)
    if float(np.abs(numbers).max(initial=0)) > LARGEST_BIAS:
        return None
    scale = unit.reshape(()) if unit.size == 1 else unit
    return Dequantize(constant(numbers, i32), constant(scale, f32), None)
