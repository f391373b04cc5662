"""AWQ's factors against every power tried on the rows themselves, and against rounding without factors."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.passes.quantize.activations import Array, rows

from ingot.compiler.passes.quantize.awq import POWERS, channel_factors
from ingot.compiler.passes.quantize.groups import WeightForm, nearest


def error(x: Array, w: Array, factor: Array, form: WeightForm) -> float:
    """That of the outputs for rows x, by their definition."""
    importance = np.square(x / factor).mean(0)
    rounded = nearest(w * factor[:, None], form, importance).values().astype(np.float64)
    return float(np.square((x / factor) @ rounded - x @ w).sum())


@pytest.mark.parametrize("form", [WeightForm(3, 16), WeightForm(4, 32, False), WeightForm(2, 0)])
def test_factors_are_those_of_the_best_power(form: WeightForm) -> None:
    random = np.random.default_rng(form.bits)
    x, w = rows(200, 64, random, outliers=4), random.standard_normal((64, 24))
    magnitude = np.abs(x).mean(0)
    found = channel_factors(w, magnitude, x.T @ x / len(x), form)
    tried: list[float] = []
    for power in POWERS:
        factor = magnitude**power
        tried.append(error(x, w, factor / np.sqrt(factor.max() * factor.min()), form))
    assert error(x, w, found, form) == pytest.approx(min(tried), rel=1e-6)
    assert min(tried) < 0.9 * error(x, w, np.ones(64), form)


def test_without_activations_nothing_is_scaled() -> None:
    w = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    assert (channel_factors(w, np.zeros(32), np.zeros((32, 32)), WeightForm(4, 16)) == 1).all()
