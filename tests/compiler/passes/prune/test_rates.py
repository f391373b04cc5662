"""Rates of layers and schedules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.rates import by_sensitivity, by_threshold, erk, ramp, require_rate


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, float("nan")])
def test_rates_that_leave_nothing_are_refused(rate: float) -> None:
    with pytest.raises(PruningError):
        require_rate(rate)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 0.98])
def test_erk_keeps_the_whole_and_spares_the_small(rate: float) -> None:
    shapes = {"small": (8, 8), "wide": (512, 128), "filter": (64, 64, 3, 3)}
    found = erk(shapes, rate)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    assert sum(found[n] * sizes[n] for n in shapes) == pytest.approx(rate * sum(sizes.values()), rel=1e-9, abs=1e-9)
    assert found["small"] <= found["filter"] and found["small"] <= found["wide"]


def test_the_threshold_is_that_of_all_layers() -> None:
    low, high = np.linspace(0, 1, 100), np.linspace(0.5, 1.5, 100)
    found = by_threshold({"low": (low, 1), "high": (high, 1)}, 0.5)
    assert found["low"] == pytest.approx(0.75, abs=0.02) and found["high"] == pytest.approx(0.25, abs=0.02)
    assert by_threshold({"low": (low, 4), "high": (high, 4)}, 0.0) == {"low": 0, "high": 0}


def test_units_count_by_their_weights() -> None:
    found = by_threshold({"blocks": (np.array([0.0, 3.0]), 6), "single": (np.array([1.0, 2.0, 4.0, 5.0]), 1)}, 0.5)
    assert found == {"blocks": 0.5, "single": 0.5}


def test_sensitive_layers_keep_more() -> None:
    sizes = {"hard": 1000, "soft": 1000}
    found = by_sensitivity(sizes, lambda name, rate: rate**2 * (10 if name == "hard" else 0.1), 0.5)
    assert found["soft"] > 0.8 and found["hard"] < 0.2
    assert sum(found.values()) / 2 == pytest.approx(0.5)


def test_ramps_end_where_they_should() -> None:
    for schedule in ("linear", "cubic", "exponential"):
        steps = ramp(schedule, 0.8, 4)
        assert len(steps) == 4 and steps[-1] == pytest.approx(0.8)
        assert all(a < b for a, b in itertools.pairwise(steps))
    assert ramp("cubic", 0.8, 4)[0] > ramp("exponential", 0.8, 4)[0] > ramp("linear", 0.8, 4)[0]
    assert ramp("one-shot", 0.8, 4) == (0.8,)
