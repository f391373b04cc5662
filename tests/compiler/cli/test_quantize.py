"""``ingot quantize``: models in, ONNX models, artifacts and reports out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.compiler.quantization.test_schemes import network as little

from ingot.compiler.cli import quantize
from ingot.compiler.quantization import SCHEMES

Ingot = Callable[..., Any]


def test_the_command_has_all_schemes() -> None:
    assert (*SCHEMES, "mixed") == quantize.SCHEMES


@pytest.fixture
def network(ingot: Ingot) -> Path:
    """A model in the current directory, with samples beside it."""
    onnx.save(little(), "net.onnx")
    Path("data").mkdir()
    for i in range(3):
        np.savez(f"data/s{i}.npz", x=np.random.default_rng(i).standard_normal((1, 4, 6, 6)).astype(np.float32))
    return Path("net.onnx")


def test_onnx_artifact_and_report(ingot: Ingot, network: Path) -> None:
    done = ingot("quantize", network, "--data", "data", "-o", "q.onnx", "-o", "q.ingot", "--report", "r.json", "--json")
    assert done.status == 0, done.err
    assert {Path(each["path"]).name for each in done.record["outputs"]} == {"q.onnx", "q.ingot"}
    report = json.loads(Path("r.json").read_text())
    assert report == done.record["report"] and report["samples"] == 3 and len(report["layers"]) == 3
    kinds = [n.op_type for n in onnx.load("q.onnx").graph.node]
    assert "QuantizeLinear" in kinds and "DequantizeLinear" in kinds
    assert ingot("run", "q.ingot", "--random").status == 0


def test_text(ingot: Ingot, network: Path) -> None:
    done = ingot("quantize", network, "--data", "data", "--samples", "2", "-o", "q.onnx", "--ends", "--no-measure")
    assert done.status == 0 and done.out.startswith("layer") and "q.onnx: " in done.out


def test_samples_of_a_function_in_the_current_directory(ingot: Ingot, network: Path) -> None:
    text = "import numpy as np\n\ndef two():\n    return [np.ones((1, 4, 6, 6), np.float32)] * 2\n"
    Path("drawn_here.py").write_text(text)
    done = ingot("quantize", network, "--data", "drawn_here:two", "-o", "q.onnx", "--ends", "--json")
    assert done.status == 0, done.err
    assert done.record["report"]["samples"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-o", "q.onnx"), "int8 needs samples"),
        (("-o", "q.txt", "--data", "data"), "q.txt: write .onnx or .ingot"),
        (("-o", "q.onnx", "--data", "nowhere"), "nowhere"),
        (("-o", "q.onnx", "--data", "os:getpgid"), "os:getpgid fails: TypeError"),
        (("-o", "q.onnx", "--data", "nowhere", "--opset", "12"), "opset 12 cannot be written"),
        (("-o", "q.onnx", "--data", "nowhere", "--target", "z80"), "no target 'z80'"),
        (("-o", "net.onnx", "--data", "data"), "would be overwritten"),
        (("-o", "q.onnx", "--data", "data/s1.npz", "--report", "data/s1.npz"), "s1.npz would be overwritten"),
        (("-o", "q.onnx", "--data", "data", "--report", "data/s1.npz"), "s1.npz would be overwritten"),
        (("-o", "q.onnx", "--data", "data", "--report", "data/../q.onnx"), "q.onnx is to be written twice"),
        (("-o", "q.onnx", "--data", "data", "--exclude", "c9"), "'c9'"),
        (("-o", "q.onnx", "--data", "data", "--method", "magic"), "magic"),
    ],
)
def test_complaints(ingot: Ingot, network: Path, arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in ingot("quantize", network, *arguments).complaint
    assert not Path("q.onnx").exists()


def test_plans_are_written_changed_and_taken(ingot: Ingot, network: Path) -> None:
    done = ingot("quantize", network, "--data", "data", "--ends", "-o", "q.onnx", "--write-plan", "p.json")
    assert done.status == 0, done.err
    plan = json.loads(Path("p.json").read_text())
    assert [each["scheme"] for each in plan["layers"].values()] == ["int8"] * 3
    next(iter(plan["layers"].values()))["scheme"] = "f32"
    Path("p.json").write_text(json.dumps(plan))
    done = ingot("quantize", network, "--data", "data", "--plan", "p.json", "-o", "q.onnx", "--json")
    assert done.status == 0, done.err
    assert [each["weights"][:2] for each in done.record["report"]["layers"]] == ["as", "i8", "i8"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--scheme", "fp16", "--write-plan", "p.json"), "fp16 is no scheme of single layers"),
        (("--scheme", "int8", "--plan", "p.json"), "leave --scheme out"),
        (("--plan", "v.json", "--exclude", "c1"), "a plan says what is done with each layer"),
        (("--plan", "p.json"), "p.json: a plan is JSON"),
        (("--plan", "nowhere.json"), "nowhere.json: No such file"),
        (("--plan", "p.json", "--write-plan", "p.json"), "would be overwritten"),
    ],
)
def test_complaints_about_plans(ingot: Ingot, network: Path, arguments: tuple[str, ...], complaint: str) -> None:
    Path("p.json").write_text("")
    Path("v.json").write_text('{"format": "ingot quantisation plan", "version": 1, "layers": {}}')
    assert complaint in ingot("quantize", network, "--data", "data", "-o", "q.onnx", *arguments).complaint


def test_mixed(ingot: Ingot, network: Path) -> None:
    given = ("quantize", network, "--data", "data", "--scheme", "mixed", "--objective", "size", "-o", "q.onnx")
    done = ingot(*given, "--max-error", "20%", "--write-plan", "p.json", "--sensitivity", "s.json", "--json")
    assert done.status == 0, done.err
    assert done.record["met"] and Path("q.onnx").exists()
    schemes = [each["scheme"] for each in json.loads(Path("p.json").read_text())["layers"].values()]
    assert schemes == ["fp16", "int8", "int8"]  # the scales of so few weights take more bytes than these in fp16
    assert json.loads(Path("s.json").read_text()) == done.record["sensitivities"]
    Path("q.onnx").unlink()
    done = ingot(*given, "--max-error", "1e-9")
    assert done.status == 1 and "the bound cannot be kept" in done.out and not Path("q.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "give either --max-error or --max-drop"),
        (("--max-error", "1%", "--max-drop", "1%"), "give either --max-error or --max-drop"),
        (("--max-drop", "1%"), "--max-drop is the drop of a --metric"),
        (("--max-drop", "1%", "--metric", "top1"), "--metric top1 and --labels go together"),
        (("--max-drop", "1%", "--metric", "top1", "--labels", "l.npy"), "--labels are those of --held-out"),
        (("--max-error", "0"), "'0' is no number above 0"),
        (("--max-error", "1%", "--exclude", "c1"), "--exclude does not go with --scheme mixed"),
        (("--max-error", "1%", "--candidates", "int9"), "'int9' is no scheme to choose from"),
    ],
)
def test_complaints_about_mixtures(ingot: Ingot, network: Path, arguments: tuple[str, ...], complaint: str) -> None:
    given = ("quantize", network, "--data", "data", "--scheme", "mixed", "-o", "q.onnx")
    assert complaint in ingot(*given, *arguments).complaint
    assert "--held-out is for --scheme mixed" in ingot("quantize", network, "-o", "q.onnx", "--held-out", "d").complaint


def test_what_diff_finds_is_a_plan(ingot: Ingot, network: Path) -> None:
    """The second of three layers, whose weights one grid serves badly, stays in f32."""
    proto = onnx.load(network)
    for each in proto.graph.initializer:
        if each.name == "w2":
            data = onnx.numpy_helper.to_array(each).copy()
            data[:, 0] *= 1000
            each.CopyFrom(onnx.numpy_helper.from_array(data, "w2"))
        if each.name == "w1":  # what these weights multiply is small, so that the others count, too
            data = onnx.numpy_helper.to_array(each).copy()
            data[0] /= 1e6
            each.CopyFrom(onnx.numpy_helper.from_array(data, "w1"))
    onnx.save(proto, network)
    given = ("quantize", network, "--data", "data", "-o")
    assert ingot(*given, "q.onnx", "--ends", "--no-measure", "--least-snr", "0").status == 0
    done = ingot("diff", network, "q.onnx", "--data", "data/s1.npz", "--write-plan", "p.json", "--bound", "0.1")
    assert Path("p.json").exists(), done.err
    plan = json.loads(Path("p.json").read_text())["layers"]
    assert [each["scheme"] for each in plan.values()] == ["int8", "f32", "int8"], plan
    assert "adds an error of" in plan["Conv:c2"]["reason"] and plan["Conv:c2"]["reason"].endswith("in int8")
    done = ingot(*given, "again.onnx", "--plan", "p.json", "--json")
    assert done.status == 0, done.err
    assert [each["weights"][:2] for each in done.record["report"]["layers"]] == ["i8", "as", "i8"]


def test_what_diff_makes_no_plan_of(ingot: Ingot, network: Path) -> None:
    assert ingot("quantize", network, "--data", "data", "-o", "q.onnx", "-o", "q.ingot", "--no-measure").status == 0
    given = ("--data", "data/s1.npz", "--write-plan", "p.json")
    assert "an artifact has its outputs alone" in ingot("diff", network, "q.ingot", *given).complaint
    assert "there is one model" in ingot("diff", network, *given).complaint
    assert "would be overwritten" in ingot("diff", network, "q.onnx", *given[:3], "q.onnx").complaint
    proto = onnx.load("q.onnx")
    kept = {each.name for each in (*proto.graph.input, *proto.graph.output)}
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"other {name}" for name in names]
    for each in proto.graph.initializer:
        each.name = f"other {each.name}"
    proto.graph.output[0].name = "z"
    proto.graph.node[-1].output[0] = "z"
    onnx.save(proto, "other.onnx")
    assert "nothing to compare" in ingot("diff", network, "other.onnx", *given).complaint
    assert not Path("p.json").exists()
