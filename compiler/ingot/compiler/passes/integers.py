"""Products of quantised values in integers (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, section 2.2).

A convolution or product of two dequantised values is the integer product of what was quantised, less what the zero
points add, times the product of the scales:

    conv((x - z) * s, w * t) = (conv(x, w) - z * sum(w)) * (s * t)

Activations become u8, weights i8: processors multiply these best. Weights that do not fit after their zero points are
taken off, as those of u8 may, are moved by an offset, and the sums of the activations make up for it:

    (x - z) @ (w + o) = (x - z) @ w + (sum(x) - n * z) * o

The same without scales is MatMulInteger, ConvInteger and what QLinearMatMul and QLinearConv requantise: there the
identities hold modulo 2**32, as their sums do.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Value, constant
from ingot.compiler.ops.bitwise import BitCast, BitXor
from ingot.compiler.ops.linear import AveragePool, Conv, MatMul, MaxPool
from ingot.compiler.ops.movement import Concat, Expand, Pad, Reshape, Transpose
from ingot.compiler.ops.pointwise import Add, Cast, Mul, Sub
from ingot.compiler.ops.quantised import NARROW, Dequantize, Quantize
from ingot.compiler.ops.reduction import ReduceSum
from ingot.compiler.passes.constants import splat, users
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import f32, i8, i32, u8

BYTES = (u8, i8)
OFFSET = 128  # an i8 value plus this is the u8 value that stands for the same number with the zero point moved as far
LIMIT = 2**31 - 1
MOST_TAPS = 64  # of a mean that is computed as a convolution: more are a reduction's work
SMALLEST = 1e-30  # scales from which, and up to whose reciprocal, a product by them and its quotient are exact enough


def without_sign(node: Dequantize, graph: Graph) -> Patch | None:
    """dequantize(quantize(x, s, z: i8), s, z) -> dequantize(quantize(x, s, z + 128: u8), s, z + 128)"""
    unsigned, own = _quantised_unsigned(node.x), _shifted(node.zero_point)
    if unsigned is None or own is None:
        return None
    return {node: dataclasses.replace(node, x=unsigned, zero_point=own)}


def pool_bytes(node: MaxPool, graph: Graph) -> Patch | None:
    """max_pool(dequantize(x, s > 0, z)) -> dequantize(max_pool(x), s, z): dequantisation keeps the order"""
    match node.x:
        case Dequantize(x, scale, zero) if x.type.shape == node.x.type.shape and x.dtype.bits <= NARROW:
            number = splat(scale)
        case _:
            return None
    if number is None or not 0 < number < math.inf or (zero is not None and math.prod(zero.shape) != 1):
        return None
    half = len(node.pads) // 2
    reach = [d * (int(k) - 1) for d, k in zip(node.dilations, node.kernel, strict=True)]
    if any(pad > reach[i % half] for i, pad in enumerate(node.pads)):  # a window of padding alone
        return None
    zero = None if zero is None else Reshape(zero, ())
    return {node: Dequantize(dataclasses.replace(node, x=x), Reshape(scale, ()), zero)}


def drop_requantised(node: Quantize, graph: Graph) -> Patch | None:
    """quantize(dequantize(x, s, z), s, z) -> x"""
    match node.x:
        case Dequantize(x, scale, zero) if x.dtype == node.to and x.type == node.type and x.dtype.bits <= NARROW:
            pass
        case _:
            return None
    number = splat(scale)
    if number is None or number != splat(node.scale) or not SMALLEST < number < 1 / SMALLEST:
        return None
    own, other = (0 if z is None else splat(z) for z in (zero, node.zero_point))
    return {node: x} if own is not None and own == other else None


def quantise_parts(node: Quantize, graph: Graph) -> Patch | None:
    """quantize(concat(parts), s, z) -> concat(quantize(parts, s, z)): whoever makes a part quantises it, too"""
    match node.x:
        case Concat(parts, axis) if node.x.type.shape == node.type.shape:
            pass
        case _:
            return None
    single = all(z is None or math.prod(z.shape) == 1 for z in (node.scale, node.zero_point))
    others = [each for each in users(graph).get(node.x, []) if not isinstance(each, Quantize)]
    if not single or others or node.x in graph.results:
        return None
    scale, zero = Reshape(node.scale, ()), None if node.zero_point is None else Reshape(node.zero_point, ())
    return {node: Concat(tuple(Quantize(part, scale, zero, node.to, origin=node.origin) for part in parts), axis)}


def average_bytes(node: AveragePool, graph: Graph) -> Patch | None:
    """average_pool(dequantize(x, s, z)) -> conv(dequantize(x, s, z), dequantize(1, 1 / n)), each channel by itself"""
    match node.x:
        case Dequantize(x, scale) if x.dtype in BYTES and scale.dtype == f32 and not node.channels_last:
            channels = x.shape[1]
        case _:
            return None
    count = math.prod(node.kernel)
    if any(node.pads) or node.ceil_mode or not isinstance(channels, int) or count > MOST_TAPS or channels == 0:
        return None
    ones = constant(np.ones((channels, 1, *node.kernel), np.int8))
    w = Dequantize(ones, constant(np.float32(1 / count)), None)
    return {node: Conv(node.x, w, None, node.strides, node.pads, node.dilations, channels, False, origin=node.origin)}


def _quantised_unsigned(x: Value) -> Value | None:
    """A quantisation to i8 with known zero points as one to u8: what it gives plus 128."""
    match x:
        case Quantize(source, scale, zero, to) if to == i8 and (shifted := _shifted(zero)) is not None:
            return Quantize(source, scale, shifted, u8, origin=x.origin)
        case _:
            return None


def _shifted(zero: Value | None) -> Value | None:
    data = np.int8(0) if zero is None else known(zero)
    return None if data is None else constant((np.asarray(data).astype(np.int16) + OFFSET).astype(np.uint8))


def known(value: Value) -> Array | None:
    """The data of constants, moved or not, with a zero point taken off or not; None for others."""
    match value:
        case Constant(data=data):
            return data
        case (Reshape(x=x) | Expand(x=x)) if value.type.is_static and (data := known(x)) is not None:
            shape = value.type.static_shape()
            return data.reshape(shape) if isinstance(value, Reshape) else np.broadcast_to(data, shape)
        case Transpose(x=x, perm=perm) if (data := known(x)) is not None:
            return data.transpose(perm)
        case Cast(x=x, to=to) if to == i32 and x.dtype in BYTES and (data := known(x)) is not None:
            return data.astype(np.int32)
        case (Add(a=a, b=b) | Sub(a=a, b=b)) if value.dtype == i32:
            data, other = known(a), known(b)
            if data is None or other is None:
                return None
            return np.asarray(data + other if isinstance(value, Add) else data - other)
        case _:
            return None


@dataclasses.dataclass(frozen=True)
class _Activation:
    """A quantised operand, (x - zero) * scale: u8 elements; zero points in i32 and scales in f32 that are scalars or
    have one element a row; no scale where the integers themselves are multiplied."""

    x: Value
    zero: Value
    scale: Value | None

    @property
    def is_uniform(self) -> bool:
        """Whether there is one zero point and one scale for all."""
        return self.zero.rank == 0 and (self.scale is None or self.scale.rank == 0)

    @property
    def has_zero(self) -> bool:
        """Whether a zero point is other than 0, or may be."""
        number = known(self.zero)
        return number is None or bool(number.any())


@dataclasses.dataclass(frozen=True)
class Weights:
    """Quantised weights, (data + offset) * scale: i8 elements; offset and scale have 1 for each summed axis. `most` is
    the largest sum that each column can have."""

    data: Array
    offset: Array | None
    scale: Array | None
    most: Array


def _parameter(value: Value) -> Value | None:
    """A scale or zero point: a scalar or one element a row; None where it varies along the last axis."""
    if math.prod(value.shape) == 1:
        return Reshape(value, ())
    return value if value.shape[-1] == 1 else None


def _activation(value: Value) -> _Activation | None:
    match value:
        case (Reshape(x=inner) | Transpose(x=inner)) if not isinstance(inner, Constant):
            found = _activation(inner)
            if found is None or not found.is_uniform:
                return None
            return dataclasses.replace(found, x=dataclasses.replace(value, x=found.x))
        case Dequantize(x, scale, zero) if x.dtype in BYTES and scale.dtype == f32:
            factor = _parameter(scale)
            if factor is None:
                return None
        case Sub(Cast(x, to), Cast(zero)) if to == i32 and x.dtype in BYTES and zero.dtype == x.dtype:
            factor = None
        case Cast(x, to) if to == i32 and x.dtype in BYTES:
            zero, factor = None, None
        case _:
            return None
    if isinstance(x, Constant) or x.rank < 2 or value.type.shape != x.shape:
        return None
    wide = constant(0, i32) if zero is None else _parameter(Cast(zero, i32))
    if wide is None:
        return None
    if x.dtype == i8:
        unsigned = _quantised_unsigned(x)
        x = BitXor(BitCast(x, u8), constant(OFFSET, u8)) if unsigned is None else unsigned
        wide = Add(wide, constant(OFFSET, i32))
    number = known(wide)
    return _Activation(x, wide if number is None else constant(number), factor)


def numbers_of(value: Value) -> tuple[Array, Array | None] | None:
    """Constant weights as integers, zero points taken off, and the scales of all elements (views, as a rule)."""
    match value:
        case Transpose(x=x, perm=perm) if (found := numbers_of(x)) is not None:
            return found[0].transpose(perm), None if found[1] is None else found[1].transpose(perm)
        case Reshape(x=x) if value.type.is_static and (found := numbers_of(x)) is not None:
            shape = value.type.static_shape()
            return found[0].reshape(shape), None if found[1] is None else found[1].reshape(shape)
        case Dequantize(w, scale, zero) if w.dtype in BYTES and scale.dtype == f32:
            data, factor = known(w), known(scale)
            less = np.int8(0) if zero is None else known(zero)
            if data is None or factor is None or less is None:
                return None
            shape = value.type.static_shape()
            difference = data.astype(np.int32) - np.asarray(less).astype(np.int32)
            return np.broadcast_to(difference, shape), np.broadcast_to(factor, shape)
        case _ if value.dtype == i32 and (data := known(value)) is not None:
            return data, None
        case _:
            return None


def weights_of(value: Value, summed: tuple[int, ...]) -> Weights | None:
    """Constant weights whose scales do not vary along the `summed` axes, which products add up."""
    found = numbers_of(value)
    if found is None or found[0].size == 0:
        return None
    numbers, scale = found
    if scale is not None:
        first = scale[tuple(slice(1) if a in summed else slice(None) for a in range(scale.ndim))]
        if not bool((scale == first).all()):
            return None
        scale = first
    low, high = numbers.min(summed, keepdims=True), numbers.max(summed, keepdims=True)
    offset = None
    if low.min() < -OFFSET or high.max() >= OFFSET:
        offset = high - (OFFSET - 1)  # one for all columns where that will do: it takes fewer operations
        one = np.full_like(offset, offset.max())
        offset = one if bool((low - one >= -OFFSET).all()) else offset
        if int(np.abs(numbers).max()) > 255 or not bool((low - offset >= -OFFSET).all()):
            return None
    data = (numbers if offset is None else numbers - offset).astype(np.int8)
    return Weights(data, offset, scale, 255 * np.abs(numbers.astype(np.int64)).sum(summed, keepdims=True))


def bias_of(bias: Value, own: Value | None, scale: Array) -> Array | None:
    """The bias in units of the products' scale, `own` times `scale`, where it was quantised so; None for others."""
    factor = None if own is None else known(own)
    match bias:
        case Dequantize(q, step, zero) if q.dtype == i32 and factor is not None:
            data, unit = known(q), known(step)
        case _:
            return None
    if data is None or unit is None or (zero is not None and splat(zero) != 0):
        return None
    return data if np.allclose(unit, factor * scale.reshape(-1), rtol=1e-5, atol=0) else None


def integer_conv(node: Conv, graph: Graph) -> Patch | None:
    """conv(dequantize(x), dequantize(w), b) -> cast(conv(x, w, bias)) * scales + b"""
    a = _activation(node.x)
    if a is None or not a.is_uniform or node.channels_last:
        return None
    w = weights_of(node.w, tuple(range(1, node.w.rank)))
    if w is None or (a.scale is None) != (w.scale is None):
        return None
    filters = w.data.shape[0]
    if w.offset is not None and node.group not in (1, filters):
        return None
    x, pads = a.x, node.pads
    if (a.has_zero or w.offset is not None) and any(pads):
        half = len(pads) // 2
        amounts = (0, 0, *pads[:half], 0, 0, *pads[half:])
        zero = known(a.zero)
        fill = Cast(a.zero, u8) if zero is None else constant(zero.astype(np.uint8))
        x, pads = Pad(x, amounts, "constant", fill), (0,) * len(pads)
    added, bias = None, node.bias  # what is added to the scaled sums, and to the sums
    if w.scale is not None:
        exact = None if bias is None else bias_of(bias, a.scale, w.scale)
        most = w.most.reshape(-1) + (0 if exact is None else np.abs(exact.astype(np.int64)))
        if most.max() > LIMIT:
            return None
        added = bias if exact is None else None
        bias = None if exact is None else constant(np.broadcast_to(exact, (filters,)))
    column = (filters, *(1,) * (node.rank - 2))
    sums = w.data.reshape(filters, -1).astype(np.int64).sum(1)
    bias = _less(bias, a.zero, sums)
    whole: Value = dataclasses.replace(node, x=x, w=constant(w.data), bias=bias, pads=pads)
    if w.offset is not None:
        ones = np.ones((node.group, *w.data.shape[1:]), np.int8)
        beyond = Mul(a.zero, constant(ones[0].size, i32))
        rest = Sub(dataclasses.replace(node, x=x, w=constant(ones), bias=None, pads=pads), beyond)
        whole = Add(whole, Mul(rest, wrapped(w.offset.reshape(column))))
    if a.scale is None or w.scale is None:
        return {node: whole}
    result = scaled(whole, a.scale, w.scale.reshape(column))
    return {node: result if added is None else Add(result, Reshape(added, column))}


def integer_product(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(dequantize(a), dequantize(b)) -> cast(mat_mul(a, b) - z * sum(b)) * scales"""
    a = _activation(node.a)
    w = None if a is None else weights_of(node.b, (node.b.rank - 2,))
    if a is None or w is None or (a.scale is None) != (w.scale is None):
        return None
    if w.scale is not None and w.most.max() > LIMIT:
        return None

    whole: Value = MatMul(a.x, constant(w.data))
    depth = w.data.shape[-2]
    if a.has_zero:
        whole = _less(whole, a.zero, columns(w.data.astype(np.int64).sum(-2, keepdims=True)))
    if w.offset is not None:
        rows = ReduceSum(Cast(a.x, i32), (a.x.rank - 1,), True)
        rest = Sub(rows, Mul(a.zero, constant(depth, i32)))
        whole = Add(whole, Mul(rest, wrapped(columns(w.offset))))
    if a.scale is None or w.scale is None:
        return {node: whole}
    return {node: scaled(whole, a.scale, columns(w.scale))}


def columns(data: Array) -> Array:
    """One number a column of matrices, as it broadcasts with products by them."""
    return data[0] if data.ndim == 2 else data


def _less(value: Value | None, zero: Value, sums: Array) -> Value:
    """value - zero * sums, i32; a value of None is 0."""
    own, number = None if value is None else known(value), known(zero)
    if number is None or number.ndim:
        less: Value = Mul(zero, wrapped(-sums))
    elif value is None or own is not None:
        return wrapped((0 if own is None else own.astype(np.int64)) - number.astype(np.int64) * sums)
    else:
        less = wrapped(-number.astype(np.int64) * sums)
    return less if value is None else Add(value, less)


def wrapped(data: Array) -> Value:
    """Integers modulo 2**32, as i32."""
    return constant(np.asarray(data).astype(np.int64).astype(np.int32))


def scaled(whole: Value, own: Value, scale: Array) -> Value:
    """cast(whole) * own * scale"""
    real, number = Cast(whole, f32), known(own)
    if own.rank:
        return Mul(Mul(real, constant(scale)), own)
    return Mul(real, Mul(own, constant(scale)) if number is None else constant((number * scale).astype(np.float32)))


INTEGERS: tuple[Rule, ...] = (
    without_sign,
    pool_bytes,
    average_bytes,
    quantise_parts,
    drop_requantised,
    integer_conv,
    integer_product,
)
