"""Products of quantised values in integers (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, section 2.2).

A convolution or product of two dequantised values is the integer product of what was quantised, less what the zero
points add, times the product of the scales:

    conv((x - z) * s, w * t) = (conv(x, w) - z * sum(w)) * (s * t)

Activations become u8, weights are i8 already: processors multiply these best.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Value, constant, operands_of
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Expand, Pad, Reshape
from ingot.compiler.ops.pointwise import Add, Cast, Mul
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.passes.constants import splat
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import f32, i8, i32, u8

OFFSET = 128  # an i8 value plus this is the u8 value that stands for the same number with the zero point moved as far
LIMIT = 2**31 - 1


def without_sign(node: Dequantize, graph: Graph) -> Patch | None:
    """dequantize(quantize(x, s, z: i8), s, z) -> dequantize(quantize(x, s, z + 128: u8), s, z + 128)"""
    match node.x:
        case Quantize(x, scale, zero, to) if to == i8:
            pass
        case _:
            return None
    shifted, own = _shifted(zero), _shifted(node.zero_point)
    if shifted is None or own is None:
        return None
    unsigned = Quantize(x, scale, shifted, u8, origin=node.x.origin)
    return {node: dataclasses.replace(node, x=unsigned, zero_point=own)}


def _shifted(zero: Value | None) -> Value | None:
    data = np.int8(0) if zero is None else known(zero)
    return None if data is None else constant((np.asarray(data).astype(np.int16) + OFFSET).astype(np.uint8))


def known(value: Value) -> Array | None:
    """The data of a constant, reshaped or expanded or not; None for others."""
    match value:
        case Constant(data=data):
            return data
        case (Reshape(x=x) | Expand(x=x)) if value.type.is_static and (data := known(x)) is not None:
            shape = value.type.static_shape()
            return data.reshape(shape) if isinstance(value, Reshape) else np.broadcast_to(data, shape)
        case _:
            return None


@dataclasses.dataclass(frozen=True)
class _Activation:
    """A quantised operand: u8 elements, one scale (f32 scalar) and one zero point."""

    x: Value
    scale: Value
    zero: int


@dataclasses.dataclass(frozen=True)
class _Weights:
    """Quantised weights: i8 elements, scales that broadcast to the result's last or channel axis."""

    data: Array
    scale: Array


def _activation(value: Value) -> _Activation | None:
    match value:
        case Dequantize(x, scale, zero) if x.dtype == u8 and scale.dtype == f32 and math.prod(scale.shape) == 1:
            number = 0 if zero is None else splat(zero)
            return None if number is None else _Activation(x, Reshape(scale, ()), int(number))
        case _:
            return None


def _weights(value: Value, axis: int) -> _Weights | None:
    """Constant i8 weights with zero points of 0 and one scale for all or for each index of `axis`."""
    match value:
        case Dequantize(w, scale, zero) if w.dtype == i8 and scale.dtype == f32:
            data, factor = known(w), known(scale)
        case _:
            return None
    if data is None or factor is None or (zero is not None and splat(zero) != 0):
        return None
    wanted = tuple(n if a == axis else 1 for a, n in enumerate(data.shape))
    if factor.size != 1 and (1,) * (data.ndim - factor.ndim) + factor.shape != wanted:
        return None
    return _Weights(data, np.broadcast_to(factor.reshape(-1), data.shape[axis]))


def _bias(bias: Value, a: _Activation, w: _Weights) -> Array | None:
    """The bias in units of the products' scale, where it was quantised so; None for others."""
    scale = known(a.scale)
    match bias:
        case Dequantize(q, factor, zero) if q.dtype == i32 and scale is not None:
            data, unit = known(q), known(factor)
        case _:
            return None
    if data is None or unit is None or (zero is not None and splat(zero) != 0):
        return None
    return data if np.allclose(unit, scale * w.scale, rtol=1e-5, atol=0) else None


def integer_conv(node: Conv, graph: Graph) -> Patch | None:
    """conv(dequantize(x), dequantize(w), b) -> cast(conv(x, w, bias)) * scales + b"""
    a, w = _activation(node.x), _weights(node.w, 0)
    if a is None or w is None or node.channels_last or not _fits(w.data[0].size):
        return None
    x, pads = a.x, node.pads
    if a.zero != 0 and any(pads):
        half = len(pads) // 2
        amounts = (0, 0, *pads[:half], 0, 0, *pads[half:])
        x, pads = Pad(x, amounts, "constant", constant(a.zero, u8)), (0,) * len(pads)
    less = -a.zero * w.data.reshape(w.data.shape[0], -1).astype(np.int64).sum(1)
    exact = None if node.bias is None else _bias(node.bias, a, w)
    total = less if exact is None else less + exact.astype(np.int64)
    if np.abs(total).max(initial=0) > LIMIT:
        return None
    bias = constant(total.astype(np.int32))
    whole = dataclasses.replace(node, x=x, w=constant(w.data), bias=bias, pads=pads)
    column = (w.data.shape[0], *(1,) * (node.rank - 2))
    result: Value = Mul(Cast(whole, f32), _factor(a, w.scale.reshape(column)))
    if node.bias is not None and exact is None:
        result = Add(result, Reshape(node.bias, column))
    return {node: result}


def integer_product(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(dequantize(a), dequantize(b)) -> cast(mat_mul(a, b) - z * sum(b)) * scales"""
    a, w = _activation(node.a), _weights(node.b, node.b.rank - 1)
    if a is None or w is None or w.data.ndim != 2 or not _fits(w.data.shape[0]):
        return None
    whole: Value = MatMul(a.x, constant(w.data))
    if a.zero:
        whole = Add(whole, constant((-a.zero * w.data.astype(np.int64).sum(0)).astype(np.int32)))
    return {node: Mul(Cast(whole, f32), _factor(a, w.scale))}


def _factor(a: _Activation, scale: Array) -> Value:
    own = known(a.scale)
    return Mul(a.scale, constant(scale)) if own is None else constant((own * scale).astype(np.float32))


def _fits(depth: int) -> bool:
    """Whether sums of that many products stay in i32."""
    return depth * 255 * 128 <= LIMIT


INTEGERS: tuple[Rule, ...] = (without_sign, integer_conv, integer_product)
