"""Quantised weights as values of a graph, spelt as the importer spells DequantizeLinear."""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.ir.graph import Constant, Origin, Value, constant
from ingot.compiler.ops.bitwise import BitAnd, BitCast, ShiftLeft, ShiftRight
from ingot.compiler.ops.movement import Expand, Reshape, Slice
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.passes.quantize.groups import Array, Grouped
from ingot.runtime.dtypes import DType, f16, f32, i2, i4, i8, u2, u4, u8

BITS = {i4: 4, u4: 4, i2: 2, u2: 2}


def dequantised(weight: Grouped, dtype: DType, *, transposed: bool = False, origin: Origin = ()) -> Value:
    """`weight` [K, N] as a value of the float type `dtype`, or its transpose, in blocks along K.

    Codes of less than 8 bits are constants of a type of as many bits. Scales are constants of f32, or of f16 where the
    weight's form says so. What is computed in f16 has a weight of that type, all else one of f32, which is then cast.
    """
    computed = f16 if dtype == f16 else f32

    def laid(data: Array) -> Array:
        return np.ascontiguousarray(data.T) if transposed else data

    stored = weight.form.stored.to_numpy()
    whole = weight.group >= weight.codes.shape[0]

    def parameter(data: Array) -> Constant:
        return constant(data[0] if whole else laid(data))

    def spread(value: Value) -> Value:
        extents = tuple(reversed(weight.codes.shape)) if transposed else weight.codes.shape
        if whole:  # one for each column
            return Reshape(value, (*value.shape, 1) if transposed else value.shape)
        return _spread(value, 1 if transposed else 0, weight.group, extents)

    scale: Value = parameter(weight.scale.astype(np.float16 if weight.form.scale == "f16" else np.float32))
    if scale.dtype != computed:
        scale = Cast(scale, computed)
    zero = None if weight.zero is None else spread(readable(parameter(weight.zero.astype(stored))))
    codes = constant(laid(weight.codes).astype(stored), origin=origin)
    made = Dequantize(readable(codes), spread(scale), zero, origin=origin)
    return made if made.dtype == dtype else Cast(made, dtype)


def readable(x: Constant) -> Value:
    """Codes as i8 or u8."""
    if x.dtype in (i8, u8):
        return x
    byte, bits = BitCast(x, u8), BITS[x.dtype]
    if x.dtype in (u4, u2):
        return BitAnd(byte, constant((1 << bits) - 1, u8))
    high = BitCast(ShiftLeft(byte, constant(8 - bits, u8)), i8)
    return ShiftRight(high, constant(8 - bits, i8))


def stored_bytes(x: Constant) -> int:
    """What a constant takes in a file: several codes of less than 8 bits lie in one byte."""
    return math.ceil(x.data.size * BITS[x.dtype] / 8) if x.dtype in BITS else x.data.nbytes


def _spread(parameter: Value, axis: int, group: int, extents: tuple[int, ...]) -> Value:
    """A parameter of each block along `axis` for each of the elements of `extents`."""
    blocks = parameter.type.static_shape()[axis]
    before, after = extents[:axis], extents[axis + 1 :]
    column = Reshape(parameter, (*before, blocks, 1, *after))
    whole = Reshape(Expand(column, (*before, blocks, group, *after)), (*before, blocks * group, *after))
    if blocks * group == extents[axis]:
        return whole
    return Slice(whole, (0,) * len(extents), extents, (1,) * len(extents))
