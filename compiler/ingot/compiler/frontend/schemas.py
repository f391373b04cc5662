"""What the standard's schema of an operator demands of a node, and what it says about its types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import onnx

from ingot.compiler.frontend.attribute_rules import require_sensible
from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.sequences import Item
from ingot.compiler.frontend.weights import CODES
from ingot.compiler.ir.graph import Value
from ingot.runtime.dtypes import DType, f32

_REMEDY = "run onnx.checker on the model"


@lru_cache(maxsize=512)
def _schema(domain: str, op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """None where the standard does not know the operator."""
    return onnx.defs.get_schema(op_type, opset, domain) if onnx.defs.has(op_type, opset, domain) else None


def require_outputs(domain: str, node: onnx.NodeProto, opset: int) -> None:
    """The node names no more outputs than its operator has. Raises ModelError; operators that the standard does not
    define may have any number."""
    schema = _schema(domain, node.op_type, opset)
    named = max((i for i, name in enumerate(node.output, 1) if name), default=0)
    if schema is not None and named > schema.max_output:
        raise ModelError(
            f"the node names {named} outputs, {node.op_type} has {schema.max_output} at most", remedy=_REMEDY
        )


def require_attributes(
    domain: str,
    op_type: str,
    opset: int,
    attributes: Mapping[str, onnx.AttributeProto],
    operands: Sequence[Item | None],
) -> None:
    """The attributes, defaults among them, are those of the operator and have values that make sense. Raises
    ModelError."""
    schema = _schema(domain, op_type, opset)
    if schema is None:
        return
    for name, attribute in attributes.items():
        if name not in schema.attributes:
            raise ModelError(f"{op_type} of opset {opset} has no attribute {name!r}", remedy=_REMEDY)
        given = onnx.AttributeProto.AttributeType.Name(attribute.type)
        wanted = str(schema.attributes[name].type).rpartition(".")[2]
        if given != wanted:
            raise ModelError(f"attribute {name!r} of {op_type} is of type {given}, not {wanted}", remedy=_REMEDY)
    for name, declared in schema.attributes.items():
        if declared.required and name not in attributes:
            raise ModelError(f"attribute {name!r} of {op_type} is missing", remedy=_REMEDY)
    require_sensible(op_type, attributes, operands)


def type_variables(
    domain: str, op_type: str, opset: int, operands: Sequence[Item | None], *, in_body: bool
) -> dict[str, DType]:
    """The element types that `operands` give the type variables of the schema. Raises ModelError where the schema does
    not allow one, which bodies of functions do not always heed, or a variable would have two."""
    schema = _schema(domain, op_type, opset)
    found: dict[str, tuple[int, DType]] = {}
    if schema is None:
        return {}
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    for index, (formal, value) in enumerate(zip(schema.inputs, operands, strict=False)):
        if not isinstance(value, Value):
            continue
        name, given = formal.type_str, value.dtype
        types = allowed.get(name, [name])
        if not in_body and f"tensor({onnx.TensorProto.DataType.Name(CODES[given]).lower()})" not in types:
            raise ModelError(
                f"input {index} ({formal.name}) of {op_type} is {given.name}, which is not among {', '.join(types)}",
                remedy=_REMEDY,
            )
        first, known = found.setdefault(name, (index, given))
        if known != given and name in allowed:
            raise ModelError(
                f"inputs {first} ({known.name}) and {index} ({given.name}) of {op_type} have one type by the standard",
                remedy="cast one to the other's",
            )
    return {name: dtype for name, (_, dtype) in found.items() if name in allowed}


def widened(ctx: Context, domain: str) -> tuple[Item | None, ...]:
    """The operands of a node with those of different floats that share a type variable cast to the widest."""
    schema = _schema(domain, ctx.node.op_type, ctx.opset)
    if schema is None:
        return ctx.operands
    names = [each.type_str for each in schema.inputs]
    names += names[-1:] * (len(ctx.operands) - len(names))  # the last may stand for many
    widest: dict[str, DType] = {}
    for name, value in zip(names, ctx.operands, strict=False):
        if isinstance(value, Value) and value.dtype.is_float:
            known = widest.get(name, value.dtype)
            wider = max(known, value.dtype, key=lambda dtype: dtype.bits)
            widest[name] = f32 if known != value.dtype and wider.bits < f32.bits else wider
    return tuple(
        ctx.cast(value, widest[name]) if isinstance(value, Value) and value.dtype.is_float else value
        for name, value in zip(names, ctx.operands, strict=False)
    )


def with_result_types(
    ctx: Context, domain: str, results: Sequence[Item | None], variables: Mapping[str, DType]
) -> list[Item | None]:
    """`results` with the element types that the schema gives them."""
    schema = _schema(domain, ctx.node.op_type, ctx.opset)
    assert schema is not None
    return [
        ctx.cast(item, variables.get(formal.type_str, item.dtype)) if isinstance(item, Value) else item
        for item, formal in zip(results, schema.outputs, strict=False)
    ]
