"""Kernels of products by weights of a few bits on each level: which instructions multiply, and what comes out."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import pytest
from llvmlite import binding as llvm
from numpy.typing import NDArray
from tests.compiler.lower.test_block_weights import Weights, close, random
from tests.compiler.targets.cpu import test_aarch64 as arm
from tests.compiler.targets.cpu.test_dots import LEVELS, contractions

from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.program import Launch
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.targets.cpu import emit, features, objects
from ingot.compiler.targets.cpu.features import Level
from ingot.runtime.cpu import kernel_flags, missing_features
from ingot.runtime.dtypes import f32

Array = NDArray[Any]
FORMS = {
    "u4": Weights(4, 32, 300, 37, zeros=True),
    "u8": Weights(8, 1000, 300, 37),
    "u2": Weights(2, 16, 67, 40, zeros=True),
}
MULTIPLIED = {
    "AVX2": "vpmaddubsw",
    "AVX-VNNI": "vpdpbusd",
    "AVX-512": "vpmaddubsw",
    "AVX-512 VNNI": "vpdpbusd",
    "AVX-512 VNNI on ymm": "vpdpbusd",
    "dotprod": "sdot",
    "i8mm": "usdot",
    "SVE": "sdot",
}


def launch_of(form: Weights, rows: int, level: Level, a_bits: int = 0) -> Launch:
    """The product of some rows by the weights, alone."""
    x = Input("x", TensorType(f32, (rows, len(form.x))))
    (launch,) = contractions(lower(Graph((x,), (("y", MatMul(x, form.node, a_bits)),)), features.machine(level)))
    return launch


def buffers_of(launch: Launch, x: Array) -> tuple[dict[str, Array], str]:
    """What the launch's buffers hold, and the one that it writes."""
    found: dict[str, Array] = {}
    written = ""
    for buffer, argument in zip(launch.kernel.buffers, launch.buffers, strict=True):
        storage = argument.storage
        if storage.data is not None:
            found[buffer.name] = storage.data
        elif buffer.access == "read":
            found[buffer.name] = x.reshape(-1)
        else:
            assert isinstance(storage.size, int)
            found[buffer.name], written = np.zeros(storage.size, np.float32), buffer.name
    return found, written


@pytest.mark.parametrize("level", MULTIPLIED)
def test_instructions(level: str) -> None:
    which = LEVELS[level][0]
    module = objects.new_module("program", which)
    emit.emit_kernel(module, launch_of(FORMS["u4"], 1, which).kernel, which, "kernel")
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    assert MULTIPLIED[level] in objects.target_machine(which).emit_assembly(parsed)


@pytest.mark.skipif(features.host_arch() != "x86-64", reason="levels of x86-64")
@pytest.mark.parametrize("level", ["AVX2", "AVX-VNNI", "AVX-512", "AVX-512 VNNI", "AVX-512 VNNI on ymm"])
@pytest.mark.parametrize(("name", "rows"), [("u4", 1), ("u8", 2), ("u2", 1), ("u4", 14)])
def test_x86(level: str, name: str, rows: int, native: Any) -> None:
    which, form = LEVELS[level][0], FORMS[name]
    if missing := missing_features(which.required, "x86-64", kernel_flags()):
        pytest.skip(f"the processor has no {', '.join(missing)}")
    x, launch = random(rows, len(form.x)), launch_of(form, rows, which)
    buffers, result = buffers_of(launch, x)
    native.run(launch.kernel, which, buffers)
    close(buffers[result].reshape(rows, -1), x.astype(np.float64) @ form.numbers)


@pytest.mark.skipif(features.host_arch() != "x86-64", reason="levels of x86-64")
@pytest.mark.parametrize("level", ["AVX2", "AVX-512", "AVX-512 VNNI on ymm"])
@pytest.mark.parametrize(("name", "rows"), [("u4", 5), ("u8", 1), ("u8", 3)])
def test_rows_that_may_be_rounded(level: str, name: str, rows: int, native: Any) -> None:
    """By half a 127th of the largest element of a block, or of a part of a long one, at most."""
    which, form = LEVELS[level][0], FORMS[name]
    if missing := missing_features(which.required, "x86-64", kernel_flags()):
        pytest.skip(f"the processor has no {', '.join(missing)}")
    x, launch = random(rows, len(form.x)), launch_of(form, rows, which, 8)
    buffers, result = buffers_of(launch, x)
    native.run(launch.kernel, which, buffers)
    off = np.abs(buffers[result].reshape(rows, -1) - x.astype(np.float64) @ form.numbers)
    size = min(form.block, 256)
    most = [np.abs(x[:, k // size * size : (k // size + 1) * size]).max(1) for k in range(len(form.x))]
    bound = np.stack(most, 1) / 253 @ np.abs(form.numbers) + 1e-5
    assert (off <= bound).all() and off.max() > 1e-6 * bound.max()


@pytest.mark.skipif(arm.EMULATOR is None, reason="qemu-aarch64 is not installed")
@pytest.mark.parametrize("level", ["dotprod", "i8mm", "SVE"])
@pytest.mark.parametrize(("name", "rows"), [("u4", 1), ("u8", 1), ("u2", 2), ("u4", 14)])
def test_arm(level: str, name: str, rows: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    which, form = LEVELS[level][0], FORMS[name]
    x, launch = random(rows, len(form.x)), launch_of(form, rows, which)
    buffers, result = buffers_of(launch, x)
    path = tmp_path / "program"
    path.write_bytes(arm.program_of(launch.kernel, buffers, {}, level=which))
    path.chmod(0o755)
    monkeypatch.setenv("QEMU_CPU", "max,sve-default-vector-length=32")
    done = subprocess.run([str(arm.EMULATOR), str(path)], capture_output=True, check=True)
    position = 0
    for buffer in launch.kernel.buffers:
        size = buffers[buffer.name].nbytes
        if buffer.name == result:
            have = np.frombuffer(done.stdout, np.float32, size // 4, position)
            close(have.reshape(rows, -1), x.astype(np.float64) @ form.numbers)
        position += size
