"""Graphs whose values are exact in f32 whatever the order of sums: whole numbers, scaled by powers of two."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Add, Relu
from ingot.compiler.ops.reduction import ReduceMean
from ingot.runtime.dtypes import f32

Array = NDArray[Any]


def whole(shape: tuple[int, ...], seed: int, most: int = 8) -> Array:
    """Whole numbers of up to `most`, as f32."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


def pictures(size: int = 6) -> tuple[Graph, dict[str, Value]]:
    """Two convolutions with a residual sum on f32 [1, 3, size, size], and points of it."""
    x = Input("x", TensorType(f32, (1, 3, size, size)))
    w1, w2 = constant(whole((4, 3, 3, 3), 1) / 4), constant(whole((4, 4, 1, 1), 2) / 8)
    pads, ones = (1, 1, 1, 1), (1, 1)
    first = Relu(Conv(x, w1, constant(whole((4,), 3)), ones, pads, ones, 1, False))
    second = Conv(first, w2, None, ones, (0, 0, 0, 0), ones, 1, False)
    total = Relu(Add(second, first))
    y = ReduceMean(total, (2, 3), False)
    return Graph((x,), (("y", y),)), {"x": x, "first": first, "second": second, "total": total}


def rows(width: int = 5) -> tuple[Graph, dict[str, Value]]:
    """Two products on f32 [batch, width], and points of it."""
    x = Input("x", TensorType(f32, (symbol("batch"), width)))
    hidden = Relu(MatMul(x, constant(whole((width, 7), 4) / 2)))
    y = MatMul(hidden, constant(whole((7, 3), 5)))
    return Graph((x,), (("y", y),), ranges={"batch": (0, 64)}), {"x": x, "hidden": hidden, "y": y}


def values(graph: Graph, points: dict[str, Value], sample: Array) -> dict[str, Array]:
    """What the points are for one sample, by the interpreter."""
    tapped = Graph(graph.inputs, tuple(points.items()), ranges=graph.ranges)
    return evaluate_graph(tapped, {"x": sample})
