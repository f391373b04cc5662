"""Custom operators: Python functions as operators of a model (see docs/write-an-operator.md)."""

from ingot.compiler.ops.custom.definition import CustomOp, custom_op
from ingot.compiler.ops.custom.errors import CustomOpError

__all__ = ["CustomOp", "CustomOpError", "custom_op"]
