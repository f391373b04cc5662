"""Small models, compiled for this machine, that the runtime's tests run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot.compiler.artifact import Artifact
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, For, Kernel, Let, Load, Local, Store, When
from ingot.compiler.ir.program import Argument, Kind, Launch, Program, Storage
from ingot.compiler.ir.types import Shape, TensorType
from ingot.compiler.labels import Labels
from ingot.compiler.packaging import TargetDescription, build_artifact
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import host_level
from ingot.compiler.targets.cpu.program import argument_table
from ingot.runtime.dtypes import DType, boolean, f32, i64


def build(program: Program) -> Artifact:
    level = host_level()
    target = TargetDescription(level.arch, "cpu", {level.name: level.required})
    code = {level.name: compile_program(program, level)}
    return build_artifact(program, code, argument_table(program), Labels(program.name), target=target)


def tensor(name: str, kind: Kind, dtype: DType, shape: Shape) -> Storage:
    made = TensorType(dtype, shape)
    return Storage(name, kind, dtype, made.size, made)


def rowwise(name: str, fn: str, width: int, second: Dim, grain: Dim) -> Kernel:
    """c[i, j] = fn(a[i, j], b[second])"""
    at = symbol("i") * width + symbol("j")
    store = Store("c", at, Call(fn, (Load("a", at), Load("b", second)), f32))
    buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
    rows = Axis("i", symbol("rows"), grain)
    return Kernel(name, buffers, ("rows",), (rows,), (For("j", width, (store,), "vector"),))


def affine_program() -> Program:
    """y[n, 16] = x * w + z and s[n, 16] = (x * w) * z, by way of a temporary, four rows a chunk."""
    n, width = symbol("n"), 16
    x, z = (tensor(name, "input", f32, (n, width)) for name in ("x", "z"))
    y, s = (tensor(name, "output", f32, (n, width)) for name in ("y", "s"))
    w = Storage("w", "weight", f32, width, data=np.arange(width, dtype=np.float32))
    t = Storage("t", "temp", f32, n * width)
    at = symbol("i") * width + symbol("j")
    steps = (
        Launch(rowwise("scale", "mul", width, symbol("j"), 4), (Argument(x), Argument(w), Argument(t)), (n,)),
        Launch(rowwise("shift", "add", width, at, 4), (Argument(t), Argument(z), Argument(y)), (n,)),
        Launch(rowwise("product", "mul", width, at, 4), (Argument(t), Argument(z), Argument(s)), (n,)),
    )
    return Program("affine", (x, z, y, s, w, t), steps, {"n": (0, 1 << 20)})


def lookup_program() -> Program:
    """y[k] = table[index[k]]; an index that is negative or too large is a fault."""
    k, i = symbol("k"), symbol("i")
    index, y = tensor("index", "input", i64, (k,)), tensor("y", "output", f32, (k,))
    table = Storage("table", "weight", f32, 5, data=np.array([1, 2, 4, 8, 16], np.float32))
    status = Storage("status", "status", i64, 1)
    p = Local("p", i64)
    bad = Call("or", (Call("lt", (p, Const(0, i64)), boolean), Call("ge", (p, Const(5, i64)), boolean)), boolean)
    choice = When(bad, (Store("status", 0, Const(1, i64)),), (Store("y", i, Load("table", symbol("p"))),))
    buffers = (Buffer("index", i64), Buffer("table", f32), Buffer("y", f32, "write"), Buffer("status", i64, "write"))
    axis = Axis("i", symbol("count"), 1024)
    kernel = Kernel("lookup", buffers, ("count",), (axis,), (Let("p", Load("index", i)), choice))
    launch = Launch(kernel, (Argument(index), Argument(table), Argument(y), Argument(status)), (k,))
    return Program("lookup", (index, y, table, status), (launch,), {}, ("an index is not in 0 to 4",))


@pytest.fixture(scope="session")
def affine() -> Artifact:
    return build(affine_program())


@pytest.fixture(scope="session")
def lookup() -> Artifact:
    return build(lookup_program())


@pytest.fixture(scope="session")
def affine_path(affine: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "affine.ingot"
    affine.save(path)
    return path
