"""Weights in blocks, each with a scale and a zero point: DequantizeLinear with block_size.

In a graph they are bytes read from an opaque type and parameters repeated for each element of a block, as the importer
writes them. Before a graph is written these become one node each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ingot.compiler.frontend.export.quantised import broadcast_axis
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, constant, topological
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.bitwise import BitAnd, BitCast, ShiftLeft, ShiftRight
from ingot.compiler.ops.movement import Expand, Reshape, Slice
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.ops.random import Entropy
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import DType, f16, f32, i2, i4, i8, u2, u4, u8

TABLE = Table()
SINCE: dict[DType, int] = {i8: 21, u8: 21, i4: 21, u4: 21, i2: 25, u2: 25}  # the opset that has blocks of the type


@dataclass(frozen=True, eq=False, repr=False)
class DequantizeLinear(Node):
    """``(x - zero_point) * scale`` with parameters for blocks of `block` elements along `axis`: constants, or a
    constant scale that is cast. A block of 0 means one for each index of `axis`, or one for all."""

    x: Value
    scale: Value
    zero_point: Value | None
    axis: int
    block: int
    declared: TensorType

    def infer(self) -> Sequence[TensorType]:
        return (self.declared,)


@TABLE.exports(DequantizeLinear)
def dequantize_blocks(scope: Scope, node: DequantizeLinear) -> Written:
    zero = None if node.zero_point is None else scope.name(node.zero_point)
    names = scope.name(node.x), scope.name(node.scale), zero
    return scope.add("DequantizeLinear", *names, axis=node.axis, block_size=node.block or None)


def whole_blocks(graph: Graph, opset: int) -> Graph:
    """`graph` with a node for each weight in blocks, or of an opaque type, that `opset` has an operator for."""
    mapping: dict[Value, Value] = {}
    for node in graph.nodes():
        if isinstance(node, Dequantize) and (made := _whole(node, opset)) is not None:
            mapping[node] = made
    return rebuild(graph, mapping) if mapping else graph


def _whole(node: Dequantize, opset: int) -> DequantizeLinear | None:
    x = _stored(node.x)
    if x is None or x.dtype not in SINCE or SINCE[x.dtype] > opset or node.scale.dtype not in (f32, f16):
        return None
    if x.type.shape != node.type.shape:
        return None
    scale = _blocks(node.scale, x)
    if scale is None:
        return None
    zero = None if node.zero_point is None else _zeros(node.zero_point, x, scale)
    if node.zero_point is not None and zero is None:
        return None
    if not scale.block and x.dtype in (i8, u8):  # the row of Dequantize writes these
        return None
    return DequantizeLinear(x, scale.value, zero, scale.axis, scale.block, node.type, origin=node.origin)


@dataclass(frozen=True)
class _Blocks:
    value: Value
    axis: int
    block: int


def _blocks(parameter: Value, x: Value) -> _Blocks | None:
    """What is repeated for each element of a block: the inverse of what the importer makes of block_size."""
    shape = x.type.static_shape()
    whole = parameter.x if isinstance(parameter, Slice) else parameter
    if isinstance(parameter, Slice) and (any(parameter.starts) or any(s != 1 for s in parameter.steps)):
        return None
    match whole:
        case Reshape(x=Expand(x=column) as spread) if parameter.type.shape == shape and column.rank == len(shape) + 1:
            for place in range(1, column.rank):
                axis, block = place - 1, spread.type.static_shape()[place]
                extents = (*column.type.static_shape()[:place], *column.type.static_shape()[place + 1 :])
                grown = (*extents[: axis + 1], block, *extents[axis + 1 :])
                joined = (*extents[:axis], extents[axis] * block, *extents[axis + 1 :])
                if column.shape[place] == 1 and spread.shape == grown and whole.shape == joined:
                    return _Blocks(_reshaped(column, extents), axis, block)
            return None
        case _:
            return _channels(parameter, x)


def _reshaped(value: Value, shape: tuple[int, ...]) -> Value:
    match value:
        case Reshape(x=x) if x.shape == shape:
            return x
        case Constant(data=data):
            return constant(data.reshape(shape), origin=value.origin)
        case _:
            return Reshape(value, shape)


def _channels(parameter: Value, x: Value) -> _Blocks | None:
    """One parameter for each index of an axis, or one for all."""
    axis = broadcast_axis(parameter, x.rank)
    if axis is None or (axis >= 0 and parameter.type.size != x.type.static_shape()[axis]):
        return None
    source = parameter.x if isinstance(parameter, Reshape) else parameter
    shape = () if axis < 0 else (x.type.static_shape()[axis],)
    if source.shape == shape:
        return _Blocks(source, max(axis, 0), 0)
    return _Blocks(_reshaped(source, shape), max(axis, 0), 0)


def _stored(value: Value) -> Constant | None:
    """The constant that bytes are read from, where they are read as the importer does."""
    match value:
        case Constant():
            return value
        case BitAnd(a=BitCast(x=Constant() as x, to=to), b=mask) if to == u8:
            return x if x.dtype in (u4, u2) and _number(mask) == 2 ** _bits(x) - 1 else None
        case ShiftRight(
            a=BitCast(x=ShiftLeft(a=BitCast(x=Constant() as x, to=middle), b=left), to=to), b=right
        ) if (middle, to) == (u8, i8):
            return x if x.dtype in (i4, i2) and _number(left) == _number(right) == 8 - _bits(x) else None
        case _:
            return None


def _zeros(zero: Value, x: Constant, scale: _Blocks) -> Constant | None:
    """The zero points, known at compile time in whatever way they are spread, as a constant of the scale's shape and
    the type of the elements; None where they differ within a block or do not fit the type."""
    if any(isinstance(node, Input | Entropy) for node in topological([zero])):
        return None
    whole = np.broadcast_to(evaluate_graph(Graph((), (("zero", zero),)), {})["zero"], x.data.shape)
    if scale.block:
        few = whole.take(range(0, whole.shape[scale.axis], scale.block), scale.axis)
        again = np.repeat(few, scale.block, scale.axis).take(range(whole.shape[scale.axis]), scale.axis)
    else:
        shape = [1] * whole.ndim
        shape[scale.axis] = -1
        few = np.moveaxis(whole, scale.axis, 0).reshape(whole.shape[scale.axis], -1)[:, 0]
        again = few.reshape(shape)
        few = few if scale.value.rank else few[0]
    narrow = few.astype(x.data.dtype)
    return constant(narrow) if bool((again == whole).all()) and bool((narrow.astype(few.dtype) == few).all()) else None


def _bits(x: Constant) -> int:
    return 4 if x.dtype in (i4, u4) else 2


def _number(value: Value) -> int | None:
    return int(value.data.item()) if isinstance(value, Constant) and value.data.size == 1 else None
