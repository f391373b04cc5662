"""Delta debugging of ONNX models: the smallest model found that still fails in the same way."""

from ingot.compiler.debug.reduction.case import Case
from ingot.compiler.debug.reduction.search import Reduced, ReductionError, read_model, reduce_model

__all__ = ["Case", "Reduced", "ReductionError", "read_model", "reduce_model"]
