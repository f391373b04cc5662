"""Comparisons: what a row says, how tables read, and that times of all engines are taken in the same way."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from benchmarks.comparison import means, over_gating, table
from benchmarks.entrants import race
from benchmarks.models import GROUPS, Case, cases, further
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.client import ROOT, PeerError
from benchmarks.placement import processors
from benchmarks.precise import DEAREST, expected
from benchmarks.static import static
from onnx import TensorProto, helper

import ingot.compiler
from benchmarks import compare, entrants, neighbour, tables, zoo
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import reference

DIGITS = cases("demo")[0]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No peer is installed."""
    monkeypatch.setenv("INGOT_PEERS", str(tmp_path / "peers"))
    return tmp_path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> compare.Subject:
    return compare.subject(DIGITS, "native", tmp_path_factory.mktemp("digits"))


def test_row_of_a_model(bare: Path, digits: compare.Subject) -> None:
    pytest.importorskip("onnxruntime")
    row = compare.measure(digits, 1, ("onnxruntime", "tract"), bare, rounds=2, bound=True, limit=60)
    timed = {"ingot", "ingot (bound)", "onnxruntime", "onnxruntime (bound)"}
    assert row["milliseconds"].keys() == row["best_milliseconds"].keys() == timed
    assert all(row["milliseconds"][name] >= row["best_milliseconds"][name] > 0 for name in timed)
    assert row["speedup"].keys() == {"onnxruntime", "onnxruntime (bound)"}
    assert row["error"].keys() == {"ingot", "onnxruntime"} and max(row["error"].values()) < 1e-5
    assert row["imprecise"] == ""
    assert row["refused"] == {"tract": "not installed: python -m benchmarks.peers install tract"}
    # Two for each multiply-add of the convolutions and the last product, one for what else is computed.
    least = 2 * (8 * 64 * 9 + 16 * 16 * 72)
    assert least < row["mflop"] * 1e6 < 6e6
    lines = table([row], ("onnxruntime", "tract")).splitlines()
    assert lines[2].startswith("| digits | 1 | 0.") and "| – [1] |" in lines[2]
    assert lines[3].startswith("| digits, bind | 1 | 0.")
    assert "[1] tract: not installed: python -m benchmarks.peers install tract  " in lines


def test_model_that_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], "odd")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y"))
    path = tmp_path / "odd.onnx"
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "odd", [x], [y]), opset_imports=imports), path)
    case = Case("odd", "demo", path, lambda: {"x": np.zeros(2, np.float32)})
    (row,) = compare.measured(case, "native", (1, 2), ())
    assert "NoSuchOperator" in row["refused"]["ingot"]
    assert "| odd | – | – [1] |" in table([row], ("onnxruntime",))


def line(model: str, times: dict[str, float], **more: Any) -> dict[str, Any]:
    """A row whose times are seconds."""
    speedup = {name: seconds / times["ingot"] for name, seconds in times.items() if name != "ingot"}
    found = {"milliseconds": {name: seconds * 1e3 for name, seconds in times.items()}, "speedup": speedup}
    errors = {"error": dict.fromkeys(times, 2e-7), "refused": {}}
    return {"model": model, "kind": "cnn", "mflop": 200.0, "threads": 1, **found, **errors, **more}


def test_cells() -> None:
    times = {"ingot": 0.01, "onnxruntime": 0.02, "openvino": 0.03, "ncnn": 0.05}
    errors = {"ingot": 1e-6, "onnxruntime": 0.5, "openvino": math.inf, "ncnn": 0.02}
    rows = [
        line("a", times, tokens=1, error=errors),
        line("b", times, error=errors, quantised=True, imprecise="quantised"),
        line("c", {"ingot": 0.01}, refused={"ncnn": "no", "openvino": "never"}),
        line("d", {"ingot": 0.01}, refused={"ncnn": "no"}),
    ]
    text = table(rows, ("onnxruntime", "openvino", "ncnn"))
    assert [[cell.strip() for cell in each.split("|")[1:-1]] for each in text.splitlines()[2:6]] == [
        [
            "a",
            "1",
            "10.000 (1e-06, 100 tokens/s)",
            "20.000 (WRONG: 5e-01, 50 tokens/s)",
            "30.000 (WRONG: other shapes or NaN, 33 tokens/s)",
            "50.000, ×5.00 (WRONG: 2e-02, 20 tokens/s)",
            "2.00",
            "3.00",
        ],
        [
            "b",
            "1",
            "10.000 (1e-06)",
            "20.000 (5e-01)",
            "30.000 (WRONG: other shapes or NaN)",
            "50.000, ×5.00 (2e-02)",
            "2.00",
            "3.00",
        ],
        ["c", "1", "10.000 (2e-07)", "–", "– [1]", "– [2]", "–", "–"],
        ["d", "1", "10.000 (2e-07)", "–", "–", "– [2]", "–", "–"],
    ]
    assert "[1] OpenVINO: never  \n[2] ncnn: no  " in text
    assert "double precision: b (quantised)." in text


def test_means_take_the_faster_peer_of_large_models() -> None:
    rows = [
        line("a", {"ingot": 1.0, "onnxruntime": 2.0, "openvino": 3.0, "tract": 0.1}),
        line("b", {"ingot": 1.0, "onnxruntime": 9.0, "openvino": 0.5}),
        line("small", {"ingot": 1.0, "onnxruntime": 50.0}, mflop=99.0),
        line("alone", {"ingot": 1.0}),
        line("wrong", {"ingot": 1.0, "onnxruntime": 4.0}, error={"ingot": 0.0, "onnxruntime": 0.5}),
        line("a", {"ingot": 1.0, "onnxruntime": 3.0}, threads=2),
        line("t", {"ingot": 1.0, "openvino": 1.5}, kind="transformer"),
        line("r", {"ingot": 1.0, "openvino": 1.5}, kind="recurrent"),
        {"model": "odd", "milliseconds": {}, "refused": {"ingot": "no"}},
    ]
    assert over_gating(rows[1]) == 0.5 and over_gating(rows[3]) is None and over_gating(rows[4]) is None
    faster = "against the faster of ONNX Runtime and OpenVINO"
    assert list(means(rows)) == [
        f"CNNs above 100 MFLOP, 1 thread: geometric mean 1.00 {faster}, over 2 rows; lowest 0.50 (b)",
        f"CNNs above 100 MFLOP, 2 threads: geometric mean 3.00 {faster}, over 1 row; lowest 3.00 (a)",
        f"Transformers above 100 MFLOP, 1 thread: geometric mean 1.50 {faster}, over 1 row; lowest 1.50 (t)",
    ]


def test_engine_that_fails_while_it_is_timed_is_left_out() -> None:
    made = {"a": 0, "b": 0}

    def sample(name: str, dies: int, count: int) -> list[float]:
        made[name] += count
        if made[name] > dies:
            raise PeerError("ended by SIGSEGV")
        return [1.0] * count

    samplers = {"a": partial(sample, "a", 10**9), "b": partial(sample, "b", 10)}
    times, lost = race(samplers, rounds=3)
    assert lost == {"b": "ended by SIGSEGV"}
    assert times.keys() == {"a"} and times["a"].rounds == (1.0, 1.0, 1.0)


def test_expected_outputs_are_of_double_precision() -> None:
    want, why = expected(DIGITS, 1.0)
    single = reference(DIGITS.path, 1).run(DIGITS.inputs())
    assert why == "" and want.keys() == single.keys()
    for name, values in want.items():
        assert values.dtype == np.float64
        assert 0 < np.abs(values - single[name]).max() < 1e-5 * np.abs(values).max()


@pytest.mark.parametrize(
    ("case", "mflop", "reason"),
    [(DIGITS, DEAREST + 1, "more than 30000 MFLOP"), (replace(DIGITS, quantised=True), 1.0, "quantised")],
)
def test_expected_outputs_of_single_precision_say_why(case: Case, mflop: float, reason: str) -> None:
    pytest.importorskip("onnxruntime")
    want, why = expected(case, mflop)
    assert why == reason and all(values.dtype == np.float32 for values in want.values())


def test_static_model_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = static(DIGITS, tmp_path)
    model = onnx.load(path)
    shapes = [[dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in model.graph.input]
    assert shapes == [list(array.shape) for array in DIGITS.inputs().values()]
    assert {node.domain for node in model.graph.node} == {""} and len(model.opset_import) == 1
    want = reference(DIGITS.path, 1).run(DIGITS.inputs())
    assert relative_error(reference(path, 1).run(DIGITS.inputs()), want) < 1e-6
    made = path.stat().st_mtime_ns
    assert static(DIGITS, tmp_path).stat().st_mtime_ns == made


def test_peer_that_takes_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(entrants, "APART", {"here": Peer("onnxruntime", "Here", "")})
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    broken = replace(DIGITS, path=path)
    with pytest.raises(PeerError, match=r"broken\.onnx"):
        entrants.enter("here", broken, path, 1, processors(1), tmp_path / "here", limit=60)
    entrant = entrants.enter("here", DIGITS, path, 1, processors(1), tmp_path / "whole", limit=60)
    try:
        assert relative_error(entrant.outputs, reference(DIGITS.path, 1).run(DIGITS.inputs())) < 1e-5
        assert len(entrant.sample(2)) == 2
    finally:
        entrant.close()


def test_every_table_has_its_place() -> None:
    for name, (path, _) in (*tables.TABLES.items(), *tables.RECORDED.items()):
        assert tables.replaced(path, name, "|").count(f"<!-- {name} -->\n|\n<!-- /{name} -->") == 1


def test_rows_of_other_models_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "rows.json"
    whole = tables.recorded(path, ["digits"], 1, ("onnxruntime",), (1,))
    assert [line.split(" | ")[:2] for line in whole.splitlines()[2:3]] == [["| digits", "1"]]
    (row,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**row, "model": "zoo/mlp"}, {**row, "error": {}}, {**row, "model": "gone"}]))
    again = tables.recorded(path, ["digits"], 1, ("onnxruntime",), (1,))
    assert [line.split(" | ")[0] for line in again.splitlines()[2:4]] == ["| digits", "| zoo/mlp"]
    rows = json.loads(path.read_text())
    assert [row["model"] for row in rows] == ["digits", "zoo/mlp"] and rows[0]["error"]


def test_engines_are_placed_alike() -> None:
    allowed = os.sched_getaffinity(0)
    for threads in range(1, len(allowed) + 3):
        chosen = processors(threads)
        assert len(chosen) == len(set(chosen)) == min(threads, len(allowed)) and set(chosen) <= allowed

def test_two_threads_are_two_after_one(tmp_path: Path) -> None:
    """An engine of this process that was made with one thread leaves the processors to the next."""
    allowed = os.sched_getaffinity(0)
    path = tmp_path / "digits.ingot"
    ingot.compiler.compile(DIGITS.path, target="native").save(path)
    for name in ("ingot", "onnxruntime"):
        entrant = entrants.enter(name, DIGITS, path, 1, processors(1), tmp_path / name, limit=60)
        entrant.sample(3)
        assert os.sched_getaffinity(0) == allowed
        entrant.close()


two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


@two
def test_row_beside_a_neighbour(bare: Path, digits: compare.Subject) -> None:
    row = neighbour.measure(DIGITS, digits.artifact, ("iree",), bare, rounds=1, limit=60)
    assert list(row["refused"]) == ["iree"]
    assert row["milliseconds"].keys() == {"ingot"} == row["gain"].keys()
    assert set(row["milliseconds"]["ingot"]) == {"one", "two", "beside"}
    assert row["gain"]["ingot"] > 0
    made = neighbour.table([{**row, "refused": {"iree": "a | b"}}])
    assert made.splitlines()[3] == "| digits | IREE | – | – | – | a \\| b |"


def test_neighbour_computes_only_when_it_is_to() -> None:
    near = neighbour.Neighbour(processors(1)[0])

    about = Path(f"/proc/{near._process.pid}")

    def used() -> float:
        return float((about / "schedstat").read_text().split()[0])

    def soon(happens: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not happens():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def rest() -> None:
        soon(lambda: (about / "stat").read_text().rpartition(")")[2].split()[0] == "T")

    try:
        rest()
        before = used()
        time.sleep(0.02)
        assert used() == before
        with near.busy():
            soon(lambda: used() > before)
        rest()
        after = used()
        assert near.beside(lambda count: [used()] * count)(1)[0] >= after
    finally:
        near.close()
    assert near._process.returncode is not None


def test_nothing_is_left_of_a_program_that_is_killed() -> None:
    source = """
import time
from benchmarks.neighbour import Neighbour
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.client import PeerError, Worker
worker = Worker(Peer("nobody", "Nobody", ""), [0])
try:
    worker.run(1)
except PeerError:
    print(worker._process.pid, Neighbour(0)._process.pid, flush=True)
time.sleep(60)
"""
    source = source.replace("[0]", str(list(processors(1)))).replace("r(0)", f"r({processors(1)[0]})")
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, cwd=ROOT, text=True) as program:
        assert program.stdout is not None
        left = program.stdout.readline().split()
        assert len(left) == 2 and all(Path(f"/proc/{pid}").exists() for pid in left)
        program.kill()

    def gone(pid: str) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    deadline = time.monotonic() + 10
    while not all(map(gone, left)):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_further_cases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_ZOO", str(tmp_path))
    assert further() == ()
    for name in ("resnet50", "bert_base", "gpt2_decode", "mlp"):
        path = zoo.place(name, "full", zoo.MODELS[name].exported_by("full")[0])
        path.parent.mkdir(parents=True)
        path.touch()
    made = {case.name: case for case in (*cases("zoo"), *further("zoo"))}
    lengths = {f"zoo/bert_base (sequence {length})" for length in (8, 512)}
    usual = {"zoo/resnet50", "zoo/bert_base", "zoo/gpt2_decode", "zoo/mlp"}
    assert made.keys() == usual | lengths | {"zoo/resnet50 (batch 8)"}
    assert made["zoo/resnet50 (batch 8)"].inputs()["image"].shape[0] == 8
    assert made["zoo/bert_base (sequence 512)"].inputs()["input_ids"].shape == (1, 512)
    assert made["zoo/bert_base"].inputs()["input_ids"].shape == (1, 128)
    assert (made["zoo/gpt2_decode"].tokens, made["zoo/bert_base"].tokens) == (1, 0)
    assert made["zoo/mlp"].bound and not made["zoo/resnet50"].bound
    assert made["zoo/resnet50"].kind == "cnn" and made["zoo/bert_base"].kind == "transformer"


def test_chosen_models_are_all_different() -> None:
    names = [case.name for case in compare.chosen(GROUPS, ())]
    assert len(names) == len(set(names)) >= 1
    assert [case.name for case in compare.chosen(("demo",), ("dig",))] == ["digits"]
    assert compare.chosen(("demo",), ("nothing",)) == ()


def test_unknown_engine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare.main(["--engines", "tvm"])
    assert "there is no engine tvm; there are onnxruntime, openvino, deepsparse" in capsys.readouterr().err
