"""Products of two computed operands of bytes: exact in f32 where their sums are whole numbers that it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiler.targets.levels import RUNNABLE

from ingot.compiler import compile
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.composite import Softmax
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Transpose
from ingot.compiler.ops.pointwise import Add, Mul
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.rescale import Rescale
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.passes.exact_products import largest_sum
from ingot.runtime.dtypes import DType, f32, i8, u8

Array = NDArray[Any]
SQ, SK, SS, SP, SV, SO = (np.float32(v) for v in (0.031, 0.027, 0.11, 1 / 256, 0.019, 0.013))


def real(x: Value, scale: Any, zero: int) -> Value:
    return Dequantize(x, constant(scale), constant(zero, x.dtype))


def steps(x: Value, scale: Any, zero: int, to: DType) -> Quantize:
    return Quantize(x, constant(scale), constant(zero, to), to)


def attention(length: Any = 21, depth: int = 32) -> tuple[Graph, dict[str, Array]]:
    """Attention as other tools quantise it: grids around both products, the scores and the softmax."""
    q, k, v = (Input(n, TensorType(t, (2, 4, length, depth))) for n, t in (("q", u8), ("k", i8), ("v", u8)))
    mask = Input("mask", TensorType(f32, (2, 1, 1, length)))
    scores = MatMul(real(q, SQ, 131), real(Transpose(k, (0, 1, 3, 2)), SK, -9))
    scaled = real(steps(Mul(scores, constant(np.float32(depth**-0.5))), SS, 120, u8), SS, 120)
    weights = real(steps(Softmax(Add(scaled, mask), 3), SP, 0, u8), SP, 0)
    out = steps(MatMul(weights, real(v, SV, 117)), SO, 125, u8)
    rng, extents = np.random.default_rng(0), (2, 4, 21, depth)
    feed = {
        "q": rng.integers(0, 256, extents).astype(np.uint8),
        "k": rng.integers(-128, 128, extents).astype(np.int8),
        "v": rng.integers(0, 256, extents).astype(np.uint8),
        "mask": np.where(rng.random((2, 1, 1, 21)) < 0.2, np.float32(-1e4), np.float32(0)),
    }
    return Graph((q, k, v, mask), (("y", out),), ranges={"t": (1, 128)}), feed


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("mode", ["onnx", "tosa"])
@pytest.mark.parametrize("length", [21, "t"])
def test_attention_on_grids(length: Any, mode: Any, target: str) -> None:
    graph, feed = attention(symbol(length) if isinstance(length, str) else length)
    done = default_pipeline("default", mode).without("fuse").run(graph)
    products = [node for node in done.nodes() if isinstance(node, MatMul)]
    assert len(products) == 2 and all(largest_sum(node, done) is not None for node in products)
    assert sum(isinstance(node, Rescale) for node in done.nodes()) == (2 if mode == "tosa" else 0)
    q, k, v = (feed[n].astype(np.int64) - z for n, z in (("q", 131), ("k", -9), ("v", 117)))
    sums = q @ k.swapaxes(2, 3)
    whole = np.clip(np.rint(sums * (np.float64(SQ) * SK * np.float32(32**-0.5)) / np.float64(SS)) + 120, 0, 255)
    e = (whole - 120) * np.float64(SS) + feed["mask"]
    p = np.exp(e - e.max(-1, keepdims=True))
    weights = np.clip(np.rint(p / p.sum(-1, keepdims=True) * 256), 0, 255)
    want = np.clip(np.rint((weights @ v) * (np.float64(SP) * SV) / np.float64(SO)) + 125, 0, 255)
    have = evaluate_graph(done, feed)["y"]
    assert np.abs(have - want).max() <= 1 and (have != want).mean() < 0.02
    with compile(graph, target=target, requantise=mode, jobs=1).session(threads=1) as session:
        found = session.run(feed)["y"]
    assert np.abs(found.astype(int) - have).max() <= 1 and (found != have).mean() < 0.01  # softmax may round otherwise


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(
    ("a", "b"), [((3, 5, 64), (3, 64, 33)), ((2, 1, 257), (257, 16)), ((7, 3), (3, 1)), ((0, 4), (4, 4))]
)
def test_products_are_exact(a: tuple[int, ...], b: tuple[int, ...], target: str) -> None:
    """At the ends of the types, whatever the order of the sums."""
    x, y = Input("x", TensorType(u8, a)), Input("y", TensorType(i8, b))
    graph = Graph((x, y), (("z", MatMul(real(x, SQ, 0), real(y, SK, 0))),))
    rng = np.random.default_rng(1)
    feed = {"x": rng.choice([255, 254, 0], a).astype(np.uint8), "y": rng.choice([-128, -127, 127], b).astype(np.int8)}
    sums = feed["x"].astype(np.int64) @ feed["y"].astype(np.int64)
    want = sums.astype(np.float32) * np.float32(float(SQ) * float(SK))
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["z"], want)


def test_what_stays() -> None:
    """Sums that f32 may not hold, scales that differ, and scales of run time."""
    x, y = Input("x", TensorType(u8, (2, 600))), Input("y", TensorType(i8, (600, 2)))
    s = Input("s", TensorType(f32, ()))
    short, other = Input("a", TensorType(u8, (2, 8))), Input("b", TensorType(i8, (8, 2)))
    several = Dequantize(other, constant(np.ones((1, 2), np.float32)), None)
    for a, b, inputs in (
        (real(x, SQ, 0), real(y, SK, 0), (x, y)),
        (Dequantize(short, s, None), real(other, SK, 0), (short, other, s)),
        (real(short, SQ, 0), Mul(several, several), (short, other)),
    ):
        graph = Graph(inputs, (("z", MatMul(a, b)),))
        done = default_pipeline().without("fuse").run(graph)
        assert [largest_sum(n, done) for n in done.nodes() if isinstance(n, MatMul)] == [None]
