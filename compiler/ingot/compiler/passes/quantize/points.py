"""Which values lie on grids of integers, and which of them have one grid together.

A layer reads its operand from a grid. What lies between layers is quantised where it is stored: there bytes move
instead of floats. One kernel computes a product and the elementwise operators behind it, so that what these hand on to
each other is never stored, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, node_of
from ingot.compiler.ops.pointwise import Clip, Mul, Relu
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.passes.constants import splat, users
from ingot.compiler.passes.quantize.flow import averaged, moved, pointwise
from ingot.compiler.passes.quantize.layers import Layer, Selection, layers_of, names_of
from ingot.runtime.dtypes import f32


@dataclass(frozen=True, eq=False)
class Group:
    """Values that lie on one grid: `sources` are quantised, `constants` are parts beside them."""

    sources: tuple[Value, ...]
    constants: tuple[Constant, ...]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a graph is quantised: its `layers`, the `groups` of values with one grid, the group `of` every value that
    is read from a grid or moved on one, the operands that nodes read from grids, and the names of all sources."""

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    of: Mapping[Value, int]
    read: Mapping[Node, tuple[Value, ...]]
    names: Mapping[Value, str]

    @property
    def points(self) -> dict[str, Value]:
        """The values whose ranges decide on the grids, by name."""
        return {self.names[value]: value for group in self.groups for value in group.sources}


def points(graph: Graph, selection: Selection | None = None, *, everywhere: bool = False) -> dict[str, Value]:
    """The values whose ranges static quantisation of `graph` needs, by the user's names for them where there are any.

    `selection` and `everywhere` as in `placed`.
    """
    return placed(graph, (selection or Selection()).among(layers_of(graph)), everywhere=everywhere).points


def placed(graph: Graph, layers: Collection[Layer], *, everywhere: bool = False) -> Placement:
    """Where values are quantised so that these layers compute on integers.

    With `everywhere` the result of each layer, after a Relu or Clip, is quantised before elementwise operators too, as
    other tools do: there are runtimes that compute products on integers only between two grids.
    """
    chosen: dict[Node, Layer] = {layer.node: layer for layer in layers}
    stored = _stored(graph)
    if everywhere:
        stored |= {_activated(graph, layer.node) for layer in layers}
    needed: dict[Value, None] = {}  # values on grids
    leading: set[Value] = set()  # values that lead to grids through arithmetic
    read: dict[Node, tuple[Value, ...]] = {}
    for node in reversed(graph.nodes()):
        results = node.results()
        if (layer := chosen.get(node)) is not None:
            read[node] = (layer.x,)
        elif sources := moved(node):
            if any(v in needed for v in results):
                needed.update(dict.fromkeys(sources))
            elif any(v in leading for v in results):
                leading.update(sources)
            continue
        elif sources := (pointwise(node) or averaged(node)):
            if not any(v in needed or v in leading for v in results):
                continue
            leading.update(sources)
            if _scales(node) and node in needed:
                continue  # part of how its result is made: a grid in front of it would have the channels' old sizes
            large = [v for v in sources if v.shape == node.shape or averaged(node)]
            read[node] = tuple(v for v in dict.fromkeys(large) if v in stored and _may_lie_on_grid(v))
        needed.update(dict.fromkeys(read.get(node, ())))
    groups, of = _grouped(graph, needed)
    names = names_of(graph, [value for group in groups for value in group.sources])
    read = {node: kept for node, values in read.items() if (kept := tuple(v for v in values if v in of))}
    return Placement(tuple(layers), groups, of, read, names)


def _scales(node: Node) -> bool:
    """Whether a node multiplies channels by constants of different sizes."""
    match node:
        case Mul(a=Constant() as factor) | Mul(b=Constant() as factor):
            return splat(factor) is None
        case _:
            return False


def _may_lie_on_grid(value: Value) -> bool:
    """Whether elementwise operators are to read `value` from a grid: inputs of the model are stored as they are, and
    what is dequantised has a grid."""
    return value.dtype == f32 and not isinstance(value, Input | Constant | Dequantize)


def _stored(graph: Graph) -> set[Value]:
    """The values that lie in memory when one kernel computes what is no elementwise operator and all the elementwise
    ones behind it that have no other readers."""
    reading, kept = users(graph), {*graph.results, *graph.sizes().values()}
    home: dict[Value, Value] = {}  # the last value of the kernel
    for node in reversed(graph.nodes()):
        for value in node.results():
            readers = reading.get(value, ())
            homes = {home[reader] for reader in readers if pointwise(reader)}
            alone = value not in kept and len(homes) == 1 and all(pointwise(reader) for reader in readers)
            home[value] = homes.pop() if alone else value
    last: dict[Value, Value] = {}
    starts: list[Value] = []
    for node in graph.nodes():
        if not pointwise(node) and not isinstance(node, Constant):
            for value in node.results():
                starts.append(value)
                if value.shape == home[value].shape:
                    last[home[value]] = value
    return {value for value in home if home[value] is value} | {v for v in starts if last.get(home[v]) is not v}


def _activated(graph: Graph, node: Node) -> Value:
    """The result of a layer after the Relu or Clip that alone reads it."""
    value: Value = node
    while len(readers := users(graph).get(value, ())) == 1 and isinstance(readers[0], Relu | Clip):
        if value in graph.results:
            break
        value = readers[0]
    return value


def _grouped(graph: Graph, needed: Mapping[Value, None]) -> tuple[tuple[Group, ...], dict[Value, int]]:
    """The needed values by the grid that they have in common: that of what movement makes them of."""
    parent: dict[Value, Value] = {}

    def root(value: Value) -> Value:
        while (above := parent.setdefault(value, value)) is not value:
            parent[value] = parent[above]
            value = above
        return value

    for value in needed:
        for source in moved(node_of(value)):
            parent[root(source)] = root(value)
    sources: dict[Value, list[Value]] = {}
    constants: dict[Value, list[Constant]] = {}
    for node in graph.nodes():
        for value in node.results():
            if value in needed and not moved(node):
                if isinstance(value, Constant):
                    constants.setdefault(root(value), []).append(value)
                else:
                    sources.setdefault(root(value), []).append(value)
    for key in [key for key, found in sources.items() if len(found) == 1 and isinstance(found[0], Dequantize)]:
        del sources[key]  # these have a grid
    numbers = {key: i for i, key in enumerate(sources)}
    groups = tuple(Group(tuple(found), tuple(constants.get(key, ()))) for key, found in sources.items())
    return groups, {value: numbers[root(value)] for value in needed if root(value) in numbers}
