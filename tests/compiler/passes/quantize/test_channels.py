"""Factors moved into the operator before: what is computed stays, the statistics move with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.passes.quantize.layered import convolutions, encoder, samples

from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.pointwise import Mul
from ingot.compiler.passes.quantize.awq import powers_of, scaled_by_activations
from ingot.compiler.passes.quantize.channels import inputs_divided
from ingot.compiler.passes.quantize.equalise import equalise
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.groups import WeightForm
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.smooth import smooth
from ingot.compiler.passes.quantize.statistics import observed
from ingot.compiler.rewrite import rebuild


def agree(one: Graph, other: Graph, *, seed: int = 5, tolerance: float = 1e-5) -> None:
    (sample,) = samples(one, 1, np.random.default_rng(seed))
    expected, found = (evaluate_graph(graph, sample)["y"] for graph in (one, other))
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def muls(graph: Graph) -> int:
    return sum(isinstance(node, Mul) for node in graph.nodes())


@pytest.mark.parametrize(
    ("names", "folded"), [("qkv", True), (("out",), True), (("up",), True), (("down",), False), (("q",), False)]
)
def test_inputs_are_divided_where_they_are_made(names: tuple[str, ...], folded: bool) -> None:
    random = np.random.default_rng(0)
    graph = encoder(random)
    factor = np.exp(random.standard_normal(products(graph)[names[0]].channels[0]))
    changed = inputs_divided(graph, tuple(names), factor)
    agree(graph, changed)
    assert muls(changed) == (0 if folded else 1)
    w, new = (products(each)[names[0]].weight() for each in (graph, changed))
    assert np.allclose(new, w * factor[:, None], rtol=1e-5)
    if not folded:
        assert inputs_divided(graph, tuple(names), factor, fold_only=True) is graph


def test_what_others_read_is_left_to_them() -> None:
    graph = encoder(np.random.default_rng(0), residual=True)
    changed = inputs_divided(graph, "qkv", np.full(64, 2.0))
    agree(graph, changed)
    assert muls(changed) == 1
    tapped = replace(graph, outputs=(*graph.outputs, ("normed", products(graph)["up"].x)))
    changed = inputs_divided(tapped, ("up",), np.full(64, 2.0))
    assert muls(changed) == 1
    agree(tapped, changed)


@pytest.mark.parametrize("fold_only", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_smoothed_activations(alpha: float, fold_only: bool) -> None:
    random = np.random.default_rng(1)
    graph = encoder(random, residual=True)
    given = samples(graph, 4, random)
    before = observed(graph, given)
    changed, after = smooth(graph, before, alpha=alpha, fold_only=fold_only)
    agree(graph, changed)
    measured = observed(changed, given)
    for name, found in after.items():
        assert np.allclose(found.largest, measured[name].largest, rtol=1e-3, atol=1e-4), name
        assert np.allclose(found.moment, measured[name].moment, rtol=1e-3, atol=1e-4 * found.moment.max()), name


def test_ranges_meet_between_activations_and_weights() -> None:
    random = np.random.default_rng(1)
    graph = encoder(random)
    before = observed(graph, samples(graph, 4, random))
    changed, after = smooth(graph, before, alpha=0.5, only="qkv")
    found = products(changed)
    weights = np.max([found[name].largest_inputs() for name in "qkv"], axis=0)
    assert np.allclose(after["q"].largest[0], weights, rtol=1e-4)


def _byte_error(graph: Graph, given: list[dict[str, np.ndarray]], names: str) -> float:
    """The relative error of products of u8 activations, one grid a tensor, by i8 weights, one a column."""
    total = whole = 0.0
    found = products(graph)
    for name in names:
        w = found[name].matrices()[0].astype(np.float64)
        rows = np.concatenate([
            evaluate_graph(replace(graph, outputs=(("x", found[name].x),)), sample)["x"].reshape(-1, len(w))
            for sample in given
        ]).astype(np.float64)  # fmt: skip
        step = (rows.max() - rows.min()) / 255
        scale = np.abs(w).max(0) / 127
        rough = np.rint(rows / step) * step @ (np.rint(w / scale) * scale)
        total += np.square(rough - rows @ w).sum()
        whole += np.square(rows @ w).sum()
    return total / whole


def test_smoothing_makes_the_error_of_bytes_smaller() -> None:
    random = np.random.default_rng(2)
    graph = encoder(random)
    given = samples(graph, 4, random)
    smoothed, _ = smooth(graph, observed(graph, given))
    assert _byte_error(smoothed, given, "qkv") < 0.4 * _byte_error(graph, given, "qkv")


def test_alpha_out_of_range() -> None:
    with pytest.raises(QuantisationError, match="alpha is 2"):
        smooth(encoder(np.random.default_rng(0)), {}, alpha=2)


def test_channels_scaled_by_activations() -> None:
    random = np.random.default_rng(3)
    graph = encoder(random)
    given = samples(graph, 4, random)
    statistics = observed(graph, given)
    changed, after = scaled_by_activations(graph, statistics, WeightForm(3, 16))
    agree(graph, changed)
    measured = observed(changed, given)
    for name in ("q", "up", "out"):
        assert np.allclose(after[name].mean_magnitude, measured[name].mean_magnitude, rtol=1e-3, atol=1e-5)
        assert not np.allclose(after[name].largest, statistics[name].largest, rtol=1e-2)


def test_powers_of_magnitudes() -> None:
    found = powers_of(np.array([4.0, 1.0, 0.0]), 0.5)
    assert np.allclose(found, [2**0.5, 0.5**0.5, 0.5**0.5])
    assert (powers_of(np.zeros(3), 0.5) == 1).all() and np.allclose(powers_of(np.array([9.0, 2.0]), 0.0), 1)


@pytest.mark.parametrize("clipped", [False, True])
def test_equalised_weights(clipped: bool) -> None:
    random = np.random.default_rng(4)
    graph = convolutions(random, clipped=clipped)
    changed = equalise(graph, through_clip=True)
    agree(graph, changed)
    found = products(changed)
    for first, second in (("stem", "depthwise"), ("depthwise", "point")):
        assert np.allclose(found[first].largest_outputs(), found[second].largest_inputs(), rtol=1e-2)
    if clipped:
        assert equalise(graph) is graph
        left = equalise(graph, through_clip=True, exclude=("stem",))
        assert np.array_equal(products(left)["stem"].weight(), products(graph)["stem"].weight())


def test_equalising_makes_the_error_of_one_grid_for_a_filter_bank_smaller() -> None:
    graph = convolutions(np.random.default_rng(5), uneven=2.0)

    def error(graph: Graph) -> float:
        mapping: dict[Value, Value] = {}
        for product in products(graph).values():
            w = product.weight()
            step = np.abs(w).max() / 127
            mapping[product.node] = product.with_operands(product.x, (np.rint(w / step) * step).astype(np.float32))
        (sample,) = samples(graph, 1, np.random.default_rng(6))
        expected, rough = (evaluate_graph(each, sample)["y"] for each in (graph, rebuild(graph, mapping)))
        return float(np.square(rough - expected).sum() / np.square(expected).sum())

    assert error(equalise(graph)) < 0.5 * error(graph)


def test_names_that_there_are_not() -> None:
    with pytest.raises(QuantisationError, match="called 'steam'; there are 'stem'"):
        equalise(convolutions(np.random.default_rng(0)), only=("steam",))
