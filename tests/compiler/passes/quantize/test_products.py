"""Products as matrices: patches times matrices are what convolutions compute, and statistics are those of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.passes.quantize.layered import convolutions, encoder, samples

from ingot.compiler.ir.graph import Constant, Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.statistics import Statistics, observed, outputs_observed
from ingot.runtime.dtypes import f32


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("group", "strides", "pads", "dilations", "size"),
    [
        (1, (1, 1), (0, 0, 0, 0), (1, 1), (1, 1)),
        (1, (2, 1), (1, 0, 2, 1), (1, 2), (3, 2)),
        (3, (1, 2), (1, 1, 1, 1), (2, 1), (2, 3)),
        (6, (1, 1), (1, 1, 1, 1), (1, 1), (3, 3)),
    ],
)
def test_patches_times_matrices(
    group: int,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    size: tuple[int, ...],
    last: bool,
) -> None:
    random = np.random.default_rng(group)
    data = random.standard_normal((2, 6, 7, 9)).astype(np.float32)
    w = random.standard_normal((12, 6 // group, *size)).astype(np.float32)
    data = np.moveaxis(data, 1, -1) if last else data
    x = Input("x", TensorType(f32, data.shape))
    conv = Conv(x, constant(w), None, strides, pads, dilations, group, last, origin=("layer",))
    (product,) = products(Graph((x,), (("y", conv),))).values()
    assert product.name == "layer"
    expected = np.moveaxis(evaluate_graph(Graph((x,), (("y", conv),)), {"x": data})["y"], product.out_axis, 0)
    found = np.matmul(product.rows(data), product.matrices())
    assert found.shape[0] == group
    per_channel = found.transpose(0, 2, 1).reshape(12, 2, -1)
    assert np.allclose(per_channel, expected.reshape(12, 2, -1), rtol=1e-4, atol=1e-4)
    assert np.array_equal(product.weight_of(product.matrices()), w)
    assert product.channels == (6, 12)


def test_statistics_are_those_of_all_rows() -> None:
    random = np.random.default_rng(1)
    data = random.standard_normal((2, 30, 5))
    whole = Statistics.of(data)
    parts = Statistics.of(data[:, :7]).merged(Statistics.of(data[:, 7:7])).merged(Statistics.of(data[:, 7:]))
    for field in ("mean", "mean_magnitude", "largest", "moment"):
        assert np.allclose(getattr(whole, field), getattr(parts, field))
    assert parts.count == 30
    assert np.allclose(whole.moment[1], data[1].T @ data[1] / 30)
    factor = np.array([1.0, 2.0, 0.5, 3.0, 1.0])
    assert np.allclose(whole.divided(factor).moment, Statistics.of(data / factor).moment)


def test_what_products_read_and_compute() -> None:
    random = np.random.default_rng(2)
    graph = convolutions(random)
    given = samples(graph, 3, random)
    found = observed(graph, given)
    assert {name: each.mean.shape for name, each in found.items()} == {
        "stem": (1, 27), "depthwise": (8, 9), "point": (1, 8), "head": (1, 576),
    }  # fmt: skip
    outputs = outputs_observed(graph, given)
    for name, product in products(graph).items():
        if isinstance(product.node, Conv) and isinstance(product.node.bias, Constant):
            mean = np.einsum("gk,gkn->gn", found[name].mean, product.matrices()).reshape(-1)
            assert np.allclose(outputs[name].mean, mean + product.node.bias.data, rtol=1e-4, atol=1e-4)


def test_products_of_the_same_activations_share_statistics() -> None:
    random = np.random.default_rng(3)
    graph = encoder(random)
    found = observed(graph, samples(graph, 1, random))
    assert found["q"] is found["k"] is found["v"] and found["q"] is not found["up"]
