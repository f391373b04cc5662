"""Time stamps in programs with loops and branches, and for other architectures."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from ingot.compiler import compile
from ingot.compiler.artifact import Artifact
from ingot.compiler.targets.cpu.features import host_level
from ingot.compiler.targets.cpu.peak import copy_rate, multiply_add_rate, read_rate
from ingot.runtime.profile import MAX_EVENTS

# Doubles y as often as `trip` says; adds or subtracts one after that.
LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
main (int64 trip, bool more, float[n] x) => (float[n] y) {
  going = Constant <value = bool {1}> ()
  doubled = Loop <body = body (int64 i, bool c, float[n] v) => (bool d, float[n] w) {
    d = Identity(c)
    w = Add(v, v)
  }> (trip, going, x)
  y = If <then_branch = up () => (float[n] a) { one = Constant <value_float = 1.0> () a = Add(doubled, one) },
          else_branch = down () => (float[n] b) { one = Constant <value_float = 1.0> () b = Sub(doubled, one) }> (more)
}
"""


@pytest.fixture(scope="module")
def loop() -> Artifact:
    return compile(onnx.parser.parse_model(LOOP), target="native", jobs=1)


@pytest.mark.parametrize("trip", [0, 1, 7])
@pytest.mark.parametrize("more", [True, False])
def test_calls_in_loops_and_branches(loop: Artifact, trip: int, more: bool) -> None:
    inputs = {"trip": np.array(trip), "more": np.array(more), "x": np.ones(5, np.float32)}
    with loop.session(threads=1) as session:
        assert session.run(inputs)["y"].tolist() == [2.0**trip + (1 if more else -1)] * 5
        profile = session.profile(inputs, runs=3)
    calls = {launch.number: launch.calls for launch in profile.launches}
    assert set(calls.values()) <= {0, 1, trip}
    # Of the two branches one launch or more runs, and of the other none.
    idle = [number for number, count in calls.items() if count == 0]
    assert idle and len(idle) < len(calls)
    if trip > 1:
        assert trip in calls.values()
        (body, *_) = [launch for launch in profile.launches if launch.calls == trip]
        assert sum(event.launch == body.number and event.chunk is None for event in profile.events) == trip
    for launch in profile.launches:
        assert launch.calls or (launch.seconds == 0 and launch.flops_rate is None and launch.share == 0)


def test_more_events_than_there_is_room_for(loop: Artifact) -> None:
    trip = MAX_EVENTS
    inputs = {"trip": np.array(trip), "more": np.array(True), "x": np.zeros(1, np.float32)}
    with loop.session(threads=1) as session:
        profile = session.profile(inputs, runs=1)
    assert len(profile.events) == MAX_EVENTS and profile.lost > 0
    assert max(launch.calls for launch in profile.launches) == trip
    assert sum(launch.share for launch in profile.launches) + profile.between_share == pytest.approx(1)


def test_arm_reads_the_virtual_counter() -> None:
    artifact = compile(onnx.parser.parse_model(LOOP), target="aarch64", jobs=1)
    (code,) = artifact.code.values()
    words = np.frombuffer(code[: len(code) // 4 * 4], "<u4")
    assert (words & ~np.uint32(31) == 0xD53BE040).any()  # mrs x?, cntvct_el0
    assert (words & ~np.uint32(31) == 0xD53BD040).any()  # mrs x?, tpidr_el0
    assert not (words & ~np.uint32(31) == 0xD53B9D00).any()  # mrs x?, pmccntr_el0, which traps


def test_peaks_are_plausible() -> None:
    level = host_level()
    floats, products = multiply_add_rate(level), multiply_add_rate(level, level.dot)
    assert 1e8 < floats < 1e12 and 0.4 * floats * level.dot < products < 1e13
    assert 1e7 < copy_rate() < 1e13 and 1e7 < copy_rate(1 << 18) < 1e13
    assert all(1e7 < read_rate(level, size) < 1e13 for size in (1, 1 << 18, 1 << 26))
