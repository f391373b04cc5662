"""What a graph takes, as the runtime describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.compiler.ir.dims import UNBOUNDED, serialise, symbols
from ingot.compiler.ir.graph import Graph
from ingot.runtime.dims import parse_dim
from ingot.runtime.inputs import TensorInfo, describe
from ingot.runtime.manifest import Signature


@dataclass(frozen=True)
class GraphInterface:
    """The inputs of a graph in order, and the range of each of their symbolic dims, both ends included."""

    inputs: tuple[Signature, ...]
    symbols: Mapping[str, tuple[int, int]]

    @property
    def described(self) -> tuple[TensorInfo, ...]:
        """The inputs as callers see them."""
        return describe(self.inputs)


def interface_of(graph: Graph) -> GraphInterface:
    """What `graph` takes."""
    names = sorted({symbol for x in graph.inputs for dim in x.shape for symbol in symbols(dim)})
    inputs = tuple(
        Signature(x.label, x.dtype, tuple(parse_dim(serialise(dim), names) for dim in x.shape), index)
        for index, x in enumerate(graph.inputs)
    )
    return GraphInterface(inputs, {name: graph.ranges.get(name, (0, UNBOUNDED)) for name in names})
