"""Biases and scales after quantisation: the means and spreads of outputs are those of the model before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from tests.compiler.passes.quantize.layered import convolutions, encoder, samples

from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.movement import Reshape
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.passes.quantize.bias import correct_bias, reestimate, shifts
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.groups import WeightForm
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.statistics import observed, outputs_observed
from ingot.compiler.passes.quantize.weight_only import weight_only
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import f32, i8, i32


def rough(graph: Graph, bits: int, *, quantised_bias: bool = False) -> Graph:
    """`graph` with weights of few bits, one scale a tensor, rounded towards zero, which moves means; with biases of i32
    where asked for."""
    mapping: dict[Value, Value] = {}
    for product in products(graph).values():
        w = product.weight()
        scale = np.abs(w).max() / (2 ** (bits - 1) - 1)
        codes = constant(np.trunc(w / scale), i8)
        node = product.with_operands(product.x, Dequantize(codes, constant(scale, f32), None))
        if quantised_bias and isinstance(node, Conv) and isinstance(node.bias, Constant):
            step = np.float32(scale / 256)
            whole = constant(np.rint(node.bias.data / step), i32)
            node = dataclasses.replace(node, bias=Dequantize(whole, constant(step), None))
        mapping[product.node] = node
    return rebuild(graph, mapping)


def error(graph: Graph, other: Graph, given: list[dict[str, np.ndarray]]) -> float:
    return sum(
        float(np.square(evaluate_graph(other, sample)["y"] - evaluate_graph(graph, sample)["y"]).sum())
        for sample in given
    )


@pytest.mark.parametrize("quantised_bias", [False, True])
def test_shifts_of_convolutions_are_taken_off(quantised_bias: bool) -> None:
    random = np.random.default_rng(0)
    graph = convolutions(random, uneven=0.7)
    given = samples(graph, 6, random)
    statistics = observed(graph, given)
    quantised = rough(graph, 4, quantised_bias=quantised_bias)
    corrected = correct_bias(graph, quantised, statistics)
    found = outputs_observed(corrected, given, ["stem"])["stem"]
    expected = outputs_observed(graph, given, ["stem"])["stem"]
    before = outputs_observed(quantised, given, ["stem"])["stem"]
    assert np.allclose(found.mean, expected.mean, atol=1e-2 if quantised_bias else 1e-5)
    assert np.abs(before.mean - expected.mean).max() > 0.03
    shift = shifts(graph, quantised, statistics)["stem"]
    assert np.allclose(shift, before.mean - expected.mean, atol=1e-2 if quantised_bias else 1e-5)
    assert error(graph, corrected, given) < 0.8 * error(graph, quantised, given)
    if quantised_bias:
        stem = products(corrected)["stem"].node
        assert isinstance(stem, Conv) and isinstance(stem.bias, Dequantize) and stem.bias.x.dtype == i32


def test_shifts_of_matrix_products_are_taken_off() -> None:
    random = np.random.default_rng(1)
    graph = encoder(random)
    given = samples(graph, 6, random)
    quantised = rough(graph, 4)
    corrected = correct_bias(graph, quantised, observed(graph, given))
    found, expected = (outputs_observed(each, given, ["q"])["q"] for each in (corrected, graph))
    assert np.allclose(found.mean, expected.mean, atol=1e-4)
    assert error(graph, corrected, given) < 0.9 * error(graph, quantised, given)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("make", [convolutions, encoder])
def test_outputs_are_measured_anew(make: Callable[[np.random.Generator], Graph], spread: bool) -> None:
    random = np.random.default_rng(2)
    graph = make(random)
    given = samples(graph, 5, random)
    quantised = rough(graph, 4)
    corrected = reestimate(graph, quantised, given, spread=spread, limit=100)
    wanted, found = (outputs_observed(each, given) for each in (graph, corrected))
    for name, each in found.items():
        size = np.abs(wanted[name].mean).max() + wanted[name].deviation.max()
        assert np.allclose(each.mean, wanted[name].mean, atol=1e-4 * size), name
        if spread:
            varies = each.deviation > 1e-5 * size
            assert np.allclose(each.deviation[varies], wanted[name].deviation[varies], rtol=1e-2), name
    assert error(graph, corrected, given) < 0.9 * error(graph, quantised, given)


def test_scales_of_blocks_are_changed() -> None:
    random = np.random.default_rng(3)
    graph = encoder(random)
    given = samples(graph, 4, random)
    quantised, _ = weight_only(graph, WeightForm(2, 16))
    corrected = reestimate(graph, quantised, given)
    assert error(graph, corrected, given) < 0.9 * error(graph, quantised, given)
    for name, product in products(corrected).items():
        assert isinstance(product.w, Dequantize), name
        assert isinstance(product.w.scale, Reshape), name


def test_no_samples() -> None:
    graph = convolutions(np.random.default_rng(0))
    with pytest.raises(QuantisationError, match="without samples"):
        reestimate(graph, graph, [])
