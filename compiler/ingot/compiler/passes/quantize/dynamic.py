"""Dynamic quantisation: the grids of activations follow from each run's own values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ingot.compiler.ir.graph import Graph, Value, constant, node_of, with_operands
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.pointwise import Abs, Cast, Div, Max, Min, Mul, Neg, Round, Sub
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.reduction import ReduceMax, ReduceMin
from ingot.compiler.passes.quantize.grid import TINY
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.weights import WeightOptions, Weights, quantised_weights
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import f32, u8

Grain: TypeAlias = Literal["token", "tensor"]
CENTRE, HALF, STEPS = 128, 127.0, 255.0


@dataclass(frozen=True)
class DynamicOptions:
    """`grain`: one grid for each row of a product's operand ("token") or one for all ("tensor"; convolutions always).
    With `symmetric` zero lies in the middle of a grid, else where the range has it."""

    grain: Grain = "token"
    symmetric: bool = False
    weights: WeightOptions = field(default_factory=WeightOptions)


def quantise_dynamic(
    graph: Graph, layers: Collection[Layer], options: DynamicOptions | None = None
) -> tuple[Graph, Mapping[Layer, Weights]]:
    """`graph` with the operands of these layers quantised to u8 by the range that they turn out to have, and their
    weights to i8; the weights by layer. Rows with infinities or NaN give NaN.

    Raises QuantisationError for weights that are not finite.
    """
    options = options or DynamicOptions()
    mapping: dict[Value, Value] = {}
    weights: dict[Layer, Weights] = {}
    shared: dict[tuple[Value, int | None], Weights] = {}
    activations: dict[tuple[Value, bool], Value] = {}
    for layer in layers:
        by_row = options.grain == "token" and isinstance(layer.node, MatMul)
        place = layer.x, by_row
        if not isinstance(layer.x, Dequantize) and place not in activations:
            activations[place] = quantised_now(layer.x, by_row=by_row, symmetric=options.symmetric)
        key = layer.w, layer.channels
        weights[layer] = shared[key] = shared.get(key) or quantised_weights(layer, options.weights)
        changes = {layer.x: activations.get(place, layer.x), layer.w: weights[layer].value}
        mapping[layer.node] = with_operands(layer.node, changes)
    return rebuild(graph, mapping), weights


def quantised_now(x: Value, *, by_row: bool, symmetric: bool) -> Dequantize:
    """f32 `x` [..., M, K] on the grid of u8 that its range asks for: one for each row, or one for all."""
    axes = (x.rank - 1,) if by_row else tuple(range(x.rank))

    def number(value: float) -> Value:
        return constant(value, f32)

    if symmetric:
        end = ReduceMax(Abs(x), axes, by_row)
        scale: Value = Max(Mul(end, number(1 / HALF)), number(TINY))
        zero: Value = constant(CENTRE, u8)
    else:
        high = Max(ReduceMax(x, axes, by_row), number(0.0))
        low = Min(ReduceMin(x, axes, by_row), number(0.0))
        scale = Max(Mul(Sub(high, low), number(1 / STEPS)), number(TINY))
        zero = Cast(Round(Min(Div(Neg(low), scale), number(STEPS))), u8)
    origin = node_of(x).origin
    return Dequantize(Quantize(x, scale, zero, u8, origin=origin), scale, zero, origin=origin)
