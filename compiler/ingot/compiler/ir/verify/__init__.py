"""Checks that IR is well formed, one function a level. Each raises IrError naming what is broken where."""

from ingot.compiler.ir.verify.graph import verify_graph
from ingot.compiler.ir.verify.kernel import verify_kernel
from ingot.compiler.ir.verify.program import verify_program

__all__ = ["verify_graph", "verify_kernel", "verify_program"]
