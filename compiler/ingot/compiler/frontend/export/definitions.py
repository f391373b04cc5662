"""Operators in terms of other operators, for what ONNX has no operator for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.compiler.ir.graph import Node, Value, constant
from ingot.compiler.ops.pointwise import Add, Erf, Gelu, Mul


def definition_of(node: Node) -> Value | Sequence[Value] | None:
    """`node` in terms of other operators: its expansion, or what stands here for operators that are kernels' own."""
    match node:
        case Gelu(x=x, tanh=False):
            half = Mul(x, constant(0.5, x.dtype))
            inner = Erf(Mul(x, constant(math.sqrt(0.5), x.dtype)))
            return Mul(half, Add(inner, constant(1.0, x.dtype)))
        case _:
            return node.expand()
