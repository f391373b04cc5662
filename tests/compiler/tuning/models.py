"""Small graphs with contractions to find schedules for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.context import Context, body_of
from ingot.compiler.lower.contraction import Group
from ingot.compiler.lower.lowering import ANCHORS
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Add, Relu
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32

Array = np.ndarray[Any, Any]


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv_graph(height: int = 9, width: int = 7, inner: int = 24, out: int = 40, taps: int = 3) -> Graph:
    """relu(conv(relu(x)) + relu(x2)) in channels-last layout."""
    x = Input("x", TensorType(f32, (1, height, width, inner)))
    other = Input("other", TensorType(f32, (1, height, width, out)))
    weights = constant(random(1, out, inner, taps, taps) / np.float32(taps * np.sqrt(inner)))
    pad = taps // 2
    conv = Conv(Relu(x), weights, constant(random(2, out)), (1, 1), (pad,) * 4, (1, 1), 1, True, origin=("conv",))
    made = Graph((x, other), (("y", Relu(Add(conv, Relu(other)))),), "conv")
    return default_pipeline().run(made)


def matmul_graph(rows: Dim = 30, inner: int = 20, out: int = 17) -> Graph:
    """relu(x @ w)."""
    x = Input("x", TensorType(f32, (rows, inner)))
    made = Graph((x,), (("y", Relu(MatMul(x, constant(random(3, inner, out)), origin=("product",)))),), "matmul")
    return default_pipeline().run(made)


def context(target: str = "cpu") -> Context:
    return Context(find_target(target).machine)


def group_of(graph: Graph) -> Group:
    """The first contraction group."""
    for node in graph.nodes():
        body, outer = body_of(node)
        anchor = next((n for n in body.nodes() if isinstance(n, ANCHORS)), None)
        if anchor is not None:
            return Group(node, body, dict(zip(body.inputs, outer, strict=True)), anchor)
    raise AssertionError("there is no contraction")


def expected(arrays: dict[str, Array], *, inner: int = 24, out: int = 40, taps: int = 3) -> Array:
    """What `conv_graph` computes, in f64, tap by tap."""
    x = np.maximum(arrays["x"], 0).astype(np.float64)
    w = (random(1, out, inner, taps, taps) / np.float32(taps * np.sqrt(inner))).astype(np.float64)
    pad = taps // 2
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = sum(
        padded[:, i : i + height, j : j + width] @ w[:, :, i, j].T for i in range(taps) for j in range(taps)
    )
    return np.maximum(total + random(2, out) + np.maximum(arrays["other"], 0), 0)


