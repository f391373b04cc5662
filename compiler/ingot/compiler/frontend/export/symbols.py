"""Where the values of symbolic dims come from at run time: an axis of a value, or a scalar that is the size itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Expr
from ingot.compiler.ir.graph import Graph, Input, Node, Value, dependencies_of, fields_of, node_of, operands_of
from ingot.compiler.ir.types import TensorType


class AxisSource(NamedTuple):
    """The extent of `axis` of `value` is ``stride * symbol + rest``."""

    value: Value
    axis: int
    stride: Dim = 1
    rest: Dim = 0


class ScalarSource(NamedTuple):
    """The symbol is the element of `value`, i64: a size that comes from data."""

    value: Value


Source: TypeAlias = "AxisSource | ScalarSource"


def sources(values: Iterable[Value], known: Iterable[str] = ()) -> dict[str, AxisSource]:
    """A source for each symbol that the shapes of `values` determine and that is not known yet: an axis that is the
    symbol alone where there is one, else an axis of which it is the only unknown, linearly."""
    found: dict[str, AxisSource] = {}
    others = set(known)
    axes = [(value, axis, dim) for value in values for axis, dim in enumerate(value.shape) if isinstance(dim, Expr)]
    for value, axis, dim in axes:
        name = dims.symbol_name(dim)
        if name is not None and name not in others:
            found.setdefault(name, AxisSource(value, axis))
    progress = True
    while progress:
        progress = False
        for value, axis, dim in axes:
            unknown = dims.symbols(dim) - found.keys() - others
            if len(unknown) != 1:
                continue
            (name,) = unknown
            parts = dims.coefficient(dim, name)
            if parts is not None:
                found[name] = AxisSource(value, axis, *parts)
                progress = True
    return found


def symbols_needed(node: Node) -> frozenset[str]:
    """The symbols in the attributes and sub-graphs of a node and in its operands' shapes."""
    found: set[str] = set()
    for f in fields_of(node):
        found |= _symbols(getattr(node, f.name))
    for operand in operands_of(node):
        found |= _symbols(operand.type)
    return frozenset(found)


def telling(node: Node) -> tuple[Value, ...]:
    """The results of a node that have dims of their own, which are known when it has run."""
    results = node.results()
    if not any(_symbols(t) for t in node.types):
        return ()
    needed = symbols_needed(node)
    return tuple(v for v in results if _symbols(v.type) - needed)


def _symbols(item: Any) -> set[str]:
    match item:
        case Expr():
            return set(dims.symbols(item))
        case TensorType():
            return {s for d in item.shape for s in dims.symbols(d)}
        case Graph():
            return {s for node in item.nodes() for s in symbols_needed(node)}
        case tuple():
            return {s for part in cast("tuple[Any, ...]", item) for s in _symbols(part)}
        case _:
            return set()


def ordered(graph: Graph, found: Mapping[str, Source]) -> Iterator[Node]:
    """The nodes of `graph`, each after its operands and after the values that its symbolic dims are read from."""
    axes = {name: node_of(source.value) for name, source in found.items() if isinstance(source, AxisSource)}
    computed = {name: node for name, node in axes.items() if not isinstance(node, Input)}
    if not computed:  # sizes that come from data are in order already
        yield from graph.nodes()
        return
    done: set[Node] = set()
    for root in graph.nodes():
        stack = [root]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            before = [node_of(v) for v in dependencies_of(node, graph.bound)]
            before += [computed[s] for s in sorted(symbols_needed(node)) if s in computed]
            waiting = [n for n in before if n not in done and n is not node and n not in stack]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                stack.pop()
                done.add(node)
                yield node
