"""Compilations with measured schedules: what is measured, what is kept, what is refused, what comes back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.compiler.tuning.models import conv_graph, expected, group_of, matmul_graph, random

from ingot.compiler import TuningError, TuningWarning, compile
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.choices import ScheduleError
from ingot.compiler.lower.context import Context
from ingot.compiler.lower.schedules import Schedule
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.request import Request
from ingot.compiler.targets.cpu.target import CpuTarget
from ingot.compiler.targets.registry import find_level, find_target
from ingot.compiler.targets.target import SERIAL
from ingot.compiler.tuning.confirm import Comparison, compare
from ingot.compiler.tuning.harness import Harness, Measured, caches, cold_bytes, last_cache
from ingot.compiler.tuning.record import Machine, Record, read_record
from ingot.compiler.tuning.search import search, tasks_of
from ingot.compiler.tuning.tuning import Tuning
from ingot.runtime.dtypes import f32, u8
from ingot.runtime.errors import InputError


def harness(cold: int = 0) -> Harness:
    level = find_level("cpu")
    assert level is not None
    return Harness(CpuTarget(level), SERIAL, cold)


def measured(place: Harness, graph: Graph, wanted: list[Schedule | None]) -> list[Measured]:
    found = [each for each in place.measure(group_of(graph), wanted) if each is not None]
    assert len(found) == len(wanted)
    return found


def test_products_by_strassen_are_measured_beside_plain_ones() -> None:
    graph = matmul_graph(256, 512, 512)
    tasks, _ = tasks_of(graph, Context(find_target("cpu").machine))
    found = search(tasks, Context(find_target("cpu").machine), harness(), 100.0, lambda line: None)
    (one,) = found.values()
    assert one.default.algorithm == "strassen"
    assert {"direct", "strassen"} <= {option.schedule.algorithm for option in one.options}
    assert all(option.measured for option in one.options)


def test_what_lowering_does_not_take_is_not_measured() -> None:
    x, w = (Input(name, TensorType(f32, shape)) for name, shape in (("x", (1, 72, 256)), ("w", (1, 256, 192))))
    graph = Graph((x, w), (("y", MatMul(x, w)),))
    found = harness().measure(group_of(graph), [None, Schedule("strassen", 16, 6, 36, 2)])
    assert found[0] is not None and found[1] is None


@pytest.mark.parametrize("options", [{"weights": "f16"}, {"memory": "small"}, {"denormals": "flush"}], ids=str)
def test_other_forms_are_tuned_too(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    given: dict[str, Any] = {"target": "native", "tuning": path, "cache": False}
    tuned = compile(conv_graph(), tune=0.3, **given, **options)
    (kernels,) = read_record(path).machines.values()
    (found,) = kernels.values()
    assert options != {"memory": "small"} or {o.schedule.algorithm for o in found} == {"direct"}
    arrays = {"x": random(5, 1, 9, 7, 24), "other": random(6, 1, 9, 7, 40)}
    with tuned.session(threads=1) as session:
        np.testing.assert_allclose(session.run(arrays)["y"], expected(arrays), atol=1e-2)
    (row,) = json.loads(tuned.schedules)
    assert row[4][0][:6] == [getattr(found[0].schedule, name) for name in NAMES]
    # What was measured for one form is nothing for another.
    plain = compile(conv_graph(), **given)
    assert (json.loads(plain.schedules)[0][2] == row[2]) == ("denormals" in options)


NAMES = ("algorithm", "width", "tile_rows", "row_block", "panel_block", "order")


@pytest.mark.parametrize("cold", [0, 1 << 20])
def test_candidates_are_measured_as_asked(cold: int) -> None:
    wanted = [None, Schedule("winograd2", 8, 6, 20, 5), Schedule("direct", 8, 4, 21, 2, "panels")]
    found = measured(harness(cold), conv_graph(), wanted)
    assert [each.decision.options[0].schedule for each in found[1:]] == wanted[1:]
    assert all(each.microseconds > 0 and len(each.times) > 2 for each in found)
    assert [len(each.decision.kernels) for each in found[1:]] == [3, 1]
    assert not found[0].beats(found[0], 0.0)


def test_products_of_two_inputs_are_measured() -> None:
    x, y = (Input(name, TensorType(f32, shape)) for name, shape in (("x", (2, 9, 8)), ("y", (2, 8, 11))))
    (one,) = measured(harness(), Graph((x, y), (("z", MatMul(x, y)),)), [None])
    assert len(one.decision.kernels) == 2 and "packed at run time" in one.decision.signature


def test_bytes_are_measured() -> None:
    x, w = Input("x", TensorType(u8, (9, 30))), constant(np.full((30, 20), -3, np.int8))
    wanted = [None, Schedule("direct", 8, 4, 9, 1, "panels")]
    found = measured(harness(), Graph((x,), (("z", MatMul(x, w)),)), wanted)
    assert all(each.microseconds > 0 for each in found)
    assert isinstance(found[1].template, Contraction) and found[1].template.dot > 1


def test_where_the_time_is_comes_first_and_time_ends() -> None:
    small, large = matmul_graph(), conv_graph()
    graph = Graph((*small.inputs, *large.inputs), (*small.outputs, ("z", large.outputs[0][1])))
    context = Context(find_target("cpu").machine)
    tasks, symbolic = tasks_of(graph, context)
    assert len(tasks) == 2 and symbolic == 0
    told: list[str] = []
    moments = iter([0.0, 0.0, 0.0, 90.0, 90.0, 90.0, 90.0])
    found = search(tasks, context, harness(), 100.0, told.append, lambda: next(moments))
    assert len(found) == len(told) == 1 and "conv:" in told[0]
    (one,) = found.values()
    assert all(option.measured for option in one.options) and one.default in [o.schedule for o in one.options]
    assert one.reverted[0].schedule == one.default


def test_extents_that_are_not_constant_are_counted() -> None:
    tasks, symbolic = tasks_of(matmul_graph(symbol("rows")), Context(find_target("cpu").machine))
    assert tasks == [] and symbolic == 1


def test_the_whole_model_is_compared() -> None:
    graph = conv_graph()
    (task,), _ = tasks_of(graph, Context(find_target("cpu").machine))
    seen = compare(graph, {}, {task.signature: Schedule("direct", 8, 1, 1, 1)}, harness())
    assert seen.default[task.signature] > 0 and seen.tuned[task.signature] > 0 and min(seen.whole) > 0
    told = Comparison({"a": 10.0, "b": 10.0}, {"a": 9.0, "b": 9.99, "c": 1.0}, (1.0, 1.0))
    assert [told.holds(name) for name in "abc"] == [True, False, True]


def test_the_caches_are_left_as_a_model_leaves_them(tmp_path: Path) -> None:
    assert cold_bytes(1 << 20, 1 << 20) == 0
    assert cold_bytes(2 << 20, 1 << 20) == 2 << 20
    assert cold_bytes(1 << 40, 1 << 20) < 1 << 32
    for number, text in enumerate(("32K", "1024K", "32M", "nonsense")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(text + "\n")
        (tmp_path / f"index{number}" / "level").write_text(f"{max(number, 1)}\n")
    assert caches(tmp_path) == {1: 1 << 20, 2: 32 << 20} and caches(tmp_path / "none") == {}
    assert last_cache(tmp_path) == 32 << 20 and last_cache(tmp_path / "none") == 0


def test_a_record_gives_the_same_artifact_again(tmp_path: Path) -> None:
    graph, path = conv_graph(5, 5, 16, 16), tmp_path / "tuning.json"
    progress: list[str] = []
    tuned = compile(graph, target="native", tune=0.3, tuning=path, cache=False, progress=progress.append)
    assert any(line.startswith("tuning") for line in progress)
    tuned.save(tmp_path / "a.ingot")
    (machine,) = read_record(path).machines
    assert machine.target == "native" and machine.features
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(graph, target="native", tuning=path, cache=False).save(tmp_path / "b.ingot")
    assert (tmp_path / "a.ingot").read_bytes() == (tmp_path / "b.ingot").read_bytes()
    arrays = {"x": random(5, 1, 5, 5, 16), "other": random(6, 1, 5, 5, 16)}
    with tuned.session(threads=1) as session:
        np.testing.assert_allclose(session.run(arrays)["y"], expected(arrays, inner=16, out=16), atol=1e-3)
    # What is known is not measured again.
    before = path.read_bytes()
    compile(graph, target="native", tune=0.3, tuning=path, cache=False)
    assert path.read_bytes() == before


def known(path: Path, schedule: Schedule) -> None:
    """A record that has this schedule for the kernels of `conv_graph` here."""
    (task,), _ = tasks_of(conv_graph(), Context(find_target("native").machine))
    machine = Tuning.of(Request(conv_graph(), "native", tune=1.0)).machine
    top: dict[str, Any] = json.loads(Record({machine: {}}).encode())
    row = {name: getattr(schedule, name) for name in NAMES} | {"predicted": 1, "limit": "compute", "measured": None}
    top["machines"][0]["kernels"] = {task.signature: [row]}
    path.write_text(json.dumps(top))


def test_records_decide(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    known(path, Schedule("direct", 8, 3, 21, 2, "ahead"))
    one = compile(conv_graph(), target="native", tuning=path)
    assert json.loads(one.schedules)[0][4][0][:6] == ["direct", 8, 3, 21, 2, "ahead"]
    # The keys of caches follow the record.
    keys = {Tuning.of(Request(conv_graph(), "native", tuning=path)).key, Tuning.of(Request(conv_graph(), "native")).key}
    known(path, Schedule("direct", 16, 3, 21, 2, "ahead"))
    assert len(keys | {Tuning.of(Request(conv_graph(), "native", tuning=path)).key}) == 3
    known(path, Schedule("direct", 8, 3, 1 << 40, 2))
    with pytest.raises(ScheduleError, match="tune the model again"):
        compile(conv_graph(), target="native", tuning=path)


def test_records_of_other_machines_are_ignored_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    Record({Machine("Elbrus", "native", ()): {}}).save(path)
    with pytest.warns(TuningWarning, match="tuned for Elbrus .*, not for .*: it is ignored"):
        one = compile(matmul_graph(), target="native", tuning=path, cache=False)
    one.save(tmp_path / "a.ingot")
    compile(matmul_graph(), target="native", cache=False).save(tmp_path / "b.ingot")
    assert (tmp_path / "a.ingot").read_bytes() == (tmp_path / "b.ingot").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "cpu", "tune": 1.0}, "target native"),
        ({"target": "x86-64-v3", "tune": 1.0}, "not x86-64-v3"),
        ({"target": "interpreter", "tune": 1.0}, "makes no code"),
        ({"target": "native", "tune": 1.0, "checked": True}, "without the checks"),
        ({"target": "native", "tuning": "nothing.json"}, "nothing.json"),
    ],
    ids=str,
)
def test_what_cannot_be_tuned(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TuningError, match=words):
        compile(matmul_graph(), **options)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), True, "60"])
def test_times_that_are_none(seconds: Any) -> None:
    with pytest.raises(InputError, match="tune"):
        compile(matmul_graph(), target="native", tune=seconds)
