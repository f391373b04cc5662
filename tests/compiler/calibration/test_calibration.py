"""Calibrations against numpy on the raw values: over batches, merged, saved and gone on with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.compiler.calibration.networks import Array, rows, values, whole

from ingot.compiler.array_files import load_arrays, write_arrays
from ingot.compiler.calibration import (
    Calibration,
    CalibrationError,
    CalibrationWarning,
    Extremes,
    Histogram,
    Magnitude,
    Moments,
    SecondMoment,
)
from ingot.compiler.calibration.bins import count, window_of
from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.pointwise import Log
from ingot.runtime.dtypes import f32, i64

EVERY = (Extremes(), Extremes(1), Magnitude(1), Moments(1), SecondMoment(), Histogram(256))


def batches(seed: int = 20) -> list[Array]:
    """Samples of other extents and of growing ranges, an empty one among them."""
    sizes = ((3, 1), (0, 8), (7, 2), (1, 64), (5, 8))
    return [whole((size, 5), seed + i, most) for i, (size, most) in enumerate(sizes)]


def made(observers: Any = EVERY) -> Calibration:
    graph, points = rows()
    return Calibration(graph, points, observers, threads=1)


def raw(samples: list[Array]) -> dict[str, Array]:
    graph, points = rows()
    found = [values(graph, points, sample) for sample in samples]
    return {name: np.concatenate([each[name] for each in found]) for name in points}


def same(one: Calibration, other: Calibration) -> None:
    """The two know the same, to the last bit."""
    assert one.samples == other.samples
    for name in one.points:
        for observer in EVERY:
            a, b = one.state(name, observer), other.state(name, observer)
            assert a.keys() == b.keys()
            for field, array in a.items():
                if field != "window" and field != "counts":
                    np.testing.assert_array_equal(array, b[field])
        (counts, edges), (others, other_edges) = one.histogram(name, 256), other.histogram(name, 256)
        held, also = np.flatnonzero(counts), np.flatnonzero(others)
        np.testing.assert_array_equal(counts[held], others[also])
        np.testing.assert_array_equal(edges[held], other_edges[also])


def test_what_is_known_after_several_batches() -> None:
    calibration = made()
    assert calibration.update(batches()) == calibration.samples == 5
    for name, value in raw(batches()).items():
        found = calibration.ranges()[name]
        assert (found.low, found.high) == (value.min(), value.max())
        channels = calibration.channel_ranges(name, 1)
        assert [(r.low, r.high) for r in channels] == list(zip(value.min(0), value.max(0), strict=True))
        largest, mean = calibration.magnitudes(name, 1)
        np.testing.assert_array_equal(largest, np.abs(value).max(0))
        np.testing.assert_allclose(mean, np.abs(value).mean(0, dtype=np.float64))
        mean, variance = calibration.moments(name, 1)
        np.testing.assert_allclose(mean, value.mean(0, dtype=np.float64))
        np.testing.assert_allclose(variance, value.var(0, dtype=np.float64), rtol=1e-6)
        product, count_of_rows = calibration.second_moment(name)
        wide = value.astype(np.float64)
        np.testing.assert_allclose(product, wide.T @ wide, rtol=1e-6)
        assert count_of_rows == 16
        counts, edges = calibration.histogram(name, 256)
        np.testing.assert_array_equal(counts, np.histogram(value, edges)[0])
        window = window_of(float(value.min()), float(value.max()), 256)
        assert edges[1] - edges[0] == window.width
        assert counts.sum() == count(value, window).sum() == value.size


def test_the_order_of_batches_does_not_matter_for_histograms() -> None:
    one, other = made([Histogram(256)]), made([Histogram(256)])
    one.update(batches())
    other.update(batches()[::-1])
    for name in one.points:
        (counts, edges), (others, other_edges) = one.histogram(name, 256), other.histogram(name, 256)
        held, also = np.flatnonzero(counts), np.flatnonzero(others)
        np.testing.assert_array_equal(counts[held], others[also])
        np.testing.assert_array_equal(edges[held], other_edges[also])


def test_parts_are_put_together() -> None:
    whole_one, first, second = made(), made(), made()
    whole_one.update(batches())
    first.update(batches()[:2])
    second.update(batches()[2:])
    first.merge(second)
    same(first, whole_one)
    with pytest.raises(CalibrationError, match="different models"):
        first.merge(made([Histogram()]))


def test_a_saved_calibration_goes_on(tmp_path: Path) -> None:
    whole_one, first = made(), made()
    whole_one.update(batches())
    first.update(batches()[:3])
    first.save(tmp_path / "state.npz")
    graph, points = rows()
    loaded = Calibration.load(tmp_path / "state.npz", graph, points, EVERY, threads=1)
    same(loaded, first)
    loaded.update(batches()[3:])
    same(loaded, whole_one)
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_a_calibration_that_saw_nothing_is_saved_too(tmp_path: Path) -> None:
    made().save(tmp_path / "state.npz")
    graph, points = rows()
    loaded = Calibration.load(tmp_path / "state.npz", graph, points, EVERY)
    assert loaded.samples == 0
    with pytest.raises(CalibrationError, match="no sample has been seen"):
        loaded.ranges()


def test_states_of_others_are_refused(tmp_path: Path) -> None:
    calibration = made()
    calibration.update(batches())
    path = tmp_path / "state.npz"
    calibration.save(path)
    graph, points = rows(6)
    with pytest.raises(CalibrationError, match="another model"):
        Calibration.load(path, graph, points, EVERY)
    graph, points = rows()
    with pytest.raises(CalibrationError, match="another model"):
        Calibration.load(path, graph, points, [Extremes()])
    with pytest.raises(CalibrationError, match="no such file"):
        Calibration.load(tmp_path / "other.npz", graph, points, EVERY)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_states_are_refused(tmp_path: Path, seed: int) -> None:
    """One array at a time is left out, cut, retyped or filled with nonsense."""
    calibration = made()
    calibration.update(batches())
    path = tmp_path / "state.npz"
    calibration.save(path)
    arrays = load_arrays(path)
    assert isinstance(arrays, dict)
    random = np.random.default_rng(seed)
    graph, points = rows()
    for name, array in arrays.items():
        if name.endswith(("sum", "squares")):
            continue  # any number will do
        nonsense = np.full_like(array, {"i": -(2**62), "f": np.nan, "u": 7}[array.dtype.kind])
        damages = [None, array.reshape(-1)[1:], array.astype(np.complex64), nonsense]
        if name.endswith(("count", "product")):
            damages = damages[:3]
        damage = damages[random.integers(len(damages))]
        changed = {key: kept for key, kept in arrays.items() if key != name}
        write_arrays(path, changed if damage is None else {**changed, name: damage})
        with pytest.raises(CalibrationError, match=r"damaged|another|no state"):
            Calibration.load(path, graph, points, EVERY)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CalibrationError, match="not an array file"):
        Calibration.load(path, graph, points, EVERY)


def test_samples_count_as_a_whole_or_not_at_all() -> None:
    calibration = made()
    good, bad = batches()[0], batches()[2].copy()
    bad[1, 2] = np.nan
    with pytest.raises(CalibrationError, match=r"sample 2: input 'x' holds NaN, the first such value at \[1, 2\]"):
        calibration.update([good, bad, good])
    once = made()
    once.update([good])
    same(calibration, once)


def test_values_that_are_not_finite_are_named() -> None:
    x = Input("x", TensorType(f32, (3,)))
    point = Log(x)
    graph = Graph((x,), (("y", point),))
    for given, what in (([1.0, 0.0, 2.0], "an infinity"), ([1.0, -1.0, 2.0], "NaN")):
        for observers in ([Extremes()], [Histogram()], [Moments()], [Magnitude(0)]):
            calibration = Calibration(graph, {"log": point}, observers, threads=1)
            with pytest.raises(CalibrationError, match=f"'log' holds {what} when the model runs"):
                calibration.update(np.array(given, np.float32))
            assert calibration.samples == 0


def test_a_sample_that_is_refused_leaves_no_trace() -> None:
    """One that has first made the range of a histogram grow."""
    x = Input("x", TensorType(f32, (3,)))
    points = {"x": x, "log": Log(x)}
    calibration = Calibration(Graph((x,), (("y", points["log"]),)), points, [Histogram(64)], threads=1)
    good = np.array([1.0, 1.5, 2.0], np.float32)
    calibration.update(good)
    with pytest.raises(CalibrationError, match="'log' holds NaN"):
        calibration.update(np.array([1e6, -1.0, 2.0], np.float32))
    calibration.update(good)
    counts, edges = calibration.histogram("x", 64)
    np.testing.assert_array_equal(counts, 2 * np.histogram(good, edges)[0])
    assert edges[1] - edges[0] == 2**-5  # 2 is the last of 33 bins


def test_empty_samples_say_nothing() -> None:
    calibration = made()
    calibration.update([np.zeros((0, 5), np.float32)])
    assert calibration.ranges() == {}
    assert calibration.ranges("entropy") == {}
    assert calibration.magnitudes("x", 1)[0].tolist() == [0] * 5
    with pytest.raises(CalibrationError, match="has had no elements"):
        calibration.channel_ranges("x", 1)


def test_constant_values() -> None:
    calibration = made()
    calibration.update([np.zeros((2, 5), np.float32)] * 2)
    for method in ("minmax", "average", "percentile", "entropy", "mse"):
        assert {(r.low, r.high) for r in calibration.ranges(method).values()} == {(0.0, 0.0)}
    calibration.update([np.full((2, 5), 3, np.float32)])
    assert calibration.histogram("x", 256)[0].sum() == 30
    assert calibration.ranges("percentile{percent=100}")["x"].high == 3


def test_what_is_not_observed_is_refused() -> None:
    calibration = made([Extremes()])
    calibration.update(batches())
    for ask, message in (
        (lambda: calibration.ranges("entropy"), "has no histogram, which Entropy"),
        (lambda: calibration.second_moment("x"), r"has the observers Extremes; SecondMoment"),
        (lambda: calibration.magnitudes("z"), "no value 'z' is observed"),
        (lambda: calibration.channel_ranges("x", 3), "there is no axis 3"),
    ):
        with pytest.raises(CalibrationError, match=message):
            ask()
    alone = made([Histogram()])
    alone.update(batches())
    assert alone.ranges("minmax") == calibration.ranges("minmax")
    with pytest.raises(CalibrationError, match="no record of its extremes"):
        alone.ranges("average")


def test_samples_that_differ_wildly_are_told_of() -> None:
    calibration = made()
    calibration.update([whole((2, 5), seed, 2) for seed in range(5)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibration.ranges()
    calibration.update([whole((2, 5), 9, 900)])
    with pytest.warns(CalibrationWarning, match="'x', 'hidden', 'y': look whether"):
        calibration.ranges()


def test_what_ends_a_run_ends_the_calibration_with_the_sample_named() -> None:
    x, at = Input("x", TensorType(f32, (4,))), Input("at", TensorType(i64, (1,)))
    picked = Gather(x, at, 0)
    calibration = Calibration(Graph((x, at), (("y", picked),)), {"picked": picked}, [Extremes()], threads=1)
    good = {"x": whole((4,), 1), "at": np.array([3])}
    with pytest.raises(CalibrationError, match=r"sample 2: the model fails on it: .* an index is out of range"):
        calibration.update([good, {**good, "at": np.array([4])}])
    assert calibration.samples == 1


def test_progress_is_told() -> None:
    told: list[str] = []
    made([Extremes()]).update(batches()[:2], progress=told.append)
    assert told == ["compiling the model with its observers", "calibration: 1 samples", "calibration: 2 samples"]
