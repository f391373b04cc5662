"""``--custom``: operators from a module or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.compiler.cli.conftest import Ingot

from ingot.runtime import Session

OPERATORS = '''
from ingot.compiler import custom_op


@custom_op("test.domain::Clamp")
def clamp(x, *, limit: float = 1.0):
    return min(max(x, -limit), limit)


@custom_op("test.domain::Reverse", form="loops", infer=lambda x: x)
def reverse(x, y):
    for i in range(x.shape[0]):
        y[i] = x[x.shape[0] - 1 - i]
'''


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """A model with two operators of a custom domain; their definitions lie beside it."""
    before = set(sys.modules)
    path = tmp_path / "custom.onnx"
    text = """<ir_version: 8, opset_import: ["" : 17, "test.domain" : 1]>
        main (float[n] x) => (float[n] y) { t = test.domain.Clamp <limit = 2.0> (x)  y = test.domain.Reverse (t) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    (tmp_path / "operators_here.py").write_text(OPERATORS, encoding="utf-8")
    (tmp_path / "empty_here.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "broken_here.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    yield path
    for name in set(sys.modules) - before:
        if name.endswith("_here"):
            del sys.modules[name]


@pytest.mark.parametrize("spec", ["operators_here.py", "operators_here"])
def test_compile(ingot: Ingot, model: Path, spec: str) -> None:
    done = ingot("compile", model, "--custom", spec, "-o", "out.ingot", "--verify")
    assert done.status == 0, done.err
    x = np.array([-5, 1, 9], np.float32)
    np.testing.assert_array_equal(Session(model.parent / "out.ingot").run({"x": x})["y"], [2, 1, -2])


def test_check(ingot: Ingot, model: Path) -> None:
    """What is custom is said to be; without the definitions it is missing; what Numba refuses is found too."""
    done = ingot("check", model, "--custom", "operators_here.py", "--json")
    assert done.status == 0 and done.record["compilable"]
    assert done.record["custom"] == {"test.domain.Clamp": "scalar", "test.domain.Reverse": "loops"}
    done = ingot("check", model, "--custom", "operators_here.py", "--target", "aarch64")
    assert "test.domain.Clamp: a custom operator (scalar)" in done.out
    done = ingot("check", model)
    assert done.status == 1 and "test.domain.Clamp" in done.out and "there is no such operator" in done.out
    text = OPERATORS.replace("y[i] = x", "y[i] = [x[i]][0]; print(i); y[i] = x")
    (model.parent / "printing_here.py").write_text(text, encoding="utf-8")
    done = ingot("check", model, "--custom", "printing_here.py")
    assert done.status == 1 and "test.domain::Reverse: it needs" in done.out


def test_graphs(ingot: Ingot, model: Path) -> None:
    """A graph in text form is written and read with the same option, and exported where ONNX can say it."""
    assert ingot("opt", model, "--custom", "operators_here", "-o", "graph.ir").status == 0
    assert "custom.test.domain.Clamp(%x, limit=2.0)" in (model.parent / "graph.ir").read_text(encoding="utf-8")
    done = ingot("opt", "graph.ir", "--custom", "operators_here", "--pipeline", "simplify")
    assert done.status == 0 and "custom.test.domain.Reverse(" in done.out and "Clamp(" not in done.out
    assert "known operators" in ingot("opt", "graph.ir").complaint


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent.py", "--custom absent.py: there is no such file"),
        ("empty_here.py", "it defines no operator with custom_op"),
        ("broken_here.py", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("absent_module", "--custom absent_module: ModuleNotFoundError"),
    ],
)
def test_mistakes(ingot: Ingot, model: Path, spec: str, message: str) -> None:
    assert message in ingot("compile", model, "--custom", spec).complaint
