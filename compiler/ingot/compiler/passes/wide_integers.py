"""Products of quantised values of 16 bits by weights of 8, in integers: those of the upper and of the lower byte.

    conv((x - z) * s, w * t) = (256 * conv(h - zh, w) + conv(l - zl, w)) * (s * t)

for x = 256 * h + l and z = 256 * zh + zl. Both are products of bytes as in `passes.integers`. Their sum is one of i32
where the weights prove that it fits, else one of f64, which holds it exactly; it is rounded to f32 once.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Value, constant
from ingot.compiler.ops.bitwise import BitAnd, BitCast, BitXor, ShiftRight
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.pointwise import Add, Cast, Mul, Sub
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.passes.integers import LIMIT, Weights, bias_of, columns, known, scaled, weights_of
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import f32, f64, i16, i32, u8, u16

OFFSET = 1 << 15  # an i16 value plus this is the u16 value that stands for the same number with the zero point moved
UPPER = 1 << 8
GROWTH = (2**16 - 1) // (2**8 - 1)  # how much larger than sums of bytes those of 16 bits can be


@dataclasses.dataclass(frozen=True)
class _Wide:
    """A quantised operand, (x - zero) * scale: u16 elements, one zero point and one scale for all."""

    x: Value
    zero: int
    scale: Value

    def parts(self) -> tuple[Value, Value]:
        """The upper and the lower bytes less those of the zero point, i32."""
        upper = Cast(ShiftRight(self.x, constant(8, u16)), u8)
        lower = Cast(BitAnd(self.x, constant(UPPER - 1, u16)), u8)
        zeros = divmod(self.zero, UPPER)
        first, second = (
            Cast(part, i32) if zero == 0 else Sub(Cast(part, i32), Cast(constant(zero, u8), i32))
            for part, zero in zip((upper, lower), zeros, strict=True)
        )
        return first, second


def _wide(value: Value) -> _Wide | None:
    match value:
        case (Reshape(x=inner) | Transpose(x=inner)) if not isinstance(inner, Constant):
            found = _wide(inner)
            return None if found is None else dataclasses.replace(found, x=dataclasses.replace(value, x=found.x))
        case Dequantize(x, scale, zero) if x.dtype in (u16, i16) and scale.dtype == f32:
            pass
        case _:
            return None
    point = np.zeros((), np.int64) if zero is None else known(zero)
    if point is None or point.size != 1 or math.prod(scale.shape) != 1 or isinstance(x, Constant):
        return None
    if x.rank < 2 or value.type.shape != x.shape:
        return None
    number = int(point.reshape(()))
    if x.dtype == i16:
        return _Wide(BitXor(BitCast(x, u16), constant(OFFSET, u16)), number + OFFSET, Reshape(scale, ()))
    return _Wide(x, number, Reshape(scale, ()))


def wide_conv(node: Conv, graph: Graph) -> Patch | None:
    """conv(dequantize(x: 16 bits), dequantize(w), b) -> cast(256 * conv(upper, w) + conv(lower, w)) * scales + b"""
    a = None if node.channels_last else _wide(node.x)
    w = None if a is None else weights_of(node.w, tuple(range(1, node.w.rank)))
    if a is None or w is None or w.scale is None:
        return None
    exact = None if node.bias is None else bias_of(node.bias, a.scale, w.scale)
    filters = w.data.shape[0]
    shift = None if exact is None else np.broadcast_to(exact, (filters,)).astype(np.int32)
    weights = constant(_numbers(w))
    upper, lower = a.parts()
    first = dataclasses.replace(node, x=upper, w=weights, bias=None)
    second = dataclasses.replace(node, x=lower, w=weights, bias=None if shift is None else constant(shift))
    total = _joined(first, second, w, 0 if shift is None else np.abs(shift.astype(np.int64)))
    if total is None:
        return None
    column = (filters, *(1,) * (node.rank - 2))
    result = scaled(total, a.scale, w.scale.reshape(column))
    bias = node.bias if exact is None else None
    return {node: result if bias is None else Add(result, Reshape(bias, column))}


def wide_product(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(dequantize(a: 16 bits), dequantize(b)) -> cast(256 * mat_mul(upper, b) + mat_mul(lower, b)) * scales"""
    a = _wide(node.a)
    w = None if a is None else weights_of(node.b, (node.b.rank - 2,))
    if a is None or w is None or w.scale is None:
        return None
    weights = constant(_numbers(w))
    first, second = (MatMul(part, weights) for part in a.parts())
    total = _joined(first, second, w, 0)
    return None if total is None else {node: scaled(total, a.scale, columns(w.scale))}


def _numbers(w: Weights) -> Array:
    return w.data.astype(np.int32) + (0 if w.offset is None else w.offset.astype(np.int32))


def _joined(upper: Value, lower: Value, w: Weights, more: Array | int) -> Value | None:
    """256 * upper + lower, where the second has `more` added to each sum; None where either may not fit i32."""
    most = w.most.reshape(-1)
    if (most + more).max() > LIMIT:
        return None
    if (GROWTH * most + more).max() <= LIMIT:
        return Add(Mul(upper, constant(UPPER, i32)), lower)
    return Add(Mul(Cast(upper, f64), constant(float(UPPER), f64)), Cast(lower, f64))


WIDE_INTEGERS: tuple[Rule, ...] = (wide_conv, wide_product)
