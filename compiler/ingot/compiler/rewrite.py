"""Rewrite rules and the one engine that runs them.

A rule is a function ``rule(node: Relu, graph: Graph) -> Patch | None``: it is tried on every node of the class (or
union of classes) that its first parameter is annotated with, and answers with the values to replace, or None::

    def drop_double_relu(node: Relu, graph: Graph) -> Patch | None:
        \"\"\"relu(relu(x)) -> relu(x)\"\"\"
        match node:
            case Relu(Relu() as inner):
                return {node: inner}
            case _:
                return None

Rules never change a graph. A sweep tries them on the settled graph, so ``graph.uses()`` means something, collects all
patches and rebuilds the graph once. Sweeps repeat until nothing fires.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import numpy as np

from ingot.compiler.ir.graph import (
    Constant,
    Graph,
    Input,
    Node,
    Origin,
    Result,
    Value,
    describe,
    fields_of,
    node_of,
    operands_of,
    subgraphs_of,
    with_operands,
)
from ingot.compiler.ir.types import IrError

Patch: TypeAlias = Mapping[Value, Value]
Rule: TypeAlias = Callable[[Any, Graph], Patch | None]
RuleSet: TypeAlias = tuple[tuple[Rule, ...], bool]  # rules, and whether they are for sub-graphs too


class RewriteError(IrError):
    """A rule failed, gave a patch that does not fit, or rules never settle. `rule` and `node` say which, when known."""

    def __init__(self, message: str, rule: str = "", node: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.node = node


class CycleError(IrError):
    """Replacing these values would make a value depend on itself."""


@dataclass(frozen=True, slots=True)
class Firing:
    """One application of a rule. Numbers count from 1 across a whole compile."""

    number: int
    pass_name: str
    rule: str
    node: str

    def __str__(self) -> str:
        return f"{self.number}: {self.pass_name}/{self.rule} on {self.node}"


@dataclass
class Trace:
    """The record of all rule firings of one compile, handed down from the driver through passes to `rewrite`.

    With `stop_at` = n no rule fires after the n-th firing; the first n are those of the full run. That makes the
    first harmful firing findable by bisection. `watch` is called after each firing with its patch: what was replaced
    by what. `settled` has the rule sets that are known to find nothing in a graph: passes ask for the same ones again.
    """

    stop_at: int | None = None
    firings: list[Firing] = field(default_factory=list[Firing])
    watch: Callable[[Firing, Patch], None] | None = None
    settled: WeakKeyDictionary[Graph, set[RuleSet]] = field(
        default_factory=WeakKeyDictionary[Graph, "set[RuleSet]"], repr=False, compare=False
    )

    @property
    def remaining(self) -> int | None:
        """How many more firings are allowed; None when there is no limit."""
        return None if self.stop_at is None else max(self.stop_at - len(self.firings), 0)

    def record(self, pass_name: str, rule: str, node: str, patch: Patch) -> None:
        """Number and keep one firing."""
        firing = Firing(len(self.firings) + 1, pass_name, rule, node)
        self.firings.append(firing)
        if self.watch is not None:
            self.watch(firing, patch)


def _unwrapped(rule: Rule) -> Any:
    inner: Any = rule
    while isinstance(inner, functools.partial):
        inner = cast("functools.partial[Any]", inner).func
    return inner


def rule_name(rule: Rule) -> str:
    """The name a rule is reported by: its function's name, or its class's name."""
    inner = _unwrapped(rule)
    return str(getattr(inner, "__name__", type(inner).__name__))


def rule_classes(rule: Rule) -> tuple[type[Node], ...]:
    """The node classes a rule is tried on, from the annotation of its first parameter. Raises TypeError."""
    inner = _unwrapped(rule)
    try:
        return _classes_of(inner if inspect.isroutine(inner) else type(inner).__call__)
    except (NameError, TypeError) as error:
        raise TypeError(f"rule {rule_name(rule)}: {error}") from error


@functools.lru_cache(maxsize=1024)  # evaluating annotations takes longer than most rules
def _classes_of(function: Callable[..., Any]) -> tuple[type[Node], ...]:
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise TypeError(
            f"{error}; import the class of its first parameter at run time, not under TYPE_CHECKING"
        ) from error
    names = [p for p in inspect.signature(function).parameters if p != "self"]
    annotation = hints.get(names[0]) if names else None
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    choices = typing.get_args(annotation) if union else (annotation,)
    if not all(isinstance(c, type) and issubclass(c, Node) for c in choices):
        raise TypeError("annotate its first parameter with the Node subclass (or union of them) to match")
    return cast("tuple[type[Node], ...]", choices)


def rewrite(
    graph: Graph,
    rules: Sequence[Rule],
    *,
    trace: Trace | None = None,
    pass_name: str = "rewrite",
    subgraphs: bool = True,
    max_sweeps: int = 10_000,
) -> Graph:
    """`graph` with `rules` applied until none fires; the same object when none did.

    Of the rules for one node the first that answers wins a sweep. A patch must keep the types of what it replaces.
    New nodes without an `origin` get the origins of the nodes they stand for. With `subgraphs`, the bodies of nodes
    (If, Loop, Fused) are rewritten too, each as a graph of its own. Raises RewriteError naming rule and node.
    """
    trace = trace if trace is not None else Trace()
    rule_set: RuleSet = tuple(rules), subgraphs
    if rule_set in trace.settled.get(graph, ()):
        return graph
    graph = _Engine(_rules_by_class(rule_set[0]), trace, pass_name, subgraphs, max_sweeps).settle(graph)
    if trace.remaining != 0:  # else rules may have been left out
        trace.settled.setdefault(graph, set()).add(rule_set)
    return graph


class _RulesByClass(dict[type[Node], tuple[Rule, ...]]):
    """The rules to try on nodes of each class, in order; found when a class is first met."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__()
        self._classes = [(rule, rule_classes(rule)) for rule in rules]

    def __missing__(self, cls: type[Node]) -> tuple[Rule, ...]:
        found = self[cls] = tuple(rule for rule, targets in self._classes if issubclass(cls, targets))
        return found


@functools.lru_cache(maxsize=64)  # passes come with the same rules again and again
def _rules_by_class(rules: tuple[Rule, ...]) -> _RulesByClass:
    return _RulesByClass(rules)


@dataclass(frozen=True, eq=False, slots=True)
class _Match:
    rule: str
    node: Node
    replaced: Mapping[Value, Value]


@dataclass(eq=False)
class _Engine:
    rules: _RulesByClass
    trace: Trace
    pass_name: str
    subgraphs: bool
    max_sweeps: int
    settled: dict[Graph, Graph] = field(default_factory=dict[Graph, Graph])

    def settle(self, graph: Graph) -> Graph:
        """Sweep until nothing fires."""
        original = graph
        seen: set[Any] = set()
        kept: list[Any] = []  # arrays whose id() a fingerprint mentions must stay alive
        recent: Counter[str] = Counter()
        largest = 0
        for sweep in range(self.max_sweeps + 1):
            if self.subgraphs:
                graph = self._settle_bodies(graph)
            if self.trace.remaining == 0:
                break
            matches = self._collect(graph)
            if not matches:
                break
            graph, applied = self._apply(graph, matches)
            if sweep >= 8:  # few rule sets need more sweeps; from here on look whether they run in circles
                recent.update(m.rule for m in applied)
                state = _fingerprint(graph, kept)
                largest = largest or 2 * len(graph.nodes()) + 256
                if state in seen or sweep == self.max_sweeps or len(graph.nodes()) > largest:
                    self._unsettled(recent, "undo each other" if state in seen else "never settle", applied)
                seen.add(state)
        self.settled[original] = self.settled[graph] = graph
        return graph

    def _unsettled(self, recent: Counter[str], what: str, applied: Sequence[_Match]) -> None:
        names = ", ".join(f"{name} ({count} times)" for name, count in recent.most_common(6))
        node = describe(applied[-1].node)
        raise RewriteError(
            f"pass {self.pass_name}: rules {what}: {names}; last on {node}. "
            "Let each rule make progress in one direction only.",
            applied[-1].rule,
            node,
        )

    def _settle_bodies(self, graph: Graph) -> Graph:
        changed: dict[Node, Node] = {}
        for node in graph.nodes():
            if not subgraphs_of(node):
                continue
            bodies = {
                f.name: self.settled.get(body) or self.settle(body)
                for f in fields_of(node)
                if isinstance(body := getattr(node, f.name), Graph)
            }
            updates = {name: body for name, body in bodies.items() if body is not getattr(node, name)}
            if updates:
                changed[node] = dataclasses.replace(node, **updates)
        mapping = {old.result(i): new.result(i) for old, new in changed.items() for i in range(len(old.types))}
        return rebuild(graph, mapping) if mapping else graph

    def _collect(self, graph: Graph) -> list[_Match]:
        """The patches of one sweep; one that replaces an already replaced value waits for the next sweep."""
        matches: list[_Match] = []
        taken: set[Value] = set()
        nodes: set[Node] = set()  # those of the graph, once a patch is to be compared with them
        for node in graph.nodes():
            for rule in self.rules[type(node)]:
                try:
                    patch = rule(node, graph)
                except Exception as error:
                    name, where = rule_name(rule), describe(node)
                    raise RewriteError(
                        f"rule {name} failed on {where}: {type(error).__name__}: {error}", name, where
                    ) from error
                if not patch:  # as nearly always
                    continue
                nodes = nodes or set(graph.nodes())
                if replaced := self._replaced(rule, node, patch, nodes):
                    if taken.isdisjoint(replaced):
                        taken.update(replaced)
                        matches.append(_Match(rule_name(rule), node, replaced))
                    break
        return matches

    def _replaced(self, rule: Rule, node: Node, patch: Patch, nodes: set[Node]) -> dict[Value, Value]:
        """What the patch of a rule for `node` replaces, checked."""
        name, where = rule_name(rule), describe(node)
        if not isinstance(cast(object, patch), Mapping):
            raise RewriteError(
                f"rule {name} on {where}: a rule gives a patch {{old value: new value}} or None, not "
                f"{type(patch).__name__}",
                name,
                where,
            )
        replaced: dict[Value, Value] = {}
        for old, new in patch.items():
            if not isinstance(cast(object, new), Value):
                raise RewriteError(f"rule {name} on {where}: a patch maps values to values, not {new!r}", name, where)
            if node_of(old) not in nodes:
                raise RewriteError(
                    f"rule {name} on {where}: {describe(node_of(old))} is not part of the graph", name, where
                )
            pairs = [(old, new)]
            if isinstance(old, Node) and len(old.types) != 1:
                if not isinstance(new, Node) or len(new.types) != len(old.types):
                    raise RewriteError(
                        f"rule {name} on {where}: {describe(old)} has {len(old.types)} results; replace each of them",
                        name,
                        where,
                    )
                pairs = list(zip(old.results(), new.results(), strict=True))
            for before, after in pairs:
                if before.type != after.type:
                    raise RewriteError(
                        f"rule {name} on {where}: {describe(node_of(before))} of type {before.type} would be replaced "
                        f"by {describe(node_of(after))} of type {after.type}; the types must be equal",
                        name,
                        where,
                    )
                if before is not after:
                    replaced[before] = after
        return replaced

    def _apply(self, graph: Graph, matches: Sequence[_Match]) -> tuple[Graph, Sequence[_Match]]:
        try:
            result = _patched(graph, matches)
        except CycleError:
            # Patches that are fine one by one may lead through each other: take the first, the others match again.
            matches = matches[:1]
            name, node = matches[0].rule, describe(matches[0].node)
            try:
                result = _patched(graph, matches)
            except CycleError as error:
                raise RewriteError(
                    f"rule {name} on {node}: the replacement depends on the value it replaces", name, node
                ) from error
        remaining = self.trace.remaining
        if remaining is not None and remaining < len(matches):
            matches = matches[:remaining]
            result = _patched(graph, matches)
        for match in matches:
            self.trace.record(self.pass_name, match.rule, describe(match.node), match.replaced)
        return result, matches


def _patched(graph: Graph, matches: Sequence[_Match]) -> Graph:
    mapping: dict[Value, Value] = {}
    origins: dict[Node, Origin] = {}
    nodes = set(graph.nodes())
    for match in matches:
        mapping.update(match.replaced)
        _inherit_origins(match.replaced, nodes, origins)
    return rebuild(graph, mapping, origins)


def _inherit_origins(replaced: Mapping[Value, Value], nodes: set[Node], origins: dict[Node, Origin]) -> None:
    """Record in `origins` what nodes without an origin inherit: that of the replaced nodes, and for new nodes also
    that of the nodes between the replaced ones and the operands of the new ones (a matched pattern's inner nodes)."""
    fresh: list[Node] = []
    frontier: set[Node] = set()
    seen: set[Node] = set()
    stack = [node_of(new) for new in replaced.values()]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in nodes:
            frontier.add(node)
        else:
            fresh.append(node)
            stack.extend(node_of(operand) for operand in operands_of(node))
    old = list(dict.fromkeys(node_of(value) for value in replaced))
    own = _union(node.origin for node in old)
    if fresh:
        inherited = _union((own, *(node.origin for node in _between(old, frontier))))
        if inherited:
            for node in fresh:
                if not node.origin:
                    origins.setdefault(node, inherited)
    for new in replaced.values():
        node = node_of(new)
        if own and node in nodes and not node.origin and not isinstance(node, Input | Constant):
            origins.setdefault(node, own)


def _between(tops: Sequence[Node], frontier: set[Node], limit: int = 64) -> list[Node]:
    """Nodes on paths from the operands of `tops` down to `frontier`, looking at no more than `limit` nodes."""
    order: list[Node] = []
    seen = set(tops)
    queue = list(tops)
    while queue and len(order) < limit:
        node = queue.pop(0)
        for operand in operands_of(node):
            inner = node_of(operand)
            if inner not in seen and inner not in frontier:
                seen.add(inner)
                order.append(inner)
                queue.append(inner)
    reaching: set[Node] = set(frontier)
    grew = True
    while grew:
        grew = False
        for node in order:
            if node not in reaching and any(node_of(operand) in reaching for operand in operands_of(node)):
                reaching.add(node)
                grew = True
    return [node for node in order if node in reaching]


def _union(origins: Iterable[Origin]) -> Origin:
    return tuple(dict.fromkeys(name for origin in origins for name in origin))


def rebuild(graph: Graph, mapping: Patch, origins: Mapping[Node, Origin] | None = None) -> Graph:
    """`graph` with every use of a key of `mapping` replaced by its value, in nodes and outputs; `origins` replaces the
    origin of nodes. Replacements are themselves looked through for keys. Sub-graphs are closed and stay as they are,
    the inputs too. Unchanged nodes are shared with `graph`, which is returned itself when nothing changes. Raises
    CycleError when a value would depend on itself."""
    sizes = graph.sizes()
    roots = (*graph.results, *sizes.values(), *graph.watched.values())
    results = substitute(roots, mapping, origins)
    if all(a is b for a, b in zip(results, roots, strict=True)):
        return graph
    live = len(roots) - len(graph.watched)
    watched = dict(zip(graph.watched, results[live:], strict=True))
    results = results[:live]
    outputs = tuple((name, value) for (name, _), value in zip(graph.outputs, results, strict=False))
    bound = dict(zip(sizes, results[len(outputs) :], strict=True))
    return dataclasses.replace(graph, outputs=outputs, bound=bound, watched=watched)


def substitute(
    values: Sequence[Value], mapping: Patch, origins: Mapping[Node, Origin] | None = None
) -> tuple[Value, ...]:
    """`values` as they read when every key of `mapping` is replaced, here and in all they depend on (see `rebuild`).

    Iterative: graphs may be very deep. Sharing is preserved: one old node becomes one new node.
    """
    origins = origins or {}
    made: dict[Node, Node] = {}
    active: set[Node] = set()

    def resolve(value: Value) -> Value:
        steps = 0
        while value in mapping:
            value = mapping[value]
            steps += 1
            if steps > len(mapping):
                raise CycleError(f"the replacements of {describe(node_of(value))} lead back to it")
        return value

    def renewed(value: Value) -> Value:
        node = made[node_of(value)]
        return node.result(value.index) if isinstance(value, Result) else node

    for root in values:
        stack = [node_of(resolve(root))]
        while stack:
            node = stack[-1]
            if node in made:
                stack.pop()
                continue
            waiting: dict[Node, None] = {}
            changes: dict[Value, Value] = {}
            for operand in operands_of(node):
                target = resolve(operand) if operand in mapping else operand
                below = node_of(target)
                if below not in made:
                    waiting[below] = None
                elif target is not operand or made[below] is not below:
                    changes[operand] = renewed(target)
            if not waiting:
                fresh = with_operands(node, changes) if changes else node
                if node in origins:
                    fresh = dataclasses.replace(fresh, origin=origins[node])
                made[node] = fresh
                active.discard(node)
                stack.pop()
                continue
            active.add(node)
            for n in waiting:
                if n in active:
                    raise CycleError(f"{describe(n)} would depend on itself")
            stack.extend(reversed(waiting))
    return tuple(renewed(resolve(value)) for value in values)


def _fingerprint(graph: Graph, kept: list[Any]) -> int:
    """A number that is equal for graphs of equal structure."""
    numbers: dict[Node, int] = {}

    def key(item: Any) -> Any:
        if isinstance(item, Value):
            return numbers[node_of(item)], item.index if isinstance(item, Result) else None
        if isinstance(item, tuple):
            return tuple(key(x) for x in cast("tuple[Any, ...]", item))
        if isinstance(item, np.ndarray):
            array = cast("np.ndarray[Any, Any]", item)
            if array.size <= 64:
                content = tuple(array.reshape(-1).tolist()) if array.dtype.hasobject else array.tobytes()
                return str(array.dtype), array.shape, content
            kept.append(array)
            return id(array)
        if isinstance(item, Graph):
            kept.append(item)
            return id(item)
        try:
            hash(item)
        except TypeError:
            return repr(item)
        return type(item), item

    table: dict[Any, int] = {}
    for node in graph.nodes():
        if isinstance(node, Input):
            identity: Any = ("input", id(node))
        else:
            identity = (type(node), *(key(getattr(node, f.name)) for f in fields_of(node)))
        numbers[node] = table.setdefault(identity, len(table))
    return hash((tuple(table), tuple(key(value) for value in (*graph.results, *graph.sizes().values()))))
