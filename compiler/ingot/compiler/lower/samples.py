"""Stretches of a graph that run a sample of a batch after the other.

Layer by layer the activations of all samples go through memory; sample by sample those of one stay in a cache, while
the weights are read again for each. Whichever are more bytes decide: early layers of convolutional networks become a
Loop over the samples, late ones, whose weights are the bulk, take the whole batch. In a loop the batch is 1, whatever
it is outside: kernels have constant extents where the batch alone is symbolic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.compiler.ir.dims import Dim, evaluate, product, symbols
from ingot.compiler.ir.graph import (
    Constant,
    Graph,
    Input,
    Node,
    Value,
    constant,
    node_of,
    operands_of,
    symbols_of,
    with_operands,
)
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.tiles import typical
from ingot.compiler.lower.winograd import algorithms_of
from ingot.compiler.ops.composite import Attention
from ingot.compiler.ops.control import Loop
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import AveragePool, Conv, MatMul, MaxPool
from ingot.compiler.ops.movement import Concat, DimValues, Gather, Pad, Reshape, Slice, Split, Transpose
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.ops.reduction import Reduction
from ingot.compiler.ops.resample import Resample
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import boolean, i64, string

LIKELY = 8  # samples of a batch whose size is not known, where there are several
LAUNCH = 600  # cycles that a launch more costs
LEAST_GAIN = 0.02  # of the arithmetic of a stretch: less is not worth it
LONGEST = 256  # nodes of a stretch: the search takes so many steps for each node
GROWTH = 2.5  # of filters in Winograd's form, as it comes out


def by_samples(graph: Graph, machine: Machine) -> Graph:
    """`graph` with loops over the samples along axis 0 of its inputs where `machine` is expected to run faster so."""
    for count in dict.fromkeys(x.shape[0] for x in graph.inputs if x.rank > 1):
        if isinstance(count, int) and count < 2:
            continue
        low, high = (count, count) if isinstance(count, int) else _range(count, graph)
        if high > 1:
            graph = _Batch(graph, machine, count, low if low > 1 else min(LIKELY, high)).looped()
    return graph


def _range(count: Dim, graph: Graph) -> tuple[int, int]:
    low = [graph.ranges.get(name, (1, LIKELY)) for name in symbols(count)]
    return (low[0][0], low[0][1]) if len(low) == 1 else (1, LIKELY)


class _Roles:
    """Which values of a graph have the samples of a batch of `count` along axis 0, and which are the same for all."""

    def __init__(self, count: Dim) -> None:
        self.count = count
        self.cut: set[Value] = set()
        self.whole: set[Value] = set()

    def has_samples(self, value: Value) -> bool:
        """Whether the extent of axis 0 is the number of samples."""
        return value.rank > 0 and value.shape[0] == self.count

    def take(self, node: Node) -> bool:
        """Learn from `node` what its operands are; False where it does not treat each sample by itself."""
        cut = self._cut_by(node)
        if not cut or any(isinstance(x, Constant) or not self.has_samples(x) for x in cut):
            return False
        if any(x.dtype == string for x in (*operands_of(node), *node.results())):
            return False
        if not all(self.has_samples(x) for x in node.results()):
            return False
        self.cut.update(cut, node.results())
        self.whole.update(x for x in operands_of(node) if x not in cut and not isinstance(x, Constant))
        return not self.cut & self.whole

    def _cut_by(self, node: Node) -> Sequence[Value]:
        """The operands that have an element for each of the result's along axis 0."""
        match node:
            case Pointwise():
                return [x for x in operands_of(node) if x.rank == node.rank and self.has_samples(x)]
            case Conv(x=x) | MaxPool(x=x) | AveragePool(x=x):
                return [x]
            case Attention():
                return [x for x in operands_of(node) if x.rank == node.rank > 2 and self.has_samples(x)]
            case MatMul(a=a, b=b):
                sides = [a] if node.rank == 2 else [a, b]
                return [x for x in sides if x.rank == node.rank and self.has_samples(x)]
            case Reduction(x=x, axes=axes) if 0 not in axes:
                return [x]
            case Concat(parts=parts, axis=axis) if axis > 0:
                return parts
            case Split(x=x, axis=axis) | Resample(x=x, axis=axis) if axis > 0:
                return [x]
            case Transpose(x=x, perm=perm) if perm[:1] == (0,):
                return [x]
            case Reshape(x=x) if x.rank and node.rank:
                return [x]
            case Slice(x=x, starts=(0, *_), steps=(1, *_)):
                return [x]
            case Pad(x=x, pads=pads) if x.rank and pads[0] == 0 and pads[x.rank] == 0:
                return [x]
            case Fused(operands=operands, body=body):
                inner = _Roles(self.count)
                for member in body.nodes():
                    if not isinstance(member, (Input, Constant)) and not inner.take(member) and not inner.skip(member):
                        return []
                if inner.cut & inner.whole or not inner.cut >= set(body.results):
                    return []
                return [x for x, stand_in in zip(operands, body.inputs, strict=True) if stand_in in inner.cut]
            case _:
                return []

    def skip(self, node: Node) -> bool:
        """Take `node` for one that is the same for all samples; False where it is not."""
        self.whole.update(x for x in (*operands_of(node), *node.results()) if not isinstance(x, Constant))
        return not self.cut & self.whole


def _of_one(node: Node, mapping: Mapping[Value, Value], roles: _Roles) -> Node:
    """`node` for one sample, of operands that `mapping` has."""
    match node:
        case Reshape(x=x, shape=shape):
            return dataclasses.replace(node, x=mapping[x], shape=(1, *shape[1:]))
        case Slice(x=x, sizes=sizes):
            return dataclasses.replace(node, x=mapping[x], sizes=(1, *sizes[1:]))
        case Fused(operands=operands, body=body):
            inner: dict[Value, Value] = {}
            given = tuple(mapping.get(x, x) for x in operands)
            inputs = tuple(Input(x.label, new.type) for x, new in zip(body.inputs, given, strict=True))
            inner.update(zip(body.inputs, inputs, strict=True))
            for member in body.nodes():
                if not isinstance(member, (Input, Constant)):
                    made = _of_one(member, inner, roles)
                    inner.update(zip(member.results(), made.results(), strict=True))
            outputs = tuple((name, inner[value]) for name, value in body.outputs)
            renewed = dataclasses.replace(body, inputs=inputs, outputs=outputs, watched={})
            return dataclasses.replace(node, operands=given, body=renewed)
        case _:
            return with_operands(node, mapping)


@dataclass(frozen=True)
class _Costs:
    """What one node costs: bytes of the activations of a sample, bytes of its weights, cycles of its arithmetic for a
    sample."""

    activations: int
    weights: int
    arithmetic: float


class _Batch:
    """The search for stretches of one graph; `count` is the number of samples, `likely` what it is expected to be."""

    def __init__(self, graph: Graph, machine: Machine, count: Dim, likely: int) -> None:
        self.graph, self.machine, self.count, self.likely = graph, machine, count, likely
        self.nodes = [n for n in graph.nodes() if not isinstance(n, (Input, Constant))]
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.last = self._last_uses()
        self.costs: list[_Costs | None] = [self._costs(node) for node in self.nodes]
        self.weights = sum(each.weights for each in self.costs if each is not None)

    def looped(self) -> Graph:
        """The graph with loops."""
        graph, mapping = self.graph, dict[Value, Value]()
        for begin, end in self._stretches():
            mapping.update(self._loop(begin, end))
        return rebuild(graph, mapping) if mapping else graph

    def _last_uses(self) -> dict[Value, int]:
        """The place of the last node that reads a value; that behind all nodes for results."""
        last: dict[Value, int] = {}
        for i, node in enumerate(self.nodes):
            for x in operands_of(node):
                last[x] = i
        for value in (*self.graph.results, *self.graph.sizes().values()):
            last[value] = len(self.nodes)
        return last

    def _costs(self, node: Node) -> _Costs | None:
        """What `node` costs; None where it cannot be in a loop."""
        roles = _Roles(self.count)
        if not roles.take(node) or symbols_of(node) & self.graph.bound.keys():
            return None
        one = {x: Input("x", TensorType(x.dtype, (1, *x.shape[1:]))) for x in operands_of(node) if x in roles.cut}
        try:
            alone = _of_one(node, dict[Value, Value](one), roles)
        except IrError:  # an extent that is this number by chance
            return None
        wanted = tuple(TensorType(t.dtype, (1, *t.shape[1:])) for t in node.types)
        if alone.types != wanted or symbols_of(alone) & symbols(self.count):
            return None
        weights = flops = 0.0
        for member in _members(node):
            for x in operands_of(member):
                if isinstance(x, Constant):
                    weights += x.data.nbytes * (GROWTH if _is_transformed(member) else 1)
            flops += self._flops(member)
        activations = sum(self._bytes(x) for x in roles.cut)
        return _Costs(activations, int(weights), flops / self.machine.fma_rate / self.machine.lanes_f32)

    def _size(self, dims: Sequence[Dim]) -> int:
        return typical(product(dims), self.graph.ranges)

    def _bytes(self, value: Value) -> int:
        """Bytes of one sample of `value`."""
        return self._size(value.shape[1:]) * value.dtype.bytes

    def _flops(self, node: Node) -> float:
        """Multiply-adds of a sample."""
        match node:
            case Conv(w=w):
                return self._size(node.shape[1:]) * self._size(w.shape[1:])
            case MatMul(a=a):
                return self._size(node.shape[1:]) * self._size(a.shape[-1:])
            case _:
                return 0.0

    def _crossing(self) -> list[int]:
        """For each place, bytes of a sample's values that are made before it and read from there on."""
        steps = [0] * (len(self.nodes) + 2)
        for value, last in self.last.items():
            if isinstance(value, Constant) or value.dtype == string or not value.rank or value.shape[0] != self.count:
                continue
            size = self._bytes(value)
            steps[self.place[node_of(value)] + 1 if node_of(value) in self.place else 0] += size
            steps[last + 1] -= size
        return np.cumsum(steps).tolist()

    def _stretches(self) -> list[tuple[int, int]]:
        """The places of the first nodes of stretches, and of those behind them: the best choice of all by the model."""
        count, likely = len(self.nodes), self.likely
        moved = [each.activations for each in self.costs if each is not None]
        if not any(self.machine.rate(likely * size) < self.machine.l2_rate for size in moved):
            return []
        crossing, rate = self._crossing(), self.machine.rate
        best = [0.0] * (count + 1)  # gain of the nodes before a place
        came: list[int | None] = [None] * (count + 1)
        for end in range(1, count + 1):
            best[end] = best[end - 1]
            saved = weights = arithmetic = widest = 0.0
            for begin in range(end - 1, max(-1, end - 1 - LONGEST), -1):
                cost = self.costs[begin]
                if cost is None:
                    break
                moved = likely * cost.activations
                # Of one sample bands of rows (`bands`) go no further than to the last cache.
                alone = rate(min(cost.activations, self.machine.l3))
                saved += moved / rate(moved) - moved / alone - likely * LAUNCH
                saved += cost.weights / rate(self.weights)
                weights, widest = weights + cost.weights, max(widest, cost.activations)
                arithmetic += likely * cost.arithmetic
                copied = 2 * likely * (crossing[begin] + crossing[end])
                gain = saved - likely * weights / rate(weights + widest) - copied / rate(copied)
                if gain > LEAST_GAIN * arithmetic and best[begin] + gain > best[end]:
                    best[end], came[end] = best[begin] + gain, begin
        found: list[tuple[int, int]] = []
        place = count
        while place:
            begin = came[place]
            if begin is None:
                place -= 1
            else:
                found.append((begin, place))
                place = begin
        consistent = (self._consistent(self._behind_turns(begin, end), end) for begin, end in reversed(found))
        return [(begin, end) for begin, end in consistent if begin < end]

    def _behind_turns(self, begin: int, end: int) -> int:
        """The place behind transposes at the beginning of a stretch: the copy of a sample turns it as well."""
        while begin < end - 1 and isinstance(self.nodes[begin], Transpose):
            begin += 1
        return begin

    def _consistent(self, begin: int, end: int) -> tuple[int, int]:
        """The beginning of a stretch up to the first node that needs whole what others have cut, or the reverse."""
        roles = _Roles(self.count)
        return begin, next((i for i in range(begin, end) if not roles.take(self.nodes[i])), end)

    def _loop(self, begin: int, end: int) -> dict[Value, Value]:
        """The results of a stretch that are read outside of it, as those of a loop."""
        nodes, roles = self.nodes[begin:end], _Roles(self.count)
        for node in nodes:
            roles.take(node)
        sample, running = Input("sample", TensorType(i64, ())), Input("running", TensorType(boolean, ()))
        place = Reshape(sample, (1,))
        inner: dict[Value, Value] = {}
        captures: list[Value] = []
        inputs: list[Input] = []
        for x in dict.fromkeys(x for node in nodes for x in operands_of(node)):
            if isinstance(x, Constant) or begin <= self.place.get(node_of(x), -1) < end:
                continue
            stand_in = Input(f"x{len(inputs)}", x.type)
            captures.append(x)
            inputs.append(stand_in)
            inner[x] = stand_in
            if x in roles.cut:
                reader = next(node for node in nodes if x in operands_of(node))
                inner[x] = Gather(stand_in, place, 0, origin=reader.origin)
        for node in nodes:
            made = _of_one(node, inner, roles)
            inner.update(zip(node.results(), made.results(), strict=True))
        results = [x for node in nodes for x in node.results() if self.last.get(x, -1) >= end]
        scans = [(f"y{i}", Reshape(inner[x], x.shape[1:])) for i, x in enumerate(results)]
        body = Graph((sample, running, *inputs), (("running", running), *scans), name="samples")
        origin = tuple(dict.fromkeys(name for x in results for name in node_of(x).origin))
        if symbols(self.count):
            trip: Value = DimValues((self.count,), scalar=True, origin=origin)
        else:
            trip = constant(np.int64(evaluate(self.count, {})))
        loop = Loop(trip, None, (), tuple(captures), body, (self.count,) * len(results), origin=origin)
        return dict(zip(results, loop.results(), strict=True))


def _members(node: Node) -> Iterator[Node]:
    """The nodes of a group; `node` itself where it is none."""
    if isinstance(node, Fused):
        yield from (n for n in node.body.nodes() if not isinstance(n, (Input, Constant)))
    else:
        yield node


def _is_transformed(node: Node) -> bool:
    """Whether the filters of `node` may be in Winograd's form."""
    return isinstance(node, Conv) and bool(algorithms_of(node))
