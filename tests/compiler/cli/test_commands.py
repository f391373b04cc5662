"""What the commands do when all is well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ingot.compiler.cli.bench import verdict
from ingot.compiler.demo import model_path
from ingot.runtime import Session, __version__

Ingot = Callable[..., Any]


# -- compile and run --------------------------------------------------------------------------------------------------


def test_compile_and_run(ingot: Ingot, model: Path, scale: Callable[[Any], Any]) -> None:
    done = ingot("compile", model, "-o", "m.ingot")
    assert done.status == 0 and done.out.startswith("m.ingot: ") and "KB" in done.out
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.save("x.npy", x)
    done = ingot("run", "m.ingot", "--input", "x=x.npy", "-o", "y.npz")
    assert done.status == 0 and "y.npz" in done.out
    with np.load("y.npz", allow_pickle=False) as outputs:
        assert list(outputs) == ["y"]
        assert_allclose(outputs["y"], scale(x), rtol=1e-6, atol=1e-6)
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_output_has_the_name_of_the_model(ingot: Ingot, model: Path) -> None:
    Path("mine.onnx").write_bytes(model.read_bytes())
    assert ingot("compile", "mine.onnx", "--quiet").out == ""
    assert Path("mine.ingot").is_file()


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: np.repeat(x, 2, axis=0)[::2],
    ],
    ids=["fortran", "big endian", "strided"],
)
def test_input_layouts(ingot: Ingot, artifact: Path, scale: Callable[[Any], Any], layout: Callable[[Any], Any]) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez("x.npz", x=layout(x))
    assert ingot("run", artifact, "--input", "x.npz", "-o", "y.npz").status == 0
    assert_allclose(np.load("y.npz")["y"], scale(x), rtol=1e-6)


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_extents_of_a_symbolic_dim(ingot: Ingot, artifact: Path, scale: Callable[[Any], Any], batch: int) -> None:
    x = np.full((batch, 4), np.nan, np.float32) if batch == 1 else np.ones((batch, 4), np.float32)
    np.save("x.npy", x)
    done = ingot("run", artifact, "--input", "x=x.npy", "-o", "y.npz", "--threads", "2")
    assert done.status == 0
    assert_allclose(np.load("y.npz")["y"], scale(x), rtol=1e-6)


def test_run_prints_outputs(ingot: Ingot, artifact: Path) -> None:
    np.save("x.npy", np.array([[1, 1, 1, 1]], np.float32))
    assert ingot("run", artifact, "--input", "x=x.npy").out == "y  float32[1, 4]  1.33333 1 1.16667 2\n"
    np.save("x.npy", np.ones((3, 4), np.float32))
    assert ingot("run", artifact, "--input", "x=x.npy").out == "y  float32[3, 4]  min 1  max 2  mean 1.375\n"
    np.save("x.npy", np.ones((0, 4), np.float32))
    assert ingot("run", artifact, "--input", "x=x.npy").out == "y  float32[0, 4]  empty\n"


def test_run_as_json(ingot: Ingot, artifact: Path) -> None:
    np.save("x.npy", np.array([[1, np.inf, 1, 1]], np.float32))
    done = ingot("run", artifact, "--input", "x=x.npy", "--json", "-o", "y.npz")
    assert done.err == ""
    record = done.record
    assert record["outputs"]["y"]["shape"] == [1, 4] and record["outputs"]["y"]["dtype"] == "float32"
    assert record["outputs"]["y"]["max"] is None and record["outputs"]["y"]["mean"] is None  # JSON has no infinity
    assert record["output"] == "y.npz" and record["seconds"] > 0


def test_random_inputs_repeat(ingot: Ingot, artifact: Path) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        assert ingot("run", artifact, "--random", seed, "--shape", "batch=2", "-o", "y.npz").status == 0
        outputs.append(np.load("y.npz")["y"])
    assert outputs[0].shape == (2, 4)
    assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
    assert ingot("run", artifact, "--random", "--shape", "x=5,4", "--json").record["outputs"]["y"]["shape"] == [5, 4]


def test_outputs_of_any_name_and_type(ingot: Ingot) -> None:
    from onnx import TensorProto, helper

    names = ["file", "a/b:0", "allow_pickle"]
    nodes = [helper.make_node("Neg", ["x"], ["file"]), helper.make_node("Cast", ["x"], ["a/b:0"], to=TensorProto.INT64)]
    nodes.append(helper.make_node("Greater", ["x", "file"], ["allow_pickle"]))
    types = [TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL]
    graph = helper.make_graph(
        nodes,
        "names",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(n, t, [2]) for n, t in zip(names, types, strict=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "names.onnx")
    assert ingot("compile", "names.onnx").status == 0
    np.save("x.npy", np.array([1.5, -2], np.float32))
    assert ingot("run", "names.ingot", "--input", "x=x.npy", "-o", "y.npz").status == 0
    with np.load("y.npz") as outputs:
        assert outputs["file"].tolist() == [-1.5, 2]
        assert outputs["a/b:0"].tolist() == [1, -2]
        assert outputs["allow_pickle"].tolist() == [True, False]


def test_shapes_are_pinned(ingot: Ingot, model: Path) -> None:
    for shape in ("x=6,4", "batch=6", "batch=6..6", "batch=6,"[:-1]):
        assert ingot("compile", model, "-o", "m.ingot", "--shape", shape, "-q").status == 0
        assert Session("m.ingot").inputs[0].shape == (6, 4)
    assert ingot("compile", model, "-o", "m.ingot", "--shape", "x=rows,4", "--shape", "rows=1..9", "-q").status == 0
    record = ingot("inspect", "m.ingot", "--json").record
    assert record["inputs"][0]["shape"] == ["rows", 4] and record["symbols"] == {"rows": [1, 9]}


def test_same_bytes_for_any_number_of_jobs(ingot: Ingot, model: Path) -> None:
    for jobs in ("1", "2"):
        assert ingot("compile", model, "-o", f"{jobs}.ingot", "--jobs", jobs, "-q").status == 0
    assert Path("1.ingot").read_bytes() == Path("2.ingot").read_bytes()


def test_compile_as_json(ingot: Ingot, model: Path) -> None:
    done = ingot("compile", model, "-o", "m.ingot", "--json", "--print-after", "fuse", "--numerics=strict", "--verify")
    record = done.record
    assert record["artifact"] == "m.ingot" and record["bytes"] == Path("m.ingot").stat().st_size
    assert record["numerics"] == "strict" and "recognise" not in record["pipeline"]
    assert "fused(" in done.err  # what would go to stdout


def test_memory_is_chosen_and_told(ingot: Ingot, model: Path) -> None:
    assert ingot("compile", model, "-o", "m.ingot", "-q", "--memory", "small").status == 0
    assert ingot("inspect", "m.ingot", "--json").record["provenance"]["memory"] == "small"
    done = ingot("compile", model, "-o", "m.ingot", "--memory", "tiny")
    assert done.status == 2 and "'fast', 'small'" in done.err


# -- passes -----------------------------------------------------------------------------------------------------------

MODULE = '''
from dataclasses import dataclass
from ingot.compiler import Graph, Patch, rules
from ingot.compiler.ops.pointwise import Relu

def show_names(graph: Graph) -> Graph:
    print("nodes:", len(graph.nodes()))
    return graph

def drop_double_relu(node: Relu, graph: Graph) -> Patch | None:
    """relu(relu(x)) -> relu(x)"""
    match node:
        case Relu(Relu() as inner):
            return {node: inner}
    return None

fewer_relus = rules(drop_double_relu)

@dataclass(frozen=True)
class Count:
    """Options become text."""
    times: int = 1
    name: str = "count"

    def __call__(self, graph: Graph) -> Graph:
        print("counted", self.times)
        return graph
'''


def test_passes_on_the_command_line(ingot: Ingot, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(MODULE)
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    arguments = [
        "--pass",
        "mine:show_names",
        "--pass",
        "mine:Count{times=3}",
        "--pass",
        "before:simplify=mine:fewer_relus",
    ]
    done = ingot(
        "compile", model, "-o", "m.ingot", *arguments, "--without", "layout,expand", "--without", "recognise", "-v"
    )
    assert done.status == 0, done
    assert "nodes: " in done.out and "counted 3" in done.out
    assert "02 mine:fewer_relus: 8 -> 7 nodes, 1 firings" in done.err
    expected = "integers,mine:fewer_relus,simplify,mine:show_names,mine:Count{times=3},fold_norm,cleanup,bytewise,fuse"
    assert ingot("inspect", "m.ingot", "--json").record["provenance"]["pipeline"] == expected
    # A rule stands for the pass of that rule.
    done = ingot("opt", model, "--pass", "mine:drop_double_relu", "--json")
    assert done.record["pipeline"] == "mine:drop_double_relu" and len(done.record["firings"]) == 1
    # The text is one that parses back.
    assert ingot("compile", model, "-o", "again.ingot", "--pipeline", expected, "-q").status == 0
    assert Path("again.ingot").read_bytes() == Path("m.ingot").read_bytes()


def test_installed_passes(ingot: Ingot, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A distribution is a folder with metadata on sys.path.
    (tmp_path / "site" / "nicety-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "nicety.py").write_text(MODULE)
    (tmp_path / "site" / "nicety-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: nicety\n")
    (tmp_path / "site" / "nicety-1.0.dist-info" / "entry_points.txt").write_text(
        "[ingot.passes]\nfewer = nicety:fewer_relus\ncounting = nicety:Count\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    done = ingot("opt", model, "--pass", "fewer", "--pass", "counting{times=2}", "--json")
    assert done.record["pipeline"] == "fewer,counting{times=2}" and len(done.record["firings"]) == 1
    assert done.record["nodes_after"] == done.record["nodes_before"] - 1


def test_dump_and_print_after(ingot: Ingot, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ingot("compile", model, "-o", "m.ingot", "--dump", "steps", "--print-after", "simplify")
    assert "# after simplify\ngraph " in done.out
    names = sorted(path.name for path in Path("steps").glob("*.ir"))
    assert names[0] == "00-import.ir" and "02-simplify.ir" in names and names[-1] == "09-fuse.ir"
    monkeypatch.setenv("INGOT_DUMP", "others")
    assert ingot("compile", model, "-o", "m.ingot").status == 0
    assert sorted(path.name for path in Path("others").glob("*.ir")) == names


def test_stop_at(ingot: Ingot, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ingot("opt", model_path(), "--pipeline", "default", "--json").record
    assert len(everything["firings"]) > 5
    for count in (0, 1, 5):
        stopped = ingot("opt", model_path(), "--pipeline", "default", "--json", "--stop-at", str(count)).record
        assert stopped["firings"] == everything["firings"][:count]
        monkeypatch.setenv("INGOT_STOP_AT", str(count))
        assert ingot("opt", model_path(), "--pipeline", "default", "--json").record == stopped
        monkeypatch.delenv("INGOT_STOP_AT")


# -- opt --------------------------------------------------------------------------------------------------------------


def test_opt_round_trip(ingot: Ingot) -> None:
    assert ingot("opt", model_path(), "-o", "a.ir").status == 0
    assert list(Path("weights").glob("*.npy"))
    assert ingot("opt", "a.ir", "-o", "b.ir").status == 0
    assert Path("a.ir").read_text() == Path("b.ir").read_text()
    whole = ingot("opt", model_path(), "--pipeline", "default", "--verify").out
    halfway = ingot("opt", model_path(), "--pipeline", "simplify,recognise,fold_norm", "-o", "c.ir", "--json").record
    assert halfway["output"] == "c.ir"
    rest = [word for name in ("expand", "layout", "cleanup", "fuse") for word in ("--pass", name)]
    assert ingot("opt", "c.ir", *rest).out == whole


def test_opt_prints_the_import(ingot: Ingot, model: Path) -> None:
    text = ingot("opt", model, "--shape", "batch=3").out
    assert text.startswith('graph "scale" {') and "f32[3, 4]" in text and "relu_b" in text
    assert ingot("opt", model, "--shape", "batch=3", "--json").record["text"] == text


# -- inspect and check ------------------------------------------------------------------------------------------------


def test_inspect(ingot: Ingot, artifact: Path) -> None:
    record = ingot("inspect", artifact, "--json", "--verify").record
    assert record["bytes"] == artifact.stat().st_size > sum(m["bytes"] for m in record["members"])
    assert record["name"] == "scale" and record["producer"] == f"ingot {__version__}"
    assert record["inputs"] == [{"name": "x", "dtype": "f32", "shape": ["batch", 4]}]
    assert record["outputs"] == [{"name": "y", "dtype": "f32", "shape": ["batch", 4]}]
    assert record["symbols"] == {"batch": [0, None]}
    assert record["target"]["asked"] == "cpu" or record["target"]["levels"]
    assert record["target"]["runs_here"] in record["target"]["levels"]
    assert record["weights_bytes"] >= 16 and record["weights_types"].keys() <= {"f32"}
    assert 0 < sum(record["weights_types"].values()) <= record["weights_bytes"]
    assert all(size > 0 for size in record["code_bytes"].values())
    assert record["provenance"]["target"] == "cpu" and "simplify" in record["provenance"]["pipeline"]
    assert all(m["verified"] for m in record["members"] if m["name"] != "manifest.json")
    assert all(len(m["sha256"]) == 64 for m in record["members"])


def test_inspect_plans_memory(ingot: Ingot, artifact: Path) -> None:
    sizes = [
        ingot("inspect", artifact, "--json", "--shape", f"batch={batch}").record["memory"] for batch in (1, 100, 1000)
    ]
    assert [each["shapes"] for each in sizes] == [{"x": [1, 4]}, {"x": [100, 4]}, {"x": [1000, 4]}]
    assert sizes[0]["arena_bytes"] < sizes[1]["arena_bytes"] < sizes[2]["arena_bytes"]


def test_inspect_as_text(ingot: Ingot, artifact: Path) -> None:
    lines = ingot("inspect", artifact).out.splitlines()
    starts = ["artifact", "model", "target", "inputs", "outputs", "dims", "code", "weights", "memory", "members"]
    for start in starts:
        assert any(line.startswith(start) for line in lines), start
    assert "batch in 0.." in "\n".join(lines) and "x  f32[batch, 4]" in "\n".join(lines)


def test_check(ingot: Ingot, model: Path) -> None:
    done = ingot("check", model)
    assert (
        done.status == 0
        and "can be compiled for cpu" in done.out
        and "5 nodes of 4 kinds, opset ai.onnx 17" in done.out
    )
    record = ingot("check", model, "--target", "aarch64", "--shape", "batch=2", "--json").record
    assert record["compilable"] is True and record["unsupported"] == [] and record["launches"] == 1
    assert record["operators"] == {"Add": 1, "Div": 1, "Mul": 1, "Relu": 2} and record["opsets"] == {"ai.onnx": 17}


# -- demo and bench ---------------------------------------------------------------------------------------------------


def test_demo(ingot: Ingot) -> None:
    done = ingot("demo", "--rounds", "1", "--json")
    assert done.status == 0
    record = done.record
    assert record["samples"] == 359 and record["accuracy"] >= 0.98
    assert record["error"] <= 1e-4 and record["same_predictions"] is True
    assert record["artifact_bytes"] > 10_000 and record["compile_seconds"] > 0
    engines = {each["engine"]: each for each in record["latency"]}
    assert {"ingot", "onnx.reference"} <= engines.keys()
    assert all(each["median_seconds"] > 0 for each in engines.values()) and engines["ingot"]["times_ingot"] == 1


def test_demo_as_text(ingot: Ingot) -> None:
    text = ingot("demo", "--rounds", "1", "--threads", "2").out
    for word in ("held-out", "onnx.reference", "faster", "Try next", "ingot bench"):
        assert word in text


def test_bench_of_a_model(ingot: Ingot, model: Path) -> None:
    pytest.importorskip("onnxruntime")
    arguments = ("--against", "onnxruntime", "--threads", "1,2", "--rounds", "1", "--shape", "batch=3")
    done = ingot("bench", model, *arguments, "--json")
    record = done.record
    assert record["inputs"] == {"x": {"dtype": "float32", "shape": [3, 4]}}
    assert [(each["threads"], each["engine"]) for each in record["results"]] == [
        (threads, engine) for threads in (1, 2) for engine in ("ingot", "onnxruntime")
    ]
    for each in record["results"]:
        assert 0 < each["best_seconds"] <= each["median_seconds"]
        if each["engine"] != "ingot":
            assert each["error"] < 1e-6 and each["times_ingot"] > 0
    assert record["compile_seconds"] > 0 and record["missing"] == []


def test_bench_of_an_artifact(ingot: Ingot, artifact: Path, model: Path) -> None:
    np.save("x.npy", np.ones((2, 4), np.float32))
    done = ingot("bench", artifact, "--threads", "1", "--rounds", "1", "--input", "x=x.npy")
    assert done.status == 0 and "float32[2, 4]" in done.out and "onnxruntime" not in done.out
    assert "--model" in ingot("bench", artifact, "--against", "onnxruntime").complaint
    pytest.importorskip("onnxruntime")
    arguments = ("--model", model, "--against", "onnxruntime", "--threads", "1", "--rounds", "1")
    done = ingot("bench", artifact, *arguments)
    assert done.status == 0 and ("faster" in done.out or "slower" in done.out)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(2.5, "2.50 × faster"), (0.4, "2.50 × slower"), (1.0, "1.00 × faster"), (1234.5, "1234 × faster")],
)
def test_a_loss_is_told_like_a_win(ratio: float, text: str) -> None:
    assert verdict(ratio) == text


@pytest.mark.parametrize(("names", "word"), [("tflite", "tflite"), ("", "onnxruntime")])
def test_engines_that_are_not_known(ingot: Ingot, model: Path, names: str, word: str) -> None:
    assert word in ingot("bench", model, "--against", names).complaint


# -- talk -------------------------------------------------------------------------------------------------------------


def test_version_and_help(ingot: Ingot) -> None:
    assert ingot("--version").out == f"ingot {__version__}\n"
    assert all(name in ingot("--help").out for name in ("demo", "compile", "run", "bench", "inspect", "check", "opt"))
    for name in ("demo", "compile", "run", "bench", "inspect", "check", "opt"):
        done = ingot(name, "--help")
        assert done.status == 0 and "--json" in done.out


def test_traceback_on_demand(ingot: Ingot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in ingot("run", "nowhere.ingot").err
    done = ingot("run", "nowhere.ingot", "--traceback")
    assert done.status == 2 and "Traceback" in done.err and done.err.splitlines()[-1].startswith("ingot: error: ")
    monkeypatch.setenv("INGOT_TRACEBACK", "1")
    assert "Traceback" in ingot("run", "nowhere.ingot").err


def test_quiet_and_verbose(ingot: Ingot, model: Path) -> None:
    done = ingot("compile", model, "-o", "m.ingot", "-q")
    assert (done.status, done.out, done.err) == (0, "", "")
    done = ingot("compile", model, "-o", "m.ingot", "-v")
    assert "simplify" in done.err and "fuse" in done.err and " s] " in done.err
