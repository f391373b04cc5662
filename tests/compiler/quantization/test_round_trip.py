"""Quantised models of every kind as ONNX files: what is read back gives the same results, bit for bit, in the
interpreter and as code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests.compiler.networks import dense_network, model_of, transformer_layer

from ingot.compiler import compile, load_onnx, quantize, save_onnx
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.pointwise import Add, Relu
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.passes.quantize.groups import WeightForm
from ingot.compiler.passes.quantize.weight_only import weight_only
from ingot.compiler.quantization.schemes import core
from ingot.runtime.dtypes import DType, f32, i16, u16

Arrays = Mapping[str, NDArray[Any]]
Made = tuple[Graph, Arrays]


def images(**options: Any) -> Made:
    text = """g (float[2, 4, 6, 6] x) => (float[2, 5] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b1)
        s2 = Add (c2, r1)
        c3 = Conv (s2, w3)
        k = Concat <axis = 1> (c3, r1)
        g = GlobalAveragePool (k)
        f = Flatten (g)
        y = Gemm <transB = 1> (f, w4, b4)
    }"""
    weights = {"w1": (8, 4, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (4, 8, 1, 1), "w4": (5, 12), "b4": (5,)}
    random = np.random.default_rng(0)
    proto, feed = model_of(text, weights, random), {"x": random.standard_normal((2, 4, 6, 6)).astype(np.float32)}
    return quantize(proto, [feed], measure=False, **options).graph, feed


def layer(**options: Any) -> Made:
    proto, feed = transformer_layer(np.random.default_rng(1))
    return quantize(proto, measure=False, **options).graph, feed


def weights_alone(bits: int, **options: Any) -> Made:
    proto, feed = dense_network(np.random.default_rng(2))
    graph, _ = weight_only(core(load_onnx(proto)), WeightForm(bits, 16, **options), method="nearest")
    return dataclasses.replace(graph, watched={}), feed


def lossless() -> Made:
    """Weights on a grid of 8 bits, written as floats."""
    proto, feed = dense_network(np.random.default_rng(3))
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("w"):
            data = onnx.numpy_helper.to_array(tensor)
            step = np.float32(np.abs(data).max() / 127)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.rint(data / step).astype(np.float32) * step, tensor.name))
    return quantize(proto, scheme="lossless", measure=False).graph, feed


def words(dtype: DType) -> Made:
    """Two convolutions with activations of 16 bits and a residual sum."""
    rng, zero = np.random.default_rng(4), constant(32768 if dtype == u16 else 0, dtype)
    step = constant(np.float32(1e-4))

    def rounded(value: Any) -> Any:
        return Dequantize(Quantize(value, step, zero, dtype), step, zero)

    def convolved(value: Any) -> Any:
        scales = rng.uniform(0.002, 0.004, (8, 1, 1, 1)).astype(np.float32)
        w = Dequantize(constant(rng.integers(-128, 128, (8, 8, 3, 3)).astype(np.int8)), constant(scales), None)
        return Conv(value, w, None, (1, 1), (1, 1, 1, 1), (1, 1), 1, False)

    x = Input("x", TensorType(f32, (1, 8, 6, 5)))
    first = rounded(Relu(convolved(rounded(x))))
    graph = Graph((x,), (("y", rounded(Add(convolved(first), first))),))
    return graph, {"x": rng.standard_normal((1, 8, 6, 5)).astype(np.float32)}


KINDS: dict[str, Callable[[], Made]] = {
    "int8": lambda: images(),
    "int8, all layers": lambda: images(ends=True, everywhere=True),
    "int8, signed and symmetric": lambda: images(ends=True, activations="i8", symmetric=True),
    "int8, 7 bits, one grid": lambda: images(ends=True, weight_bits=7, per_channel=False),
    "dynamic, tokens": lambda: layer(scheme="int8-dynamic"),
    "dynamic, tensors": lambda: layer(scheme="int8-dynamic", grain="tensor"),
    "int8 weights": lambda: layer(scheme="int8-weights"),
    "int4 weights": lambda: layer(scheme="int4-weights"),
    "int4 weights, zero points, half scales": lambda: weights_alone(4, symmetric=False, scale="f16"),
    "int2 weights": lambda: weights_alone(2),
    "fp16": lambda: layer(scheme="fp16"),
    "bf16": lambda: layer(scheme="bf16"),
    "lossless": lossless,
    "16 bits, unsigned": lambda: words(u16),
    "16 bits, signed": lambda: words(i16),
}

COMPILED = ("int8", "dynamic, tokens", "int4 weights", "16 bits, unsigned")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_back_gives_the_same(kind: str, tmp_path: Path) -> None:
    graph, feed = KINDS[kind]()
    path = tmp_path / "model.onnx"
    save_onnx(graph, path, opset=25 if kind == "int2 weights" else 21)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    again = core(load_onnx(path))  # norms, softmax and attention are one operator again, as they were
    executors = (evaluate_graph, run) if kind in COMPILED else (evaluate_graph,)
    for execute in executors:
        want, have = execute(graph, feed), execute(again, feed)
        assert want.keys() == have.keys()
        for name, array in want.items():
            assert np.isfinite(array).all() and array.std() > 0
            np.testing.assert_array_equal(have[name], array, err_msg=name)


def run(graph: Graph, feed: Arrays) -> dict[str, NDArray[Any]]:
    with compile(graph, jobs=1).session(threads=1) as session:
        return dict(session.run(dict(feed)))


def test_a_grid_that_is_lost_would_be_seen(tmp_path: Path) -> None:
    """The comparison is of results that depend on every scale."""
    graph, feed = words(i16)
    save_onnx(graph, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    for tensor in proto.graph.initializer:
        data = onnx.numpy_helper.to_array(tensor)
        if data.dtype == np.float32 and data.size == 8:
            tensor.CopyFrom(onnx.numpy_helper.from_array(data * np.float32(1.01), tensor.name))
    assert any((evaluate_graph(load_onnx(proto), feed)[n] != a).any() for n, a in evaluate_graph(graph, feed).items())
