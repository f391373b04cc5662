"""What a scheme made of a graph, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.grid import Grid
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.weights import Weights


@dataclass(frozen=True, eq=False)
class Made:
    """The graph `before` and `after`, both watching the results of all `layers` by their names; the weights of those
    that are quantised, and the grids of their operands where these are known."""

    before: Graph
    after: Graph
    layers: tuple[Layer, ...]
    weights: Mapping[Layer, Weights]
    grids: Mapping[Layer, Grid]
    notes: tuple[str, ...] = ()
