"""Deviations, and references that give every tensor of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler.bench.deviation import deviation
from ingot.compiler.bench.intermediates import EVALUATORS, EvaluationError, widened

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("want", "have", "absolute", "relative", "index", "differing"),
    [
        ([1, 2], [1, 2], 0, 0, (0,), 0),
        ([1, -4], [1.5, -4], 0.5, 0.125, (0,), 1),
        ([1, -4], [1.5, -6], 2, 0.5, (1,), 2),
        ([0, 0], [0, 3], 3, 3, (1,), 1),
        ([NAN, 1], [NAN, 1], 0, 0, (0,), 0),
        ([INF, -INF, 2], [INF, -INF, 1], 1, 0.5, (2,), 1),
        ([NAN, 1], [1, 1], INF, INF, (0,), 1),
        ([1, 1], [1, NAN], INF, INF, (1,), 1),
        ([INF, 1], [-INF, 1], INF, INF, (0,), 1),
        ([1, 1], [1, INF], INF, INF, (1,), 1),
        ([NAN, NAN], [NAN, NAN], 0, 0, (0,), 0),
    ],
)
def test_deviation(want: Any, have: Any, absolute: Any, relative: Any, index: Any, differing: int) -> None:
    found = deviation(np.array(want, np.float32), np.array(have, np.float64))
    assert (found.absolute, found.relative, found.differing) == (absolute, relative, differing)
    if differing:
        assert found.index == index
        np.testing.assert_equal([found.want, found.have], [want[index[0]], have[index[0]]])


def test_places_have_all_axes() -> None:
    want = np.zeros((2, 3, 4))
    have = want.copy()
    have[1, 2, 3] = -7
    assert deviation(want, have).index == (1, 2, 3) and deviation(want, have).have == -7
    assert deviation(np.array(2.0), np.array(2.5)).index == ()
    assert deviation(np.zeros((0, 3)), np.zeros((0, 3))).relative == 0


def test_what_cannot_be_compared() -> None:
    found = deviation(np.zeros((2, 3)), np.zeros((3, 2)))
    assert found.relative == INF and found.detail == "shape [3, 2] instead of [2, 3]"
    assert deviation(np.array(["a"]), np.array([1.0])).relative == INF
    assert deviation(np.array([True, False]), np.array([True, True])).absolute == 1
    assert deviation(np.array([250], np.uint8), np.array([3], np.uint8)).absolute == 247


def saved(folder: Path, text: str, **weights: np.ndarray[Any, Any]) -> Path:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


HEAD = '<ir_version: 8, opset_import: ["" : 17]> main '
CHAIN = HEAD + "(float[n] x) => (float[n] y) { a = Mul(x, w) b = Exp(a) y = Log(b) }"


@pytest.mark.parametrize("name", ["exact", "onnxruntime"])
def test_all_tensors_in_order(name: str, tmp_path: Path) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    path = saved(tmp_path, CHAIN, w=np.array([3], np.float32))
    x = np.array([0.1, 1, 2], np.float32)
    found = EVALUATORS[name](path, {"x": x})
    assert list(found) == ["a", "b", "y"]
    dtype = np.float64 if name == "exact" else np.float32
    assert all(array.dtype == dtype for array in found.values())
    np.testing.assert_allclose(found["b"], np.exp(3 * x.astype(np.float64)), rtol=1e-6 if name != "exact" else 1e-14)


def test_exact_is_exact(tmp_path: Path) -> None:
    # In f32 the sum loses the small number.
    body = "(float[n] x) => (float[n] y) { a = Add(x, big) y = Sub(a, big) }"
    path = saved(tmp_path, HEAD + body, big=np.array([2**30], np.float32))
    assert EVALUATORS["exact"](path, {"x": np.array([0.25], np.float32)})["y"].tolist() == [0.25]


def test_constants_and_casts_are_widened() -> None:
    proto = onnx.parser.parse_model(
        HEAD + "(float16[n] x) => (float[n] y) { c = Constant <value_float = 0.5> () "
        "d = Constant <value_floats = [1.0]> () "
        "s = Constant <value_ints = [1]> () z = ConstantOfShape(s) f = Cast <to = 1> (x) i = Cast <to = 7> (x) "
        "a = Add(f, c) b = Add(a, d) y = Add(b, z) }"
    )
    wide = widened(proto)
    by_name = {node.output[0]: node for node in wide.graph.node}
    for name in ("c", "d", "z"):
        (attribute,) = by_name[name].attribute
        assert attribute.t.data_type == TensorProto.DOUBLE
    assert by_name["f"].attribute[0].i == TensorProto.DOUBLE and by_name["i"].attribute[0].i == TensorProto.INT64
    assert wide.graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    onnx.checker.check_model(wide, full_check=True)


@pytest.mark.parametrize("opset", [13, 17, 19])
def test_quantised_models_of_old_opsets(opset: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    weights = [
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
        numpy_helper.from_array(np.array(3, np.int8), "z"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "q.onnx")
    found = EVALUATORS["exact"](tmp_path / "q.onnx", {"x": np.array([0, 1.1, -7, 1e6], np.float32)})
    assert found["q"].tolist() == [3, 5, -11, 127] and found["y"].tolist() == [0, 1, -7, 62]


@pytest.mark.parametrize("opset", [9, 13, 15])
def test_batch_normalisation_of_old_opsets(opset: int, tmp_path: Path) -> None:
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=0.0)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 1, 2]) for name in "xy")
    numbers = {"s": 2.0, "b": 1.0, "m": 3.0, "v": 4.0}
    weights = [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in numbers.items()]
    graph = helper.make_graph([node], "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "b.onnx")
    found = EVALUATORS["exact"](tmp_path / "b.onnx", {"x": np.array([[[3, 5]], [[1, 3]]], np.float32)})
    assert found["y"].tolist() == [[[1, 3]], [[-1, 1]]]


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4), (1, 2, 2, 2, 2)])
def test_global_maximum_of_any_rank(shape: tuple[int, ...], tmp_path: Path) -> None:
    dims = ", ".join(map(str, shape))
    ones = ", ".join(["1"] * (len(shape) - 2))
    signature = f"(float[{dims}] x) => (float[{shape[0]}, {shape[1]}, {ones}] y)"
    path = saved(tmp_path, HEAD + signature + " { y = GlobalMaxPool(x) }")
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    want = x.reshape(shape[0], shape[1], -1).max(axis=2)
    assert np.array_equal(EVALUATORS["exact"](path, {"x": x})["y"].reshape(want.shape), want)


@pytest.mark.parametrize("name", ["exact", "onnxruntime"])
def test_failures_are_told(name: str, tmp_path: Path) -> None:
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    path = saved(tmp_path, HEAD + "(float[n] x) => (float[n] y) { y = Unheard(x) }")
    with pytest.raises(EvaluationError, match=r"cannot evaluate the model.*try --reference"):
        EVALUATORS[name](path, {"x": np.zeros(1, np.float32)})
