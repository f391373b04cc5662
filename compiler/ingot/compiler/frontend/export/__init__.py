"""Export: graphs as ONNX models. `export_onnx` makes a ModelProto, `save_onnx` writes a file of any size."""

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.file import save_onnx
from ingot.compiler.frontend.export.model import export_onnx
from ingot.compiler.frontend.export.narrow import hold_narrow

__all__ = ["ExportError", "export_onnx", "hold_narrow", "save_onnx"]
