"""Operators in terms of other operators, for what ONNX has no operator for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.compiler.ir.graph import Graph, Input, Node, Value, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.control import Loop
from ingot.compiler.ops.movement import DimValues, Expand, Gather, Slice, Transpose
from ingot.compiler.ops.pointwise import Add, Cast, Erf, Gelu, Mul, Sub
from ingot.compiler.ops.reduction import CumProd
from ingot.runtime.dtypes import boolean, f32, i64


def definition_of(node: Node) -> Value | Sequence[Value] | None:
    """`node` in terms of other operators: its expansion, or what stands here for operators that are kernels' own."""
    match node:
        case Gelu(x=x, tanh=False):
            half = Mul(x, constant(0.5, x.dtype))
            inner = Erf(Mul(x, constant(math.sqrt(0.5), x.dtype)))
            return Mul(half, Add(inner, constant(1.0, x.dtype)))
        case CumProd():
            return _products(node)
        case _:
            return node.expand()


def _products(node: CumProd) -> Value:
    """Running products by a Loop over the elements of the axis, forwards."""
    x, axis = node.x, node.axis
    order = (axis, *(a for a in range(x.rank) if a != axis))
    rows = Transpose(x, order)
    extent, row = rows.type.shape[0], rows.type.shape[1:]
    kind = f32 if x.dtype.is_float and x.dtype.bits < f32.bits else x.dtype
    types = (TensorType(i64, ()), TensorType(boolean, ()), TensorType(kind, row), rows.type)
    step, going, product, inner = (Input(n, t) for n, t in zip(("i", "going", "product", "rows"), types, strict=True))
    place = Sub(DimValues((extent - 1,), True), step) if node.reverse else step
    element: Value = Gather(inner, place, 0)
    after = Mul(product, element if element.dtype == kind else Cast(element, kind))
    given: Value = product if node.exclusive else after
    given = given if kind == x.dtype else Cast(given, x.dtype)
    body = Graph((step, going, product, inner), (("going", going), ("after", after), ("given", given)), "products")
    ones = Expand(constant(1, kind), row)
    found = Loop(DimValues((extent,), True), None, (ones,), (rows,), body, (extent,)).result(1)
    if node.reverse:
        starts, steps = (extent - 1, *(0 for _ in row)), (-1, *(1 for _ in row))
        found = Slice(found, starts, (extent, *row), steps)
    return Transpose(found, tuple(order.index(a) for a in range(x.rank)))
