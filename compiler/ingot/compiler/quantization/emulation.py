"""One artifact for every mixture of schemes of a model: weights, biases and grids are inputs of it.

Values that may lie on a grid are rounded to it in floats where a switch says so. What products of the rounded values
come to differs from sums of integers by the rounding of f32 alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.api import compile
from ingot.compiler.ir.graph import Graph, Input, Node, Value, node_of, operands_of, with_operands
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Where
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.passes.quantize.dynamic import quantised_now
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.points import placed
from ingot.compiler.passes.quantize.products import known
from ingot.compiler.passes.quantize.static import grids_of
from ingot.compiler.passes.quantize.tables import LookupTable, Part
from ingot.compiler.quantization.made import Stored
from ingot.compiler.quantization.mixture import Mixture, Seen, layer_in
from ingot.compiler.quantization.plan import LayerPlan
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import BY_NAME, DType, boolean, f32

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Variant:
    """The numbers that a layer computes with under a plan, and how they are stored (None: as they were)."""

    weights: NDArray[Any]
    bias: NDArray[Any] | None
    stored: Stored | None


class Emulation:
    """The model compiled once, and run with any plan for its layers."""

    def __init__(
        self, graph: Graph, layers: Sequence[Part], mixture: Mixture, seen: Seen, *, threads: int | None = None
    ) -> None:
        self.graph, self.layers, self.mixture, self.seen = graph, tuple(layers), mixture, seen
        self._variants: dict[tuple[Part, LayerPlan], Variant] = {}
        self._inputs: list[Input] = []
        self._taken = {each.label for each in graph.inputs}
        self._weights: dict[Part, tuple[str, str | None]] = {}
        self._switches: dict[tuple[Node, Value], tuple[str, str, str]] = {}
        self._dynamic: dict[Layer, str] = {}
        self._session = compile(self._emulated(), target="native").session(threads=threads)

    def close(self) -> None:
        """Give back what the artifact takes."""
        self._session.close()

    def variant(self, layer: Part, plan: LayerPlan) -> Variant:
        """What a layer computes with. Raises QuantisationError."""
        if (layer, plan) not in self._variants:
            made = self.mixture.made(self.graph, (layer,), {layer: plan}, self.seen)
            bias = None
            if isinstance(layer, LookupTable):
                weights = known(operands_of(node_of(made.after.watched[layer.name]))[0])
            else:
                now = layer_in(made.after, layer)
                bias = _bias(now, made.after)
                weights = known(now.w)
            assert weights is not None
            self._variants[layer, plan] = Variant(
                np.ascontiguousarray(weights), None if bias is None else known(bias), made.weights.get(layer)
            )
        return self._variants[layer, plan]

    def feeds(self, plans: Mapping[Part, LayerPlan]) -> dict[str, NDArray[Any]]:
        """The inputs beside the model's own that make it what the plans say."""
        found: dict[str, NDArray[Any]] = {}
        for layer, (weights, bias) in self._weights.items():
            variant = self.variant(layer, plans.get(layer, LayerPlan("f32")))
            found[weights] = variant.weights
            if bias is not None and isinstance(layer, Layer):
                filters = _filters(layer)
                whole = np.zeros(1, np.float32) if variant.bias is None else variant.bias.reshape(-1)
                found[bias] = np.ascontiguousarray(np.broadcast_to(whole, filters))
        placement = self.mixture.placement(self.graph, plans)
        grids = grids_of(placement, self.seen.named(placement), self.mixture.static)
        for (node, value), (switch, scale, zero) in self._switches.items():
            if is_on := value in placement.read.get(node, ()):
                grid = grids[placement.of[value]]
                found[scale], found[zero] = grid.scale, grid.zero_point
            else:
                found[scale], found[zero] = np.ones((), np.float32), np.zeros((), self._integer.to_numpy())
            found[switch] = np.asarray(is_on)
        for layer, switch in self._dynamic.items():
            found[switch] = np.asarray(layer in plans and plans[layer].scheme == "int8-dynamic")
        return found

    def run(self, arrays: Arrays, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of the model."""
        return self._session.run({**arrays, **feeds})

    @property
    def _integer(self) -> DType:
        return BY_NAME[self.mixture.static.activations]

    def _emulated(self) -> Graph:
        layers: dict[Node, Layer] = {layer.node: layer for layer in self.layers if isinstance(layer, Layer)}
        placement = placed(self.graph, tuple(layers.values()), everywhere=self.mixture.everywhere)
        mapping: dict[Value, Value] = {}
        biases: dict[Value, dict[Value, Value]] = {}  # of sums of products and theirs
        for table in self.layers:
            if isinstance(table, LookupTable):
                mapping[table.w] = rows = self._input("weights", table.w.dtype, table.w.type.static_shape())
                self._weights[table] = rows.label, None
        for old in self.graph.nodes():
            node, changes = old, dict(biases.get(old, {}))
            for value in placement.read.get(old, ()):
                changes[value] = self._rounded(old, value)
            if (layer := layers.get(old)) is not None:
                if isinstance(old, MatMul):
                    switch = self._input("dynamic", boolean)
                    self._dynamic[layer] = switch.label
                    rounded = quantised_now(
                        layer.x, by_row=self.mixture.dynamic.grain == "token", symmetric=self.mixture.dynamic.symmetric
                    )
                    changes[layer.x] = Where(switch, rounded, changes.get(layer.x, layer.x))
                changes[layer.w] = weights = self._input("weights", f32, layer.w.type.static_shape())
                bias = None
                if isinstance(old, Conv | ConvTranspose):
                    bias = self._input("bias", f32, (_filters(layer),))
                    node = dataclasses.replace(old, bias=bias)
                elif layer.product is not None and (biased := layer.product.biased(self.graph)) is not None:
                    bias = self._input("bias", f32, (_filters(layer),))
                    biases[biased[0]] = {biased[1]: bias}
                self._weights[layer] = weights.label, None if bias is None else bias.label
            if changes:
                mapping |= dict(zip(old.results(), with_operands(node, changes).results(), strict=True))
        made = rebuild(dataclasses.replace(self.graph, watched={}), mapping)
        return dataclasses.replace(made, inputs=(*made.inputs, *self._inputs))

    def _rounded(self, node: Node, value: Value) -> Value:
        """`value` as `node` reads it: rounded to a grid where a switch says so."""
        switch, scale = self._input("switch", boolean), self._input("scale", f32)
        zero = self._input("zero", self._integer)
        self._switches[node, value] = switch.label, scale.label, zero.label
        return Where(switch, Dequantize(Quantize(value, scale, zero, self._integer), scale, zero), value)

    def _input(self, name: str, dtype: DType, shape: tuple[int, ...] = ()) -> Input:
        label = f"{name} {len(self._inputs)}"
        while label in self._taken:
            label += "'"
        self._inputs.append(Input(label, TensorType(dtype, shape)))
        return self._inputs[-1]


def _bias(layer: Layer, graph: Graph) -> Value | None:
    if not isinstance(layer.node, MatMul):
        return layer.node.bias
    biased = None if layer.product is None else layer.product.biased(graph)
    return None if biased is None else biased[1]


def _filters(layer: Layer) -> int:
    shape = layer.w.type.static_shape()
    if isinstance(layer.node, MatMul):
        return shape[-1]
    return shape[1] * layer.node.group if isinstance(layer.node, ConvTranspose) else shape[0]
