"""``ingot compile --emit`` and the targets that make no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

Ingot = Any  # of conftest.py


@pytest.fixture
def model(tmp_path: Path, scale_proto: onnx.ModelProto) -> Path:
    path = tmp_path / "scale.onnx"
    path.write_bytes(scale_proto.SerializeToString())
    return path


def test_all_kinds(ingot: Ingot, model: Path, tmp_path: Path) -> None:
    """One command, four files; the names in them follow the output's."""
    done = ingot("compile", model, "--emit", "so,obj,header,ingot", "-o", tmp_path / "libnine.so", "--json")
    assert done.status == 0
    assert set(done.record["outputs"]) == {"so", "obj", "header", "ingot"}
    for kind, suffix in (("so", ".so"), ("obj", ".o"), ("header", ".h"), ("ingot", ".ingot")):
        path = tmp_path / f"libnine{suffix}"
        assert done.record["outputs"][kind] == {"path": str(path), "bytes": path.stat().st_size}
    text = (tmp_path / "libnine.h").read_text()
    assert "int32_t nine_run(" in text and "#define NINE_INPUT_COUNT 1" in text
    assert b"nine_run" in (tmp_path / "libnine.so").read_bytes()
    assert (tmp_path / "libnine.o").read_bytes()[:4] == b"\x7fELF"


def test_default_names(ingot: Ingot, model: Path) -> None:
    assert ingot("compile", model, "--emit", "header", "--target", "aarch64").status == 0
    assert "compiled by Ingot for aarch64" in model.with_suffix(".h").read_text()
    assert sorted(path.suffix for path in model.parent.iterdir()) == [".h", ".onnx"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--emit", "dll"], "'dll': what can be written is ingot, so, obj, header"),
        (["--emit", "so", "-o", "x.o"], "with --emit so the name ends in .so"),
        (["--emit", "so", "--target", "null"], "--target null writes nothing"),
        (["--target", "null", "-o", "x.ingot"], "--target null writes nothing"),
        (["--target", "interpreter"], "the interpreter makes no file; use: ingot run"),
        (["--target", "x86-64-v9"], "no target 'x86-64-v9'; there are cpu, x86-64-v3"),
        (["--target", "x86-64-v9", "--emit", "so"], "no target 'x86-64-v9'; there are cpu, x86-64-v3"),
    ],
)
def test_refusals(ingot: Ingot, model: Path, arguments: list[str], words: str) -> None:
    done = ingot("compile", model, *arguments)
    assert done.status == 2 and words in done.err
    assert [path.name for path in model.parent.iterdir()] == ["scale.onnx"]


def test_null_says_what_would_be_made(ingot: Ingot, model: Path) -> None:
    done = ingot("compile", model, "--target", "null", "--json")
    assert done.status == 0 and done.record["launches"] == 1 and done.record["memory"]["symbols"] == {"batch": 1}
    assert [path.name for path in model.parent.iterdir()] == ["scale.onnx"]
    done = ingot("compile", model, "--target", "null")
    assert "1, 1 launches" in done.out and "fused_0" in done.out


def test_run_compiles_a_model(ingot: Ingot, model: Path) -> None:
    results = [ingot("run", model, "--target", target, "--random", "3", "--json") for target in ("interpreter", "cpu")]
    means = [done.record["outputs"]["y"]["mean"] for done in results]
    assert [done.status for done in results] == [0, 0] and means[0] == pytest.approx(means[1], rel=1e-4)
    done = ingot("run", model, "--target", "null", "--random")
    assert done.status == 2 and "no code to run" in done.err
    done = ingot("run", model, "--random")
    assert done.status == 2 and "is a model, not an artifact" in done.err


def test_checked(ingot: Ingot, model: Path, tmp_path: Path) -> None:
    done = ingot("compile", model, "--checked", "-o", tmp_path / "checked.ingot", "--json")
    assert done.status == 0
    shown = ingot("inspect", tmp_path / "checked.ingot", "--json").record
    assert "checked" in str(shown)
    refused = ingot("compile", model, "--checked", "--emit", "so")
    assert "libraries for C have no checks" in refused.complaint
