"""Which launches have so little to do that their code is not optimised, and that such code computes the same."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, symbol
from ingot.compiler.ir.loops import (
    Accumulate,
    Axis,
    Buffer,
    Call,
    Const,
    Expr,
    For,
    Kernel,
    Let,
    Load,
    Local,
    Mode,
    Store,
)
from ingot.compiler.ir.program import Argument, Launch, Program, Storage
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu import features, objects
from ingot.compiler.targets.cpu.codegen import kernel_objects
from ingot.compiler.targets.cpu.effort import BRIEF, LANES, is_brief
from ingot.runtime.dtypes import f32
from ingot.runtime.image import Image

i, n, block = symbol("i"), symbol("n"), symbol("block")
X: Expr = Load("x", i)


def kernel_of(extent: Dim, value: Expr = X, *, block_size: int | None = None, mode: Mode = "vector") -> Kernel:
    """y = value for `extent` elements, which is an int or follows the kernel's dim n; in blocks where a size is
    given."""
    inside, grid = extent, (Axis("point", 1),)
    if block_size is not None:
        inside = minimum(extent - block_size * block, block_size)
        grid = (Axis("block", ceil_divide(extent, block_size)),)
    offset = i if block_size is None else i + block_size * block
    body = (For("i", inside, (Store("y", offset, value),), mode),)
    dims = () if isinstance(extent, int) else ("n",)
    return Kernel("kernel", (Buffer("x", f32), Buffer("y", f32, "write")), dims, grid, body)


def product_of(rows: Dim, depth: Dim, columns: int) -> Kernel:
    """A product of matrices, with panels of 16 columns."""
    body = Contraction.matmul(rows, columns, depth)
    buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
    return Kernel("product", buffers, ("n",), (), body)


def launch_of(kernel: Kernel, *sizes: Dim) -> Launch:
    storages = [Storage(buffer.name, "temp", f32, 1 << 20) for buffer in kernel.buffers]
    return Launch(kernel, tuple(map(Argument, storages)), sizes)


@pytest.mark.parametrize(
    ("launch", "ranges", "brief"),
    [
        (launch_of(kernel_of(0)), {}, True),
        (launch_of(kernel_of(1)), {}, True),
        (launch_of(kernel_of(BRIEF // 4)), {}, True),
        (launch_of(kernel_of(BRIEF // 4, mode="serial")), {}, True),
        (launch_of(kernel_of(BRIEF, mode="serial")), {}, False),
        (launch_of(kernel_of(BRIEF // 4 * LANES)), {}, True),  # a register is as much as a scalar
        (launch_of(kernel_of(BRIEF * LANES)), {}, False),
        (launch_of(kernel_of(BRIEF // 2 * LANES, block_size=16)), {}, False),  # many short loops
        (launch_of(kernel_of(BRIEF // 4 * LANES, block_size=16)), {}, True),
        (launch_of(kernel_of(BRIEF // 4 * LANES, Call("tanh", (X,), f32))), {}, False),  # as much as some additions
        (launch_of(product_of(3, 5, 4), 1), {}, True),
        (launch_of(product_of(n, 5, 4), 4), {}, True),
        (launch_of(product_of(n, 5, 4), symbol("rows")), {}, False),
        (launch_of(product_of(3, 5, 400), 1), {}, False),
        (launch_of(product_of(3, 500, 4), 1), {}, False),
        (launch_of(kernel_of(n), 8), {}, True),
        (launch_of(kernel_of(n), symbol("rows")), {"rows": (0, 8)}, True),
        (launch_of(kernel_of(n), 3 * symbol("rows")), {"rows": (0, 1000)}, False),
        (launch_of(kernel_of(n, block_size=4), symbol("rows")), {"rows": (0, 8)}, True),
        (launch_of(kernel_of(n), symbol("rows")), {}, False),
        (launch_of(kernel_of(n), symbol("rows") - 5), {"rows": (0, 4)}, True),  # never runs
    ],
)
def test_what_is_brief(launch: Launch, ranges: Mapping[str, tuple[int, int]], brief: bool) -> None:
    assert is_brief(launch, ranges) is brief


def program_of(ranges: Mapping[str, tuple[int, int]], *launches: Launch) -> Program:
    storages = tuple(dict.fromkeys(argument.storage for launch in launches for argument in launch.buffers))
    return Program("program", storages, launches, ranges)


def test_one_long_launch_makes_a_kernel_worth_it() -> None:
    """An object is made for all launches of equal kernels, of all programs, whatever they are called."""
    level, rows = features.level("x86-64-v3"), symbol("rows")
    kernel = kernel_of(n)
    short, long = launch_of(kernel, 4), launch_of(dataclasses.replace(kernel, name="other"), rows)
    fast = [objects.compile_kernel(kernel, level)]
    quick = [objects.compile_kernel(kernel, level, optimise=False)]
    assert fast != quick
    assert kernel_objects([program_of({}, short)], level) == quick
    assert kernel_objects([program_of({}, short, long)], level) == fast
    assert kernel_objects([program_of({}, short), program_of({"rows": (0, 9)}, long)], level) == quick
    assert kernel_objects([program_of({}, short), program_of({"rows": (0, 9999)}, long)], level) == fast


@pytest.mark.parametrize("length", [0, 1, 7, 16, 33])
def test_code_that_is_not_optimised_computes_the_same_bits(length: int, native: Any, level: features.Level) -> None:
    value = Call("tanh", (Call("fma", (X, Const(1.5, f32), Local("total", f32)), f32),), f32)
    body = (
        Let("total", Const(0.0, f32)),
        For("j", n, (Accumulate("total", "add", Load("x", symbol("j"))),), "vector"),
        For("i", n, (Store("y", i, value),), "vector"),
    )
    kernel = dataclasses.replace(kernel_of(n), body=body)
    x = np.random.default_rng(length).standard_normal(max(length, 1)).astype(np.float32)
    x[::5] = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38, 1][length % 7]
    results: list[np.ndarray[Any, Any]] = []
    for optimise in (True, False):
        name = objects.kernel_symbol(kernel)
        code = elf.link([objects.compile_kernel(kernel, level, optimise=optimise)], soname="kernel", exports=[name])
        with Image.from_bytes(code) as image:
            buffers = {"x": x.copy(), "y": np.full(max(length, 1), 7, np.float32)}
            function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(image.symbol(name))
            native.launch(kernel, function, buffers, n=length)
        results.append(buffers["y"])
    np.testing.assert_array_equal(results[0], results[1])
