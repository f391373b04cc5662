"""Profiles: every launch is there, times add up, and what an artifact says of its launches must fit its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.artifact import Artifact
from ingot.runtime import ArtifactError, InputError, Profile, RuntimeFault, Session
from ingot.runtime.profile import LaunchCost, encode_costs, parse_costs

Arrays = dict[str, NDArray[Any]]


def feeds(rows: int) -> Arrays:
    source = np.random.default_rng(rows)
    return {name: source.standard_normal((rows, 16)).astype(np.float32) for name in ("x", "z")}


def measured(artifact: Artifact, inputs: Arrays, *, threads: int = 1, runs: int = 5) -> Profile:
    with artifact.session(threads=threads) as session:
        return session.profile(inputs, runs=runs)


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 1024, 3001])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_launch_is_measured(affine: Artifact, rows: int, threads: int) -> None:
    with affine.session(threads=threads) as session:
        profile = session.profile(feeds(rows), runs=5)
        assert profile.threads == session.metadata["threads"]
    assert profile.name == "affine" and profile.runs == 5 and profile.lost == 0
    assert [launch.kernel for launch in profile.launches] == ["scale", "shift", "product"]
    assert [launch.number for launch in profile.launches] == [0, 1, 2]
    for launch in profile.launches:
        assert launch.calls == 1 and launch.chunks == -(-rows // 4)
        assert 0 <= launch.best <= launch.seconds and launch.busy >= 0
    # Read once: all rows of a and of b (of the weights, for `scale`); written once: all rows of c.
    moved = [4 * (32 * rows + 16), 4 * 48 * rows, 4 * 48 * rows]
    assert [launch.bytes for launch in profile.launches] == moved
    assert 0 < profile.best <= profile.seconds < 10


def test_shares_add_up(affine: Artifact) -> None:
    profile = measured(affine, feeds(3001), runs=9)
    assert sum(launch.share for launch in profile.launches) + profile.between_share == pytest.approx(1)
    assert all(launch.share >= 0 for launch in profile.launches) and profile.between_share >= 0
    assert profile.between >= 0


def test_events_cover_all_chunks(affine: Artifact) -> None:
    rows = 101
    profile = measured(affine, feeds(rows), threads=2, runs=3)
    for launch in profile.launches:
        events = [event for event in profile.events if event.launch == launch.number]
        (whole,) = [event for event in events if event.chunk is None]
        chunks = [event for event in events if event.chunk is not None]
        assert sorted(event.chunk for event in chunks if event.chunk is not None) == list(range(26))
        assert whole.thread == 0 and {event.thread for event in chunks} <= {0, 1}
        margin = 1e-5  # counters of two cores
        for event in chunks:
            assert whole.started - margin <= event.started
            assert event.started + event.seconds <= whole.started + whole.seconds + margin
    starts = [event.started for event in profile.events if event.chunk is None]
    assert starts == sorted(starts) and starts[0] >= 0


def test_trace_is_in_chromes_format(affine: Artifact) -> None:
    profile = measured(affine, feeds(9), runs=2)
    trace = json.loads(json.dumps(profile.trace(), allow_nan=False))
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(complete) == len(profile.events) == 3 + 3 * 3
    assert all(event["dur"] >= 0 and event["ts"] >= 0 and event["pid"] == 0 for event in complete)
    rows = {event["tid"]: event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert {event["tid"] for event in complete} <= rows.keys() and rows[0] == "launches"
    assert {event["name"] for event in complete} == {"scale", "shift", "product"}


def test_other_runs_are_not_affected(affine: Artifact) -> None:
    inputs = feeds(37)
    with affine.session(threads=2) as session:
        before = session.run(inputs)
        session.profile(inputs, runs=2)
        after = session.run(inputs)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_faults_are_reported(lookup: Artifact) -> None:
    with lookup.session() as session:
        assert len(session.profile({"index": np.array([1, 4])}, runs=1).launches) == 1
        with pytest.raises(RuntimeFault, match="not in 0 to 4"):
            session.profile({"index": np.array([1, 5])}, runs=1)
        assert session.run({"index": np.array([3])})["y"].tolist() == [8]
    with pytest.raises(RuntimeFault, match="closed"):
        session.profile({"index": np.array([1])})


@pytest.mark.parametrize("runs", [0, -1, 1.5, "3", True, None, 10**9])
def test_bad_numbers_of_runs(affine: Artifact, runs: Any) -> None:
    with affine.session() as session, pytest.raises(InputError, match="runs is"):
        session.profile(feeds(1), runs=runs)


def test_inputs_are_checked(affine: Artifact) -> None:
    with affine.session() as session, pytest.raises(InputError):
        session.profile({"x": np.zeros((1, 16), np.float32)})


def saved(artifact: Artifact, folder: Path, change: Callable[[tuple[LaunchCost, ...]], tuple[LaunchCost, ...]]) -> Path:
    path = folder / "changed.ingot"
    replace(artifact, costs=(change(artifact.costs[0]),)).save(path)
    return path


@pytest.mark.parametrize("change", [lambda costs: costs[:1], lambda costs: (*costs, costs[0]), lambda costs: ()])
def test_a_list_of_other_launches(affine: Artifact, tmp_path: Path, change: Any) -> None:
    with Session(saved(affine, tmp_path, change)) as session:
        with pytest.raises(ArtifactError, match="does not belong"):
            session.profile(feeds(1))
        assert session.run(feeds(1))


def test_costs_that_data_decides(affine: Artifact, tmp_path: Path) -> None:
    def unknown(costs: tuple[LaunchCost, ...]) -> tuple[LaunchCost, ...]:
        return tuple(replace(cost, flops="found", bytes=("//", 1, 0)) for cost in costs)

    with Session(saved(affine, tmp_path, unknown)) as session:
        for launch in session.profile(feeds(1), runs=1).launches:
            assert launch.flops is None and launch.bytes is None and launch.flops_rate is None


COST = LaunchCost("k", ("a", "b"), ("//", "n", 4), ("*", 2, "n"), 7)


def test_costs_are_read_back() -> None:
    assert parse_costs(encode_costs([COST, COST])) == (COST, COST)
    assert parse_costs(encode_costs([])) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[1]", b"[[]]", b'[["k",[],1,2]]', b'[["k",[],1,2,3,4]]', b'[[1,[],1,2,3]]', b'[["k",[1],1,2,3]]',
        b'[["k","ab",1,2,3]]', b'[["k",[],1.5,2,3]]', b'[["k",[],true,2,3]]', b'[["k",[],["^",1,2],2,3]]',
        b'[["k",[],1,2,99999999999999999999]]', b'[["k",[],null,2,3]]', b"\xff", b"[" * 100_000,
    ],
)  # fmt: skip
def test_costs_that_are_none(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_costs(data)
