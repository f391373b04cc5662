"""How much of a thread's stack compiled functions use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from llvmlite import binding as llvm

from ingot.compiler import compile, load_onnx
from ingot.compiler.demo import model_path
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.templates import Attention
from ingot.compiler.lower.lowering import lower
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import emit, features, objects, program
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.team import declare_region

FOLDER = Path(os.environ.get("INGOT_MODELS") or Path(__file__).parents[5] / "shared" / "models")
BOUND = 256 << 10  # bytes of a thread, of which workers have 1 MiB
LEVELS = ("x86-64-v4", "aarch64+sve256")


def frames(text: str) -> dict[str, int]:
    """Bytes by which each function of an assembly text lowers the stack pointer, at most: with what it pushes, with
    registers saved, and with what aligning it may take."""
    found: dict[str, int] = {}
    for part in re.split(r"\n(?=\w[\w.]*:)", text)[1:]:
        name, size = part.partition(":")[0], 64
        for pattern, unit in ((r"subq\s+\$(\d+), %rsp", 1), (r"sub\s+sp, sp, #(\d+)(?!.*lsl)", 1), (r"(pushq)", 8)):
            for match in re.finditer(pattern, part):
                size += int(match[1]) if unit == 1 else unit
        size += sum(int(m[1]) << 12 for m in re.finditer(r"sub\s+sp, sp, #(\d+), lsl #12", part))
        size += sum(int(m[1]) for m in re.finditer(r"st[pr]\s.*\[sp, #-(\d+)\]!", part))
        size += sum(int(m[1]) * 256 for m in re.finditer(r"addvl\s+sp, sp, #-(\d+)", part))  # at SVE's longest
        found[name] = size
    return found


def lowered(model: Any, level: Level) -> Program:
    return lower(default_pipeline().run(load_onnx(model)), features.machine(level))


def different(made: Program) -> Iterable[Kernel]:
    return {objects.kernel_symbol(launch.kernel): launch.kernel for launch in made.launches()}.values()


def assembly(module: Any, level: Level) -> str:
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return objects.target_machine(level).emit_assembly(parsed)


def deepest(made: Program, level: Level) -> int:
    """The largest frame of a kernel, on top of that of the walk over the program."""
    module = objects.new_module("walk", level)
    program.emit_run(module, made, declare_region(module), level, objects.kernel_symbol)
    (walk,) = frames(assembly(module, level)).values()
    sizes: list[int] = []
    for kernel in different(made):
        module = objects.new_module("kernel", level)
        emit.emit_kernel(module, kernel, level, "kernel")
        sizes += frames(assembly(module, level)).values()
    return walk + max(sizes)


def arrays(kernel: Kernel, level: Level) -> int:
    """Bytes of the arrays that a kernel has on the stack."""
    function = emit.emit_kernel(objects.new_module("kernel", level), kernel, level, "kernel")
    sizes = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "i32": 4, "float": 4, "i64": 8, "double": 8, "ptr": 8}
    total = 0
    for line in str(function).splitlines():
        if " = alloca " in line:
            kind, count = re.findall(r"alloca (.+?)(?:, i32 (\d+))?(?:, align \d+)?$", line)[0]
            total += sizes[kind] * int(count or 1)
    return total


@pytest.mark.parametrize("name", ["digits", "mnist_cnn", "micro_kws_m_static_qdq"])
def test_models(name: str) -> None:
    """Besides arrays there are saved registers and what does not fit the others, some KiB."""
    path = model_path() if name == "digits" else FOLDER / name / "model.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not there: set INGOT_MODELS to the folder of models")
    which = features.level("x86-64-v4")
    assert max(arrays(kernel, which) for kernel in different(lowered(path, which))) < BOUND // 2


@pytest.mark.parametrize("level", LEVELS)
def test_frames_of_the_demo(level: str) -> None:
    which = features.level(level)
    assert 64 < deepest(lowered(model_path(), which), which) < BOUND // 2


def attention(depth: int, queries: int = 40) -> onnx.ModelProto:
    tensors = f"float[1, {queries}, {depth}] q, float[1, 300, {depth}] k, float[1, 300, {depth}] v"
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> m ({tensors}) => (float[1, {queries}, {depth}] y)
        <float scale = {{0.05}}> {{
            t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  a = Mul (s, scale)
            p = Softmax <axis = -1> (a)  y = MatMul (p, v) }}"""
    )


@pytest.mark.parametrize("depth", [64, 512, 2048])
def test_attention_keeps_rows_of_any_length_within_the_bound(depth: int) -> None:
    """Rows of a power of two of bytes are copied as long as there is room, longer ones are read by fewer at a time."""
    level = features.level("x86-64-v3")
    made = lowered(attention(depth), level)
    assert any(isinstance(kernel.body, Attention) for kernel in different(made))
    assert 16 << 10 < deepest(made, level) < BOUND


@pytest.mark.parametrize("depth", [512, 2048, 2049])
def test_attention_over_long_rows(depth: int) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, n, depth)).astype(np.float32) for n in (40, 300, 300))
    with compile(attention(depth), jobs=1).session(threads=1) as session:
        have = session.run({"q": q, "k": k, "v": v})["y"]
    scores = q.astype(np.float64) @ np.swapaxes(k, 1, 2) * 0.05
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(have, weights / weights.sum(-1, keepdims=True) @ v, rtol=0, atol=3e-5)


def test_frames_are_read() -> None:
    x86 = "\nf:\n\tpushq\t%rbx\n\tsubq\t$1088, %rsp\n\tret\n"
    arm = "\ng:\n\tstp\tx29, x30, [sp, #-96]!\n\tsub\tsp, sp, #2, lsl #12\n\tsub\tsp, sp, #80\n\tret\n"
    assert frames(x86) == {"f": 64 + 8 + 1088} and frames(arm) == {"g": 64 + 96 + 8192 + 80}
