"""What a new user tries: names that promise something else, machines that are not here, sizes that fit nowhere."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ingot.compiler.ir.text.resources import WeightFolder
from ingot.compiler.targets.errors import TargetError
from ingot.compiler.targets.registry import require_runnable
from ingot.runtime.cpu import host_architecture

from .conftest import Ingot

FOREIGN = "aarch64" if host_architecture() == "x86-64" else "x86-64-v3"


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--random"),
        ("bench", "--against", "none"),
        ("profile",),
        ("diff",),
        ("bisect",),
        ("reduce", "-o", "small.onnx"),
    ],
    ids=lambda command: command[0],
)
def test_what_this_machine_cannot_run_is_not_compiled(ingot: Ingot, model: Path, command: tuple[str, ...]) -> None:
    name, *options = command
    complaint = ingot(name, model, *options, "--target", FOREIGN).complaint
    assert f"the target {FOREIGN} is code for" in complaint and "cannot run" in complaint
    assert "makes no" in ingot(name, model, *options, "--target", "null").complaint
    assert os.listdir() == []


def test_selftest_elsewhere(ingot: Ingot) -> None:
    assert FOREIGN in ingot("selftest", "--target", FOREIGN).complaint
    assert "makes no code" in ingot("selftest", "--target", "null").complaint


def test_runnable_targets() -> None:
    for name in ("cpu", "native", "interpreter"):
        require_runnable(name)
    with pytest.raises(TargetError, match="there are cpu"):
        require_runnable("pdp-11")


def test_outputs_do_not_replace_inputs(ingot: Ingot, artifact: Path) -> None:
    x = np.ones((2, 4), np.float32)
    np.savez("x.npz", x=x)
    np.save("x.npy", x)
    before = Path("x.npz").read_bytes()
    assert "it is what is read" in ingot("run", artifact, "--input", "x.npz", "-o", "x.npz").complaint
    Path("link.npz").symlink_to("x.npy")
    assert "it is what is read" in ingot("run", artifact, "--input", "x=x.npy", "-o", "link.npz").complaint
    assert "ends in .npz" in ingot("run", artifact, "--random", "-o", "y.npy").complaint
    assert Path("x.npz").read_bytes() == before and np.array_equal(np.load("x.npy"), x)


@pytest.mark.parametrize("command", ["compile", "opt", "run"])
def test_a_hyphen_is_no_file(ingot: Ingot, model: Path, artifact: Path, command: str) -> None:
    source = (artifact, "--random") if command == "run" else (model,)
    assert "not written to stdout" in ingot(command, *source, "-o", "-").complaint
    assert ingot(command, *source, "-o", "./-", "-q").status == 0 and Path("-").is_file()


def test_shapes_that_no_memory_holds(ingot: Ingot, artifact: Path) -> None:
    complaint = ingot("run", artifact, "--random", "--shape", f"batch={10**18 - 1}").complaint
    assert "input 'x' of shape [999999999999999999, 4]" in complaint


def test_archives_are_named_as_they_were_given(ingot: Ingot, model: Path, artifact: Path) -> None:
    np.savez("x.npz", x=np.ones((2, 4), np.float32))
    assert ingot("run", artifact, "--input", "x=x.npz").complaint.endswith("write --input x.npz")
    assert ingot("diff", model, artifact, "--data", "x=x.npz").complaint.endswith("write --data x.npz")
    assert "--data 'x'" in ingot("diff", model, artifact, "--data", "x").complaint


def test_numbers_are_called_what_they_are(ingot: Ingot, artifact: Path) -> None:
    assert "'0' is no number of runs" in ingot("profile", artifact, "--runs", "0").complaint
    assert "'0' is no number of runs" in ingot("bench", artifact, "--rounds", "0").complaint
    assert "'0' is no number of threads" in ingot("profile", artifact, "--threads", "0").complaint


def test_help_is_that_of_the_command(ingot: Ingot, model: Path) -> None:
    complaint = ingot("cut", model, "-o", "c.onnx", "--size", "batch=2").complaint
    assert complaint == "unrecognized arguments: --size batch=2 (see ingot cut --help)"
    assert "(see ingot --help)" in ingot("--nothing").complaint


def test_top_0_is_all(ingot: Ingot, artifact: Path) -> None:
    full = ingot("profile", artifact, "--top", "0", "--threads", "1")
    assert full.status == 0 and "more launches" not in full.out
    launches = ingot("profile", artifact, "--json").record["launches"]
    assert all(each["kernel"] in full.out for each in launches)


def test_two_sides_of_different_inputs(ingot: Ingot, artifact: Path) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("left", "w")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    graph = helper.make_graph([helper.make_node("Add", ["left", "w"], ["y"])], "other", inputs, outputs)
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "w"))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, "other.onnx")
    complaint = ingot("diff", "other.onnx", artifact).complaint
    assert "different inputs" in complaint and "left" in complaint
    # inputs with defaults may be left out
    assert ingot("compile", "other.onnx", "-o", "other.ingot", "-q").status == 0
    assert ingot("diff", "other.onnx", "other.ingot").status == 0


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7, 5)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_weights_beside_text(tmp_path: Path, shape: tuple[int, ...], order: str) -> None:
    array = np.asarray(np.random.default_rng(0).standard_normal(shape), order=order)  # pyright: ignore[reportArgumentType, reportCallIssue]
    folder = WeightFolder(tmp_path / "weights")
    folder["0123456789abcdef"] = array
    read = folder["0123456789abcdef"]
    assert read.shape == shape and read.dtype == np.float64 and np.array_equal(read, array)
    assert os.listdir(tmp_path / "weights") == ["0123456789abcdef.npy"]


def test_weights_on_a_full_disk(tmp_path: Path) -> None:
    folder = WeightFolder(tmp_path / "weights")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            folder["0123456789abcdef"] = np.zeros(100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(tmp_path / "weights" / "0123456789abcdef.npy")
    assert os.listdir(tmp_path / "weights") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_status_says_it_where_stderr_cannot(tmp_path: Path) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "ingot.compiler.cli", "inspect", "nowhere.ingot"]
        assert subprocess.run(command, cwd=tmp_path, stderr=full, check=False).returncode == 2
