"""Time stamps in programs with loops and branches, and for other architectures."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from ingot.compiler import compile, default_pipeline
from ingot.compiler.artifact import Artifact
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.program import Bind
from ingot.compiler.lower.lowering import lower
from ingot.compiler.targets.cpu.features import host_level, machine
from ingot.compiler.targets.cpu.objects import KernelSymbols, new_module
from ingot.compiler.targets.cpu.peak import copy_rate, multiply_add_rate, read_rate
from ingot.compiler.targets.cpu.variants import emit_walks
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


# What is positive in x, twice: sizes that come from data.
POSITIVE = """
<ir_version: 8, opset_import: ["" : 17]>
main (float[n] x) => (float[found] y, int64[1, k] places) {
  zero = Constant <value_float = 0.0> ()
  above = Greater(x, zero)
  z = Compress(x, above)
  y = Mul(z, z)
  places = NonZero(z)
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


def test_binds_are_shared_by_runs_and_profiles() -> None:
    model = onnx.parser.parse_model(POSITIVE)
    level = host_level()
    programs = [lower(default_pipeline().run(load_onnx(model, ranges=r)), machine(level)) for r in ({}, {"n": (5, 5)})]
    for some in (programs[:1], programs):
        module = new_module("walks", level)
        emit_walks(module, some, level, KernelSymbols())
        binds = sum(isinstance(step, Bind) for program in some for step in program.all_steps())
        text = str(module)
        assert binds and text.count('define internal i32 @"ingot_bind.') == binds
        assert text.count('call i32 @"ingot_bind.') == 2 * binds
    with compile(model, target="native", specialise=[{"n": 5}]).session(threads=1) as session:
        for n in (5, 3, 5):
            x = np.arange(-1, n - 1, dtype=np.float32)
            results, profile = session.run({"x": x}), session.profile({"x": x}, runs=1)
            assert results["y"].tolist() == (x[x > 0] ** 2).tolist()
            assert results["places"].tolist() == [list(range(n - 2))]
            assert all(launch.calls == 1 for launch in profile.launches)


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
