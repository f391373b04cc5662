"""Lossless quantisation: weights that lie on a grid are stored as its integers, and every value stays what it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.weights import Weights, exact_weights
from ingot.compiler.rewrite import rebuild


def store_exactly(graph: Graph, layers: Collection[Layer]) -> tuple[Graph, Mapping[Layer, Weights]]:
    """`graph` with the weights of those layers that lie on a grid of 8 bits as `Dequantize` of its integers; these
    weights by layer. All values stay what they are, but for the sign of zeros among the weights."""
    mapping: dict[Value, Value] = {}
    found: dict[Layer, Weights] = {}
    for layer in layers:
        weights = exact_weights(layer, layer.channels)
        if weights is not None:
            found[layer] = weights
            mapping[layer.w] = weights.value
    return (rebuild(graph, mapping) if mapping else graph), found
