"""Grouping: which nodes become one kernel.

Three kinds of group: a contraction with the pointwise ops after it; reductions over one set of trailing or leading axes
with the pointwise ops around them; pointwise ops of one shape. Nodes join the group of an operand, in topological
order, where that makes no cycle between groups; pointwise groups that meet in a node, or that read the same values,
become one. A Dequantize goes the other way, into the group of each node that reads it: what lies in memory between the
groups is then what was quantised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingot.compiler.ir.graph import (
    Constant,
    Graph,
    Input,
    Node,
    Value,
    dependencies_of,
    node_of,
    operands_of,
    sizes_of,
    subgraphs_of,
    with_operands,
)
from ingot.compiler.ir.types import Shape
from ingot.compiler.ops.composite import Attention
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.ops.reduction import Reduction
from ingot.compiler.passes.recognise.spelling import keep_reduced_axes
from ingot.compiler.rewrite import rebuild, rewrite, substitute

NODE_LIMIT = 48  # nodes a group: longer chains spill registers
OPERAND_LIMIT = 14
# Terms of a contraction's epilogue: it is one expression, in which a value that is read twice is written out twice.
EPILOGUE_LIMIT = 64


@dataclass(eq=False)
class Group:
    """Nodes that will be one kernel. `axes` is set for row groups, `anchor` for contraction groups."""

    shape: Shape  # of the anchor, of what is reduced, or of every node
    nodes: list[Node] = field(default_factory=list[Node])
    anchor: Node | None = None
    axes: tuple[int, ...] | None = None
    _terms: dict[Node, int] = field(default_factory=dict[Node, int])

    def terms(self, node: Node) -> int:
        """How many terms `node` has when everything of this group below it is written out."""
        return 1 + sum(self._terms.get(node_of(x), 1) for x in operands_of(node))

    @property
    def row_shape(self) -> Shape:
        """The shape of a row value: 1 along the reduced axes."""
        return tuple(1 if a in (self.axes or ()) else d for a, d in enumerate(self.shape))

    def admits(self, node: Node) -> bool:
        """Whether `node`, which reads a value of this group, may join it."""
        if len(self.nodes) >= NODE_LIMIT or isinstance(self.anchor, Attention):
            return False
        if isinstance(node, Reduction):
            if node.axes != (node.axes if self.axes is None else self.axes) or node.x.type.shape != self.shape:
                return False
            return self.anchor is None
        if not isinstance(node, Pointwise) or (self.anchor is not None and self.terms(node) > EPILOGUE_LIMIT):
            return False
        return node.type.shape == self.shape or (self.axes is not None and node.type.shape == self.row_shape)

    def add(self, node: Node) -> None:
        """Take `node` in."""
        self._terms[node] = 1 if node is self.anchor else self.terms(node)
        self.nodes.append(node)
        if isinstance(node, Reduction):
            self.axes = node.axes


def fuse(graph: Graph) -> Graph:
    """`graph` with every group of two or more nodes as one Fused node; sub-graphs too."""
    graph = rewrite(graph, [keep_reduced_axes])
    graph = _dequantised_apart(_fuse_bodies(graph))
    groups = _Grouping(graph)
    groups.run()
    return groups.rebuilt()


def _fuse_bodies(graph: Graph) -> Graph:
    mapping: dict[Value, Value] = {}
    for node in graph.nodes():
        if isinstance(node, Fused) or not subgraphs_of(node):
            continue
        changes = {
            f.name: fuse(item) for f in dataclasses.fields(node) if isinstance(item := getattr(node, f.name), Graph)
        }
        renewed = dataclasses.replace(node, **changes)
        mapping.update(zip(node.results(), renewed.results(), strict=True))
    return rebuild(graph, mapping) if mapping else graph


def _takes(node: Node, x: Dequantize) -> bool:
    """Whether the kernel of `node` can dequantise `x` itself."""
    if isinstance(node, Reduction):
        return node.x is x
    return isinstance(node, Pointwise) and node.type.shape == x.type.shape


def _dequantised_apart(graph: Graph) -> Graph:
    """`graph` with a Dequantize of its own for each node that can take it into its kernel."""
    mapping: dict[Value, Value] = {}
    for node in graph.nodes():
        own: dict[Value, Value] = {}
        for x in operands_of(node):
            if isinstance(x, Dequantize) and _takes(node, x):
                own[x] = dataclasses.replace(x)
        if own:
            mapping[node] = with_operands(node, own)
    return rebuild(graph, mapping) if mapping else graph


class _Grouping:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.of: dict[Node, Group] = {}
        self.order = {node: i for i, node in enumerate(graph.nodes())}
        self.users = _users(graph)

    def run(self) -> None:
        """Assign every node that can be fused to a group."""
        for node in self.graph.nodes():
            if not isinstance(node, (Pointwise, Reduction, Conv, MatMul, Attention)) or self._waits(node):
                continue
            group = self._joinable(node)
            if group is None:
                shape = node.x.type.shape if isinstance(node, Reduction) else node.type.shape
                anchor = node if isinstance(node, (Conv, MatMul, Attention)) else None
                group = Group(shape, anchor=anchor)
            for member in (*self._waiting(node), node):
                group.add(member)
                self.of[member] = group
            for producer in self._producers(node):
                other = self.of.get(producer)
                if other is not None and other is not group:
                    self._merge(other, group)
        self._merge_siblings()

    def _waits(self, node: Node) -> bool:
        """Whether `node` goes into the group of the one node that reads it."""
        readers = self.users.get(node, set())
        return isinstance(node, Dequantize) and all(r is not None and _takes(r, node) for r in readers)

    def _waiting(self, node: Node) -> list[Node]:
        """The operands of `node` that go into its group."""
        return [x for x in dict.fromkeys(operands_of(node)) if isinstance(x, Dequantize) and self._waits(x)]

    def _producers(self, node: Node) -> set[Node]:
        """What `node` reads, and what those of its operands read that go into its group."""
        waiting = self._waiting(node)
        return {node_of(x) for member in (node, *waiting) for x in operands_of(member)}.difference(waiting)

    def _merge(self, part: Group, group: Group) -> None:
        """Make `part`, a pointwise group, part of `group` if that is no contraction and nothing speaks against it."""
        if part.anchor or part.axes or group.anchor or len(part.nodes) + len(group.nodes) > NODE_LIMIT:
            return
        if part.shape != group.shape and (group.axes is None or part.shape != group.row_shape):
            return
        inside = {*part.nodes, *group.nodes}
        outside = {x for n in inside for x in operands_of(n) if node_of(x) not in inside}
        if sum(1 for x in outside if not isinstance(x, Constant)) > OPERAND_LIMIT:
            return
        needed = {x for n in inside for x in sizes_of(n, self.graph.bound)}
        if self._reaches({node_of(x) for x in (*outside, *needed)}, part, group):
            return
        for node in part.nodes:
            group.add(node)
            self.of[node] = group
        group.nodes.sort(key=self.order.__getitem__)

    def _merge_siblings(self) -> None:
        """Merge pointwise groups of one shape that read the same values."""
        found: dict[tuple[Shape, frozenset[Value]], Group] = {}
        for group in dict.fromkeys(self.of.values()):
            inside = set(group.nodes)
            read = {
                x for n in inside for x in operands_of(n) if node_of(x) not in inside and not isinstance(x, Constant)
            }
            if group.anchor is None and group.axes is None and read:
                first = found.setdefault((group.shape, frozenset(read)), group)
                if first is not group:
                    self._merge(group, first)

    def _joinable(self, node: Node) -> Group | None:
        """The group of an operand that `node` may join: the one reached last, so that the others come before it."""
        if isinstance(node, (Conv, MatMul, Attention)):
            return None
        producers = sorted(self._producers(node), key=self.order.__getitem__, reverse=True)
        for producer in producers:
            group = self.of.get(producer)
            if group is None or not group.admits(node) or (group.anchor and self._is_only_reduced(node)):
                continue
            others = [p for p in producers if self.of.get(p) is not group]
            others += [node_of(x) for x in sizes_of(node, self.graph.bound)]
            if self._reaches(others, group) or self._operands(group, node) > OPERAND_LIMIT:
                continue
            return group
        return None

    def _is_only_reduced(self, node: Node) -> bool:
        """Whether nothing but reductions reads `node`: they can compute it, a contraction would have to store it."""
        readers = self.users.get(node, set())
        return bool(readers) and all(isinstance(reader, Reduction) for reader in readers)

    def _operands(self, group: Group, node: Node) -> int:
        inside = {*group.nodes, *self._waiting(node), node}
        outside = {x for n in inside for x in operands_of(n) if node_of(x) not in inside}
        return sum(1 for x in outside if not isinstance(x, Constant))

    def _reaches(self, nodes: Iterable[Node], *groups: Group) -> bool:
        """Whether any of `nodes` depends on a node of `groups`."""
        first = min(self.order[n] for group in groups for n in group.nodes)
        stack, seen = list(nodes), set[Node]()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            mine = self.of.get(node)
            if mine in groups:
                return True
            below = mine.nodes if mine is not None else [node]
            for member in below:
                seen.add(member)
                for x in dependencies_of(member, self.graph.bound):
                    if self._may_reach(node_of(x), first):
                        stack.append(node_of(x))
        return False

    def _may_reach(self, node: Node, first: int) -> bool:
        mine = self.of.get(node)
        last = max(self.order[n] for n in mine.nodes) if mine is not None else self.order[node]
        return last >= first

    def rebuilt(self) -> Graph:
        """The graph with the groups as Fused nodes."""
        mapping: dict[Value, Value] = {}
        units = _units(self.graph, self.of)
        for unit in units:
            if len(unit) == 1:
                renewed = with_operands(unit[0], mapping)
                mapping.update(zip(unit[0].results(), renewed.results(), strict=True))
            else:
                _build(unit, mapping, self.users)
        outputs = tuple((name, mapping[value]) for name, value in self.graph.outputs)
        bound = {name: mapping[value] for name, value in self.graph.sizes().items()}
        # What stays inside of a group becomes what its operators make of the results of other groups.
        moved = {old: new for old, new in mapping.items() if new is not old} if self.graph.watched else {}
        followed = substitute(tuple(self.graph.watched.values()), moved)
        watched = dict(zip(self.graph.watched, followed, strict=True))
        return dataclasses.replace(self.graph, outputs=outputs, bound=bound, watched=watched)


def _users(graph: Graph) -> dict[Value, set[Node | None]]:
    users: dict[Value, set[Node | None]] = {}
    for node in graph.nodes():
        for x in operands_of(node):
            users.setdefault(x, set()).add(node)
    for value in (*graph.results, *graph.sizes().values()):
        users.setdefault(value, set()).add(None)
    return users


def _units(graph: Graph, of: dict[Node, Group]) -> list[list[Node]]:
    """Groups and lone nodes, each after everything it reads."""
    done: set[Node] = set()
    result: list[list[Node]] = []
    for root in graph.nodes():
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node in done:
                continue
            unit = of[node].nodes if node in of else [node]
            if ready:
                done.update(unit)
                result.append(list(unit))
                continue
            stack.append((node, True))
            inside = set(unit)
            for member in unit:
                for x in dependencies_of(member, graph.bound):
                    if node_of(x) not in done and node_of(x) not in inside:
                        stack.append((node_of(x), False))
    return result


def _build(unit: list[Node], mapping: dict[Value, Value], users: dict[Value, set[Node | None]]) -> None:
    """Make the Fused node of `unit` and map the values that are read outside it."""
    inside = set(unit)
    inner: dict[Value, Value] = {}
    operands: list[Value] = []
    inputs: list[Input] = []
    for node in unit:
        for x in operands_of(node):
            if node_of(x) in inside or x in inner:
                continue
            if isinstance(x, Constant):
                inner[x] = x
                continue
            stand_in = Input(f"x{len(inputs)}", x.type)
            inner[x] = stand_in
            inputs.append(stand_in)
            operands.append(mapping[x])
    outputs: list[tuple[str, Value]] = []
    escaping: list[Value] = []
    for node in unit:
        copy = with_operands(node, inner)
        if copy is node:
            copy = dataclasses.replace(node)
        for value, renewed in zip(node.results(), copy.results(), strict=True):
            inner[value] = renewed
            if users.get(value, set()) - inside:
                escaping.append(value)
                outputs.append((f"y{len(outputs)}", renewed))
    origin = tuple(dict.fromkeys(name for node in unit for name in node.origin))
    fused = Fused(tuple(operands), Graph(tuple(inputs), tuple(outputs), name="group"), origin=origin)
    for i, value in enumerate(escaping):
        mapping[value] = fused.result(i)
