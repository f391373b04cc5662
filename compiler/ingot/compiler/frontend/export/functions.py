"""Functions of the model: composites that the standard has no operator for, defined by their own expansion."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import onnx
from onnx import helper

from ingot.compiler.frontend.export.definitions import definition_of
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.ir.graph import Graph, Input, Node, Value, fields_of, operands_of
from ingot.compiler.ops import movement
from ingot.compiler.ops.composite import COMPOSITES

DOMAIN = "ingot"
VERSION = 1

# Operators whose attributes are extents: a body with one of them would fit one shape only.
_SHAPED = (movement.Reshape, movement.Expand, movement.Slice, movement.Pad, movement.Split, movement.DimValues)


def call(scope: Scope, node: Node) -> str | None:
    """A call of the function for `node`, which is made on the first call; None where there is none for it."""
    export = scope.export
    if type(node) not in COMPOSITES:
        return None
    operands = operands_of(node)
    key = (type(node), *_signature(node))
    if key not in export.functions:
        count = sum(1 for other in export.functions if other[0] is type(node))
        name = type(node).__name__ + (f"_{count + 1}" if count else "")
        function = _function(scope, node, name)
        if function is None:
            return None
        export.functions[key] = function
    return scope.add(export.functions[key].name, *(scope.name(v) for v in operands), domain=DOMAIN)


def _signature(node: Node) -> Iterable[object]:
    """What two nodes must share to share a function: everything but the extents of their operands."""
    for f in fields_of(node):
        item: Any = getattr(node, f.name)
        yield (item.dtype, item.rank) if isinstance(item, Value) else item


def _function(scope: Scope, node: Node, name: str) -> onnx.FunctionProto | None:
    formal: dict[str, Value] = {}
    for f in fields_of(node):  # one formal input for each operand, also where the same value stands twice
        operand = getattr(node, f.name)
        if isinstance(operand, Value):
            formal[f.name] = Input(f.name, operand.type)
    definition = definition_of(dataclasses.replace(node, origin=(), **formal))
    if not isinstance(definition, Value):
        return None
    body = Graph(tuple(i for i in formal.values() if isinstance(i, Input)), (("result", definition),), name)
    if any(isinstance(inner, _SHAPED) for inner in body.nodes()):
        return None
    inner = scope.function_body(dict(zip(formal.values(), formal, strict=True)), "result")
    inner.want((definition,), ("result",))
    inner.write(body)
    inner.finish((definition,), ("result",))
    imports = [helper.make_opsetid("", scope.opset)]
    return helper.make_function(DOMAIN, name, list(formal), ["result"], inner.nodes, imports)
