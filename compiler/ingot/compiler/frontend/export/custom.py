"""Custom operators over arrays: nodes of their own domain, for runtimes that know the operator.

The others, functions of elements and of values, are written as the operators that they are made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
from onnx import helper

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import describe
from ingot.compiler.ops.custom.nodes import Loops
from ingot.compiler.ops.custom.signature import Declared

TABLE = Table()

_TYPES = {int: onnx.AttributeProto.INT, float: onnx.AttributeProto.FLOAT, str: onnx.AttributeProto.STRING}
_LISTS = {int: onnx.AttributeProto.INTS, float: onnx.AttributeProto.FLOATS, str: onnx.AttributeProto.STRINGS}


@TABLE.exports(Loops)
def loops(scope: Scope, node: Loops) -> Written:
    """All attributes are written, also those that have their defaults; floats are f32 in ONNX."""
    definition = node.definition
    domain, op_type = definition.domain_and_type()
    values = node.attribute_values()
    attributes = [_attribute(node, a, values[a.name]) for a in definition.signature.attributes]
    scope.export.require_domain(domain, definition.since)
    operands = [None if v is None else scope.name(v) for v in node.operand_values()]
    results = scope.add_many(op_type, operands, len(node.types), domain=domain)
    scope.nodes[-1].attribute.extend(attributes)
    if domain == "":
        _require_standard(scope, node, scope.nodes[-1])
    return results


def _attribute(node: Loops, declared: Declared, value: Any) -> onnx.AttributeProto:
    items = cast("Sequence[Any]", value if declared.many else (value,))
    kind = int if declared.kind is bool else declared.kind
    plain = [kind(item) for item in items]
    for item in plain:
        if (isinstance(item, int) and not -(2**63) <= item < 2**63) or (isinstance(item, float) and _overflows(item)):
            what = "a 64-bit integer" if isinstance(item, int) else "a float of 32 bits"
            raise ExportError(f"{describe(node)}: attribute {declared.name!r} is {item!r}, which {what} does not hold")
    if declared.many:
        return helper.make_attribute(declared.name, plain, attr_type=_LISTS[kind])
    return helper.make_attribute(declared.name, plain[0], attr_type=_TYPES[kind])


def _overflows(item: float) -> bool:
    return math.isfinite(item) and abs(item) > float(np.finfo(np.float32).max)


def _require_standard(scope: Scope, node: Loops, proto: onnx.NodeProto) -> None:
    """An operator that takes the place of one of the standard's has its name: readers must find that one."""
    try:
        schema = onnx.defs.get_schema(proto.op_type, scope.opset, "")
    except onnx.defs.SchemaError as error:
        raise ExportError(f"{describe(node)}: opset {scope.opset} has no {proto.op_type}") from error
    unknown = sorted({a.name for a in proto.attribute} - set(schema.attributes))
    if unknown:
        raise ExportError(f"{describe(node)}: {proto.op_type} of opset {scope.opset} has no attribute {unknown[0]!r}")
