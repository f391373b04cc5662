"""Schedules that are asked for: every one that the search may try computes the same, others are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.tuning.models import Array, context, conv_graph, expected, group_of, matmul_graph, random

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.templates import Contraction, Strassen
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.labels import Labels
from ingot.compiler.lower.choices import ScheduleError, signature_of
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.explain import analytical_options
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import AVX512
from ingot.compiler.lower.rounding import round_weights
from ingot.compiler.lower.schedules import Decision, Schedule, Schedules
from ingot.compiler.lower.weight_forms import FAST, Memory, WeightForms, Weights
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Slice
from ingot.compiler.targets.registry import find_target
from ingot.compiler.targets.target import Programs
from ingot.compiler.tuning.candidates import alternatives, analytical_choice, neighbours
from ingot.runtime.dtypes import f32

DIRECT = Schedule("direct", 16, 6, 63, 3)


def lowered(
    graph: Graph, schedule: Schedule | None, *, reorder: bool = True, forms: WeightForms = FAST
) -> tuple[Program, Decision]:
    told: list[Decision] = []
    wanted = Schedules(lambda signature, origin: schedule, told.append)
    program = lower(graph, find_target("cpu").machine, reorder=reorder, forms=forms, schedules=wanted)
    verify_program(program)
    (decision,) = told
    return program, decision


def test_every_candidate_computes_the_same() -> None:
    graph = conv_graph()
    group, here = group_of(graph), context()
    chosen = analytical_choice(here, group)
    found = dict.fromkeys((chosen, *alternatives(here, group)))
    for schedule in list(found):
        found |= dict.fromkeys(neighbours(here, group, schedule))
    candidates = [*found, *(replace(DIRECT, order=order) for order in ("tiles", "panels", "ahead"))]
    assert {c.algorithm for c in candidates} == {"direct", "winograd2", "winograd4"}
    assert len({c.width for c in candidates}) > 1 and len({c.tile_rows for c in candidates}) > 2
    assert len({(c.row_block, c.panel_block) for c in candidates}) > 4
    arrays = {"x": random(5, 1, 9, 7, 24), "other": random(6, 1, 9, 7, 40)}
    want = expected(arrays)
    target = find_target("cpu")
    for schedule in candidates[:: max(1, len(candidates) // 7)]:
        program, decision = lowered(graph, schedule)
        assert decision.options[0].schedule == schedule
        artifact = target.build(Programs(program), Labels("m", ["x", "other"], ["y"]))
        with artifact.session(threads=2) as session:  # type: ignore[union-attr]
            have = session.run(arrays)["y"]
        np.testing.assert_allclose(have, want, atol=2e-5 * float(np.abs(want).max()), err_msg=str(schedule))


def test_the_cost_model_is_foretold() -> None:
    convolutions = conv_graph(), conv_graph(28, 28, 64, 64), conv_graph(14, 14, 32, 8, 1)
    for graph in (*convolutions, matmul_graph(), matmul_graph(256, 512, 512)):
        _, decision = lowered(graph, None)
        assert decision.options[0].schedule == analytical_choice(context(), group_of(graph))
        assert all(option.predicted > 0 and option.measured is None for option in decision.options)
        assert len({option.schedule for option in decision.options}) == len(decision.options) > 1


def test_schedules_reach_the_template() -> None:
    program, decision = lowered(conv_graph(), replace(DIRECT, row_block=14, panel_block=2, order="ahead"))
    (body,) = [b for launch in program.launches() if isinstance(b := launch.kernel.body, Contraction)]
    assert (body.width, body.tile_rows, body.row_block, body.panel_block, body.order) == (16, 6, 14, 2, "ahead")
    assert set(decision.kernels) <= {launch.kernel.name for launch in program.launches()}


@pytest.mark.parametrize(
    "schedule",
    [
        replace(DIRECT, width=12),
        replace(DIRECT, width=1 << 30),
        replace(DIRECT, tile_rows=13),
        replace(DIRECT, tile_rows=0),
        replace(DIRECT, row_block=64),
        replace(DIRECT, row_block=0),
        replace(DIRECT, panel_block=4),
        replace(DIRECT, panel_block=1 << 40),
        replace(DIRECT, algorithm="winograd2", row_block=63),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(schedule: Schedule) -> None:
    with pytest.raises(ScheduleError, match=r"conv: the schedule .* does not fit"):
        lowered(conv_graph(), schedule)


def test_algorithms_that_cannot_be_used_are_refused() -> None:
    winograd = Schedule("winograd4", 16, 6, 1, 1)
    with pytest.raises(ScheduleError, match="can be computed by direct"):
        lowered(conv_graph(taps=1), winograd)
    with pytest.raises(ScheduleError, match="can be computed by direct"):
        lowered(conv_graph(), winograd, reorder=False)


def test_signatures_tell_kernels_apart() -> None:
    graphs = [conv_graph(), conv_graph(10), conv_graph(out=48), conv_graph(taps=1), matmul_graph(), matmul_graph(31)]
    found = [signature_of(context(), group_of(graph)) for graph in graphs]
    assert len(set(found)) == len(graphs) and None not in found
    assert signature_of(context(), group_of(conv_graph())) == found[0]
    assert signature_of(context(), group_of(matmul_graph(symbol("rows")))) is None
    assert signature_of(context(), group_of(matmul_graph(0))) is None
    lower(matmul_graph(0), find_target("cpu").machine, schedules=Schedules(note=lambda decision: None))
    machine = context().machine
    others = (Context(machine, reorder=False), *(Context(machine, forms=WeightForms(*each)) for each in FORMS))
    for graph in (rounded(conv_graph()), rounded(matmul_graph(40, 64, 80))):
        told = {signature_of(each, group_of(graph)) for each in (context(), *others)}
        assert len(told) == 2 + len(FORMS)


FORMS: tuple[tuple[Memory, Weights], ...] = (("small", "default"), ("fast", "f16"), ("small", "f32"))


def rounded(graph: Graph) -> Graph:
    return round_weights(graph, "f16")[0]


def result(program: Program, arrays: dict[str, Array]) -> Array:
    artifact = find_target("cpu").build(Programs(program), Labels("m", list(arrays), ["y"]))
    with artifact.session(threads=1) as session:  # type: ignore[union-attr]
        return session.run(arrays)["y"]


@pytest.mark.parametrize("memory", ["fast", "small"])
def test_schedules_of_narrow_weights(memory: Memory) -> None:
    graph, forms = rounded(conv_graph()), WeightForms(memory, "f16")
    here = Context(find_target("cpu").machine, forms=forms)
    chosen = analytical_choice(here, group_of(graph))
    candidates = [s for s in alternatives(here, group_of(graph)) if s.algorithm == "direct"]
    candidates += neighbours(here, group_of(graph), replace(chosen, algorithm="direct"))[:2]
    candidates = [s for s in candidates if s.row_block <= 63]
    if memory == "small":  # neither larger filters nor another form of them
        assert {s.algorithm for s in (chosen, *alternatives(here, group_of(graph)))} == {"direct"}
        assert {s.width for s in (chosen, *alternatives(here, group_of(graph)))} == {8}
        with pytest.raises(ScheduleError, match="panels of 8"):
            lowered(graph, DIRECT, forms=forms)
        with pytest.raises(ScheduleError, match="can be computed by direct"):
            lowered(graph, Schedule("winograd2", 8, 6, 20, 5), forms=forms)
    arrays = {"x": random(5, 1, 9, 7, 24), "other": random(6, 1, 9, 7, 40)}
    want = result(lowered(graph, None)[0], arrays)
    assert len(candidates) > 1
    for schedule in candidates[:3]:
        program, decision = lowered(graph, schedule, forms=forms)
        assert decision.options[0].schedule == schedule and "weights as f16" in decision.signature
        assert "f16" in {s.dtype.name for s in program.storages if s.kind == "weight"}
        np.testing.assert_allclose(result(program, arrays), want, atol=2e-5 * float(np.abs(want).max()))


def test_products_by_strassen_are_a_choice() -> None:
    graph, arrays = matmul_graph(72, 256, 192), {"x": random(5, 72, 256)}
    group, here = group_of(graph), context()
    halved = [o.schedule for o in analytical_options(here, group) if o.schedule.algorithm == "strassen"]
    assert {s.width for s in halved} == {8, 16, 24}
    wide = analytical_options(Context(AVX512), group)  # vectors of 16
    assert {o.schedule.width for o in wide if o.schedule.algorithm == "strassen"} == {8, 16}
    want = np.maximum(arrays["x"].astype(np.float64) @ random(3, 256, 192), 0)
    for schedule in (*halved, replace(halved[0], row_block=13, panel_block=1), Schedule("direct", 16, 4, 72, 3)):
        program, decision = lowered(graph, schedule)
        assert decision.options[0].schedule == schedule
        bodies = {type(launch.kernel.body) for launch in program.launches()}
        assert (Strassen in bodies) == (schedule.algorithm == "strassen")
        np.testing.assert_allclose(result(program, arrays), want, atol=5e-6 * float(np.abs(want).max()))


def test_the_cost_model_s_own_products_by_strassen_are_told_and_can_be_had_otherwise() -> None:
    graph = matmul_graph(256, 512, 512)
    _, decision = lowered(graph, None)
    assert decision.options[0].schedule.algorithm == "strassen" and len(decision.kernels) == 2
    program, told = lowered(graph, Schedule("direct", 16, 6, 63, 3))
    assert told.options[0].schedule.algorithm == "direct" and len(told.kernels) == 1
    assert not any(isinstance(launch.kernel.body, Strassen) for launch in program.launches())
    assert lowered(graph, None, reorder=False)[1].signature != decision.signature


def test_rows_that_lie_apart_are_not_halved() -> None:
    x = Input("x", TensorType(f32, (9, 73, 128)))
    part = Slice(x, (0, 0, 0), (9, 36, 128), (1, 2, 1))
    made = Graph((x,), (("y", MatMul(part, constant(random(3, 128, 256)))),), "apart")
    wanted = Schedule("strassen", 16, 6, 54, 1)
    told: list[Decision] = []
    schedules = Schedules(lambda signature, origin: wanted, told.append)
    program = lower(made, find_target("cpu").machine, schedules=schedules)
    verify_program(program)
    assert {option.schedule.algorithm for option in told[0].options} == {"direct"}
    arrays = {"x": random(5, 9, 73, 128)}
    want = arrays["x"][:, :72:2].astype(np.float64) @ random(3, 128, 256)
    np.testing.assert_allclose(result(program, arrays), want, atol=5e-6 * float(np.abs(want).max()))


HALVED = Schedule("strassen", 16, 6, 36, 2)


@pytest.mark.parametrize(
    "wanted",
    [
        replace(HALVED, width=48),
        replace(HALVED, tile_rows=5),
        replace(HALVED, row_block=0),
        replace(HALVED, row_block=37),
        replace(HALVED, panel_block=0),
        replace(HALVED, panel_block=7),
        replace(HALVED, order="panels"),
    ],
    ids=str,
)
def test_ways_to_halve_that_do_not_fit_are_refused(wanted: Schedule) -> None:
    lowered(matmul_graph(72, 256, 192), HALVED)
    with pytest.raises(ScheduleError, match="not halved in this way"):
        lowered(matmul_graph(72, 256, 192), wanted)


def test_what_cannot_be_halved_is_refused() -> None:
    wanted = Schedule("strassen", 16, 6, 4, 1)
    for graph in (matmul_graph(72, 255, 192), matmul_graph(72, 256, 176), matmul_graph(8, 256, 192)):
        with pytest.raises(ScheduleError, match="not halved in this way"):
            lowered(graph, wanted)
    with pytest.raises(ScheduleError, match="not halved in this way"):
        lowered(matmul_graph(72, 256, 192), wanted, reorder=False)
    with pytest.raises(ScheduleError, match="not halved in this way"):
        lowered(rounded(matmul_graph(72, 256, 192)), wanted, forms=WeightForms("fast", "f16"))
