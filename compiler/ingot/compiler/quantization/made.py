"""What a scheme made of a graph, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.grid import Grid
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.tables import Part
from ingot.compiler.passes.quantize.weights import Weights


@dataclass(frozen=True)
class Stored:
    """How the weights of a layer are stored, in words, and in how many bytes."""

    how: str
    bytes: int
    is_exact: bool = False

    @staticmethod
    def of(weights: Weights) -> Stored:
        """Those of 8 bits and less that a channel or a layer has one grid of."""
        grid = weights.grid
        grain = "a channel" if grid.scale.ndim else "a layer"
        how = f"i{grid.bits}, {'exact' if weights.is_exact else 'rounded'}, one grid {grain}"
        size = grid.scale.nbytes + grid.zero_point.nbytes + weights.integers.nbytes
        return Stored(how, size, weights.is_exact)


@dataclass(frozen=True, eq=False)
class Made:
    """The graph `before` and `after`, both watching the results of all `layers` by their names; the weights of those
    that are changed, and the grids of their operands where these are known."""

    before: Graph
    after: Graph
    layers: tuple[Part, ...]
    weights: Mapping[Part, Stored]
    grids: Mapping[Layer, Grid]
    notes: tuple[str, ...] = ()
