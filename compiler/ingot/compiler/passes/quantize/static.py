"""Static quantisation: grids of activations from ranges that calibration found (Jacob et al. 2018; Krishnamoorthi,
"Quantizing deep convolutional networks for efficient inference: A whitepaper", 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Node, Value, constant, node_of, with_operands
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Pad
from ingot.compiler.ops.pointwise import Clip, Relu
from ingot.compiler.passes.constants import splat
from ingot.compiler.passes.quantize.bias import shift
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.flow import moved
from ingot.compiler.passes.quantize.grid import Grid, Range
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.points import Group, Placement
from ingot.compiler.passes.quantize.products import known
from ingot.compiler.passes.quantize.weights import WeightOptions, Weights, quantised_bias, quantised_weights
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import BY_NAME

Activations: TypeAlias = Literal["u8", "i8", "u16", "i16"]


@dataclass(frozen=True)
class StaticOptions:
    """The grids of activations: their element type (products of 8 bits alone are computed on integers), and whether as
    many steps lie below zero as above."""

    activations: Activations = "u8"
    symmetric: bool = False
    weights: WeightOptions = field(default_factory=WeightOptions)


@dataclass(frozen=True, eq=False)
class Static:
    """A graph after static quantisation: the grid of each group of values of its placement, and the weights of each
    layer."""

    graph: Graph
    grids: tuple[Grid, ...]
    weights: Mapping[Layer, Weights]


def quantise_static(
    graph: Graph,
    placement: Placement,
    ranges: Mapping[str, Range],
    options: StaticOptions | None = None,
    *,
    means: Mapping[Layer, Array] | None = None,
    weights: Mapping[Layer, WeightOptions] | None = None,
) -> Static:
    """`graph` with the layers of `placement` between `Quantize` and `Dequantize`; `ranges` has one for each of its
    points. Movement between grids moves integers; a Relu or Clip that a grid's ends imply goes. What the rounding of
    weights adds to the means of results is taken off their biases where `means` has the mean of each input channel of a
    layer (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2).
    `weights` has options for single layers.

    Raises QuantisationError for a point without a range and weights that are not finite.
    """
    options = options or StaticOptions()
    if missing := [name for name in placement.points if name not in ranges]:
        raise QuantisationError(f"there are no ranges of {', '.join(missing[:3])}: calibrate {len(missing)} points")
    grids = grids_of(placement, ranges, options)
    integers = _integers(graph, placement, grids)
    numbers: dict[Value, Value] = {}
    for value, q in integers.items():
        number = grids[placement.of[value]].dequantise(q)
        numbers[value] = dataclasses.replace(number, origin=node_of(value).origin)

    mapping: dict[Value, Value] = {}
    made: dict[Layer, Weights] = {}
    shared: dict[tuple[Value, int | None, WeightOptions], Weights] = {}
    layers: dict[Node, Layer] = {layer.node: layer for layer in placement.layers}
    biases: dict[Value, dict[Value, Value]] = {}  # what takes the place of the bias in the sums of products with theirs
    for old in graph.nodes():
        node = old
        changes = {value: numbers[value] for value in placement.read.get(node, ())} | biases.get(node, {})
        if (layer := layers.get(node)) is not None:
            own = (weights or {}).get(layer, options.weights)
            key = layer.w, layer.channels, own
            made[layer] = shared[key] = shared.get(key) or quantised_weights(layer, own)
            changes[layer.w] = made[layer].value
            change = _shift(layer, made[layer], (means or {}).get(layer))
            if isinstance(layer.node, MatMul):
                if change is not None and layer.product and (found := layer.product.biased(graph)) is not None:
                    biases[found[0]] = {found[1]: constant(_less(found[1], change), node.dtype)}
            elif layer.node.bias is not None or change is not None:
                grid = grids[placement.of[layer.x]] if layer.x in placement.of else None
                data = _less(layer.node.bias, change)
                whole = None if grid is None else quantised_bias(data, grid, made[layer].grid)
                node = dataclasses.replace(layer.node, bias=constant(data, node.dtype) if whole is None else whole)
        if changes:
            mapping |= dict(zip(old.results(), with_operands(node, changes).results(), strict=True))
    return Static(rebuild(graph, mapping), grids, made)


def grids_of(
    placement: Placement, ranges: Mapping[str, Range], options: StaticOptions | None = None
) -> tuple[Grid, ...]:
    """The grid of each group of values of `placement`."""
    return tuple(_grid(group, placement, ranges, options or StaticOptions()) for group in placement.groups)


def _shift(layer: Layer, weights: Weights, mean: Array | None) -> Array | None:
    """What the rounding of the weights of a layer adds to the mean of each of its output channels; None for nothing."""
    if mean is None or layer.product is None or weights.is_exact:
        return None
    found = shift(layer.product, weights.grid.dequantised(weights.integers), mean)
    return found if found.any() else None


def _less(bias: Value | None, shift: Array | None) -> Array:
    """The elements of a bias less those of `shift`."""
    data = np.zeros(()) if bias is None else known(bias)
    assert data is not None
    return data if shift is None else data.astype(np.float64) - shift


def _grid(group: Group, placement: Placement, ranges: Mapping[str, Range], options: StaticOptions) -> Grid:
    found = [ranges[placement.names[value]] for value in group.sources]
    for part in group.constants:
        if part.data.size:
            found.append(Range(float(part.data.min()), float(part.data.max())))
    whole = found[0]
    for each in found[1:]:
        whole = whole.union(each)
    return Grid.of(whole, BY_NAME[options.activations], symmetric=options.symmetric)


def _integers(graph: Graph, placement: Placement, grids: tuple[Grid, ...]) -> dict[Value, Value]:
    """The integers of each value on a grid."""
    made: dict[Value, Value] = {}
    for node in graph.nodes():
        for value in node.results():
            if value not in placement.of or value in made:
                continue
            grid = grids[placement.of[value]]
            if isinstance(value, Constant):
                made[value] = constant(grid.quantised(value.data), origin=value.origin)
            elif sources := moved(node):
                operands = {source: made[source] for source in sources}
                if isinstance(node, Pad) and node.mode == "constant":
                    zero = constant(grid.zero_point)
                    renewed = dataclasses.replace(node, x=made[node.x], value=zero)
                else:
                    renewed = with_operands(node, operands)
                made |= dict(zip(node.results(), renewed.results(), strict=True))
            else:
                quantised = grid.quantise(_unclipped(value, grid))
                made[value] = dataclasses.replace(quantised, origin=node.origin)
    return made


def _unclipped(value: Value, grid: Grid) -> Value:
    """`value` without a Relu or Clip whose ends lie no further in than those of the grid: quantisation cuts off as
    much."""
    ends = grid.range
    match value:
        case Relu(x=x) if ends.low >= 0:
            return x
        case Clip(x=x, low=low, high=high):
            bounds = [end if bound is None else splat(bound) for bound, end in ((low, -np.inf), (high, np.inf))]
            if bounds[0] is None or bounds[1] is None:
                return value
            return x if bounds[0] <= ends.low and ends.high <= bounds[1] else value
        case _:
            return value
