"""Weights of few bits that are multiplied by f32 stay narrow: kernels dequantise them as they read them.

A product with a constant matrix that is dequantised, with scales (and zero points) that are the same for whole columns
or for blocks of rows, reads `DequantizeBlocks`; a row that is looked up in a dequantised table is dequantised when it
has been found. What products multiply in integers is not concerned: see `integers`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Value, constant, operands_of
from ingot.compiler.ops.bitwise import BitAnd, BitCast, BitNot, BitOr, BitXor, ShiftLeft, ShiftRight
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Concat, Expand, Gather, Reshape, Slice, Transpose
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.quantised import Dequantize, DequantizeBlocks
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import f32, i8, u8

LARGE = 4096  # elements of a matrix whose type matters
BYTES = (u8, i8)
UNPACKING = (BitAnd, BitCast, BitNot, BitOr, BitXor, ShiftLeft, ShiftRight, Concat, Reshape, Slice, Transpose)


class _Elements(NamedTuple):
    """A quantised matrix: integers, and scales and zero points that are as large (views, as a rule)."""

    numbers: Array
    scale: Array
    zero: Array


def data_of(value: Value) -> Array | None:
    """The data of constants, unpacked and moved or not; None for others."""
    match value:
        case Constant(data=data):
            return data
        case Expand(x=x) if value.type.is_static and (data := data_of(x)) is not None:
            return np.broadcast_to(data, value.type.static_shape())
        case Cast(x=x, to=to) if to in (*BYTES, f32) and (data := data_of(x)) is not None:
            return data.astype(to.to_numpy(), copy=False)
        case _ if isinstance(value, UNPACKING) and value.type.is_static:
            operands = [data_of(operand) for operand in operands_of(value)]
            found = [operand for operand in operands if operand is not None]
            return value.evaluate(*found)[0] if len(found) == len(operands) else None
        case _:
            return None


def _elements(value: Value) -> _Elements | None:
    """A dequantised constant, moved or not."""
    match value:
        case Transpose(x=x, perm=perm) if (found := _elements(x)) is not None:
            return _Elements(*(part.transpose(perm) for part in found))
        case Reshape(x=x) if value.type.is_static and (found := _elements(x)) is not None:
            shape = value.type.static_shape()
            return _Elements(*(part.reshape(shape) for part in found))
        case Cast(x=Dequantize() as x, to=to) if to == f32 == x.dtype:
            return _elements(x)
        case Dequantize(x, scale, zero) if x.dtype in BYTES and scale.dtype == f32 and value.type.is_static:
            numbers, factor = data_of(x), data_of(scale)
            less = np.zeros((), x.dtype.to_numpy()) if zero is None else data_of(zero)
            if numbers is None or factor is None or less is None:
                return None
            shape = value.type.static_shape()
            return _Elements(*(np.broadcast_to(part, shape) for part in (numbers, factor, less)))
        case _:
            return None


def _is_dequantised(value: Value) -> bool:
    """Whether a Dequantize is all that `value` is made of, but for movement: asked before anything is computed."""
    while isinstance(value, Transpose | Reshape) or (isinstance(value, Cast) and value.to == f32):
        value = value.x
    return isinstance(value, Dequantize) and value.x.dtype in BYTES


def _block_of(*parts: Array) -> int:
    """The largest number of rows such that all blocks of so many rows have equal rows."""
    depth, step = parts[0].shape[0], 0
    for part in parts:
        if part.strides[0] == 0:
            continue
        changes = np.flatnonzero((part[1:] != part[:-1]).any(1)) + 1
        step = math.gcd(step, *(int(change) for change in changes))
    return step or depth


def _bits_of(numbers: Array) -> tuple[int, int]:
    """How many bits the numbers take, and what is added to make them numbers without a sign."""
    low, high = int(numbers.min()), int(numbers.max())
    for bits in (2, 4, 8):
        offset = 0 if low >= 0 else 2 ** (bits - 1)
        if low + offset >= 0 and high + offset < 2**bits:
            return bits, offset
    raise AssertionError("bytes have 8 bits")


def keep_product_narrow(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(a, dequantize(w)) -> mat_mul(a, dequantize_blocks(w))"""
    if node.a.dtype != f32 or isinstance(node.a, Constant) or not _is_dequantised(node.b):
        return None
    shape = node.b.shape
    if not node.b.type.is_static or math.prod(shape) < LARGE or math.prod(shape[:-2]) != 1:
        return None
    found = _elements(node.b)
    if found is None:
        return None
    numbers, scale, zero = (part.reshape(part.shape[-2:]) for part in found)
    if bool(np.isnan(scale).any()):
        return None
    bits, offset = _bits_of(numbers)
    moved = zero.astype(np.int16) + offset if zero.strides != (0, 0) else zero[:1, :1].astype(np.int16) + offset
    low, high = int(moved.min()), int(moved.max())
    if low < 0 or high > 255:
        return None
    block, depth = _block_of(scale, zero), len(numbers)
    if block < depth and block % (32 // bits):
        return None
    points = moved[::block] if low != high else moved[:1, :1]
    unsigned = (numbers.astype(np.int16) + offset).astype(np.uint8) if offset else numbers.astype(np.uint8, copy=False)
    narrow: Value = DequantizeBlocks(
        constant(unsigned), constant(scale[::block]), constant(points.astype(np.uint8)), bits, block
    )
    narrow = dataclasses.replace(narrow, origin=node.b.origin if isinstance(node.b, Dequantize) else ())
    product: Value = MatMul(node.a, narrow, node.a_bits)
    return {node: product if product.type == node.type else Reshape(product, node.shape)}


def keep_table_narrow(node: Gather, graph: Graph) -> Patch | None:
    """gather(dequantize(w), i) -> dequantize(gather(w, i)), for rows of a constant table"""
    data = node.data
    if node.axis or data.rank != 2 or isinstance(node.indices, Constant) or not _is_dequantised(data):
        return None
    if not data.type.is_static or math.prod(data.shape) < LARGE or (found := _elements(data)) is None:
        return None
    numbers, scale, zero = found
    columns, block = numbers.shape[1], _block_of(scale.T, zero.T)
    if columns % block:
        return None
    bits, offset = _bits_of(numbers)
    moved = zero[:, ::block].astype(np.int16) + offset
    if int(moved.min()) < 0 or int(moved.max()) > 255:
        return None
    split = (*node.indices.shape, columns // block, block)

    def row(table: Array) -> Value:
        """What a table [rows, blocks] has for each of the rows that are looked up."""
        found: Value = Gather(constant(np.ascontiguousarray(table)), node.indices, 0)
        return Reshape(found, (*split[:-1], 1))

    number = moved.min()
    zeros = constant(np.uint8(number)) if bool((moved == number).all()) else row(moved.astype(np.uint8))
    x = Reshape(_looked_up((numbers.astype(np.int16) + offset).astype(np.uint8), bits, node.indices), split)
    return {node: Reshape(Dequantize(x, row(scale[:, ::block]), zeros, origin=node.origin), node.shape)}


def _looked_up(table: Array, bits: int, indices: Value) -> Value:
    """Rows of a table of numbers of `bits` bits, of which as many lie in a byte as it holds: the parts of a row one
    upon the other, the first in the lowest bits."""
    per = 8 // bits
    if table.shape[1] % per:
        per, bits = 1, 8
    parts = np.split(table, per, 1)
    packed = sum((part << np.uint8(number * bits) for number, part in enumerate(parts)), np.zeros_like(parts[0]))
    rows: Value = Gather(constant(packed), indices, 0)
    if per == 1:
        return rows
    mask = constant(np.uint8(2**bits - 1))
    fields = tuple(BitAnd(ShiftRight(rows, constant(np.uint8(number * bits))), mask) for number in range(per))
    return Concat(fields, rows.rank - 1)


NARROW_WEIGHTS: tuple[Rule, ...] = (keep_product_narrow, keep_table_narrow)
