"""Small models, compiled for this machine, that the runtime's tests run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pytest

from ingot.compiler.artifact import Artifact, TargetDescription, build_artifact
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, For, Index, Kernel, Load, Local, Let, Stmt, Store, When
from ingot.compiler.ir.program import Argument, Launch, Program, Storage
from ingot.compiler.ir.types import Shape, TensorType
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import host_level
from ingot.compiler.targets.cpu.program import argument_table
from ingot.runtime.dtypes import DType, f32, i64

Build: TypeAlias = Callable[..., Artifact]


def build(program: Program, **options: object) -> Artifact:
    level = host_level()
    target = TargetDescription(level.arch, "cpu", {level.name: level.required})
    code = {level.name: compile_program(program, level)}
    return build_artifact(program, code, argument_table(program), target=target, name=program.name, **options)


def tensor(name: str, kind: str, dtype: DType, shape: Shape) -> Storage:
    made = TensorType(dtype, shape)
    return Storage(name, kind, dtype, made.size, made)


def affine_program(width: int = 16, grain: Dim = 4) -> Program:
    """y[n, width] = (x * w) + z, by two kernels over rows with a temporary between them."""
    n, i, j, rows = symbol("n"), symbol("i"), symbol("j"), symbol("rows")
    x, z = (tensor(name, "input", f32, (n, width)) for name in ("x", "z"))
    y = tensor("y", "output", f32, (n, width))
    w = Storage("w", "weight", f32, width, data=np.arange(width, dtype=np.float32))
    t = Storage("t", "temp", f32, n * width)
    at = i * width + j

    def rowwise(name: str, fn: str, second: Dim) -> Kernel:
        value = Call(fn, (Load("a", at), Load("b", second)), f32)
        body: tuple[Stmt, ...] = (For("j", width, (Store("c", at, value),), "vector"),)
        buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
        return Kernel(name, buffers, ("rows",), (Axis("i", rows, grain),), body)

    steps = (
        Launch(rowwise("scale", "mul", j), (Argument(x), Argument(w), Argument(t)), (n,)),
        Launch(rowwise("shift", "add", at), (Argument(t), Argument(z), Argument(y)), (n,)),
    )
    return Program("affine", (x, z, y, w, t), steps, {"n": (0, 1 << 20)})


def lookup_program() -> Program:
    """y[k] = table[index[k]]; a negative or too large index is a fault."""
    k, i, count = symbol("k"), symbol("i"), symbol("count")
    index, y = tensor("index", "input", i64, (k,)), tensor("y", "output", f32, (k,))
    table = Storage("table", "weight", f32, 5, data=np.array([1, 2, 4, 8, 16], np.float32))
    status = Storage("status", "status", i64, 1)
    from ingot.runtime.dtypes import boolean

    at = symbol("p")
    zero, five = Const(0, i64), Const(5, i64)
    bad = Call(
        "or",
        (Call("lt", (Local("p", i64), zero), boolean), Call("ge", (Local("p", i64), five), boolean)),
        boolean,
    )
    body: tuple[Stmt, ...] = (
        Let("p", Load("index", i)),
        When(bad, (Store("status", 0, Const(1, i64)),), (Store("y", i, Load("table", at)),)),
    )
    buffers = (Buffer("index", i64), Buffer("table", f32), Buffer("y", f32, "write"), Buffer("status", i64, "write"))
    kernel = Kernel("lookup", buffers, ("count",), (Axis("i", count, 1024),), body)
    launch = Launch(kernel, (Argument(index), Argument(table), Argument(y), Argument(status)), (k,))
    return Program("lookup", (index, y, table, status), (launch,), {}, ("an index is not in 0 to 4",))
