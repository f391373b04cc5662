"""GPTQ against optimal brain quantisation by its definition, one weight at a time, in f64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiler.passes.quantize.activations import rows

from ingot.compiler.passes.quantize.gptq import factor, gptq
from ingot.compiler.passes.quantize.groups import WeightForm, blocks_of, fit, nearest, output_error

Array = NDArray[Any]


def obq(
    w: Array, moment: Array, form: WeightForm, order: list[int], grid: tuple[Array, Array], damping: float
) -> Array:
    """What each column becomes: the rows in `order`, each row's error spread over those that are left by the inverse of
    their moment, which is computed anew each time (Frantar and Alistarh 2022, equations 2 and 3)."""
    damped = moment + damping * moment.diagonal().mean() * np.eye(len(w))
    result, left, group = w.copy(), list(order), form.group or len(w)
    for row in order:
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        scale, zero = grid[0][row // group], grid[1][row // group]
        for column in range(w.shape[1]):
            code = min(max(np.rint(result[row, column] / scale[column]) + zero[column], form.low), form.high)
            value = (code - zero[column]) * scale[column]
            error = (result[row, column] - value) / inverse[0, 0]
            for place, other in enumerate(left):
                result[other, column] -= error * inverse[place, 0]
            result[row, column] = value
        left.remove(row)
    return result


@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("form", [WeightForm(4, 0), WeightForm(3, 16, False), WeightForm(2, 16), WeightForm(8, 16)])
@pytest.mark.parametrize("depth", [1, 23, 48])
def test_gptq_is_optimal_brain_quantisation_in_order(form: WeightForm, depth: int, by_activation: bool) -> None:
    random = np.random.default_rng(depth + form.bits)
    x, w = rows(64, depth, random), random.standard_normal((depth, 5))
    moment = x.T @ x / len(x)
    found = factor(moment, damping=0.02, by_activation=by_activation)
    grid = fit(blocks_of(w, form), form)
    made = gptq(w, found, form, grid=grid)
    expected = obq(w, moment, form, found.order.tolist(), grid, 0.02)
    assert np.allclose(made.values(), expected, rtol=1e-5, atol=1e-6)
    if by_activation:
        assert (np.diff(moment.diagonal()[found.order]) <= 0).all()
    inverse = np.linalg.inv(moment + 0.02 * moment.diagonal().mean() * np.eye(depth))
    assert np.allclose(found.upper.T @ found.upper, inverse[np.ix_(found.order, found.order)], rtol=1e-6)


def test_more_rows_than_are_changed_at_once() -> None:
    random = np.random.default_rng(9)
    form, x, w = WeightForm(4, 32), rows(300, 160, random), random.standard_normal((160, 2))
    moment, grid = x.T @ x / len(x), fit(blocks_of(w, form), form)
    made = gptq(w, factor(moment), form, grid=grid)
    expected = obq(w, moment, form, list(range(160)), grid, 0.01)
    assert np.allclose(made.values(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("form", [WeightForm(4, 32), WeightForm(3, 16, False), WeightForm(4, 0), WeightForm(2, 32)])
def test_the_output_is_nearer_than_that_of_rounding_to_nearest(form: WeightForm, by_activation: bool) -> None:
    random = np.random.default_rng(3)
    x, w = rows(600, 200, random), random.standard_normal((200, 40)).astype(np.float32)
    moment = x.T @ x / len(x)
    made = gptq(w, factor(moment, by_activation=by_activation), form)
    plain = nearest(w, form)
    assert output_error(made.values() - w, moment) < 0.7 * output_error(plain.values() - w, moment)
    assert made.codes.min() >= form.low and made.codes.max() <= form.high


def test_independent_activations_give_rounding_to_nearest() -> None:
    w = np.random.default_rng(4).standard_normal((64, 8)).astype(np.float32)
    form = WeightForm(4, 32)
    expected = np.square(nearest(w, form).values() - w).sum()
    for moment in (np.eye(64), np.zeros((64, 64))):
        assert np.square(gptq(w, factor(moment), form).values() - w).sum() == pytest.approx(expected, rel=1e-5)


def test_moments_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="not finite"):
        factor(np.full((4, 4), np.nan))
