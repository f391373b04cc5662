"""Ranges from histograms against searches over the raw values, written out another way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.calibration import CalibrationError
from ingot.compiler.calibration.bins import count, window_of
from ingot.compiler.calibration.ranges import (
    Entropy,
    Evidence,
    MinMax,
    MovingAverage,
    Percentile,
    SquaredError,
    read_method,
)

Array = NDArray[Any]
RANDOM = np.random.default_rng(3)
DRAWN: dict[str, Array] = {
    "normal": RANDOM.standard_normal(20_000),
    "after relu": np.maximum(RANDOM.standard_normal(20_000), 0),
    "long tails": RANDOM.standard_t(2, 20_000),
    "shifted": RANDOM.standard_normal(20_000) + 2,
    "negative": -RANDOM.exponential(1, 20_000),
    "far from zero": RANDOM.standard_normal(20_000) * 0.01 + 100,
}
VALUES = {name: x.astype(np.float32) for name, x in DRAWN.items()}


def evidence(x: Array, bins: int = 2048) -> Evidence:
    window = window_of(float(x.min()), float(x.max()), bins)
    return Evidence(x.min(keepdims=True), x.max(keepdims=True), count(x, window), window)


@pytest.mark.parametrize("name", VALUES)
def test_minmax(name: str) -> None:
    x = VALUES[name]
    found = MinMax().choose(evidence(x))
    assert (found.low, found.high) == (float(x.min()), float(x.max()))


def test_moving_average() -> None:
    low, high = np.array([-1, -3, -2, -8], np.float32), np.array([1, 2, 7, 0], np.float32)
    found = MovingAverage(0.25).choose(Evidence(low, high))
    ends: list[float] = []
    for samples in (low, high):
        weights = np.array([0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25])
        ends.append(float(weights @ samples))
    assert (found.low, found.high) == pytest.approx(tuple(ends))
    assert MovingAverage().choose(Evidence(low[:1], high[:1])).high == 1


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("percent", [50.0, 99.0, 99.9, 100.0])
def test_percentile(name: str, percent: float) -> None:
    x, seen = VALUES[name], evidence(VALUES[name])
    assert seen.window is not None
    found = Percentile(percent).choose(seen)
    outside = (100 - percent) / 200
    wanted = np.quantile(x, [outside, 1 - outside], method="inverted_cdf")
    assert [found.low, found.high] == pytest.approx(list(wanted), abs=seen.window.width)


def test_percentile_between_clusters_stays_at_the_values() -> None:
    x = np.array([-10.0] * 10 + [0.5] * 80 + [10.0] * 10, np.float32)
    found = Percentile(80).choose(evidence(x))
    assert abs(found.low) <= 0.5 + 1e-2 and found.high == pytest.approx(0.5, abs=2e-2)


def divergence(x: Array, low: float, high: float, edges: Array, levels: int) -> float:
    """The divergence of what a grid of `levels` levels keeps of the values, bin by bin."""
    bins = [(a, b) for a, b in pairwise(edges.tolist()) if a >= low and b <= high]
    kept = [int(((x >= a) & (x < b)).sum()) for a, b in bins]
    whole = list(kept)
    whole[0] += int((x < bins[0][0]).sum())
    whole[-1] += int((x >= bins[-1][1]).sum())
    coarse = [0.0] * len(bins)
    for level in range(levels):
        inside = range(level * len(bins) // levels, (level + 1) * len(bins) // levels)
        held = [i for i in inside if whole[i]]
        for i in held:
            coarse[i] = sum(kept[j] for j in inside) / len(held)
    p, q = (np.array([c if c > 0 else 1e-4 for c in counts]) for counts in (whole, coarse))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def without_zeros(x: Array, width: float) -> Array:
    """The values, of which no more lie in the bin from 0 than in the fuller one beside it."""
    inside = np.flatnonzero((x >= 0) & (x < width))
    beside = max(int(((x >= width) & (x < 2 * width)).sum()), int(((x < 0) & (x >= -width)).sum()))
    return np.delete(x, inside[beside:])


@pytest.mark.parametrize("name", ["normal", "after relu", "long tails", "negative"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_entropy(name: str, symmetric: bool) -> None:
    """All thresholds of a coarse histogram, counted on the raw values."""
    x, bits = VALUES[name][:2000], 4
    seen = evidence(x, 128)
    assert seen.counts is not None and seen.window is not None
    width, levels = seen.window.width, 15 if symmetric else 16
    first, last = min(0, int(np.floor(x.min() / width))), max(0, int(np.floor(x.max() / width)) + 1)
    best, chosen = np.inf, 0
    x = without_zeros(x, width)
    for limit in range(1, max(-first, last) + 1):
        low, high = (-limit, limit) if symmetric else (max(first, -limit), min(last, limit))
        if high - low >= levels:
            found = divergence(x, low * width, high * width, np.arange(low, high + 1) * width, levels)
            best, chosen = (found, limit) if found <= best + 1e-12 else (best, chosen)
    found = Entropy(bits, symmetric).choose(seen)
    limit = chosen * width
    assert 0 < limit < max(-first, last) * width or name != "long tails"
    assert (found.low, found.high) == (max(seen.least, -limit), min(seen.most, limit))


def squared_error(x: Array, low: float, high: float, bits: int, symmetric: bool) -> float:
    if symmetric:
        scale = max(-low, high) / (2 ** (bits - 1) - 1)
        q = np.clip(np.rint(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return float(np.square(q * scale - x).mean())
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    zero = np.rint(-low / scale)
    q = np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1)
    return float(np.square((q - zero) * scale - x).mean())


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (8, True), (4, False), (4, True)])
def test_squared_error(name: str, bits: int, symmetric: bool) -> None:
    """Within a few per cent of the best of a fine search over both ends, and no worse than no search."""
    x = VALUES[name].astype(np.float64)
    found = SquaredError(bits, symmetric).choose(evidence(VALUES[name]))
    have = squared_error(x, found.low, found.high, bits, symmetric)
    low, high = float(x.min()), float(x.max())
    shares = np.linspace(0.02, 1, 50)
    if symmetric:
        limit = max(-low, high)
        best = min(squared_error(x, -limit * s, limit * s, bits, True) for s in shares)
    else:
        lows = [0.0] if low >= 0 else list(low * shares[::2])
        highs = [0.0] if high <= 0 else list(high * shares[::2])
        best = min(squared_error(x, a, b, bits, False) for a in lows for b in highs if b > a)
    assert have <= 1.05 * best
    assert have <= 1.001 * squared_error(x, low, high, bits, symmetric)


@pytest.mark.parametrize("text", ["minmax", "percentile", "entropy", "mse", "mse{symmetric=true,bits=4}"])
@pytest.mark.parametrize("value", [0.0, 3.25, -1e-20])
def test_constant_tensors_have_a_range(text: str, value: float) -> None:
    found = read_method(text).choose(evidence(np.full(7, value, np.float32)))
    assert found.low <= float(np.float32(value)) <= found.high and found.width == 0


def test_methods_are_spelt() -> None:
    assert read_method("percentile{percent=99.5}") == Percentile(99.5)
    assert read_method("average") == MovingAverage()
    assert read_method(Entropy(bits=4)) == Entropy(bits=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max", "there are minmax, average"),
        ("percentile{percent=0}", "more than 0"),
        ("percentile{share=1}", "no option 'share'"),
        ("mse{bits=40}", "give 2 to 16"),
        ("average{weight=0}", "above 0"),
        ("mse{", "expected"),
    ],
)
def test_misspelt_methods_are_refused(text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_method(text)


@pytest.mark.parametrize("factor", [2.0**100, 2.0**-80])
@pytest.mark.filterwarnings("error")
def test_squared_errors_of_values_whose_squares_no_float_holds(factor: float) -> None:
    x = VALUES["long tails"]
    want, found = SquaredError().choose(evidence(x)), SquaredError().choose(evidence(x * np.float32(factor)))
    assert (found.low, found.high) == pytest.approx((want.low * factor, want.high * factor), rel=1e-6)
    assert want.high < x.max()
