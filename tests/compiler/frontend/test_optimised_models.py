"""Models as ONNX Runtime's quantisers and its graph optimiser write them, made here, compiled and compared with it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from tests.compiler.networks import Arrays, dense_network, image_network, model_of, transformer_layer

from ingot.compiler import compile

Level: Any = onnxruntime.GraphOptimizationLevel  # pyright: ignore[reportAttributeAccessIssue] - not in its stubs
RANDOM = np.random.default_rng(11)


NETWORKS: dict[str, Callable[[np.random.Generator], tuple[onnx.ModelProto, Arrays]]] = {
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
    model, inputs = NETWORKS[request.param](RANDOM)
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
    model = model_of(text, {"g": (16,), "h": (16,)}, RANDOM, opset=14)
    onnx.save(model, tmp_path / "model.onnx")
    inputs = {"x": RANDOM.standard_normal((2, 5, 16)).astype(np.float32)}
    found = agree(optimised(tmp_path / "model.onnx", Level.ORT_ENABLE_ALL), inputs, 2e-5)
    assert found["LayerNormalization"] == 1


def test_defaults_that_the_optimiser_writes_out(tmp_path: Path) -> None:
    """It gives a layer of one direction the two activations that the standard's default has."""
    text = """g (float[2, 1, 3] x) => (float[2, 1, 1, 4] y) {
        y = RNN <hidden_size = 4, activations = ["Tanh", "Tanh"]> (x, w, r)
    }"""
    model = model_of(text, {"w": (1, 4, 3), "r": (1, 4, 4)}, RANDOM)
    onnx.save(model, tmp_path / "model.onnx")
    agree(tmp_path / "model.onnx", {"x": RANDOM.standard_normal((2, 1, 3)).astype(np.float32)}, 2e-5)


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
