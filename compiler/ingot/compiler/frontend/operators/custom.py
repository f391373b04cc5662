"""Custom operators as rows of the table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Row, Table
from ingot.compiler.ops.custom import CustomOp, CustomOpError
from ingot.compiler.ops.custom.nodes import Scalar
from ingot.compiler.ops.custom.signature import Declared


def with_custom(table: Table, operators: Iterable[CustomOp]) -> Table:
    """`table` and the custom operators. Raises CustomOpError where two have one name, or where one has that of an
    operator of `table` without being told to shadow it."""
    merged = Table((table,))
    taken: dict[tuple[str, str, int], CustomOp] = {}
    for operator in operators:
        key = operator.domain, operator.op_type, operator.since
        if taken.setdefault(key, operator) is not operator:
            raise CustomOpError(f"{operator.name}: two custom operators have this name and opset {operator.since}")
        ours = any((operator.domain, operator.op_type) == known[:2] for known in list(taken)[:-1])
        if not ours and merged.knows(operator.domain, operator.op_type):
            if not operator.shadow:
                raise CustomOpError(f"{operator.name} is an operator that Ingot has: shadow=True replaces it")
            merged.forget(operator.domain, operator.op_type)
        merged.add(operator.op_type, _row(operator), operator.since, operator.domain)
    return merged


def _row(operator: CustomOp) -> Row:
    def read(ctx: Context) -> Results:
        operands = [
            ctx.optional(i) if operand.optional else ctx.operand(i)
            for i, operand in enumerate(operator.signature.operands)
        ]
        if issubclass(operator.node, Scalar):
            ctx.broadcast(*(v.shape for v in operands if v is not None))
        attributes = {a.name: value for a in operator.signature.attributes if (value := _attribute(ctx, a)) is not None}
        return operator.build(operands, attributes, ctx.origin).results()

    return read


def _attribute(ctx: Context, declared: Declared) -> Any:
    """The value in the model, None where it is left out; ONNX has no bools: they are integers."""
    if declared.many:
        reader = {int: ctx.ints, float: ctx.floats, str: ctx.strings}[declared.kind]
        return reader(declared.name)
    if declared.kind is bool:
        value = ctx.maybe(declared.name, int)
        return None if value is None else bool(value)
    return ctx.maybe(declared.name, declared.kind)
