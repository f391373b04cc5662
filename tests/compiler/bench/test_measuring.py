"""Timing that is fair, and errors that hide nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ingot.compiler.bench import engines
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import PEERS, MissingEngineError
from ingot.compiler.bench.interleave import Timing, interleave, interleave_samplers, timed
from ingot.compiler.demo import held_out, model_path


def test_ratio_is_the_median_of_ratios() -> None:
    # The machine is four times slower in the last two rounds; what is compared must not see it.
    slow, fast = Timing((2.0, 4.0, 2.0, 8.0, 8.0)), Timing((1.0, 1.0, 1.0, 4.0, 4.0))
    assert slow.over(fast) == 2.0 and fast.over(slow) == 0.5
    assert slow.median == 4.0 and slow.best == 2.0


def test_rounds_alternate() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = interleave(calls, rounds=4, seconds=0, warm_up=0)
    assert all(len(times[name].rounds) == 4 and times[name].best > 0 for name in calls)
    # Three calls for warm-up, then three in each round.
    assert "".join(order) == "aaabbb" + "aaabbb" + "bbbaaa" + "aaabbb" + "bbbaaa"


@pytest.mark.parametrize(
    ("have", "want", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([1.0, -8.0], [1.0, -4.0], 1.0),
        ([0.0, 0.5], [0.0, 0.0], 0.5),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0),
        ([math.nan, 1.0], [0.0, 1.0], math.inf),
        ([0.0, 1.0], [math.nan, 1.0], math.inf),
        ([math.inf, 1.0], [math.inf, 2.0], 0.5),
        ([math.inf, 1.0], [-math.inf, 1.0], math.inf),
        ([1.0], [1.0, 1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_relative_error(have: list[float], want: list[float], error: float) -> None:
    assert relative_error({"y": np.array(have, np.float32)}, {"other name": np.array(want, np.float32)}) == error


def test_relative_error_of_several_outputs() -> None:
    have = {"a": np.array([1, 2]), "b": np.array([True, False])}
    assert relative_error(have, {"a": np.array([1, 2]), "b": np.array([True, True])}) == 1.0
    assert relative_error(have, {"a": np.array([1, 2])}) == math.inf


@pytest.mark.parametrize("name", PEERS)
def test_peers_agree_with_the_reference(name: str) -> None:
    pytest.importorskip(name)
    images, _ = held_out()
    inputs = {"image": images[:3]}
    want = engines.reference(model_path(), 1).run(inputs)
    engine = PEERS[name](model_path(), 2)
    try:
        assert relative_error(engine.run(inputs), want) < 1e-5
        if engine.bound is not None:
            engine.bound(inputs)()
    finally:
        engine.close()


def test_missing_package_is_named() -> None:
    with pytest.raises(MissingEngineError, match="no_such_engine is not installed: pip install"):
        engines.require("no_such_engine")


def test_ingot_as_an_engine(tmp_path: Path) -> None:
    from ingot.compiler import compile

    compile(model_path()).save(tmp_path / "digits.ingot")
    images, _ = held_out()
    inputs = {"image": images[:2]}
    engine = engines.ingot(tmp_path / "digits.ingot", 2)
    assert relative_error(engine.run(inputs), engines.reference(model_path(), 1).run(inputs)) < 1e-5
    assert engine.bound is not None
    engine.bound(inputs)()
    engine.close()


def test_samplers_are_asked_for_enough_runs() -> None:
    asked: list[int] = []

    def sample(count: int) -> list[float]:
        asked.append(count)
        return [0.001] * (count - 1) + [9.0]

    times = interleave_samplers({"a": sample}, rounds=3, seconds=0.02, warm_up=0)
    assert asked == [3, 20, 20, 20]
    assert times["a"].rounds == (0.001,) * 3


def test_timed_says_seconds_of_each_run() -> None:
    calls: list[int] = []
    times = timed(lambda: calls.append(1))(5)
    assert len(times) == len(calls) == 5 and min(times) >= 0
