"""Outlier channels in a product of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.passes.quantize.activations import rows

from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.outliers import SUFFIX, outlier_channels, split_outliers
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.statistics import observed
from ingot.runtime.dtypes import f32


def network(random: np.random.Generator) -> Graph:
    x = Input("x", TensorType(f32, (40, 32)))
    w = random.standard_normal((32, 8)).astype(np.float32)
    return Graph((x,), (("z", MatMul(MatMul(x, constant(w), origin=("fc",)), constant(w[:8]), origin=("last",))),))


def byte_error(graph: Graph, sample: dict[str, np.ndarray], kept: tuple[str, ...]) -> float:
    """The error of the output when all products but those `kept` round their activations to i8, one grid a tensor."""
    total = expected = np.zeros(())
    for name, product in products(graph).items():
        if name == "last":
            continue
        x = evaluate_graph(replace(graph, outputs=(("x", product.x),)), sample)["x"]
        w = product.weight().astype(np.float64)
        step = np.abs(x).max() / 127
        expected = expected + x @ w
        total = total + (x if name in kept else np.rint(x / step) * step) @ w
    return float(np.square(total - expected).sum() / np.square(expected).sum())


def test_two_products_are_one_and_bytes_have_a_smaller_error() -> None:
    random = np.random.default_rng(0)
    graph = network(random)
    sample = {"x": rows(40, 32, random, outliers=2).astype(np.float32)}
    statistics = observed(graph, [sample])
    changed, apart = split_outliers(graph, statistics)
    assert apart == ("fc" + SUFFIX,)
    assert [products(changed)[name].channels for name in ("fc", "fc" + SUFFIX)] == [(30, 8), (2, 8)]
    expected, found = (evaluate_graph(each, sample)["z"] for each in (graph, changed))
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert byte_error(changed, sample, apart) < 0.1 * byte_error(graph, sample, ())


def test_channels_that_stand_out() -> None:
    largest = np.array([1.0, 7.0, 1.0, 30.0, 1.0, 1.0, 1.0, 5.9, 1.0, 8.0])
    assert outlier_channels(largest, 6.0, 0.5).tolist() == [1, 3, 9]
    assert outlier_channels(largest, 6.0, 0.2).tolist() == [3, 9]
    assert outlier_channels(largest, 6.0, 0.01).tolist() == []
    assert outlier_channels(np.zeros(9), 6.0, 0.5).tolist() == []


def test_nothing_stands_out() -> None:
    random = np.random.default_rng(1)
    graph = network(random)
    sample = {"x": random.standard_normal((40, 32)).astype(np.float32)}
    assert split_outliers(graph, observed(graph, [sample])) == (graph, ())


@pytest.mark.parametrize(("ratio", "share"), [(1.0, 0.1), (6.0, 0.0), (6.0, 1.0), (float("nan"), 0.1)])
def test_ratios_and_shares_out_of_range(ratio: float, share: float) -> None:
    with pytest.raises(QuantisationError, match="take ones above 1"):
        split_outliers(network(np.random.default_rng(0)), {}, ratio=ratio, share=share)
