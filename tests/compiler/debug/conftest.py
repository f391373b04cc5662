"""Rules and checks in a module that another process can import too, and a model for them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

MODULE = '''
import os
import signal
import time

import numpy as np

from ingot.compiler import Graph, Patch
from ingot.compiler.ops.pointwise import Abs, Add, Relu, Tanh
from ingot.runtime import Session


def drop_relu(node: Relu, graph: Graph) -> Patch | None:
    """relu(x) -> x, which is wrong"""
    return {node: node.x}


def swap_add(node: Add, graph: Graph) -> Patch | None:
    """a + b -> b + a, which is right"""
    return {node: Add(node.b, node.a, origin=())} if isinstance(node.a, Relu) else None


def throw_on_tanh(node: Tanh, graph: Graph) -> Patch | None:
    """tanh(x) -> nothing"""
    raise LookupError("no way to go on with 'this' (17 things)")


def all_positive(graph: Graph) -> Graph:
    """The magnitudes of all outputs: a pass without rules that is wrong."""
    return Graph(graph.inputs, tuple((name, Abs(value)) for name, value in graph.outputs), graph.name, graph.ranges)


def has_erf(path):
    import onnx
    return any(node.op_type == "Erf" for node in onnx.load(path).graph.node)


def reads_data(path):
    with np.load(path.with_suffix(".npz")) as arrays:
        assert float(arrays["x"].max()) < 7.5, "found 7.5 or more"


def positive(path):
    with Session(path) as session:
        return bool((session.run({"x": -np.ones((2, 4), np.float32)})["y"] > -0.5).any())


def crash(path):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(path):
    time.sleep(60)


def leave(path):
    os._exit(7)
'''


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the module above, importable here and in child processes; the working directory is empty."""
    name = f"faulty_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x[n, 4] -> tanh, relu, sum with x."""
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 17]>
            m (float[n, 4] x) => (float[n, 4] y) {
                [squash] a = Tanh (x)
                [keep] b = Relu (a)
                [sum] y = Add (b, x)
            }"""
        ),
        path,
    )
    return path
