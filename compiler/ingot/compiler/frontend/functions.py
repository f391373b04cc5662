"""Operators that are defined by other operators: function bodies of the model itself and of the ONNX standard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import onnx

from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.weights import CODES
from ingot.compiler.ir.dims import show
from ingot.compiler.ir.graph import Value

Opsets = Mapping[str, int]


def domain_of(name: str) -> str:
    """The domain with its default spelling: the empty string for ``ai.onnx``."""
    return "" if name == "ai.onnx" else name


def opsets_of(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Opset versions by domain; ModelError when a domain has two."""
    found: dict[str, int] = {}
    for item in imports:
        domain = domain_of(item.domain)
        if found.get(domain, item.version) != item.version:
            shown = f"{found[domain]} and {item.version}"
            raise ModelError(f"domain {domain or 'ai.onnx'!r} is imported with two opsets, {shown}")
        found[domain] = int(item.version)
    return found


class Schema(Protocol):
    """What is used of `onnx.defs.OpSchema`; its type stubs leave these out."""

    has_function: bool
    has_context_dependent_function: bool
    attributes: Mapping[str, onnx.defs.OpSchema.Attribute]
    function_opset_versions: list[int]
    context_dependent_function_opset_versions: list[int]

    def get_function_with_opset_version(self, version: int) -> bytes:
        """A serialised FunctionProto."""
        ...

    def get_context_dependent_function_with_opset_version(self, version: int, node: bytes, types: list[bytes]) -> bytes:
        """A serialised FunctionProto for a serialised node and the types of its inputs; empty when there is none."""
        ...


def schema_of(domain: str, op_type: str, opset: int) -> Schema | None:
    """The standard's schema for an operator, None when it has none."""
    try:
        return cast(Schema, onnx.defs.get_schema(op_type, opset, domain))
    except onnx.defs.SchemaError:
        return None


def schema_defaults(domain: str, op_type: str, opset: int) -> dict[str, onnx.AttributeProto]:
    """The default values that the standard gives an operator's attributes."""
    schema = schema_of(domain, op_type, opset)
    if schema is None:
        return {}
    values = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    return {name: value for name, value in values.items() if value.type != onnx.AttributeProto.UNDEFINED}


def static_body(domain: str, op_type: str, opset: int) -> onnx.FunctionProto | None:
    """The standard's body of an operator that is the same for all types and attributes."""
    schema = schema_of(domain, op_type, opset)
    if schema is None or not schema.has_function:
        return None
    version = _best(schema.function_opset_versions, opset)
    return onnx.FunctionProto.FromString(schema.get_function_with_opset_version(version))


def has_typed_body(domain: str, op_type: str, opset: int) -> bool:
    """True when the standard defines an operator by a body that depends on types and attributes."""
    schema = schema_of(domain, op_type, opset)
    return schema is not None and schema.has_context_dependent_function


def typed_body(
    domain: str, node: onnx.NodeProto, opset: int, operands: Sequence[Value | None]
) -> onnx.FunctionProto | None:
    """The standard's body of `node` for operands of these types; None when it gives none."""
    schema = schema_of(domain, node.op_type, opset)
    if schema is None or not schema.has_context_dependent_function:
        return None
    version = _best(schema.context_dependent_function_opset_versions, opset)
    types = [_type_proto(v).SerializeToString() for v in operands]
    data = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
    return onnx.FunctionProto.FromString(data) if data else None


def inferred_types(
    domain: str, node: onnx.NodeProto, opset: int, operands: Sequence[Value | None]
) -> dict[str, onnx.TypeProto]:
    """The types that the standard gives the results of `node`, by name; none where it is silent or `node` is wrong."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = onnx.IR_VERSION, {domain: opset}
        onnx.checker.check_node(node, context)
        types = {name: _type_proto(v) for name, v in zip(node.input, operands, strict=True) if name}
        return onnx.shape_inference.infer_node_outputs(schema, node, types)
    except (onnx.defs.SchemaError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError):
        return {}


def _best(versions: Sequence[int], opset: int) -> int:
    """The newest body not newer than the model; a body imports its own opset, so an older model may take any."""
    return max((v for v in versions if v <= opset), default=min(versions))


def _type_proto(value: Value | None) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    shape = [d if isinstance(d, int) else show(d) for d in value.shape]
    return onnx.helper.make_tensor_type_proto(CODES[value.dtype], shape)
