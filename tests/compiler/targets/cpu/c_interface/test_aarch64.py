"""Whole models for AArch64, executed: libraries in C programs under user-mode emulation, against ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from tests.compiler.networks import transformer_layer

from ingot.compiler.demo import held_out, model_path

Workshop = Any  # of conftest.py
FOLDER = Path(os.environ.get("INGOT_MODELS") or Path(__file__).parents[6] / "shared" / "models")
TARGET = "aarch64"
LEVELS = (TARGET, "aarch64+i8mm+sve256")


def by_onnxruntime(model: bytes, inputs: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def check(
    workshop: Workshop, model: bytes, name: str, inputs: dict[str, Any], kind: str, target: str = TARGET, **symbols: int
) -> None:
    """One thread and two give the same, as do vectors of both lengths, and what ONNX Runtime gives."""
    program = workshop.program(workshop.library(model, name, target), target, kind)
    want = by_onnxruntime(model, inputs)
    for length in lengths(target):
        alone, together = (program.run(inputs, symbols, threads, length) for threads in (1, 2))
        assert list(alone) == list(want)
        for output, array in want.items():
            scale = float(np.abs(array).max(initial=0)) or 1.0
            np.testing.assert_allclose(alone[output], array, rtol=0, atol=1e-4 * scale, err_msg=output)
            np.testing.assert_array_equal(together[output], alone[output])


def lengths(target: str) -> tuple[int, ...]:
    """The bytes of vectors that code for a target is emulated with."""
    return (32, 64) if "sve" in target else (16,)


@pytest.mark.parametrize("target", LEVELS)
def test_digits(workshop: Workshop, target: str) -> None:
    check(workshop, model_path().read_bytes(), "digits", {"image": held_out()[0][:9]}, ".so", target, batch=9)


@pytest.mark.parametrize("target", ("aarch64+i8mm", "aarch64+i8mm+sve256"))
def test_products_of_bytes(workshop: Workshop, target: str) -> None:
    """Bit for bit, for few and many rows, even and odd; rows that lie apart, strides, depths that are no multiple."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-128, 128, (29, 11, 3, 3)),
        "v": rng.integers(-128, 128, (9, 4, 2, 2)),
        "b": rng.integers(-128, 128, (37, 41)),
    }
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (uint8[3, 11, 9, 7] x, uint8[1, 4, 8, 5] z, uint8[rows, 37] a)
          => (int32[3, 29, 9, 7] c, int32[1, 9, 4, 2] d, int32[rows, 41] e) {
            c = ConvInteger <pads = [1, 1, 1, 1]> (x, w)
            d = ConvInteger <strides = [2, 2]> (z, v)
            e = MatMulInteger (a, b)
        }"""
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.int8), name) for name, array in weights.items()
    )
    program = workshop.program(workshop.library(model.SerializeToString(), "bytes", target), target)
    for rows in (1, 2, 3, 77, 130):
        shapes = {"x": (3, 11, 9, 7), "z": (1, 4, 8, 5), "a": (rows, 37)}
        inputs = {name: rng.integers(0, 256, shape).astype(np.uint8) for name, shape in shapes.items()}
        want = by_onnxruntime(model.SerializeToString(), inputs)
        for length in lengths(target):
            found = program.run(inputs, {"rows": rows}, 1, length)
            for name, array in want.items():
                np.testing.assert_array_equal(found[name], array, err_msg=f"{name} {rows}")


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


@pytest.mark.parametrize("target", LEVELS)
def test_transformer_layer(workshop: Workshop, target: str) -> None:
    """Batch and sequence symbolic."""
    model, inputs = transformer_layer(np.random.default_rng(0), heads=2, depth=16, shape=(2, 19))
    check(workshop, model.SerializeToString(), "layer", dict(inputs), ".so", target, batch=2, length=19)


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
