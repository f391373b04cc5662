"""What the innermost loops are made of on each level: which instructions multiply, how many, in which registers, and
that nothing is kept on the stack."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from llvmlite import binding as llvm
from numpy.typing import NDArray
from onnx import numpy_helper

from ingot.compiler import load_onnx
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.lower.lowering import lower
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import emit, features, objects
from ingot.compiler.targets.cpu.features import Level

Array = NDArray[Any]
rng = np.random.default_rng(0)

MULTIPLIES = re.compile(
    r"(?:\{vex\}\s*)?(?:(vfmadd)\d+ps|(vpdpbusd|vpmaddwd|usdot|sdot|usmmla)|(fmla|fmad|fmls|fmsb))\b"
)
REGISTER = re.compile(r"%?([xyz]mm|[vz])\d+")
ON_STACK = {"x86-64": re.compile(r"v?mov\w*\s+%\w+, -?\d*\(%r[sb]p"), "aarch64": re.compile(r"st\w*\s.*\[(sp|x29)\b")}

# For each level: the register that floats, and the instruction and the register that bytes are multiplied in.
LEVELS = {
    "x86-64-v3": ("ymm", "vpmaddwd", "ymm"),
    "x86-64-v3+avxvnni": ("ymm", "vpdpbusd", "ymm"),
    "x86-64-v4": ("zmm", "vpmaddwd", "zmm"),
    "x86-64-v4+avx512vnni": ("zmm", "vpdpbusd", "zmm"),
    "aarch64": ("v", "sdot", "v"),
    "aarch64+i8mm": ("v", "usmmla", "v"),
    "aarch64+sve256": ("z", "sdot", "z"),
    "aarch64+i8mm+sve256": ("z", "usmmla", "z"),
}
FLOATS = ("x86-64-v3", "x86-64-v4", "aarch64", "aarch64+sve256")  # the others compute floats as these do
# What takes more registers than there are: sums of pairs need two more for each product on their way, and the rows of a
# 3x3 convolution with strides are more addresses than NEON's loads can name.
TIGHT = {("x86-64-v3", "bytes"), ("aarch64", "conv")}


def w(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


MODELS: dict[str, tuple[str, dict[str, Array]]] = {
    "product": ("(float[64, 256] x) => (float[64, 192] y) { y = MatMul (x, w) }", {"w": w(256, 192)}),
    "conv": (
        """(float[1, 32, 28, 28] x) => (float[1, 64, 14, 14] y) {
            y = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w) }""",
        {"w": w(64, 32, 3, 3)},
    ),
    "pointwise conv": (
        "(float[1, 96, 14, 14] x) => (float[1, 160, 14, 14] y) { c = Conv (x, w)  y = Clip (c, low, high) }",
        {"w": w(160, 96, 1, 1), "low": np.array(0, np.float32), "high": np.array(6, np.float32)},
    ),
    "depthwise": (
        "(float[1, 96, 14, 14] x) => (float[1, 96, 14, 14] y) { y = Conv <group = 96, pads = [1,1,1,1]> (x, w) }",
        {"w": w(96, 1, 3, 3)},
    ),
    "winograd": (
        "(float[1, 64, 28, 28] x) => (float[1, 64, 28, 28] y) { y = Conv <pads = [1,1,1,1]> (x, w) }",
        {"w": w(64, 64, 3, 3)},
    ),
    "attention": (
        """(float[2, 128, 32] q, float[2, 128, 32] k, float[2, 128, 32] v) => (float[2, 128, 32] y) {
            t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  a = Mul (s, scale)
            p = Softmax <axis = -1> (a)  y = MatMul (p, v) }""",
        {"scale": np.array(0.2, np.float32)},
    ),
    "bytes": (
        """(float[64, 256] x) => (float[64, 192] y) {
            q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
            e = DequantizeLinear (w, t, n)  y = MatMul (d, e) }""",
        {
            "s": np.array(0.05, np.float32),
            "z": np.array(128, np.uint8),
            "w": rng.integers(-127, 128, (256, 192)).astype(np.int8),
            "t": np.array(0.02, np.float32),
            "n": np.array(0, np.int8),
        },
    ),
}


def kernels(name: str, level: Level) -> list[Kernel]:
    """The kernels of a model that are made of templates."""
    text, weights = MODELS[name]
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, label) for label, array in weights.items())
    program = lower(default_pipeline().run(load_onnx(model)), features.machine(level))
    return [launch.kernel for launch in program.launches() if not isinstance(launch.kernel.body, tuple)]


def assembly(kernel: Kernel, level: Level) -> str:
    module = objects.new_module("instructions", level)
    emit.emit_kernel(module, kernel, level, "kernel")
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    llvm.set_option("test", f"-disable-lsr={str(not objects.reduces_strength(kernel, level)).lower()}")
    try:
        return objects.target_machine(level).emit_assembly(parsed)
    finally:
        llvm.set_option("test", "-disable-lsr=false")


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions between each label and the branch back to it, where no other loop lies between."""
    lines = [re.split(r"//|\s#(?!\d)", line)[0].strip() for line in text.splitlines()]
    starts: dict[str, int] = {}
    found: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            starts[label[1]] = number
        elif (back := re.match(r"(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)) and back[1] in starts:
            found.append((starts[back[1]], number))
    inner = [a for a in found if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in found)]
    return [[line for line in lines[begin + 1 : end] if line and line[0] != "."] for begin, end in inner]


def multiplied(loop: list[str]) -> list[tuple[str, str]]:
    """For each multiplication: the instruction, without the order of operands, and the kind of its registers."""
    made: list[tuple[str, str]] = []
    for line in loop:
        if (found := MULTIPLIES.match(line)) and (register := REGISTER.search(line)):
            made.append((found[1] or found[2] or "fmla", register[1]))
    return made


@pytest.mark.parametrize(
    ("level", "name"),
    [(level, name) for level in LEVELS for name in MODELS if name == "bytes" or level in FLOATS],
)
def test_innermost_loops(level: str, name: str) -> None:
    which = features.level(level)
    floats, instruction, register = LEVELS[level]
    if name != "bytes":
        instruction, register = ("vfmadd" if which.arch == "x86-64" else "fmla"), floats
    hottest: list[str] = []
    for kernel in kernels(name, which):
        loops = innermost_loops(assembly(kernel, which))
        hottest = max([*loops, hottest], key=lambda loop: len(multiplied(loop)))
    made = multiplied(hottest)
    assert set(made) == {(instruction, register)}
    # Four steps of the depth for a tile that hides the latency of two units; a depthwise convolution has nine taps.
    assert len(made) >= 32
    assert len(made) / len(hottest) >= 0.2
    if (level, name) not in TIGHT:
        assert [line for line in hottest if ON_STACK[which.arch].match(line)] == []


def test_a_loop_is_found() -> None:
    """What the other test looks at, in text that is known."""
    text = """
.LBB0_1:
    movq %rax, %rbx
.LBB0_2:
    vfmadd231ps (%rcx), %zmm1, %zmm2
    vmovups %zmm2, 64(%rsp)
    jne .LBB0_2
    jne .LBB0_1
"""
    (loop,) = innermost_loops(text)
    assert multiplied(loop) == [("vfmadd", "zmm")]
    assert [line for line in loop if ON_STACK["x86-64"].match(line)] == ["vmovups %zmm2, 64(%rsp)"]
