"""Whose fault a failure is: exit status 2 for what was asked, 3 for Ingot."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.compiler.cli.command_line import DEFECT, FAILED, _failed
from ingot.compiler.cli.failures import explain
from ingot.compiler.defects import DefectError, defects_of
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.elf_object import LinkError

from .conftest import Ingot


@pytest.mark.parametrize("cause", [IrError("two storages are named 'x'"), LinkError(["no such symbol"])])
def test_malformed_programs_are_defects(cause: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DefectError, match=r"failed: .*defect of Ingot, please") as caught, defects_of("lowering"):
        raise cause
    assert caught.value.__cause__ is cause and explain(caught.value) is None
    assert _failed(caught.value, False) == DEFECT
    error = capsys.readouterr().err
    assert "Traceback" in error and error.splitlines()[-1].count("please report it") == 1


def test_other_errors_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), defects_of("lowering"):
        raise KeyError("x")
    assert _failed(IrError("a graph in text form is malformed"), False) == FAILED
    assert "Traceback" not in capsys.readouterr().err


EXITS = """
import sys
from ingot.compiler.ops.pointwise import Relu

def leave(graph):
    raise SystemExit(0)

def rule(node: Relu, graph):
    sys.exit("enough")
"""


@pytest.mark.parametrize(("name", "code"), [("leave", "0"), ("rule", "'enough'")])
def test_a_pass_that_exits(ingot: Ingot, model: Path, name: str, code: str) -> None:
    Path("leaving.py").write_text(EXITS)
    for command in ("compile", "opt"):
        complaint = ingot(command, model, "-o", "made", "--pass", f"leaving:{name}").complaint
        assert f"pass leaving:{name} failed: it called sys.exit({code})" in complaint
    assert not Path("made").exists()


def test_a_module_that_exits(ingot: Ingot, model: Path) -> None:
    Path("exiting.py").write_text("import sys\nsys.exit(0)\n")
    assert "exiting:p: SystemExit: 0" in ingot("compile", model, "-o", "m.ingot", "--pass", "exiting:p").complaint


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("foo:fuse=simplify", ["before:NAME=PASS", "foo:fuse= is none"]),
        ("after:fuse=", ["replace:NAME=PASS", "a pass must follow"]),
        (":x", ["module:attribute"]),
        ("my_passes:", ["module:attribute"]),
        ("after:fuse=:x", ["module:attribute"]),
    ],
)
def test_misspelt_passes(ingot: Ingot, model: Path, spec: str, words: list[str]) -> None:
    complaint = ingot("compile", model, "-o", "m.ingot", "--pass", spec).complaint
    assert all(word in complaint for word in words), complaint


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", ""])
def test_seeds(ingot: Ingot, artifact: Path, seed: str) -> None:
    assert "is no seed" in ingot("run", artifact, f"--random={seed}").complaint


def test_shapes_are_spoken_of_in_no_language(ingot: Ingot, model: Path) -> None:
    """Messages that the library and the command share fit both."""
    complaint = ingot("compile", model, "-o", "m.ingot", "--shape", "q=1..3").complaint
    assert "a range is given for the dim 'q', which no input has" in complaint
    complaint = ingot("compile", model, "-o", "m.ingot", "--shape", "x=1,5").complaint
    assert "axis 1 of input 'x' is given as 5" in complaint and "correct the shape given" in complaint
