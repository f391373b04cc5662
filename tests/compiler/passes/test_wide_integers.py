"""Products of quantised values of 16 bits by weights of 8: exact sums, whatever the values and the level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiler.lower.test_full_range import convolved
from tests.compiler.targets.levels import RUNNABLE

from ingot.compiler import compile
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.rescale import Rescale
from ingot.compiler.passes.default import default_pipeline
from ingot.runtime.dtypes import DType, f64, i8, i16, u8, u16

Array = NDArray[Any]
SCALE, STEP = np.float32(0.0007), np.float32(0.013)


def drawn(seed: int, dtype: DType, *shape: int) -> Array:
    """Integers from the whole range, the ends more often."""
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype.to_numpy())
    found = rng.integers(limits.min, limits.max, shape, endpoint=True)
    found[rng.random(shape) < 0.3] = limits.max
    found[rng.random(shape) < 0.3] = limits.min
    return found.astype(dtype.to_numpy())


def multiplied(graph: Graph) -> list[tuple[str, str]]:
    """The types of what products multiply."""
    nodes = [node for node in graph.nodes() if isinstance(node, MatMul | Conv)]
    operands = [(n.a, n.b) if isinstance(n, MatMul) else (n.x, n.w) for n in nodes]
    return [(a.dtype.name, b.dtype.name) for a, b in operands]


def dense(dtype: DType, zero: int, depth: int, kind: DType = i8) -> tuple[Graph, Array, Array]:
    """A product with scales for each column, its input and the exact sums."""
    rows, columns = (2, 3), 17
    x, w = Input("x", TensorType(dtype, (*rows, depth))), drawn(depth, kind, depth, columns)
    own = np.random.default_rng(0).uniform(0.5, 2, (1, columns)).astype(np.float32) * STEP
    point = 0 if kind == i8 else 131
    b = Dequantize(constant(w), constant(own), None if kind == i8 else constant(point, u8))
    y = MatMul(Dequantize(x, constant(SCALE), constant(zero, dtype)), b)
    data = drawn(1, dtype, *rows, depth)
    sums = (data.astype(np.int64) - zero) @ (w.astype(np.int64) - point)
    return Graph((x,), (("y", y),)), data, sums * (np.float64(SCALE) * own.astype(np.float64))


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(("dtype", "zero"), [(u16, 0), (u16, 32768), (u16, 40001), (i16, 0), (i16, -32768), (i16, 300)])
@pytest.mark.parametrize(("depth", "kind"), [(5, i8), (130, i8), (4000, i8), (33, u8)])
def test_matrices(dtype: DType, zero: int, depth: int, kind: DType, target: str) -> None:
    graph, data, want = dense(dtype, zero, depth, kind)
    done = default_pipeline().without("fuse").run(graph)
    assert set(multiplied(done)) == {("u8", "i8")} and len(multiplied(done)) == 2
    assert any(node.types[0].dtype == f64 for node in done.nodes()) == (depth == 4000)  # what does not fit i32
    exact = evaluate_graph(done, {"x": data})["y"]
    np.testing.assert_allclose(exact, want, rtol=2e-7)
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": data})["y"], exact)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("group", [1, 8])
def test_convolutions_with_padding_and_bias(group: int, target: str) -> None:
    x = Input("x", TensorType(u16, (1, 8, 7, 6)))
    w = drawn(3, i8, 16, 8 // group, 3, 3)
    shift = np.random.default_rng(1).integers(-(2**20), 2**20, 16).astype(np.int32)
    scales = np.full((16, 1, 1, 1), STEP, np.float32)
    bias = Dequantize(constant(shift), constant(SCALE * STEP), None)
    real = Dequantize(x, constant(SCALE), constant(30000, u16))
    conv = Conv(real, Dequantize(constant(w), constant(scales), None), bias, (1, 1), (1, 1, 1, 1), (1, 1), group, False)
    y = Quantize(conv, constant(np.float32(2.0)), constant(32768, u16), u16)
    graph, data = Graph((x,), (("y", y),)), drawn(4, u16, 1, 8, 7, 6)
    sums = convolved(data.astype(np.int64) - 30000, w, 1, 1, 1, group) + shift.reshape(-1, 1, 1)
    want = np.clip(np.rint(sums * np.float64(SCALE) * np.float64(STEP) / 2) + 32768, 0, 65535)
    for mode in ("onnx", "tosa"):
        done = default_pipeline("default", mode).without("fuse").run(graph)
        assert set(multiplied(done)) == {("u8", "i8")}
        assert any(isinstance(node, Rescale) for node in done.nodes()) == (mode == "tosa")
        exact = evaluate_graph(done, {"x": data})["y"]
        difference = np.abs(exact.astype(int) - want)
        assert difference.max() <= (1 if mode == "onnx" else 2) and (difference != 0).mean() < 0.05
        with compile(graph, target=target, requantise=mode, jobs=1).session(threads=1) as session:
            np.testing.assert_array_equal(session.run({"x": data})["y"], exact)


def test_movement_and_what_stays_in_floats() -> None:
    x = Input("x", TensorType(u16, (6, 2, 4)))
    real = Dequantize(x, constant(SCALE), constant(9, u16))
    w = Dequantize(constant(drawn(0, i8, 8, 3)), constant(STEP), None)
    moved = MatMul(Reshape(Transpose(real, (1, 0, 2)), (6, 8)), w)
    assert set(multiplied(default_pipeline().without("fuse").run(Graph((x,), (("y", moved),))))) == {("u8", "i8")}
    several = Dequantize(x, constant(np.ones((1, 1, 4), np.float32)), None)  # a scale for each summed element
    z = Input("z", TensorType(u16, ()))
    unknown = Dequantize(x, constant(SCALE), z)  # a zero point of run time
    for real in (several, unknown):
        graph = Graph((x, z), (("y", MatMul(Reshape(real, (6, 8)), w)),))
        assert set(multiplied(default_pipeline().without("fuse").run(graph))) == {("f32", "f32")}

