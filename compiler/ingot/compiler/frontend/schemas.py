"""What the standard's schema of an operator demands of a node whatever its operands are."""

from __future__ import annotations

from functools import lru_cache

import onnx

from ingot.compiler.frontend.errors import ModelError


@lru_cache(maxsize=512)
def _most_outputs(domain: str, op_type: str, opset: int) -> int | None:
    """How many outputs a node may name; None where the standard does not know the operator."""
    if not onnx.defs.has(op_type, opset, domain):
        return None
    return onnx.defs.get_schema(op_type, opset, domain).max_output


def require_outputs(domain: str, node: onnx.NodeProto, opset: int) -> None:
    """The node names no more outputs than its operator has. Raises ModelError; operators that the standard does not
    define may have any number."""
    most = _most_outputs(domain, node.op_type, opset)
    named = max((i for i, name in enumerate(node.output, 1) if name), default=0)
    if most is not None and named > most:
        raise ModelError(
            f"the node names {named} outputs, {node.op_type} has {most} at most", remedy="run onnx.checker on the model"
        )
