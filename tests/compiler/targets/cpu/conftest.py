"""Fixtures that run kernels and programs as native code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir import dims, execute
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu import features, objects
from ingot.runtime.image import Image

Array = NDArray[Any]
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)

# The levels this machine can run, AVX2 first.
RUNNABLE = [
    name
    for name in ("x86-64-v3", "x86-64-v4", "aarch64")
    if features.level(name).arch == features.host_arch()
    and features.level(name).required <= features.level("native").required | {"fp-armv8", "cx8"}
]


@pytest.fixture(scope="session", params=RUNNABLE)
def level(request: pytest.FixtureRequest) -> features.Level:
    return features.level(request.param)


@pytest.fixture(scope="session")
def first_level() -> features.Level:
    return features.level(RUNNABLE[0])


class Native:
    """Compiles kernels and runs them beside the interpreter."""

    def __init__(self) -> None:
        self.images: dict[tuple[str, str], Image] = {}

    def compile(self, kernel: Kernel, level: features.Level) -> Any:
        name = objects.kernel_symbol(kernel)
        key = name, level.name
        if key not in self.images:
            code = objects.compile_kernel(kernel, level)
            self.images[key] = Image.from_bytes(elf.link([code], soname="kernel", exports=[name]))
        return KERNEL(self.images[key].symbol(name))

    def run(self, kernel: Kernel, level: features.Level, buffers: Mapping[str, Array], **values: int) -> None:
        """One launch, chunk after chunk."""
        self.launch(kernel, self.compile(kernel, level), buffers, **values)

    def launch(self, kernel: Kernel, function: Any, buffers: Mapping[str, Array], **values: int) -> None:
        body = kernel.body
        grid = kernel.grid if isinstance(body, tuple) else body.grid
        words = [buffers[b.name].ctypes.data for b in kernel.buffers] + [values[name] for name in kernel.dims]
        arguments = np.array(words, np.int64)
        for chunk in range(prod(dims.evaluate(dims.ceil_divide(a.extent, a.grain), values) for a in grid)):
            function(arguments.ctypes.data, chunk)

    def check(
        self,
        kernel: Kernel,
        level: features.Level,
        buffers: Mapping[str, Array],
        *,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        **values: int,
    ) -> None:
        """Run natively and by the interpreter, compare every buffer; floats within the tolerances, the rest exactly."""
        expected = {name: array.copy() for name, array in buffers.items()}
        actual = {name: array.copy() for name, array in buffers.items()}
        execute.run_kernel(kernel, expected, values)
        self.run(kernel, level, actual, **values)
        for name, want in expected.items():
            have = actual[name]
            if want.dtype.kind in "fV":
                wide = want.astype(np.float64), have.astype(np.float64)
                np.testing.assert_allclose(wide[1], wide[0], rtol=rtol, atol=atol, err_msg=f"{kernel.name} {name}")
            else:
                np.testing.assert_array_equal(have, want, err_msg=f"{kernel.name} {name}")

    def close(self) -> None:
        for image in self.images.values():
            image.close()


@pytest.fixture(scope="session")
def native() -> Iterator[Native]:
    runner = Native()
    yield runner
    runner.close()


@pytest.fixture
def checker(native: Native, level: features.Level) -> Callable[..., None]:
    """`Native.check` at each level."""

    def check(kernel: Kernel, buffers: Mapping[str, Array], **options: Any) -> None:
        native.check(kernel, level, buffers, **options)

    return check
