"""Kernels for AArch64, run under user-mode emulation: each as a static program that writes its output buffers."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numpy.typing import NDArray

from ingot.compiler.ir import dims, execute
from ingot.compiler.ir.dims import minimum, symbol
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.loops import (
    Accumulate,
    Axis,
    Buffer,
    Call,
    Const,
    Expr,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Local,
    Scratch,
    Store,
    When,
)
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu import emit, features, objects
from ingot.runtime.dtypes import boolean, f16, f32, i8, i32, i64
from ingot.runtime.elf import EM_AARCH64, read_layout

Array = NDArray[Any]
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
LEVEL = features.level("aarch64")
I8, I64, PTR = ir.IntType(8), ir.IntType(64), ir.PointerType()
WRITE, EXIT = 64, 93  # Linux system calls
# mov x8, x0; mov x0, x1; mov x1, x2; mov x2, x3; svc #0; ret
SYSTEM_CALL = (0xAA0003E8, 0xAA0103E0, 0xAA0203E1, 0xAA0303E2, 0xD4000001, 0xD65F03C0)

i, j, n, r = (symbol(name) for name in "ijnr")
POINT = (Axis("p", 1),)

pytestmark = pytest.mark.skipif(EMULATOR is None, reason="qemu-aarch64 is not installed")


def program_of(
    kernel: Kernel,
    buffers: Mapping[str, Array],
    values: Mapping[str, int],
    routines: Sequence[bytes] = (),
    level: features.Level = LEVEL,
) -> bytes:
    """A static executable that runs every chunk of `kernel` and writes all buffers to its standard output; `routines`
    are the objects of what it calls."""
    module = objects.new_module("program", level)
    function = emit.emit_kernel(module, kernel, level, "kernel")
    start = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "_start")
    b = ir.IRBuilder(start.append_basic_block("entry"))
    table = ir.GlobalVariable(module, ir.ArrayType(I64, 64), "table")
    table.linkage, table.initializer = "internal", ir.Constant(table.value_type, None)

    words = b.inttoptr(b.ptrtoint(table, I64), PTR)
    call = system_call(module, table)
    storages: list[tuple[ir.Value, int]] = []
    for position, buffer in enumerate(kernel.buffers):
        data = buffers[buffer.name].tobytes()
        storage = ir.GlobalVariable(module, ir.ArrayType(I8, max(len(data), 1)), buffer.name)
        storage.linkage, storage.align = "internal", 64
        storage.initializer = ir.Constant(storage.value_type, bytearray(data or b"\0"))
        address = b.ptrtoint(storage, I64)
        storages.append((address, len(data)))
        b.store(address, b.gep(words, [I64(position)], source_etype=I64), align=8)
    for position, name in enumerate(kernel.dims, len(kernel.buffers)):
        b.store(I64(values[name]), b.gep(words, [I64(position)], source_etype=I64), align=8)
    chunks = math.prod(dims.evaluate(dims.ceil_divide(a.extent, a.grain), values) for a in kernel.grid)
    for chunk in range(chunks):
        b.call(function, [words, I64(chunk)])
    for address, size in storages:
        b.call(call, [I64(WRITE), I64(1), address, I64(size)])
    b.call(call, [I64(EXIT), I64(0), I64(0), I64(0)])
    b.unreachable()
    exports = ["_start", "system_call"]
    code = bytearray(elf.link([objects.object_code(module, level), *routines], soname="program", exports=exports))
    layout = read_layout(bytes(code), machine=EM_AARCH64, page_size=4096)
    struct.pack_into("<Q", code, 24, layout.symbols["_start"])  # e_entry
    address = layout.symbols["system_call"]
    segment = next(s for s in layout.segments if s.address <= address < s.end)
    struct.pack_into("<6I", code, segment.offset + address - segment.address, *SYSTEM_CALL)
    return bytes(code)


def system_call(module: ir.Module, table: ir.Value) -> ir.Function:
    """``i64 system_call(number, a, b, c)``: a body as long as the instructions that replace it after linking, since
    llvmlite brings no AArch64 assembler for inline assembly."""
    function = ir.Function(module, ir.FunctionType(I64, [I64] * 4), "system_call")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    words = b.inttoptr(b.ptrtoint(table, I64), PTR)
    total: ir.Value = I64(0)
    for position, argument in enumerate((*function.args, *function.args)):
        total = b.xor(b.mul(total, argument), I64(position))
        b.store(total, b.gep(words, [I64(40 + position)], source_etype=I64), align=8)
    b.ret(total)
    return function


def check(
    kernel: Kernel,
    buffers: Mapping[str, Array],
    tmp_path: Any,
    routines: Sequence[bytes] = (),
    level: features.Level = LEVEL,
    **values: int,
) -> None:
    assert EMULATOR is not None
    path = tmp_path / "program"
    path.write_bytes(program_of(kernel, buffers, values, routines, level))
    path.chmod(0o755)
    done = subprocess.run([EMULATOR, str(path)], capture_output=True, check=False)
    assert done.returncode == 0, done
    expected = {name: array.copy() for name, array in buffers.items()}
    execute.run_kernel(kernel, expected, values)
    position = 0
    for buffer in kernel.buffers:
        want = expected[buffer.name]
        have = np.frombuffer(done.stdout, want.dtype, want.size, position)
        position += want.nbytes
        if want.dtype.kind == "f":
            np.testing.assert_allclose(have, want, rtol=2e-6 if want.itemsize > 2 else 2e-3, atol=1e-6)
        else:
            np.testing.assert_array_equal(have, want)


def f(fn: str, *args: Expr) -> Call:
    return Call(fn, args, f32)


def test_pointwise(tmp_path: Any) -> None:
    """Functions of all families over a count with a tail, with NaN and infinities."""
    x, z = Load("x", i), Load("z", i)
    unary = ("exp", "erf", "tanh", "sigmoid", "sqrt", "floor", "round", "relu", "sign", "abs", "log", "sin")
    values = [f(fn, x) for fn in unary] + [f(fn, x, z) for fn in ("add", "div", "max", "min", "fmod", "copysign")]
    stores = [Store("y", i + n * k, value) for k, value in enumerate(values)]
    whole = Call("cast", (x,), i32)
    stores += [Store("k", i, whole), Store("q", i, Call("cast", (f("clip", x, Const(-9.0, f32), z),), i8))]
    stores += [Store("h", i, Call("cast", (x,), f16)), Store("l", i, Call("lt", (x, z), boolean))]
    buffers = (Buffer("x", f32), Buffer("z", f32), Buffer("y", f32, "write"), Buffer("k", i32, "write"))
    buffers += (Buffer("q", i8, "write"), Buffer("h", f16, "write"), Buffer("l", boolean, "write"))
    count = 43
    rng = np.random.default_rng(0)
    data = {
        "x": (rng.standard_normal(count) * 3).astype(np.float32),
        "z": rng.standard_normal(count).astype(np.float32),
    }
    data |= {"y": np.zeros(count * len(values), np.float32), "k": np.zeros(count, np.int32)}
    data |= {"q": np.zeros(count, np.int8), "h": np.zeros(count, np.float16), "l": np.zeros(count, bool)}
    kernel = Kernel("pointwise", buffers, ("n",), POINT, (For("i", n, tuple(stores), "vector"),))
    check(kernel, data, tmp_path, n=count)
    special = Kernel("special", buffers[:3], ("n",), POINT, (For("i", n, tuple(stores[:18]), "vector"),))
    data["x"][:6] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40]
    with np.errstate(all="ignore"):
        check(special, {name: data[name] for name in "xzy"}, tmp_path, n=count)


def test_softmax(tmp_path: Any) -> None:
    x = Load("x", r * n + i)
    exponentials = (
        Let("e", f("exp", f("sub", x, Local("top", f32)))),
        Store("s", i, Local("e", f32)),
        Accumulate("total", "add", Local("e", f32)),
    )
    body = (
        Let("top", Const(-math.inf, f32)),
        For("i", n, (Accumulate("top", "max", x),), "vector"),
        Scratch("s", f32, 64),
        Let("total", Const(0.0, f32)),
        For("i", n, exponentials, "vector"),
        For("i", n, (Store("y", r * n + i, f("div", Load("s", i), Local("total", f32))),), "vector"),
    )
    kernel = Kernel("softmax", (Buffer("x", f32), Buffer("y", f32, "write")), ("n",), (Axis("r", 5, 2),), body)
    data = {"x": np.random.default_rng(0).standard_normal(185).astype(np.float32), "y": np.zeros(185, np.float32)}
    check(kernel, data, tmp_path, n=37)


def test_gather_and_branches(tmp_path: Any) -> None:
    q = symbol("q")
    large = Call("gt", (Local("v", f32), Const(0.0, f32)), boolean)
    positive = (Store("y", i, Local("v", f32)), Accumulate("s", "add", Local("v", f32)))
    steps = (
        Let("q", Load("k", i)),
        Let("v", Load("x", q * 3 + 1)),
        When(large, positive, (Store("y", i, f("neg", Load("x", q))),)),
        Store("t", 2 * i, Index((i - 7) // 3 + q % 5)),
    )
    loop = For("i", minimum(n, 50), steps, "vector")
    body = (Let("s", Const(0.0, f32)), loop, Store("y", n, Local("s", f32)))
    buffers = (Buffer("x", f32), Buffer("k", i64), Buffer("y", f32, "write"), Buffer("t", i64, "readwrite"))
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal(100).astype(np.float32), "k": rng.integers(0, 30, 21)}
    data |= {"y": np.zeros(22, np.float32), "t": np.zeros(42, np.int64)}
    check(Kernel("gather", buffers, ("n",), POINT, body), data, tmp_path, n=21)


@pytest.mark.parametrize("name", ["aarch64", "aarch64+sve256"])
@pytest.mark.parametrize("rows", [16, 21])
def test_sparse_product(name: str, rows: int, tmp_path: Any) -> None:
    level, rng = features.level(name), np.random.default_rng(rows)
    weights = rng.standard_normal((40, 27)).astype(np.float32) * (rng.random((40, 27)) < 0.3)
    x = Input("x", TensorType(f32, (rows, 40)))
    graph = Graph((x,), (("y", MatMul(x, constant(weights))),))
    held: dict[str, Array] = {"x": rng.standard_normal(rows * 40).astype(np.float32)}
    for launch in lower(graph, features.machine(level), sparse="on").launches():
        data: dict[str, Array] = {}
        for buffer, argument in zip(launch.kernel.buffers, launch.buffers, strict=True):
            storage = argument.storage
            assert isinstance(storage.size, int) and argument.offset == 0
            if storage.name not in held:
                zeros = np.zeros(storage.size, storage.dtype.to_numpy())
                held[storage.name] = zeros if storage.data is None else storage.data
            data[buffer.name] = held[storage.name]
        check(launch.kernel, data, tmp_path, level=level)
        execute.run_kernel(launch.kernel, data, {})
    wanted = held["x"].reshape(rows, 40).astype(np.float64) @ weights
    np.testing.assert_allclose(held["y"].reshape(rows, 27), wanted, rtol=1e-5, atol=1e-5)
