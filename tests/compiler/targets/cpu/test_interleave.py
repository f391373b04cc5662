"""Stores between each other, as whole vectors: what is written, and what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from llvmlite import binding as llvm

from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, For, Kernel, Load, Store
from ingot.compiler.targets.cpu import emit, features, objects
from ingot.compiler.targets.cpu.interleave import interleaved
from ingot.runtime.dtypes import DType, boolean, f16, f32, f64, i32, u8

I = symbol("i")  # noqa: E741


def kernel(dtype: DType, count: int, extent: Dim, *, step: int | None = None) -> Kernel:
    """``x[step * i + k] = y[i + 3 k]``, the last of `count` stores a constant."""
    zero = Const(0.0 if dtype.is_float else 0 if dtype is not boolean else False, dtype)
    values = [*(Load("y", I + 3 * k) for k in range(count - 1)), zero]
    stores = tuple(Store("x", I * (step or count) + k, value) for k, value in enumerate(values))
    buffers = (Buffer("x", dtype, "write"), Buffer("y", dtype))
    names = () if isinstance(extent, int) else ("n",)
    return Kernel("kernel", buffers, names, (Axis("p", 1),), (For("i", extent, stores, "vector"),))


def data(dtype: DType, extent: int) -> dict[str, Any]:
    rng = np.random.default_rng(extent)
    y = (rng.integers(0, 200, extent + 9) % (2 if dtype is boolean else 201)).astype(dtype.to_numpy())
    return {"x": np.ones(5 * extent + 1, dtype.to_numpy()), "y": y}


@pytest.mark.parametrize("extent", [0, 1, 15, 64, 150])
@pytest.mark.parametrize(("dtype", "count"), [(u8, 4), (u8, 2), (f32, 4), (f64, 2), (i32, 4), (f16, 4), (boolean, 2)])
def test_against_the_loop(native: Any, level: features.Level, dtype: DType, count: int, extent: int) -> None:
    native.check(kernel(dtype, count, extent), level, data(dtype, extent), rtol=0, atol=0)


def test_run_time_extents(native: Any, level: features.Level) -> None:
    made = kernel(u8, 4, symbol("n"))
    for extent in (0, 1, 100, 131):
        native.check(made, level, data(u8, extent), rtol=0, atol=0, n=extent)


def test_gaps_stay_as_they_are(native: Any, level: features.Level) -> None:
    made = kernel(u8, 4, 70, step=5)
    assert not interleaved(made.body[0].body, "i")  # pyright: ignore
    native.check(made, level, data(u8, 70), rtol=0, atol=0)


def test_what_is_read_back_is_written_first() -> None:
    first = Store("x", 2 * I, Load("y", I))
    again = Store("x", 2 * I + 1, Call("add", (Load("x", 2 * I), Load("y", I)), f32))
    assert not interleaved((first, again), "i")
    assert interleaved((first, Store("x", 2 * I + 1, Load("y", I))), "i")


def test_whole_vectors_are_stored() -> None:
    level = features.level("x86-64-v3")
    module = objects.new_module("interleave", level)
    emit.emit_kernel(module, kernel(u8, 4, 128), level, "kernel")
    made = objects.target_machine(level).emit_assembly(llvm.parse_assembly(str(module)))
    stored = [line.split() for line in made.splitlines() if line.split()[-1:] and line.rstrip().endswith(")")]
    assert sum("mov" in words[0] and "%ymm" in words[1] for words in stored if len(words) > 2) >= 4
    assert "vpextrb" not in made
