"""Operators of ONNX Runtime's own domain, com.microsoft: what its quantisers and its graph optimiser write."""

from ingot.compiler.frontend.operators.microsoft import attention, fused, integers, normalization, packed
from ingot.compiler.frontend.table import Table

TABLE = Table((attention.TABLE, fused.TABLE, integers.TABLE, normalization.TABLE, packed.TABLE))

__all__ = ["TABLE"]
