"""Rounding to outputs: descent against its definition, least squares against numpy's, the error against others'."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.passes.quantize.activations import Array, rows
from tests.compiler.passes.quantize.layered import convolutions, samples

from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.groups import WeightForm, blocks_of, fit, nearest, output_error
from ingot.compiler.passes.quantize.layers import layers_of
from ingot.compiler.passes.quantize.products import known, products
from ingot.compiler.passes.quantize.rounding import (
    SWEEPS,
    descend,
    round_weights_to_outputs,
    rounded_to_outputs,
    solved_scales,
)
from ingot.compiler.passes.quantize.statistics import observed
from ingot.compiler.passes.quantize.weights import WeightOptions, quantised_weights
from ingot.compiler.rewrite import rebuild


def slow_descent(w: Array, codes: Array, scale: Array, moment: Array, form: WeightForm) -> Array:
    """One code after another, row by row, one higher or lower where the error, computed anew, is smaller by that."""
    codes = codes.copy()
    for column in range(w.shape[1]):
        for _ in range(SWEEPS):
            for row in range(len(w)):
                d = codes[:, column] * scale[:, column] - w[:, column]
                step = -np.sign(moment[row] @ d)
                tried = d.copy()
                tried[row] += step * scale[row, column]
                inside = form.low <= codes[row, column] + step <= form.high
                if inside and tried @ moment @ tried < d @ moment @ d:
                    codes[row, column] += step
    return codes


@pytest.mark.parametrize("form", [WeightForm(4, 0), WeightForm(3, 16), WeightForm(2, 0)])
def test_descent_is_one_code_after_another(form: WeightForm) -> None:
    random = np.random.default_rng(form.bits)
    w, x = random.standard_normal((70, 4)), rows(100, 70, random)
    moment = x.T @ x / 100
    grid = fit(blocks_of(w, form), form)
    scale = np.repeat(grid[0], form.rows(70), axis=0)[:70]
    codes = np.clip(np.rint(w / scale), form.low, form.high)
    found = descend(w, codes, grid, moment, form)
    assert np.array_equal(found, slow_descent(w, codes, scale, moment, form))
    assert output_error(found * scale - w, moment) < output_error(codes * scale - w, moment)


@pytest.mark.parametrize("form", [WeightForm(4, 0), WeightForm(4, 16), WeightForm(4, 32, False)])
def test_scales_are_those_of_least_squares(form: WeightForm) -> None:
    random = np.random.default_rng(4)
    w, x = random.standard_normal((50, 3)), rows(80, 50, random)
    grid = fit(blocks_of(w, form), form)
    spread = [np.repeat(each, form.rows(50), axis=0)[:50] for each in grid]
    codes = np.clip(np.rint(w / spread[0]) + spread[1], form.low, form.high)
    found = solved_scales(w, codes, grid, x.T @ x / 80, form)[0]
    for column in range(3):
        offsets = codes[:, column] - spread[1][:, column]
        parts = [np.where(np.arange(50) // form.rows(50) == i, offsets, 0) for i in range(len(found))]
        expected = np.linalg.lstsq(x @ np.stack(parts, 1), x @ w[:, column], rcond=None)[0]
        assert np.allclose(found[:, column], expected, rtol=1e-4)


def test_blocks_of_zeros_keep_their_scale() -> None:
    w = np.zeros((32, 2))
    w[:16] = np.random.default_rng(0).standard_normal((16, 2))
    form = WeightForm(4, 16)
    grid = fit(blocks_of(w, form), form)
    codes = np.clip(np.rint(w / np.repeat(grid[0], 16, axis=0)), -8, 7)
    found = solved_scales(w, codes, grid, np.eye(32), form)[0]
    assert (found[1] == grid[0][1]).all() and (found[0] > 0).all()


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_outputs_are_nearer_than_after_rounding_to_nearest(bits: int) -> None:
    random = np.random.default_rng(bits)
    w, x = random.standard_normal((96, 16)), rows(300, 96, random)
    moment, form = x.T @ x / 300, WeightForm(bits, 0)
    mine, plain = rounded_to_outputs(w, moment, form), nearest(w, form, moment.diagonal())
    assert output_error(mine.values() - w, moment) < 0.7 * output_error(plain.values() - w, moment)


def test_convolutions_with_rounded_weights() -> None:
    random = np.random.default_rng(6)
    graph = convolutions(random, uneven=0.3)
    given = samples(graph, 6, random)
    rounded = round_weights_to_outputs(graph, observed(graph, given[:5]), bits=4)
    plain = round_weights_to_outputs(graph, {}, bits=4)
    assert plain is graph

    def error(other: Graph) -> float:
        expected, found = (evaluate_graph(each, given[5])["y"] for each in (graph, other))
        return float(np.square(found - expected).sum())

    mapping: dict[Value, Value] = {}
    for name, product in products(graph).items():
        w = product.weight()
        made = [nearest(m, WeightForm(4, 0)).values() for m in product.matrices()]
        mapping[product.node] = product.with_operands(product.x, product.weight_of(np.stack(made)))
        values = products(rounded)[name].weight()
        for filters in values.T if name == "head" else values.reshape(len(w), -1):
            assert len(np.unique(filters)) <= 16  # on a grid of four bits
    assert error(rounded) < 0.8 * error(rebuild(graph, mapping))


@pytest.mark.parametrize("bits", [4, 8])
def test_static_quantisation_keeps_the_grids(bits: int) -> None:
    random = np.random.default_rng(7)
    graph = convolutions(random)
    rounded = round_weights_to_outputs(graph, observed(graph, samples(graph, 3, random)), bits=bits)
    for layer in layers_of(rounded):
        found = quantised_weights(layer, WeightOptions())
        data = known(found.value)
        assert found.is_exact and data is not None and np.array_equal(data, layer.weights()), layer.name


def test_bits_that_there_are_not() -> None:
    with pytest.raises(QuantisationError, match="5 bits"):
        round_weights_to_outputs(convolutions(np.random.default_rng(0)), {}, bits=5)
