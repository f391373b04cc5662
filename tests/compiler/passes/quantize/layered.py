"""Small graphs at the stage at which models are quantised, and data for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.graph import Graph, Input, Node, Value, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.composite import Attention, LayerNorm
from ingot.compiler.ops.linear import Conv, MatMul, MaxPool
from ingot.compiler.ops.movement import Gather, Reshape, Transpose
from ingot.compiler.ops.pointwise import Add, Clip, Gelu, Relu
from ingot.runtime.dtypes import f32, i64

Array = NDArray[Any]


def matrix(random: np.random.Generator, depth: int, columns: int) -> Array:
    return (random.standard_normal((depth, columns)) / np.sqrt(depth)).astype(np.float32)


def _linear(x: Value, w: Array, bias: Array, name: str) -> Value:
    return Add(MatMul(x, constant(w), origin=(name,)), constant(bias))


def vector(random: np.random.Generator, channels: int) -> Array:
    return random.standard_normal(channels).astype(np.float32)


def encoder(random: np.random.Generator, *, width: int = 64, residual: bool = False) -> Graph:
    """Norm, attention of four heads, norm and a feed-forward part: layers q, k, v, out, up, down. A norm's channels are
    of very different sizes. With `residual` the norms' results are read by sums too."""
    heads, depth = 4, width // 4
    x = Input("x", TensorType(f32, (2, 6, width)))
    sizes = np.exp(1.5 * random.standard_normal(width)).astype(np.float32)
    normed: Value = LayerNorm(x, constant(sizes), constant(vector(random, width)), 2, 1e-5)

    def split(value: Value) -> Value:
        return Transpose(Reshape(value, (2, 6, heads, depth)), (0, 2, 1, 3))

    q, k, v = (split(_linear(normed, matrix(random, width, width), vector(random, width), name)) for name in "qkv")
    mixed = Transpose(Attention(q, k, v, None, 0.1 * depth**-0.5), (0, 2, 1, 3))
    out = _linear(Reshape(mixed, (2, 6, width)), matrix(random, width, width), vector(random, width), "out")
    if residual:
        out = Add(out, normed)
    second = LayerNorm(out, constant(sizes[::-1].copy()), None, 2, 1e-5)
    up = Gelu(_linear(second, matrix(random, width, 2 * width), vector(random, 2 * width), "up"), False)
    down = _linear(up, matrix(random, 2 * width, width), vector(random, width), "down")
    return Graph((x,), (("y", down),))


def convolutions(random: np.random.Generator, *, clipped: bool = False, uneven: float = 1.5) -> Graph:
    """Convolution, depthwise one, pool, convolution and a product: layers stem, depthwise, point, head. The sizes of
    the channels' weights differ by about e to the `uneven`."""
    x = Input("x", TensorType(f32, (1, 3, 12, 12)))

    def filters(out: int, into: int, size: int) -> Array:
        w = random.standard_normal((out, into, size, size)) / np.sqrt(into * size * size)
        return (w * np.exp(uneven * random.standard_normal((out, 1, 1, 1)))).astype(np.float32)

    def conv(x: Value, w: Array, group: int, name: str) -> Node:
        pads = (1,) * 4 if w.shape[2] == 3 else (0,) * 4
        bias = constant(vector(random, len(w)))
        return Conv(x, constant(w), bias, (1, 1), pads, (1, 1), group, False, origin=(name,))

    def bent(value: Value) -> Value:
        return Clip(value, constant(0, f32), constant(6, f32)) if clipped else Relu(value)

    stem = bent(conv(x, filters(8, 3, 3), 1, "stem"))
    depthwise = bent(conv(stem, filters(8, 1, 3), 8, "depthwise"))
    pooled = MaxPool(depthwise, (2, 2), (2, 2), (0,) * 4, (1, 1), False, False)
    point = Relu(conv(pooled, filters(16, 8, 1), 1, "point"))
    head = MatMul(Reshape(point, (1, 16 * 36)), constant(matrix(random, 16 * 36, 10)), origin=("head",))
    return Graph((x,), (("y", head),))


def language(random: np.random.Generator, *, words: int = 50, width: int = 48) -> Graph:
    """A table of words, a product and the table's transpose: layers embed, mix, vocabulary."""
    ids = Input("ids", TensorType(i64, (2, 5)))
    table = matrix(random, words, width)
    found = Gather(constant(table), ids, 0, origin=("embed",))
    mixed = Relu(_linear(found, matrix(random, width, width), vector(random, width), "mix"))
    return Graph((ids,), (("y", MatMul(mixed, constant(table.T), origin=("vocabulary",))),))


def samples(graph: Graph, count: int, random: np.random.Generator) -> list[dict[str, Array]]:
    """Inputs of f32 with a mean and channels of different sizes."""
    found: list[dict[str, Array]] = []
    for _ in range(count):
        sample = {
            i.label: (random.standard_normal(i.declared.static_shape()) + 0.3).astype(np.float32) for i in graph.inputs
        }
        found.append(sample)
    return found
