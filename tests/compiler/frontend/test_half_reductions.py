"""Halves whose squares and sums are no halves: what is rounded in between must not overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ingot.compiler import compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

Array = NDArray[Any]


def log_sum_exp(x: Array, axis: int) -> Array:
    largest = x.max(axis)
    return largest + np.log(np.exp(x - np.expand_dims(largest, axis)).sum(axis))


REDUCTIONS: dict[str, Callable[[Array, int], Array]] = {
    "ReduceL2": lambda x, axis: np.sqrt((x * x).sum(axis)),
    "ReduceSumSquare": lambda x, axis: (x * x).sum(axis),
    "ReduceLogSum": lambda x, axis: np.log(x.sum(axis)),
    "ReduceLogSumExp": log_sum_exp,
}


def centred(x: Array, axes: tuple[int, ...]) -> Array:
    return (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


NORMS: dict[str, tuple[Callable[[Array], Array], dict[str, Any]]] = {
    "LpNormalization": (lambda x: x / np.sqrt((x * x).sum(1, keepdims=True)), {"axis": 1}),
    "InstanceNormalization": (lambda x: centred(x, (2, 3)), {}),
    "MeanVarianceNormalization": (lambda x: centred(x, (0, 2, 3)), {}),
}


def halves(op_type: str, shape: list[int], *others: int, **attributes: Any) -> Any:
    ones = [helper.make_tensor(f"c{i}", TensorProto.FLOAT16, [n], [1.0 - i] * n) for i, n in enumerate(others)]
    node = helper.make_node(op_type, ["x", *(each.name for each in ones)], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    graph = helper.make_graph([node], "halves", [x], [y], ones)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("rows", [1, 7, 0])
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_reductions(op_type: str, rows: int) -> None:
    x = np.random.default_rng(0).uniform(200, 300, (rows, 37)).astype(np.float16)
    if op_type == "ReduceSumSquare":
        x = x / np.float16(30)
        x[..., 0] = 200  # whose square is a half
    with np.errstate(all="ignore"):
        wanted = REDUCTIONS[op_type](x.astype(np.float64), 1)
    model = halves(op_type, [rows, 37], axes=[1], keepdims=0)
    for found in (evaluate_graph(load_onnx(model), {"x": x})["y"], compile(model).session().run({"x": x})["y"]):
        assert found.dtype == np.float16 and np.isfinite(found).all()
        np.testing.assert_allclose(found, wanted, rtol=6e-4)


@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_reductions_of_values_that_are_not_finite(op_type: str) -> None:
    x = np.array([[1, np.nan], [np.inf, 2], [0, 0]], np.float16)
    found = evaluate_graph(load_onnx(halves(op_type, [3, 2], axes=[1], keepdims=0)), {"x": x})["y"]
    assert np.isnan(found[0]) and found[1] == np.inf
    assert found[2] == {"ReduceLogSum": -np.inf, "ReduceLogSumExp": np.float16(np.log(2))}.get(op_type, 0)


@pytest.mark.parametrize("op_type", NORMS)
def test_norms(op_type: str) -> None:
    norm, attributes = NORMS[op_type]
    x = np.random.default_rng(1).uniform(-900, 900, (2, 3, 4, 5)).astype(np.float16)
    others = (3, 3) if op_type == "InstanceNormalization" else ()
    model = halves(op_type, [2, 3, 4, 5], *others, **attributes)
    for found in (evaluate_graph(load_onnx(model), {"x": x})["y"], compile(model).session().run({"x": x})["y"]):
        np.testing.assert_allclose(found, norm(x.astype(np.float64)), rtol=3e-3, atol=1e-3)
