"""Steps before a model's inputs, compiled by themselves: samples go through them as they do in front of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ingot.compiler.api import compile
from ingot.compiler.array_files import Arrays
from ingot.compiler.calibration.interface import interface_of
from ingot.compiler.ir.graph import Graph
from ingot.compiler.processing.apply import prepended
from ingot.compiler.processing.errors import ProcessingError
from ingot.compiler.processing.steps import Steps, read_steps


class Preprocessing:
    """`steps` in front of the inputs of `graph`. `interface` is what goes in; inputs without steps pass through."""

    def __init__(self, graph: Graph, steps: Steps) -> None:
        labels = [x.label for x in graph.inputs]
        if unknown := [label for label in steps if label not in labels]:
            raise ProcessingError(f"the model has no input {unknown[0]!r}; it has {', '.join(labels)}")
        chosen = tuple(x for x in graph.inputs if x.label in steps)
        # Outputs have names of their own, as the steps may leave an input as it is.
        alone = Graph(chosen, tuple((f"{x.label}:stepped", x) for x in chosen), "steps", graph.ranges)
        front = prepended(alone, read_steps(steps))
        self.interface = interface_of(prepended(Graph(graph.inputs, (), graph.name, graph.ranges), read_steps(steps)))
        self._outputs = {x.label: f"{x.label}:stepped" for x in chosen}
        self._inputs = tuple(x.label for x in front.inputs)
        self._rest = tuple(label for label in labels if label not in steps)
        self._session = compile(front, target="native").session(threads=1)

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """What the steps make of one sample, and the other inputs as they are."""
        found = self._session.run({name: arrays[name] for name in self._inputs})
        return {name: arrays[name] for name in self._rest} | {k: found[name] for k, name in self._outputs.items()}
