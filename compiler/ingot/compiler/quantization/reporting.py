"""Puts a report together: what is known of the layers, and what is measured on samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ingot.compiler.ir.graph import Constant, Graph, Value, node_of, topological
from ingot.compiler.passes.quantize.grid import Grid, Range
from ingot.compiler.passes.quantize.spelling import stored_bytes
from ingot.compiler.passes.quantize.tables import LookupTable, Part
from ingot.compiler.quantization.comparison import compared
from ingot.compiler.quantization.made import Made
from ingot.compiler.quantization.report import LayerReport, Report


def reported(
    scheme: str, made: Made, samples: Sequence[Mapping[str, NDArray[Any]]], progress: Callable[[str], None]
) -> Report:
    """The report; ratios and shares are measured where there are samples."""
    outputs: dict[str, float] = {}
    ratios: dict[str, float] = {}
    shares: dict[str, float] = {}
    if samples:
        computed = set(made.after.nodes())
        pairs: dict[str, tuple[Value, Value]] = {
            layer.name: (layer.node, after)
            for layer in made.layers
            if node_of(after := made.after.watched[layer.name]) in computed
        }
        ranges = {layer.name: (layer.x, _reach(grid)) for layer, grid in made.grids.items()}
        outputs, ratios, shares = compared(made.before, made.after, pairs, ranges, samples, progress)
    exact = sum(weights.is_exact for weights in made.weights.values())
    count = f"{exact} of {len(made.weights)} layers"
    notes = [f"the weights of {count} lie on a grid as they are: stored exactly"] if exact else []
    return Report(
        scheme,
        tuple(_layer(layer, made, ratios, shares) for layer in made.layers),
        outputs,
        len(samples),
        _bytes(made.before),
        _bytes(made.after),
        (*made.notes, *notes),
    )


def _reach(grid: Grid) -> Range:
    """The values that a grid rounds to no further than half a step."""
    half = float(grid.scale.max()) / 2
    return Range(grid.range.low - half, grid.range.high + half)


def _layer(layer: Part, made: Made, ratios: Mapping[str, float], shares: Mapping[str, float]) -> LayerReport:
    weights, grid = made.weights.get(layer), None if isinstance(layer, LookupTable) else made.grids.get(layer)
    before = _bytes_of(layer.w)
    bounds = None if grid is None else grid.range
    return LayerReport(
        layer.name,
        layer.node.name,
        _left(layer) if weights is None else weights.how,
        None if bounds is None else bounds.low,
        None if bounds is None else bounds.high,
        shares.get(layer.name),
        ratios.get(layer.name),
        before,
        before if weights is None else weights.bytes,
    )


def _left(layer: Part) -> str:
    return "as they are, first" if layer.is_first else "as they are, last" if layer.is_last else "as they are"


def _bytes_of(value: Value) -> int:
    """The bytes of the constants that a value is made of."""
    return sum(stored_bytes(node) for node in topological([value]) if isinstance(node, Constant))


def _bytes(graph: Graph) -> int:
    return sum(stored_bytes(node) for node in graph.nodes() if isinstance(node, Constant))
