"""Whole models for AArch64, executed: libraries in C programs under user-mode emulation, against ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from ingot.compiler.demo import held_out, model_path

Workshop = Any  # of conftest.py
FOLDER = Path(os.environ.get("INGOT_MODELS") or Path(__file__).parents[6] / "shared" / "models")
TARGET = "aarch64"


def by_onnxruntime(model: bytes, inputs: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def check(workshop: Workshop, model: bytes, name: str, inputs: dict[str, Any], kind: str, **symbols: int) -> None:
    """One thread and two give the same, and what ONNX Runtime gives."""
    program = workshop.program(workshop.library(model, name, TARGET), TARGET, kind)
    alone, together = (program.run(inputs, symbols, threads) for threads in (1, 2))
    want = by_onnxruntime(model, inputs)
    assert list(alone) == list(want)
    for output, array in want.items():
        scale = float(np.abs(array).max(initial=0)) or 1.0
        np.testing.assert_allclose(alone[output], array, rtol=0, atol=1e-4 * scale, err_msg=output)
        np.testing.assert_array_equal(together[output], alone[output])


def test_digits(workshop: Workshop) -> None:
    check(workshop, model_path().read_bytes(), "digits", {"image": held_out()[0][:9]}, ".so", batch=9)


def test_trained_convolutional_network(workshop: Workshop) -> None:
    path = FOLDER / "mnist_cnn" / "model.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    with np.load(sorted(path.parent.glob("inputs/s*.npz"))[0]) as data:
        inputs = {key[3:]: data[key] for key in data.files if key.startswith("in:")}
    library = workshop.library(path.read_bytes(), "mnist", TARGET)
    symbols = {}
    for port in library.signature.inputs:
        for dim, extent in zip(port.shape, inputs[port.name].shape, strict=True):
            symbols |= {} if isinstance(dim, int) else {str(dim): extent}
    check(workshop, path.read_bytes(), "mnist", inputs, ".so", **symbols)


def test_transformer_block(workshop: Workshop) -> None:
    """Attention with two heads, layer norm, gelu by erf; batch and sequence symbolic."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        block (float[batch, seq, 32] x) => (float[batch, seq, 32] y) {
          n = LayerNormalization<axis = -1>(x, scale, shift)
          qkv = MatMul(n, in)
          q, k, v = Split<axis = 2>(qkv, thirds)
          q4 = Reshape(q, heads)
          k4 = Reshape(k, heads)
          v4 = Reshape(v, heads)
          qt = Transpose<perm = [0, 2, 1, 3]>(q4)
          kt = Transpose<perm = [0, 2, 3, 1]>(k4)
          vt = Transpose<perm = [0, 2, 1, 3]>(v4)
          s = MatMul(qt, kt)
          scaled = Mul(s, quarter)
          p = Softmax<axis = -1>(scaled)
          a = MatMul(p, vt)
          at = Transpose<perm = [0, 2, 1, 3]>(a)
          joined = Reshape(at, whole)
          o = MatMul(joined, out)
          r = Add(x, o)
          h = MatMul(r, up)
          e0 = Mul(h, root)
          e1 = Erf(e0)
          e2 = Add(e1, one)
          e3 = Mul(h, e2)
          g = Mul(e3, half)
          d = MatMul(g, down)
          y = Add(r, d)
        }"""
    )
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        name: rng.standard_normal(shape).astype(np.float32) / 6
        for name, shape in {"in": (32, 96), "out": (32, 32), "up": (32, 64), "down": (64, 32)}.items()
    }
    arrays |= {"scale": rng.random(32, np.float32) + 0.5, "shift": rng.standard_normal(32).astype(np.float32)}
    arrays |= {"thirds": np.array([32] * 3), "heads": np.array([0, 0, 2, 16]), "whole": np.array([0, 0, 32])}
    numbers = {"quarter": 0.25, "root": 0.5**0.5, "one": 1.0, "half": 0.5}
    arrays |= {name: np.float32(value) for name, value in numbers.items()}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    x = rng.standard_normal((2, 19, 32)).astype(np.float32)
    check(workshop, model.SerializeToString(), "block", {"x": x}, ".so", batch=2, seq=19)


def test_lstm(workshop: Workshop) -> None:
    """Both directions, with initial states; the length of the sequence symbolic."""
    rng = np.random.default_rng(0)
    hidden, features = 12, 9
    shapes = {"w": (2, 4 * hidden, features), "r": (2, 4 * hidden, hidden), "b": (2, 8 * hidden)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 4, name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node(
        "LSTM", ["x", "w", "r", "b", "", "h0", "c0"], ["y", "h", "c"], hidden_size=hidden, direction="bidirectional"
    )
    declared = {"x": ["time", 3, features], "h0": [2, 3, hidden], "c0": [2, 3, hidden]}
    results = {"y": ["time", 2, 3, hidden], "h": [2, 3, hidden], "c": [2, 3, hidden]}
    values = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (declared, results)
    ]
    graph = helper.make_graph([node], "lstm", values[0], values[1], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = {
        "x": rng.standard_normal((11, 3, features)).astype(np.float32),
        "h0": rng.standard_normal((2, 3, hidden)).astype(np.float32),
        "c0": rng.standard_normal((2, 3, hidden)).astype(np.float32),
    }
    check(workshop, model.SerializeToString(), "lstm", inputs, ".o", time=11)
