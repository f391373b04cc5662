"""Import of ONNX models: `load_onnx` turns a model file into a typed graph with symbolic shapes."""

from ingot.compiler.frontend.errors import ModelError, UnsupportedError, UnsupportedOperator
from ingot.compiler.frontend.onnx import load_onnx

__all__ = ["ModelError", "UnsupportedError", "UnsupportedOperator", "load_onnx"]
