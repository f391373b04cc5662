"""Weights that are stored in a narrower type than they are computed in, kept so while a graph is simplified.

Folding would widen them: right for compiled code, which packs them anyway, but an exported model would grow, and a
runtime that computes quantised models in integers would no longer find the integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ingot.compiler.frontend.weights import PACKED
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value
from ingot.compiler.ops.bitwise import BitCast
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.rewrite import rebuild

SMALLEST = 4096  # elements from which a constant that is cast or unpacked is kept; widening fewer costs nothing


@dataclass(frozen=True)
class Held:
    """A graph whose narrow weights are inputs, and those weights by the labels of the inputs."""

    graph: Graph
    weights: Mapping[str, Constant]

    def release(self, graph: Graph) -> Graph:
        """`graph`, made from `self.graph` by passes, with the weights back in their places."""
        values: dict[Value, Value] = {i: self.weights[i.label] for i in graph.inputs if i.label in self.weights}
        return _replaced(graph, tuple(i for i in graph.inputs if i not in values), values)


def hold_narrow(graph: Graph) -> Held:
    """Make inputs of the constants that a Dequantize or a widening Cast reads, and the large ones of less than a
    byte an element."""
    taken = {i.label for i in graph.inputs}
    weights: dict[str, Constant] = {}
    values: dict[Value, Value] = {}
    for node in graph.nodes():
        weight = _narrow(node)
        if weight is None or weight in values:
            continue
        label = f"held_{len(weights)}"
        while label in taken:
            label = "_" + label
        weights[label] = weight
        values[weight] = Input(label, weight.type)
    held = tuple(v for v in values.values() if isinstance(v, Input))
    return Held(_replaced(graph, (*graph.inputs, *held), values), weights)


def _narrow(node: Node) -> Constant | None:
    match node:
        case Dequantize(x=Constant() as weight):
            return weight
        case BitCast(x=Constant() as weight) if weight.dtype in PACKED and weight.data.size >= SMALLEST:
            return weight
        case Cast(x=Constant() as weight, to=to) if to.bits > weight.dtype.bits and weight.data.size >= SMALLEST:
            return weight
        case _:
            return None


def _replaced(graph: Graph, inputs: tuple[Input, ...], values: dict[Value, Value]) -> Graph:
    return replace(rebuild(graph, values), inputs=inputs)
