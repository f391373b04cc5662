"""Parts of ONNX models: `cut_onnx` extracts, renames and changes dims on the file itself."""

from ingot.compiler.frontend.cut.errors import CutError
from ingot.compiler.frontend.cut.extents import Extents
from ingot.compiler.frontend.cut.model import cut_onnx
from ingot.compiler.frontend.cut.types import describe_type

__all__ = ["CutError", "Extents", "cut_onnx", "describe_type"]
