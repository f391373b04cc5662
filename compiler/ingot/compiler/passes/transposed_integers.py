"""Transposed convolutions of quantised values: the ordinary ones that they come to (`ops.transposed`), before these
become integer products."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.movement import Expand, Reshape, Slice, Transpose
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.passes.integers import BYTES, numbers_of
from ingot.compiler.rewrite import Patch, Rule, substitute
from ingot.runtime.dtypes import f32

MOST = 255  # of numbers that u8 elements and a zero point can tell apart


def spread_transposed_bytes(node: ConvTranspose, graph: Graph) -> Patch | None:
    """conv_transpose(dequantize(x), dequantize(w)) -> shuffle(conv(dequantize(x), dequantize(w of each phase)))"""
    match node.x:
        case Dequantize(x, scale, zero) if x.dtype in BYTES and scale.dtype == f32 and not isinstance(x, Constant):
            pass
        case _:
            return None
    if node.channels_last or math.prod(scale.shape) != 1 or (zero is not None and math.prod(zero.shape) != 1):
        return None
    weights = _weights(node)
    if weights is None or x.type.shape != node.x.type.shape:
        return None
    numbers, factor = weights
    spread = np.broadcast_to(factor, (node.group, math.prod(node.strides), node.filters))
    expanded = dataclasses.replace(node, w=constant(numbers.astype(np.float32)), bias=None).expand()
    conv = _anchor(expanded)
    filters = evaluate_graph(Graph((), (("w", conv.w),)), {})["w"].astype(np.int32)
    low = min(0, int(filters.min()))
    if filters.max() - low > MOST:
        return None
    if low >= -128 and filters.max() < 128:
        data, point = constant(filters.astype(np.int8)), None
    else:
        data, point = constant((filters - low).astype(np.uint8)), constant(np.uint8(-low))
    w = Dequantize(data, constant(spread.reshape(-1, *(1,) * (node.rank - 1))), point)
    last = node.rank - 1
    (moved,) = substitute((conv.x,), {node.x: x})
    first = Transpose(moved, (0, last, *range(1, last)))
    read = Dequantize(first, Reshape(scale, ()), None if zero is None else Reshape(zero, ()))
    bias = None if node.bias is None else _spread(node, node.bias)
    made = Conv(read, w, bias, conv.strides, conv.pads, conv.dilations, conv.group, False, origin=node.origin)
    (result,) = substitute((expanded,), {conv: Transpose(made, (0, *range(2, node.rank), 1))})
    return {node: result}


def _weights(node: ConvTranspose) -> tuple[Array, Array] | None:
    """The integers of the weights, zero points taken off, and the scale of each output channel of a group."""
    found = numbers_of(node.w)
    numbers, scale = (None, None) if found is None else found
    if numbers is None or scale is None or numbers.size == 0:
        return None
    own = scale[(slice(1), slice(None), *(slice(1),) * (node.rank - 2))]
    return (numbers, own.reshape(-1)) if bool((scale == own).all()) else None


def _anchor(value: Value) -> Conv:
    """The convolution that an expansion moves the results of."""
    while isinstance(value, Transpose | Reshape | Slice):
        value = value.x
    assert isinstance(value, Conv)
    return value


def _spread(node: ConvTranspose, value: Value) -> Value:
    """What has an element for each output channel, for each (group, phase, channel); one that was quantised stays so,
    and one element for all does."""
    match value:
        case Dequantize(q, scale, zero):
            return Dequantize(_spread(node, q), _spread(node, scale), None if zero is None else _spread(node, zero))
        case _ if math.prod(value.shape) == 1 and node.group * node.filters != 1:
            return Reshape(value, ())
        case _:
            phases = math.prod(node.strides)
            column = Reshape(value, (node.group, 1, node.filters))
            whole = Expand(column, (node.group, phases, node.filters))
            return Reshape(whole, (node.group * phases * node.filters,))


TRANSPOSED_INTEGERS: tuple[Rule, ...] = (spread_transposed_bytes,)
