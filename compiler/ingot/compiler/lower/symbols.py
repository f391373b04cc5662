"""The model's symbols and what kernels call their own.

In a kernel the symbols of the model share one name space with buffers, locals and loop variables. A model may call its
dims what it likes (``row``, ``b0``, ``total``): while it is lowered such a dim has another name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, cast

from ingot.compiler.ir.dims import Expr, substitute, symbol, symbols
from ingot.compiler.ir.graph import Graph, Input, Node, Value, fields_of, subgraphs_of
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Bind, Program, Storage
from ingot.compiler.ir.types import TensorType

_WORDS = "row|panel|half_row|half_column|acc|total|best|found|bias|norm|top"
OWN = re.compile(rf"_\w*|[a-z]+\d+(_\d+)?|(score|dot)_\w+|{_WORDS}")
"""What kernels may call their buffers, locals and loop variables."""


def set_apart(graph: Graph) -> tuple[Graph, Mapping[str, str]]:
    """`graph` with those of its symbols renamed that kernels could call something of their own, and what they were
    called by their new names."""
    present = _symbols(graph)
    names: dict[str, str] = {}
    for name in sorted(present):
        if OWN.fullmatch(name):
            free = f"dim_{name}"
            while free in present or OWN.fullmatch(free):
                free += "_"
            names[name] = free
    return (_renamed(graph, names) if names else graph), {new: old for old, new in names.items()}


def called_again(program: Program, names: Mapping[str, str]) -> Program:
    """`program` with symbols renamed outside of its kernels: in its steps, storages, ranges and messages."""
    if not names:
        return program
    storages = {
        s: dataclasses.replace(s, size=_field(s.size, {}, names), type=_field(s.type, {}, names))
        for s in program.storages
    }
    word = re.compile(r"\b(" + "|".join(names) + r")\b")
    return dataclasses.replace(
        program,
        storages=tuple(storages.values()),
        steps=_placed(program.steps, storages, names),
        ranges={names.get(name, name): limits for name, limits in program.ranges.items()},
        faults=tuple(word.sub(lambda found: names[found[0]], message) for message in program.faults),
    )


def _symbols(graph: Graph) -> set[str]:
    """The symbols in the types of a graph and of its sub-graphs, and those that they bind."""
    found = {*graph.bound, *graph.ranges}
    for node in graph.nodes():
        for kind in node.types:
            found |= {s for d in kind.shape for s in symbols(d)}
        for body in subgraphs_of(node):
            found |= _symbols(body)
        for f in fields_of(node):
            found |= _mentioned(getattr(node, f.name))
    return found


def _mentioned(item: Any) -> set[str]:
    match item:
        case Expr():
            return set(symbols(item))
        case tuple():
            return {s for part in cast(tuple[Any, ...], item) for s in _mentioned(part)}
        case Value() | Graph():
            return set()
        case _ if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return {s for f in dataclasses.fields(item) for s in _mentioned(getattr(item, f.name))}
        case _:
            return set()


def _renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """`graph` with other names for symbols, none of which it has."""
    new: dict[Value, Value] = {}
    for node in graph.nodes():
        changes: dict[str, Any] = {}
        for f in fields_of(node):
            item = getattr(node, f.name)
            changed = _field(item, new, names)
            if changed is not item:
                changes[f.name] = changed
        if changes:
            renewed: Node = dataclasses.replace(node, **changes)
            new.update(zip(node.results(), renewed.results(), strict=True))
    return dataclasses.replace(
        graph,
        inputs=tuple(cast(Input, new.get(x, x)) for x in graph.inputs),
        outputs=tuple((label, new.get(v, v)) for label, v in graph.outputs),
        ranges={names.get(name, name): limits for name, limits in graph.ranges.items()},
        bound={names.get(name, name): new.get(v, v) for name, v in graph.bound.items()},
        watched={name: new.get(v, v) for name, v in graph.watched.items()},
    )


def _field(item: Any, new: Mapping[Value, Value], names: Mapping[str, str]) -> Any:
    """A field of a node with other operands and names; the field itself where neither changes it."""
    match item:
        case Value():
            return new.get(item, item)
        case Graph():
            return _renamed(item, names)
        case Expr():
            return substitute(item, {name: symbol(other) for name, other in names.items()})
        case TensorType():
            shape = _field(item.shape, new, names)
            return item if shape is item.shape else TensorType(item.dtype, shape)
        case tuple():
            whole = cast(tuple[Any, ...], item)
            parts = tuple(_field(part, new, names) for part in whole)
            return whole if all(a is b for a, b in zip(parts, whole, strict=True)) else parts
        case _ if dataclasses.is_dataclass(item) and not isinstance(item, type):
            fields = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
            changed = {name: _field(value, new, names) for name, value in fields.items()}
            return item if all(changed[n] is fields[n] for n in fields) else dataclasses.replace(item, **changed)
        case _:
            return item


def _placed(item: Any, storages: Mapping[Storage, Storage], names: Mapping[str, str]) -> Any:
    """A step, or a part of one, over other storages and with other names."""
    match item:
        case Storage():
            return storages[item]
        case Kernel():
            return item
        case Expr() | TensorType():
            return _field(item, {}, names)
        case Bind():
            return dataclasses.replace(
                item, symbol=names.get(item.symbol, item.symbol), value=_placed(item.value, storages, names)
            )
        case tuple():
            return tuple(_placed(part, storages, names) for part in cast(tuple[Any, ...], item))
        case _ if dataclasses.is_dataclass(item) and not isinstance(item, type):
            fields = {f.name: _placed(getattr(item, f.name), storages, names) for f in dataclasses.fields(item)}
            return dataclasses.replace(item, **fields)
        case _:
            return item
