"""Whole small image models with symbolic extents, compiled once and run at several sizes against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import compile

onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(11)
Arrays = dict[str, NDArray[Any]]


def weight(*shape: int) -> NDArray[Any]:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def model(nodes: Sequence[onnx.NodeProto], weights: Arrays, outputs: Sequence[str], opset: int = 18) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    graph = helper.make_graph(
        nodes,
        "images",
        [image],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def check(made: onnx.ModelProto, sizes: Sequence[tuple[int, int, int]]) -> None:
    reference = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in reference.get_outputs()]
    with compile(made, jobs=1).session(threads=2) as session:
        for batch, height, width in sizes:
            image = RNG.standard_normal((batch, 3, height, width)).astype(np.float32)
            wanted = dict(zip(names, reference.run(names, {"image": image}), strict=True))
            found = session.run({"image": image})
            for name in names:
                assert found[name].dtype == wanted[name].dtype
                assert found[name].shape == wanted[name].shape
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)


SIZES = ((1, 8, 12), (2, 16, 8), (1, 20, 4))


def test_down_and_up_again() -> None:
    """Convolutions between a stride, a resize to the size of a shape, a transposed convolution and a joint."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w0"], ["full"], pads=[1, 1, 1, 1]),
        node("MaxPool", ["full"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["half", "w1"], ["deep"], pads=[1, 1, 1, 1]),
        node("Shape", ["full"], ["shape"], start=2, end=4),
        node("Shape", ["deep"], ["planes"], start=0, end=2),
        node("Concat", ["planes", "shape"], ["wanted"], axis=0),
        node("Resize", ["deep", "", "", "wanted"], ["smooth"], mode="linear"),
        node("Resize", ["deep", "", "twice"], ["copied"], mode="nearest", coordinate_transformation_mode="asymmetric"),
        node("ConvTranspose", ["deep", "w2", "b2"], ["grown"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[4, 4]),
        node("Concat", ["full", "smooth"], ["joined"], axis=1),
        node("Relu", ["joined"], ["positive"]),
        node("Conv", ["positive", "w3"], ["result"]),
        node("Concat", ["copied", "grown"], ["even"], axis=1),
        node("Conv", ["even", "w4"], ["other"], pads=[1, 1, 1, 1]),
    ]
    weights: Arrays = {
        "w0": weight(8, 3, 3, 3),
        "w1": weight(16, 8, 3, 3),
        "w2": weight(16, 4, 4, 4),
        "b2": weight(4),
        "w3": weight(5, 24, 1, 1),
        "w4": weight(5, 20, 3, 3),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }
    check(model(nodes, weights, ["result", "other"]), (*SIZES, (1, 7, 9)))


def test_best_places_of_a_heat_map() -> None:
    """The largest scores, their places, and what lies there; the rest scattered away."""
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["map"], pads=[1, 1, 1, 1]),
        node("Flatten", ["map"], ["scores"], axis=1),
        node("TopK", ["scores", "five"], ["best", "places"], axis=1),
        node("GatherElements", ["scores", "places"], ["again"], axis=1),
        node("Neg", ["best"], ["negated"]),
        node("ScatterElements", ["scores", "places", "negated"], ["written"], axis=1),
        node("MaxPool", ["map"], ["peaks", "indices"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxUnpool", ["peaks", "indices"], ["lifted"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights: Arrays = {"w": weight(1, 3, 3, 3), "five": np.array([5], np.int64)}
    check(model(nodes, weights, ["best", "places", "again", "written", "indices", "lifted"]), SIZES)


def test_quantised_steps_of_any_size() -> None:
    """Weights as integers by channel, activations requantised between convolutions."""
    node = helper.make_node
    filters = RNG.integers(-127, 128, (6, 3, 3, 3)).astype(np.int8)
    nodes = [
        node("QuantizeLinear", ["image", "s", "z"], ["q0"]),
        node("DequantizeLinear", ["q0", "s", "z"], ["d0"]),
        node("DequantizeLinear", ["filters", "scales", "zeros"], ["w"], axis=0),
        node("Conv", ["d0", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("QuantizeLinear", ["c", "s1", "z"], ["q1"]),
        node("DequantizeLinear", ["q1", "s1", "z"], ["d1"]),
        node("GlobalAveragePool", ["d1"], ["mean"]),
    ]
    weights: Arrays = {
        "s": np.array(0.03, np.float32),
        "s1": np.array(0.11, np.float32),
        "z": np.array(121, np.uint8),
        "filters": filters,
        "scales": np.linspace(0.001, 0.004, 6).astype(np.float32),
        "zeros": np.zeros(6, np.int8),
    }
    made = model(nodes, weights, ["mean"])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    reference = onnxruntime.InferenceSession(made.SerializeToString(), options, ["CPUExecutionProvider"])
    with compile(made, jobs=1).session(threads=1) as session:
        for batch, height, width in SIZES:
            image = RNG.standard_normal((batch, 3, height, width)).astype(np.float32)
            (wanted,) = reference.run(None, {"image": image})
            found = session.run({"image": image})["mean"]
            assert float(np.abs(found - wanted).max()) < 0.11  # a step of the output
