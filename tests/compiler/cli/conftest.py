"""A small model, its artifact, and the command called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The JSON object on stdout."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line of an error."""
        assert self.status == 2, self
        assert self.out == "", self.out
        lines = [line for line in self.err.splitlines() if not line.startswith("[")]  # without progress
        assert len(lines) == 1 and lines[0].startswith("ingot: error: "), self.err
        return lines[0].removeprefix("ingot: error: ")


Ingot = Callable[..., Outcome]


@pytest.fixture
def ingot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ingot:
    """The command, run in an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("INGOT_DUMP", "INGOT_STOP_AT", "INGOT_TRACEBACK", "INGOT_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def scale_proto() -> onnx.ModelProto:
    """y = relu(relu(x * w)) / 3 + x for x f32[batch, 4]."""
    weights = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "w"], ["scaled"], name="scale"),
            helper.make_node("Relu", ["scaled"], ["once"], name="relu_a"),
            helper.make_node("Relu", ["once"], ["twice"], name="relu_b"),
            helper.make_node("Div", ["twice", "three"], ["third"], name="third"),
            helper.make_node("Add", ["third", "x"], ["y"], name="sum"),
        ],
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array(3, np.float32), "three")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def scale() -> Callable[[Any], Any]:
    """What `scale_proto` computes, in f64."""
    weights = np.array([1.0, -2.0, 0.5, 3.0])
    return lambda x: np.maximum(x * weights, 0) / 3 + x


@pytest.fixture(scope="session")
def model(scale_proto: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scale_proto` as a file."""
    path = tmp_path_factory.mktemp("model") / "scale.onnx"
    onnx.save(scale_proto, path)
    return path


@pytest.fixture(scope="session")
def artifact(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of `model`."""
    path = tmp_path_factory.mktemp("artifact") / "scale.ingot"
    assert main(["compile", str(model), "-o", str(path), "-q"]) == 0
    return path
