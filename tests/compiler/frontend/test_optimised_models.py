"""Models as ONNX Runtime's quantisers and its graph optimiser write them, made here, compiled and compared with it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from ingot.compiler import compile

Arrays = Mapping[str, NDArray[Any]]
Level: Any = onnxruntime.GraphOptimizationLevel  # pyright: ignore[reportAttributeAccessIssue] - not in its stubs
RANDOM = np.random.default_rng(11)


def model_of(text: str, weights: Mapping[str, tuple[int, ...]], opset: int = 17) -> onnx.ModelProto:
    """A model in ONNX's text form with random f32 initialisers of these shapes."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, shape in weights.items():
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:]) if len(shape) == 4 else shape[0]))
        data = (RANDOM.standard_normal(shape) * scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(data, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def image_network() -> tuple[onnx.ModelProto, Arrays]:
    """Convolutions, a residual sum, pools, a concatenation, activations and a dense layer."""
    text = """g (float[2, 3, 12, 12] x) => (float[2, 10] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
        s2 = Add (c2, r1)
        r2 = Relu (s2)
        p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        c3 = Conv (p2, w3, b3)
        l3 = LeakyRelu <alpha = 0.1> (c3)
        c4 = Conv (p2, w4, b3)
        s4 = Sigmoid (c4)
        m4 = Mul (l3, s4)
        k = Concat <axis = 1> (m4, p2)
        a = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (k)
        g = GlobalAveragePool (a)
        f = Flatten (g)
        z = Gemm <transB = 1> (f, w5, b5)
        y = Softmax <axis = 1> (z)
    }"""
    weights = {
        "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (8, 8, 1, 1), "b3": (8,),
        "w4": (8, 8, 1, 1), "w5": (10, 16), "b5": (10,),
    }  # fmt: skip
    return model_of(text, weights), {"x": RANDOM.standard_normal((2, 3, 12, 12)).astype(np.float32)}


def dense_network() -> tuple[onnx.ModelProto, Arrays]:
    text = """g (float[batch, 16] x) => (float[batch, 8] y) {
        m1 = MatMul (x, w1)
        a1 = Add (m1, b1)
        r1 = Relu (a1)
        m2 = MatMul (r1, w2)
        y = Add (m2, b2)
    }"""
    weights = {"w1": (16, 32), "b1": (32,), "w2": (32, 8), "b2": (8,)}
    return model_of(text, weights), {"x": RANDOM.standard_normal((4, 16)).astype(np.float32)}


def transformer_layer() -> tuple[onnx.ModelProto, Arrays]:
    """Attention, layer norms and a feed-forward part with GELU, as exporters write them."""
    text = """g (float[batch, length, 16] x) => (float[batch, length, 16] y)
    <int64[4] heads = {0, 0, 4, 4}, int64[3] whole = {0, 0, 16}, float half = {0.5}, float one = {1.0},
     float root = {1.4142135}, float depth = {0.5}> {
        q0 = MatMul (x, wq)
        q1 = Add (bq, q0)
        q2 = Reshape (q1, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (q2)
        k0 = MatMul (x, wk)
        k1 = Add (bk, k0)
        k2 = Reshape (k1, heads)
        k = Transpose <perm = [0, 2, 3, 1]> (k2)
        v0 = MatMul (x, wv)
        v1 = Add (bv, v0)
        v2 = Reshape (v1, heads)
        v = Transpose <perm = [0, 2, 1, 3]> (v2)
        s0 = MatMul (q, k)
        s = Mul (s0, depth)
        p = Softmax <axis = -1> (s)
        o0 = MatMul (p, v)
        o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
        o2 = Reshape (o1, whole)
        o3 = MatMul (o2, wo)
        o4 = Add (bo, o3)
        r = Add (o4, x)
        n = LayerNormalization <axis = -1> (r, g1, h1)
        f0 = MatMul (n, w1)
        f1 = Add (f0, b1)
        e0 = Div (f1, root)
        e1 = Erf (e0)
        e2 = Add (e1, one)
        e3 = Mul (f1, e2)
        e4 = Mul (e3, half)
        f2 = MatMul (e4, w2)
        f3 = Add (f2, b2)
        t = Add (f3, n)
        y = LayerNormalization <axis = -1> (t, g2, h2)
    }"""
    square, row = (16, 16), (16,)
    weights = {
        **dict.fromkeys(("wq", "wk", "wv", "wo"), square), **dict.fromkeys(("bq", "bk", "bv", "bo", "b2"), row),
        **dict.fromkeys(("g1", "h1", "g2", "h2"), row), "w1": (16, 64), "b1": (64,), "w2": (64, 16),
    }  # fmt: skip
    return model_of(text, weights), {"x": RANDOM.standard_normal((2, 5, 16)).astype(np.float32)}


NETWORKS: dict[str, Callable[[], tuple[onnx.ModelProto, Arrays]]] = {
    "image": image_network,
    "dense": dense_network,
    "transformer": transformer_layer,
}


class Readings(CalibrationDataReader):
    """What the quantiser measures the ranges of tensors on: the input itself, and two others."""

    def __init__(self, inputs: Arrays) -> None:
        self.left: Iterator[dict[str, Any]] = iter(
            [{name: (x * f).astype(x.dtype) for name, x in inputs.items()} for f in (1, 0.5, -1)]
        )

    def get_next(self) -> Any:
        """Inputs by name, None at the end."""
        return next(self.left, None)


def session_of(path: Path, level: Any, written: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 4, 1
    if written is not None:
        options.optimized_model_filepath = str(written)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def agree(path: Path, inputs: Arrays, tolerance: float) -> Counter[str]:
    """Compile the file and compare with ONNX Runtime, as it runs the file as it is; the operators of the file."""
    with compile(path, cache=False).session() as session:
        found = session.run(inputs)
    expected: Any = session_of(path, Level.ORT_DISABLE_ALL).run(None, dict(inputs))
    for got, want in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    nodes = onnx.load(path).graph.node
    return Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes)


def optimised(path: Path, level: Any) -> Path:
    """The file as the optimiser writes it."""
    written = path.with_name(f"{path.stem}_optimised.onnx")
    session_of(path, level, written)
    return written


@pytest.fixture
def saved(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Arrays]:
    model, inputs = NETWORKS[request.param]()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path, inputs


@pytest.mark.parametrize("saved", NETWORKS, indirect=True)
def test_optimised(saved: tuple[Path, Arrays], request: pytest.FixtureRequest) -> None:
    """ORT_ENABLE_ALL puts convolutions into a layout of the processor at hand, so that images stop before it."""
    path, inputs = saved
    is_image = "image" in request.node.callspec.id
    level = Level.ORT_ENABLE_EXTENDED if is_image else Level.ORT_ENABLE_ALL
    found = agree(optimised(path, level), inputs, 2e-5)
    wanted = {"image": "FusedConv", "dense": "FusedGemm", "transformer": "SkipLayerNormalization"}
    name = next(name for name in wanted if name in request.node.callspec.id)
    assert name == "dense" or found[f"com.microsoft.{wanted[name]}"]


def test_norm_in_an_older_opset(tmp_path: Path) -> None:
    """The optimiser writes LayerNormalization into models of opsets that do not have it."""
    text = """g (float[2, 5, 16] x) => (float[2, 5, 16] y) <float two = {2.0}, float tiny = {1e-5}> {
        m = ReduceMean <axes = [-1]> (x)
        d = Sub (x, m)
        s = Pow (d, two)
        v = ReduceMean <axes = [-1]> (s)
        e = Add (v, tiny)
        r = Sqrt (e)
        n = Div (d, r)
        k = Mul (n, g)
        y = Add (k, h)
    }"""
    model = model_of(text, {"g": (16,), "h": (16,)}, opset=14)
    onnx.save(model, tmp_path / "model.onnx")
    inputs = {"x": RANDOM.standard_normal((2, 5, 16)).astype(np.float32)}
    found = agree(optimised(tmp_path / "model.onnx", Level.ORT_ENABLE_ALL), inputs, 2e-5)
    assert found["LayerNormalization"] == 1


@pytest.mark.parametrize(
    ("saved", "form", "level"),
    [
        ("dense", "operators", None),
        ("image", "operators", Level.ORT_ENABLE_ALL),
        ("image", "qdq", Level.ORT_ENABLE_ALL),
        ("transformer", "dynamic", Level.ORT_ENABLE_EXTENDED),
    ],
    indirect=["saved"],
)
def test_quantised(saved: tuple[Path, Arrays], form: str, level: Any) -> None:
    """A quantised file, or what the optimiser makes of it."""
    path, inputs = saved
    written = path.with_name("quantised.onnx")
    logging.disable(logging.WARNING)
    if form == "dynamic":
        quantize_dynamic(path, written, weight_type=QuantType.QInt8)
    else:
        layout = QuantFormat.QOperator if form == "operators" else QuantFormat.QDQ
        quantize_static(
            path, written, Readings(inputs), quant_format=layout, per_channel=form == "qdq",
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    logging.disable(logging.NOTSET)
    # Results are a few steps of 1/256 of their range; one step may be rounded the other way.
    found = agree(written if level is None else optimised(written, level), inputs, 0.05)
    assert any(name.startswith("com.microsoft") for name in found)
