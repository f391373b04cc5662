"""Strings as handles: the graph that lowering works on has no tensors of strings.

Every string of the model gets a number, and a tensor of strings becomes one of i64 that holds them: what moves strings
and what compares them is then work on integers like any other. Strings are left where the host has them in hand: at
inputs and outputs of the graph, and at the operators that the host computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ingot.compiler.ir.graph import (
    Array,
    Constant,
    Graph,
    Input,
    Node,
    Value,
    describe,
    fields_of,
    op,
    operands_of,
    subgraphs_of,
)
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.checks import fail
from ingot.compiler.ops.host import HostOp
from ingot.runtime.dtypes import i64, string


@op("handles")
class Handles(Node):
    """The handles, i64, of the strings x. Only lowering makes and knows this operator."""

    x: Value

    def infer(self) -> Sequence[TensorType]:
        if self.x.dtype != string:
            fail(self, f"{self.x.type} holds no strings")
        return (TensorType(i64, self.x.type.shape),)


@op("strings")
class Strings(Node):
    """The strings that the handles x, i64, stand for. Only lowering makes and knows this operator."""

    x: Value

    def infer(self) -> Sequence[TensorType]:
        if self.x.dtype != i64:
            fail(self, f"{self.x.type} holds no handles")
        return (TensorType(string, self.x.type.shape),)


def with_handles(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """`graph` with handles in the place of strings, and the strings of the model by their handles; `graph` itself and
    no strings where there are none. Raises IrError for a constant whose elements are no strings."""
    if not _has_strings(graph):
        return graph, ()
    rewriting = _Rewriting()
    return rewriting.graph(graph, is_whole=True), tuple(rewriting.numbers)


def _has_strings(graph: Graph) -> bool:
    for node in graph.nodes():
        if any(t.dtype == string for t in node.types) or any(map(_has_strings, subgraphs_of(node))):
            return True
    return False


def _strings(handles: Value) -> Value:
    """The strings of handles, without a detour where the handles are those of strings that are there."""
    return handles.x if isinstance(handles, Handles) else Strings(handles)


class _Rewriting:
    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}
        self.constants: dict[int, Constant] = {}  # one for one array, however many graphs hold it

    def graph(self, graph: Graph, *, is_whole: bool) -> Graph:
        """A graph in terms of handles. The whole one keeps the types of its inputs and outputs."""
        new: dict[Value, Value] = {}
        inputs: list[Input] = []
        for node in graph.inputs:
            made = node
            if node.declared.dtype == string and not is_whole:
                made = dataclasses.replace(node, declared=TensorType(i64, node.declared.shape))
            inputs.append(made)
            new[node] = Handles(made) if made.declared.dtype == string else made
        for node in graph.nodes():
            if not isinstance(node, Input):
                for old, value in zip(node.results(), self.node(node, new), strict=True):
                    new[old] = value
        outputs = tuple(
            (name, _strings(new[value]) if is_whole and value.dtype == string else new[value])
            for name, value in graph.outputs
        )
        bound = {name: new[value] for name, value in graph.sizes().items()}
        return Graph(tuple(inputs), outputs, graph.name, graph.ranges, bound)

    def node(self, node: Node, new: dict[Value, Value]) -> tuple[Value, ...]:
        """What the results of `node` become."""
        if isinstance(node, Constant):
            return (self.constant(node) if node.dtype == string else node,)
        values = {old: new[old] for old in operands_of(node)}
        if isinstance(node, HostOp):
            values = {old: _strings(v) if old.dtype == string else v for old, v in values.items()}
        changes: dict[str, Any] = {}
        for f in fields_of(node):
            item: Any = getattr(node, f.name)
            if isinstance(item, Value):
                changes[f.name] = values[item]
            elif isinstance(item, tuple):
                members = cast("tuple[Any, ...]", item)
                if any(isinstance(x, Value) for x in members):
                    changes[f.name] = tuple(values[x] if isinstance(x, Value) else x for x in members)
            elif isinstance(item, Graph):
                changes[f.name] = self.graph(item, is_whole=False)
        made = node if all(getattr(node, k) is v for k, v in changes.items()) else dataclasses.replace(node, **changes)
        return tuple(Handles(value) if value.dtype == string else value for value in made.results())

    def constant(self, node: Constant) -> Constant:
        known = self.constants.get(id(node.data))
        if known is None:
            known = self.constants[id(node.data)] = Constant(self._handles(node), origin=node.origin)
        return known

    def _handles(self, node: Constant) -> Array:
        items: list[object] = node.data.reshape(-1).tolist()
        handles = np.empty(len(items), np.int64)
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise IrError(f"{describe(node)}: element {index} is of type {type(item).__name__}, not a string")
            handles[index] = self.numbers.setdefault(item, len(self.numbers))
        handles = handles.reshape(node.data.shape)
        handles.flags.writeable = False
        return handles
