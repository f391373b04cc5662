"""Products of two quantised values that the model computes, as in attention: exact, on whole numbers.

    mat_mul((a - z) * s, (b - w) * t) = mat_mul(a - z, b - w) * (s * t)

The differences are whole numbers of at most 9 bits. Where their sums stay below 2**24, which a head of attention does,
f32 holds every one of them, in whatever order they are added: the product is that of integers, by kernels of floats.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ingot.compiler.ir.dims import bounds
from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.pointwise import Mul
from ingot.compiler.ops.quantised import Dequantize, integer_range
from ingot.compiler.passes.constants import splat
from ingot.compiler.passes.integers import BYTES
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import f32

MOST = 1 << 24  # up to which f32 holds every whole number


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A quantised operand as whole numbers in f32, the largest absolute value they have, and the scale to them."""

    value: Value
    most: int
    scale: float


def whole_product(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(dequantize(a, s), dequantize(b, t)) -> mat_mul(dequantize(a, 1), dequantize(b, 1)) * (s * t)"""
    a, b = _whole(node.a), _whole(node.b)
    if a is None or b is None or a.scale == b.scale == 1:
        return None
    depth = bounds(node.a.shape[-1], graph.ranges)[1]
    if depth * a.most * b.most > MOST:
        return None
    scale = np.float32(a.scale * b.scale)  # f64 holds the product of two scales
    if not 0 < scale < math.inf:
        return None
    return {node: Mul(MatMul(a.value, b.value), constant(scale))}


def largest_sum(node: MatMul, graph: Graph) -> int | None:
    """The largest absolute value of a product that `whole_product` makes, whole numbers in f32; None for others."""
    a, b = _whole(node.a), _whole(node.b)
    if a is None or b is None or not a.scale == b.scale == 1:
        return None
    most = bounds(node.a.shape[-1], graph.ranges)[1] * a.most * b.most
    return most if most <= MOST else None


def _whole(value: Value) -> _Whole | None:
    match value:
        case (Reshape(x=inner) | Transpose(x=inner)) if not isinstance(inner, Constant):
            if (found := _whole(inner)) is None:
                return None
            return dataclasses.replace(found, value=dataclasses.replace(value, x=found.value))
        case Dequantize(x, scale, zero) if x.dtype in BYTES and scale.dtype == f32 and not isinstance(x, Constant):
            step, point = splat(scale), 0 if zero is None else splat(zero)
        case _:
            return None
    if step is None or point is None or not 0 < step < math.inf or value.type.shape != x.type.shape:
        return None
    low, high = integer_range(x.dtype)
    one = Dequantize(x, constant(1.0, f32), None if zero is None else Reshape(zero, ()))
    return _Whole(one, int(max(point - low, high - point)), float(step))


EXACT_PRODUCTS: tuple[Rule, ...] = (whole_product,)
