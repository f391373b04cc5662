"""Unique against numpy and ONNX Runtime: sorted or in order of appearance, flat or along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from ingot.compiler import compile
from ingot.compiler.frontend import UnsupportedError, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

onnxruntime = pytest.importorskip("onnxruntime")
Array = np.ndarray[Any, Any]
NAMES = ("y", "first", "inverse", "counts")
RNG = np.random.default_rng(5)


def model_of(x: Array, axis: int | None, in_order: int, symbolic: bool = False) -> onnx.ModelProto:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    shape = [f"d{i}" for i in range(x.ndim)] if symbolic else x.shape
    graph = helper.make_graph(
        [helper.make_node("Unique", ["x"], NAMES, sorted=in_order, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(x.dtype), None)]
        + [helper.make_tensor_value_info(n, 7, None) for n in NAMES[1:]],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FLAT = {
    "f32": np.round(RNG.standard_normal(40) * 2).astype(np.float32),
    "i64": RNG.integers(-3, 4, (5, 7)),
    "u8": RNG.integers(0, 4, 30).astype(np.uint8),
    "one": np.array([3.0], np.float32),
    "none": np.zeros(0, np.float32),
    "special": np.array([np.nan, 1, -np.inf, np.nan, 0.0, -0.0, np.inf, 1, np.nan], np.float32),
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("in_order", [0, 1])
def test_flat(name: str, in_order: int) -> None:
    x = FLAT[name]
    model = model_of(x, None, in_order, symbolic=name == "i64")
    found = evaluate_graph(load_onnx(model), {"x": x})
    values, first, inverse, counts = np.unique(x.ravel(), True, True, True, equal_nan=True)
    inverse = inverse.ravel()
    if not in_order:
        order = np.argsort(first)
        values, first, counts = values[order], first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    for have, want in zip(NAMES, (values, first, inverse, counts), strict=True):
        np.testing.assert_array_equal(found[have], want)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("in_order", [0, 1])
def test_slices(axis: int, in_order: int) -> None:
    x = RNG.integers(0, 2, (6, 3, 2)).astype(np.float32)
    model = model_of(x, axis, in_order)
    found = evaluate_graph(load_onnx(model), {"x": x})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, want in zip(NAMES, session.run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(found[name], want, err_msg=name)


def test_native_code_agrees() -> None:
    x = FLAT["special"]
    model = model_of(x, None, 0, symbolic=True)
    graph = load_onnx(model)
    with compile(model).session() as session:
        for feed in ({"x": x}, {"x": FLAT["f32"]}, {"x": FLAT["none"]}):
            want, have = evaluate_graph(graph, feed), session.run(feed)
            for name in want:
                np.testing.assert_array_equal(have[name], want[name])


def test_slices_too_long_to_sort_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="at most"):
        load_onnx(model_of(np.zeros((3, 65), np.float32), 0, 1))
