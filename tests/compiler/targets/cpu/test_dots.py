"""Products of 8-bit integers on each level: which instruction multiplies them, and what comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from llvmlite import binding as llvm
from numpy.typing import NDArray
from tests.compiler.ops.integer_examples import INTEGERS
from tests.compiler.targets.cpu import test_aarch64 as arm

from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Launch, Program
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import IrError
from ingot.compiler.lower.lowering import lower
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import dots, emit, features, objects
from ingot.compiler.targets.cpu.blocking import Blocking
from ingot.compiler.targets.cpu.features import Level
from ingot.runtime.cpu import kernel_flags, missing_features

Array = NDArray[Any]
EXAMPLES = {e.name: e for e in INTEGERS}


def extended(name: str, *more: str) -> Level:
    """A level with more features."""
    level = features.level(name)
    return replace(level, features=(*level.features, *(f"+{f}" for f in more)), required=level.required | set(more))


LEVELS = {
    "AVX2": (features.level("x86-64-v3"), "vpmaddwd", "ymm"),
    "AVX-VNNI": (features.level("x86-64-v3+avxvnni"), "vpdpbusd", "ymm"),
    "AVX-512": (features.level("x86-64-v4"), "vpmaddwd", "zmm"),
    "AVX-512 VNNI": (features.level("x86-64-v4+avx512vnni"), "vpdpbusd", "zmm"),
    "AVX-512 VNNI on ymm": (extended("x86-64-v3", "avx512vl", "avx512vnni"), "vpdpbusd", "ymm"),
    "AMX": (features.level("x86-64-v4+amx-int8"), "tdpbusd", "tmm"),
    "dotprod": (features.level("aarch64"), "sdot", ".4s"),
    "i8mm": (features.level("aarch64+i8mm"), "usmmla", ".4s"),
    "SVE": (features.level("aarch64+sve256"), "sdot", "z"),
    "SVE i8mm": (features.level("aarch64+i8mm+sve256"), "usmmla", "z"),
}


def lowered(name: str, level: Level) -> Program:
    """The program of an example, made for a level."""
    return lower(default_pipeline().run(EXAMPLES[name].graph()), features.machine(level))


def contractions(program: Program) -> list[Launch]:
    return [launch for launch in program.launches() if isinstance(launch.kernel.body, Contraction)]


def assembly(kernel: Kernel, level: Level) -> str:
    module = objects.new_module("dots", level)
    emit.emit_kernel(module, kernel, level, "kernel")
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return objects.target_machine(level).emit_assembly(parsed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["mat_mul_bytes_deep", "conv_bytes_3x3_last"])
def test_instructions(level: str, name: str) -> None:
    which, instruction, register = LEVELS[level]
    (launch,) = contractions(lowered(name, which))
    lines = [line for line in assembly(launch.kernel, which).splitlines() if instruction in line.split()]
    assert lines and all(register in line for line in lines if name.startswith("mat_mul"))


@pytest.mark.parametrize("level", ["dotprod", "i8mm", "AVX-VNNI", "AMX"])
@pytest.mark.parametrize("name", [n for n in EXAMPLES if "empty" not in n and "no_images" not in n])
def test_what_the_program_means(level: str, name: str) -> None:
    """Bytes made signed and what makes up for it, as the interpreter of programs sees them."""
    example, which = EXAMPLES[name], LEVELS[level][0]
    program = lowered(name, which)
    found = run_program(program, example.feed())
    for label, want in evaluate_graph(example.graph(), example.feed()).items():
        np.testing.assert_array_equal(found[label], want)
    for launch in contractions(program):
        body = launch.kernel.body
        assert isinstance(body, Contraction) and body.shift in (0, 128 if which.signed_dot else 0)


def any_bytes(launch: Launch) -> dict[str, Array]:
    """Contents of a launch's buffers and of what lies behind them, from the whole range of their types."""
    rng = np.random.default_rng(0)
    buffers: dict[str, Array] = {}
    for buffer, argument in zip(launch.kernel.buffers, launch.buffers, strict=True):
        size = argument.storage.size
        assert isinstance(size, int) and not launch.dims
        kind = buffer.dtype.to_numpy()
        limits = np.iinfo(kind)
        buffers[buffer.name] = rng.integers(limits.min, limits.max + 1, size + 200, kind)
    return buffers


SHAPES = ["mat_mul_bytes_odd", "mat_mul_bytes_row", "conv_bytes_1x1_last"]


@pytest.mark.skipif(arm.EMULATOR is None, reason="qemu-aarch64 is not installed")
@pytest.mark.parametrize("level", ["dotprod", "i8mm", "SVE", "SVE i8mm"])
@pytest.mark.parametrize("name", [*SHAPES, "mat_mul_bytes_column"])
def test_arm(level: str, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code, emulated, against the meaning of the kernel; SVE's with vectors as long as it expects, and longer."""
    which = LEVELS[level][0]
    (launch,) = contractions(lowered(name, which))
    buffers = any_bytes(launch)
    for length in (32, 64) if which.is_scalable else (16,):
        monkeypatch.setenv("QEMU_CPU", f"max,sve-default-vector-length={length}")
        arm.check(launch.kernel, buffers, tmp_path, level=which)


@pytest.mark.skipif(features.host_arch() != "x86-64", reason="levels of x86-64")
@pytest.mark.parametrize("level", ["AVX2", "AVX-VNNI", "AVX-512", "AVX-512 VNNI", "AVX-512 VNNI on ymm"])
@pytest.mark.parametrize("name", SHAPES)
def test_x86(level: str, name: str, native: Any) -> None:
    """The same on the processor, where it has the instructions."""
    which = LEVELS[level][0]
    if missing := missing_features(which.required, "x86-64", kernel_flags()):
        pytest.skip(f"the processor has no {', '.join(missing)}")
    (launch,) = contractions(lowered(name, which))
    native.check(launch.kernel, which, any_bytes(launch))


@pytest.mark.parametrize("level", ["i8mm", "SVE i8mm", "AMX", "AVX-512 VNNI"])
def test_rows_are_shared_out(level: str) -> None:
    """Every row is in one tile, and code is made for the rows that a tile has, whatever there are."""
    which = LEVELS[level][0]
    (launch,) = contractions(lowered("mat_mul_bytes_deep", which))
    body = launch.kernel.body
    assert isinstance(body, Contraction)
    for rows in range(4, 70):
        for block in (rows, 24):
            blocking = Blocking(replace(body, rows=(replace(body.rows[0], extent=rows),), row_block=block), which)
            found: set[int] = set()
            for chunk in {min(block, rows), rows % block} - {0}:
                for count in {min(chunk, blocking.block_rows), chunk % blocking.block_rows} - {0}:
                    tiles, least, larger = blocking.shared_out(count)
                    have = [least + blocking.together * (tile < larger) for tile in range(tiles)]
                    have[-1] -= sum(have) - count
                    assert sum(have) == count and min(have) > 0 and max(have) <= blocking.most
                    assert all(each % blocking.together == 0 for each in have[:-1])
                    found |= set(have)
            assert found == set(blocking.sizes)


def test_small_matrices_where_they_are_fewer_steps() -> None:
    """Eight bytes of the depth at a time, four where that leaves less to be filled up; groups are not filled up."""
    i8mm = LEVELS["i8mm"][0]
    for name, each in (
        ("mat_mul_bytes_odd", [8]),
        ("conv_bytes_first_last", [4]),
        ("conv_bytes_1x1_odd_last", [8]),
        ("conv_bytes_grouped_last", [4]),
        ("conv_bytes_grouped_odd_last", [1]),
    ):
        bodies = [launch.kernel.body for launch in contractions(lowered(name, i8mm))]
        assert [body.dot for body in bodies if isinstance(body, Contraction)] == each, name


def test_what_a_level_does_not_do() -> None:
    with pytest.raises(IrError, match="x86-64-v3 does not sum 8 products"):
        dots.product(features.level("x86-64-v3"), 8)
    with pytest.raises(IrError, match="aarch64 does not sum 4 products of 8-bit integers at a time"):
        dots.product(features.level("aarch64"), 4)
    with pytest.raises(IrError, match="2 products of 8-bit integers less 128"):
        dots.product(features.level("x86-64-v3"), 2, 128)
    with pytest.raises(IrError, match="aarch64 does not sum 8 products"):
        dots.product(features.level("aarch64"), 8)
