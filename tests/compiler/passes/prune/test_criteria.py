"""Criteria: each differs from magnitude where it should."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler.passes.prune.criteria import CRITERIA, Situation, criterion
from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.patterns import Array, Pattern
from ingot.compiler.passes.quantize.statistics import Statistics

RANDOM = np.random.default_rng(5)
SCALES = np.geomspace(0.01, 10, 24)


def situation(depth: int = 32) -> Situation:
    rows = RANDOM.standard_normal((1, 200, depth)) * np.geomspace(0.01, 10, depth)
    return Situation(Statistics.of(rows), 0.5, 1)


def kept(name: str, w: Array, where: Situation) -> Array:
    return Pattern().keeps(criterion(name).scores(w, where), 0.5)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in ("magnitude", "taylor")])
def test_it_chooses_otherwise_than_magnitude(name: str) -> None:
    w = RANDOM.standard_normal((1, 32, 24)) * SCALES
    mask, other = (kept(each, w, situation()) for each in (name, "magnitude"))
    assert np.count_nonzero(mask) == np.count_nonzero(other) == w.size / 2
    assert np.count_nonzero(mask != other) > w.size / 20


def test_magnitude_keeps_the_largest() -> None:
    assert kept("magnitude", np.array([[[3.0], [-4.0], [1.0], [2.0]]]), situation(4))[0, :, 0].tolist() == [1, 1, 0, 0]


def test_channels_of_small_weights_keep_their_share() -> None:
    w = RANDOM.standard_normal((1, 200, 24)) * SCALES
    for name in ("channel-magnitude", "shrinkage"):
        share = kept(name, w, situation()).mean(1)
        assert share.min() > 0.35, name
    assert kept("magnitude", w, situation()).mean(1).min() == 0


def test_shrinkage_takes_small_weights_to_nothing_and_leaves_large_ones() -> None:
    w = np.array([[[0.01], [0.1], [1.0], [10.0]]])
    left = criterion("shrinkage").scores(w, Situation(rate=0.5))[0, :, 0]
    assert left[0] < 1e-3 and left[1] < 1e-3
    assert left[3] == pytest.approx(10 / w.mean(), rel=0.05)


def test_the_literal_form_takes_large_weights_for_small_ones() -> None:
    assert kept("shrinkage-literal", np.array([[[1.0], [20.0]]]), Situation()).tolist() == [[[True], [False]]]


def test_wanda_weighs_by_activations() -> None:
    statistics = Statistics.of(np.array([[[1.0, 100.0]]]))
    mask = kept("wanda", np.array([[[3.0], [2.0]]]), Situation(statistics))
    assert mask.tolist() == [[[False], [True]]]


def test_chance_is_the_same_again() -> None:
    w = RANDOM.standard_normal((1, 9, 9))
    assert np.array_equal(kept("random", w, Situation(seed=4)), kept("random", w, Situation(seed=4)))
    assert not np.array_equal(kept("random", w, Situation(seed=4)), kept("random", w, Situation(seed=5)))


def test_taylor_says_what_it_needs() -> None:
    with pytest.raises(PruningError, match="gradient"):
        criterion("taylor").scores(np.ones((1, 1, 1)), Situation())


def test_unknown_names() -> None:
    with pytest.raises(PruningError, match="wanda"):
        criterion("wandas")


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "taylor"])
def test_zeros_give_scores_that_are_numbers(name: str) -> None:
    assert np.isfinite(criterion(name).scores(np.zeros((1, 32, 3)), situation())).all()
