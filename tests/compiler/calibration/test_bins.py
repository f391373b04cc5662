"""Windows of histograms: the narrowest that hold what was seen, whatever the order; merging loses nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.compiler.calibration.bins import NARROWEST, Window, count, moved, place, window_of

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(FLOATS, FLOATS, st.sampled_from([64, 100, 2048]))
def test_a_window_is_the_narrowest_that_holds_both_ends(one: float, other: float, bins: int) -> None:
    low, high = min(one, other), max(one, other)
    window = window_of(low, high, bins)
    assert window.bins == bins and window.covers(low, high)
    narrower = window.exponent - 1
    too_many = place(high, narrower) - place(low, narrower) >= bins
    too_far = math.ldexp(max(abs(low), abs(high)), -narrower) >= 2**20
    assert too_many or too_far or window.exponent == NARROWEST


@given(st.lists(FLOATS, min_size=1, max_size=30), st.integers(0, 2**32))
@settings(max_examples=50)
def test_counts_do_not_depend_on_how_values_come(values: list[float], seed: int) -> None:
    """Values in parts, each counted in the window of what was seen before, give the counts of all at once."""
    x = np.array(values, np.float32)
    whole = window_of(float(x.min()), float(x.max()), 128)
    parts = np.array_split(np.random.default_rng(seed).permutation(x), 4)
    counts, window = None, None
    low, high = math.inf, -math.inf
    for part in (part for part in parts if part.size):
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        wider = window if window is not None and window.covers(low, high) else window_of(low, high, 128)
        before = 0 if counts is None or window is None else moved(counts, window, wider)
        counts, window = before + count(part, wider), wider
    assert counts is not None and window is not None
    assert window.exponent == whole.exponent
    np.testing.assert_array_equal(moved(counts, window, whole), count(x, whole))


def test_counting_agrees_with_numpy() -> None:
    x = np.random.default_rng(1).standard_normal(5000).astype(np.float32) * 3
    window = window_of(float(x.min()), float(x.max()), 256)
    np.testing.assert_array_equal(count(x, window), np.histogram(x, window.edges)[0])
    assert 128 <= np.ptp(np.flatnonzero(count(x, window))) + 1 <= 256  # more than half of the bins are in use


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30, 3e38, -1e-40])
def test_a_single_value_has_a_window(value: float) -> None:
    window = window_of(value, value, 64)
    assert window.covers(value, value) and count(np.array([value]), window).sum() == 1


def test_what_lies_outside_counts_at_the_ends() -> None:
    window = Window(0, -2, 4)
    np.testing.assert_array_equal(count(np.array([-9.0, -2.0, 0.5, 1.9, 50.0]), window), [2, 0, 1, 2])


def test_nothing_below_zero_leaves_room_above() -> None:
    window = window_of(0.0, 5.0, 64)
    assert window.first == 0 and window.covers(0.0, 5.0)
