"""Compiled routines: the functions of the C library that they call, and other machines than this one."""

# pyright: reportMissingParameterType=false
# The operators are written as their authors write them.

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from tests.compiler.targets.cpu import test_aarch64

from ingot.compiler import compile, custom_op
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu import c_library, features, objects
from ingot.compiler.targets.cpu.compiled_routines import called_routines, compile_routines, undefined_symbols
from ingot.compiler.targets.registry import find_target
from ingot.runtime import Session
from ingot.runtime.dtypes import f32, f64
from ingot.runtime.image import Image


def mathematics(x, y):
    """A column for each function; all of them are defined between 0 and 1."""
    for i in range(x.shape[0]):
        v = x[i]
        y[i, 0], y[i, 1], y[i, 2], y[i, 3] = math.exp(v), math.log(v), math.sin(v), math.cos(v)
        y[i, 4], y[i, 5], y[i, 6], y[i, 7] = math.tan(v), math.tanh(v), math.erf(v), math.sqrt(v)
        y[i, 8], y[i, 9], y[i, 10], y[i, 11] = math.acos(v), math.asin(v), math.atan(v), math.sinh(v)
        y[i, 12], y[i, 13], y[i, 14], y[i, 15] = math.cosh(v), math.asinh(v), math.atanh(v), math.expm1(v)
        y[i, 16], y[i, 17], y[i, 18], y[i, 19] = math.log1p(v), math.log2(v), math.log10(v), math.pow(v, 1.5)
        y[i, 20], y[i, 21], y[i, 22], y[i, 23] = v**0.3, math.floor(v * 9), math.ceil(v * 9), round(v * 9)
        y[i, 24], y[i, 25], y[i, 26], y[i, 27] = math.atan2(v, 0.5), v % 0.3, v // 0.3, np.fmod(v, 0.3)
        y[i, 28], y[i, 29], y[i, 30], y[i, 31] = np.exp2(v), abs(v - 0.5), math.copysign(v, v - 0.5), math.trunc(v * 9)


COLUMNS = 32


def types(x: TensorType) -> TensorType:
    return TensorType(x.dtype, (x.shape[0], COLUMNS))


def graph(name: str) -> Graph:
    x = Input("x", TensorType({"f32": f32, "f64": f64}[name], (symbol("n"),)))
    return Graph((x,), (("y", custom_op("test::Mathematics", form="loops", infer=types)(mathematics)(x)),))


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_mathematics(name: str, tmp_path: Path) -> None:
    """As precise as the vector mathematics, whatever Numba calls: intrinsics, functions, instructions."""
    path = tmp_path / "model.ingot"
    compile(graph(name), cache=False).save(path)
    x = np.linspace(0.01, 0.99, 61).astype({"f32": np.float32, "f64": np.float64}[name])
    want = np.zeros((61, COLUMNS))
    mathematics(x.astype(np.float64), want)
    have = Session(path).run({"x": x})["y"]
    # 2 ulp of the functions; what is cancelled by a remainder comes on top
    tolerance = 1e-6 if name == "f32" else 1e-14
    np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "aarch64"])
def test_closed_on_every_level(name: str) -> None:
    """An object for a machine that this one need not be refers to nothing outside."""
    program = lower(graph("f32"), find_target(name).machine)
    (made,) = compile_routines(called_routines(program), features.level(name))
    assert not undefined_symbols(made) - {"_GLOBAL_OFFSET_TABLE_"}
    machine = int.from_bytes(made[18:20], "little")
    assert machine == (183 if name == "aarch64" else 62)  # EM_AARCH64, EM_X86_64


@pytest.mark.skipif(test_aarch64.EMULATOR is None, reason="qemu-aarch64 is not installed")
def test_emulated_aarch64(tmp_path: Path) -> None:
    """Compiled here for a processor of another kind, run on it, cut in chunks: as the Python function."""

    def rows(x, bias, y):
        for i in range(x.shape[0]):
            total = 0.0
            for j in range(x.shape[1]):
                total += math.exp(x[i, j]) * (bias[j] if bias is not None else 1.0)
            for j in range(x.shape[1]):
                y[i, j] = math.tanh(x[i, j] / total) + x[i, j] % 0.75

    operator = custom_op("test::Rows", form="loops", infer=lambda x, bias=None: x, parallel=("x", "y"))(rows)
    x = Input("x", TensorType(f32, (symbol("n"), 5)))
    bias = Input("bias", TensorType(f32, (5,)))
    program = lower(Graph((x, bias), (("y", operator(x, bias)),)), find_target("aarch64").machine)
    launch = next(program.launches())
    rng = np.random.default_rng(0)
    n = 2000
    arrays = [rng.standard_normal(n * 5).astype(np.float32), np.zeros(1, np.int64), np.zeros(n * 5, np.float32)]
    arrays.append(rng.random(5).astype(np.float32))
    by_kind = {"x": arrays[0], "bias": arrays[3], "y": arrays[2]}
    names = {a.storage.name: b.name for a, b in zip(launch.buffers, launch.kernel.buffers, strict=True)}
    buffers = {inner: by_kind.get(outer, arrays[1]) for outer, inner in names.items()}
    routines = compile_routines(called_routines(program), features.level("aarch64"))
    test_aarch64.check(launch.kernel, buffers, tmp_path, routines, n=n)


@pytest.mark.parametrize("name", ["memcpy", "memmove", "memset", "fmod", "powf"])
def test_weak_functions(name: str, first_level: features.Level) -> None:
    """What code generation may call under the C library's name."""
    module = objects.new_module("library", first_level)
    c_library.define(module, name, first_level)
    inner = module.globals[name]
    outer = ir.Function(module, inner.function_type, "exported")
    b = ir.IRBuilder(outer.append_basic_block("entry"))
    b.ret(b.call(inner, list(outer.args)))
    code = elf.link([objects.object_code(module, first_level)], soname="library", exports=["exported"])
    image = Image.from_bytes(code)
    address = image.symbol("exported")
    if not name.startswith("mem"):
        kind = ctypes.c_float if name.endswith("f") else ctypes.c_double
        function: Callable[..., float] = ctypes.CFUNCTYPE(kind, kind, kind)(address)
        want = math.fmod(7.25, 2.5) if name == "fmod" else 7.25**2.5
        assert function(7.25, 2.5) == pytest.approx(want, rel=1e-6)
        return
    source: Any = ctypes.c_int if name == "memset" else ctypes.c_void_p
    move = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, source, ctypes.c_size_t)(address)
    for size in (0, 1, 7, 33):
        for shift in (0, 3, -3) if name == "memmove" else (40,):
            data = np.arange(100, dtype=np.uint8)
            start = data.ctypes.data + 5
            before, want = data.copy(), data.copy()
            if name == "memset":
                assert move(start, 300, size) == start
                want[5 : 5 + size] = 300 % 256
            else:
                assert move(start + shift, start, size) == start + shift
                want[5 + shift : 5 + shift + size] = before[5 : 5 + size]
            np.testing.assert_array_equal(data, want)


