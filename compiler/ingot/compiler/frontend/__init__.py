"""Import of ONNX models: `load_onnx` turns a model file into a typed graph with symbolic shapes.

It is imported when it is first used: what only asks what a model file holds does without the operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingot.compiler.frontend.errors import ModelError, UnsupportedError, UnsupportedOperator

if TYPE_CHECKING:
    from ingot.compiler.frontend.onnx import load_onnx as load_onnx

__all__ = ["ModelError", "UnsupportedError", "UnsupportedOperator", "load_onnx"]


def __getattr__(name: str) -> Any:
    if name != "load_onnx":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ingot.compiler.frontend.onnx import load_onnx

    globals()[name] = load_onnx
    return load_onnx
