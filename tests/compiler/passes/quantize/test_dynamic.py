"""Dynamic quantisation against the definition of its grids in numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from tests.compiler.networks import transformer_layer
from tests.compiler.passes.quantize.test_static import byte_products, decibels, loaded, runtime

from ingot.compiler import compile, export_onnx, load_onnx
from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.passes.integers import INTEGERS
from ingot.compiler.passes.quantize.dynamic import DynamicOptions, quantise_dynamic, quantised_now
from ingot.compiler.passes.quantize.layers import layers_of
from ingot.compiler.rewrite import rewrite
from ingot.runtime.dtypes import f32


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_grids_follow_from_the_values(by_row: bool, symmetric: bool) -> None:
    x = Input("x", TensorType(f32, (4, 5)))
    graph = Graph((x,), (("y", quantised_now(x, by_row=by_row, symmetric=symmetric)),))
    data = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    data[1] = 0
    data[2] = np.abs(data[2])
    found = evaluate_graph(graph, {"x": data})["y"]
    rows = data.astype(np.float64) if by_row else data.reshape(1, -1).astype(np.float64)
    low, high = np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)
    step = np.abs(rows).max(1) / 127 if symmetric else (high - low) / 255
    error = np.abs(found.reshape(rows.shape) - rows)
    assert (error <= (0.5 if symmetric else 1.0) * step[:, None] * (1 + 1e-5)).all()
    assert (found.reshape(rows.shape)[rows == 0] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    x = Input("x", TensorType(f32, (2, 3)))
    graph = Graph((x,), (("y", quantised_now(x, by_row=True, symmetric=True)),))
    found = evaluate_graph(graph, {"x": np.array([[value, 1, 2], [1, 2, 3]], np.float32)})["y"]
    assert np.isnan(found[0]).any() and np.isfinite(found[1]).all()


@pytest.mark.parametrize(
    "options",
    [DynamicOptions(), DynamicOptions("tensor"), DynamicOptions(symmetric=True)],
    ids=["token", "tensor", "symmetric"],
)
def test_transformer(options: DynamicOptions) -> None:
    proto, feeds = transformer_layer(np.random.default_rng(0))
    graph = loaded(proto)
    after, weights = quantise_dynamic(graph, layers_of(graph), options)
    assert len(weights) == 6 and byte_products(after) == 6
    want, have = evaluate_graph(graph, feeds)["y"], evaluate_graph(after, feeds)["y"]
    assert 30 < decibels(want, have) < 90
    whole = rewrite(dataclasses.replace(after, watched={}), INTEGERS)
    np.testing.assert_allclose(evaluate_graph(whole, feeds)["y"], have, rtol=1e-4, atol=1e-4)
    exported = export_onnx(whole)
    onnx.checker.check_model(exported, full_check=True)
    assert [n.op_type for n in exported.graph.node].count("MatMulInteger") == 6
    np.testing.assert_allclose(runtime(exported, feeds)[0], have, rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(evaluate_graph(load_onnx(exported), feeds)["y"], have, rtol=1e-4, atol=1e-4)
    if options == DynamicOptions():
        with compile(whole).session(threads=1) as session:
            assert decibels(have, session.run(dict(feeds))["y"]) > 40
