"""What chooses and repairs by the second moment: beside brute force and closed forms in f64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ingot.compiler.passes.prune.patterns import Array, Pattern
from ingot.compiler.passes.prune.second_order import greedy, least_squares, output_error, sparsegpt

RANDOM = np.random.default_rng(11)


def moment(depth: int, rows: int = 400) -> Array:
    x = RANDOM.standard_normal((rows, depth)) @ RANDOM.standard_normal((depth, depth)) + 0.5
    return x.T @ x / rows


def error(w: Array, other: Array, seen: Array) -> float:
    return output_error(w[None], other[None], seen[None])


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 0.95])
def test_least_squares_solves_each_columns_normal_equations(rate: float) -> None:
    w, seen = RANDOM.standard_normal((12, 5)), moment(12)
    mask = Pattern().keeps(RANDOM.random((1, 12, 5)), rate)[0]
    found = least_squares(w, seen, mask, damping=0)
    for j in range(5):
        s = mask[:, j]
        wanted = np.linalg.solve(seen[np.ix_(s, s)], seen[s] @ w[:, j]) if s.any() else np.zeros(0)
        np.testing.assert_allclose(found[s, j], wanted, rtol=1e-5, atol=1e-7)
        assert not found[~s, j].any()


def test_least_squares_without_data_or_zeros_changes_nothing() -> None:
    w = RANDOM.standard_normal((6, 4))
    mask = RANDOM.random((6, 4)) < 0.5
    assert np.array_equal(least_squares(w, np.zeros((6, 6)), mask), np.where(mask, w, 0))
    assert np.array_equal(least_squares(w, moment(6), np.ones((6, 4), bool)), w)


def test_greedy_takes_the_best_first_step_and_comes_near_the_best_set() -> None:
    for _ in range(5):
        w, seen = RANDOM.standard_normal((10, 1)), moment(10)
        sets = [np.isin(np.arange(10), gone)[:, None] for gone in itertools.combinations(range(10), 4)]
        best = min(error(w, np.where(gone, 0, w), seen) for gone in sets)
        worst = max(error(w, np.where(gone, 0, w), seen) for gone in sets)
        found = greedy(w, seen, Pattern(), 0.4)
        assert np.count_nonzero(~found) == 4
        assert error(w, np.where(found, w, 0), seen) < best + 0.1 * (worst - best)
        first = greedy(w, seen, Pattern(), 0.1)
        alone = [error(w, np.where(np.arange(10)[:, None] == i, 0, w), seen) for i in range(10)]
        assert int(np.argmin(first[:, 0])) == int(np.argmin(alone))


@pytest.mark.parametrize("text", ["unstructured", "4x1", "1x4", "2x3", "kernel", "2:4"])
@pytest.mark.parametrize("shape", [(36, 10), (9, 1), (27, 7)])
def test_methods_keep_to_patterns_and_rates_and_beat_chance(text: str, shape: tuple[int, int]) -> None:
    pattern, seen = Pattern.parse(text), moment(shape[0])
    w = RANDOM.standard_normal(shape)
    rate = pattern.rate or 0.5
    chance = pattern.keeps(RANDOM.random((1, *shape)), rate, taps=9)[0]
    masks = {"greedy": greedy(w, seen, pattern, rate, taps=9)}
    made, masks["sparsegpt"] = sparsegpt(w, seen, pattern, rate, taps=9)
    assert not made[~masks["sparsegpt"]].any()
    for name, mask in masks.items():
        units = pattern.units(mask[None].astype(float), 9)
        if pattern.keep is None:
            assert np.isin(units, (0, 1)).all(), name
        tolerance = 0.5 if shape[1] == 1 else 0.25 if shape[1] < 10 else 0.12
        assert abs((~mask).mean() - rate) <= tolerance, name
        fixed = least_squares(w, seen, mask)
        assert error(w, fixed, seen) <= error(w, np.where(mask, w, 0), seen) + 1e-12, name
    if shape == (36, 10):
        beaten = error(w, least_squares(w, seen, chance), seen)
        assert error(w, least_squares(w, seen, masks["greedy"]), seen) < beaten
        assert error(w, least_squares(w, seen, masks["sparsegpt"]), seen) < beaten


def test_sparsegpt_makes_up_for_what_it_removes() -> None:
    w, seen = RANDOM.standard_normal((64, 16)), moment(64)
    made, mask = sparsegpt(w, seen, Pattern(), 0.5)
    assert error(w, made, seen) < 0.7 * error(w, np.where(mask, w, 0), seen)


def test_zeros_that_are_there_stay() -> None:
    w, seen = RANDOM.standard_normal((16, 8)), moment(16)
    w[:, ::2][RANDOM.random((16, 4)) < 0.5] = 0
    made, _ = sparsegpt(w, seen, Pattern(), 0.6)
    assert not made[w == 0].any()
    assert not greedy(w, np.eye(16), Pattern(), 0.6)[w == 0].any()
