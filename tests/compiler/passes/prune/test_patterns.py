"""Patterns: units, masks, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.patterns import Pattern

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("text", ["unstructured", "kernel", "4x1", "1x4", "16x1", "2:4", "1:3"])
def test_names_go_there_and_back(text: str) -> None:
    assert str(Pattern.parse(text)) == text


@pytest.mark.parametrize("text", ["", "4", "x1", "0x1", "4:2", "4:4", "4*1", "-1x1", "99999x1", "2:4:8"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(PruningError):
        Pattern.parse(text)


@pytest.mark.parametrize("rate", [0, 0.25, 0.5, 0.9])
def test_unstructured_removes_the_lowest_scores(rate: float) -> None:
    scores = RANDOM.random((2, 7, 5))
    mask = Pattern().keeps(scores, rate)
    count = round(rate * scores.size)
    assert np.count_nonzero(~mask) == count
    assert not count or scores[~mask].max() < scores[mask].min()


def test_by_column_every_column_loses_as_much() -> None:
    mask = Pattern().keeps(RANDOM.random((1, 20, 6)) * np.arange(1, 7), 0.4, by_column=True)
    assert (np.count_nonzero(~mask[0], axis=0) == 8).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (4, 1), (2, 3), (16, 1), (5, 5)])
@pytest.mark.parametrize("shape", [(1, 16, 12), (1, 7, 5), (2, 3, 1), (1, 1, 9)])
def test_units_go_whole(rows: int, columns: int, shape: tuple[int, int, int]) -> None:
    mask = Pattern(columns, rows).keeps(RANDOM.random(shape), 0.5)
    for group in mask:
        for i in range(0, shape[1], rows):
            for j in range(0, shape[2], columns):
                block = group[i : i + rows, j : j + columns]
                assert block.all() or not block.any()


def test_the_unit_with_the_lowest_mean_goes_first() -> None:
    scores = np.array([[[9, 0, 2, 2]]], float)
    mask = Pattern(2, 1).keeps(scores, 0.5)
    assert mask.tolist() == [[[True, True, False, False]]]


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (3, 7), (4, 8)])
@pytest.mark.parametrize("depth", [8, 9, 3, 1])
def test_n_of_m_stay(keep: int, of: int, depth: int) -> None:
    scores = RANDOM.random((1, depth, 5))
    mask = Pattern(1, of, keep=keep).keeps(scores, 0.0)
    for start in range(0, depth, of):
        part = mask[0, start : start + of]
        assert (np.count_nonzero(part, axis=0) == min(keep, len(part))).all()
        kept = np.where(part, scores[0, start : start + of], np.inf).min(0)
        lost = np.where(part, -np.inf, scores[0, start : start + of]).max(0)
        assert (kept > lost).all()


def test_rows_of_a_convolution_are_counted_within_a_tap() -> None:
    """Two channels of three taps: 1:2 keeps one channel of each tap."""
    scores = np.array([5.0, 1.0, 6.0, 2.0, 4.0, 3.0])[None, :, None]  # channel 0: 5 1 6, channel 1: 2 4 3
    mask = Pattern(1, 2, keep=1).keeps(scores, 0, taps=3)
    assert mask[0, :, 0].tolist() == [True, False, True, False, True, False]


def test_a_kernel_goes_with_all_its_taps() -> None:
    scores = RANDOM.random((1, 4 * 9, 6))
    mask = Pattern(kernel=True).keeps(scores, 0.5, taps=9).reshape(4, 9, 6)
    assert (mask.all(1) | ~mask.any(1)).all()
    assert np.count_nonzero(mask.all(1)) == 12


def test_what_counts_least_goes_before_all_else_and_takes_nothing_with_it() -> None:
    scores = np.array([[[-np.inf, 0.0, 1.0, 8.0]]])
    assert Pattern().keeps(scores, 0.25).tolist() == [[[False, True, True, True]]]
    assert Pattern(2, 1).keeps(np.array([[[-np.inf, 9.0, 1.0, 1.0]]]), 0.5).tolist() == [[[True, True, False, False]]]


def test_nothing_at_all() -> None:
    assert Pattern().keeps(np.zeros((1, 0, 4)), 0.5).shape == (1, 0, 4)
