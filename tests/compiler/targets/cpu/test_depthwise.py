"""Depthwise convolution kernels as native code against float64 arithmetic and against the template's own loop nest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, Kernel, Load, Local, Store
from ingot.compiler.ir.templates import Depthwise
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu import features
from ingot.runtime.dtypes import DType, f16, f32, f64

Array = NDArray[Any]


@dataclass(frozen=True)
class Filter:
    """A depthwise convolution over channels-last data with a zero border of `pad`."""

    images: int
    size: tuple[int, int]
    channels: int
    kernel: int = 3
    stride: int = 1
    pad: int = 1
    dilation: int = 1
    dtype: DType = f32
    row_block: int = 3

    @property
    def out(self) -> tuple[int, int]:
        reach = self.dilation * (self.kernel - 1) + 1
        height, width = ((s + 2 * self.pad - reach) // self.stride + 1 for s in self.size)
        return height, width

    def build(self, *, run_time: bool = False, taps: Dim | None = None) -> Kernel:
        """Two results: clip(acc + bias) and the bare sum. `run_time` makes images, width and channels parameters."""
        i, y, x, c, ky, kx = (symbol(name) for name in ("i", "y", "x", "c", "ky", "kx"))
        names = ("I", "C", "W", "V") if run_time else ()
        (height, width), (oh, ow) = self.size, self.out
        rows, columns = height + 2 * self.pad, width + 2 * self.pad
        images: Dim = self.images
        channels: Dim = self.channels
        line: Dim = ow
        step: Dim = columns
        if run_time:
            images, channels, line, step = (symbol(name) for name in names)
        acc = Local("acc", self.wide)
        a = ((i * rows + y * self.stride + ky * self.dilation) * step + x * self.stride + kx * self.dilation) * channels
        out = ((i * oh + y) * line + x) * channels + c
        biased = Call("add", (acc, Load("bias", c)), self.wide)
        clipped = Call("clip", (biased, Const(0.0, self.wide), Const(6.0, self.wide)), self.wide)
        template = Depthwise(
            rows=(Axis("i", images), Axis("y", oh)),
            x=Axis("x", line),
            channels=Axis("c", channels),
            taps=(Axis("ky", self.kernel), Axis("kx", self.kernel if taps is None else taps)),
            a=Load("a", a + c),
            w=Load("w", (ky * self.kernel + kx) * channels + c),
            row_block=self.row_block,
            stores=(Store("o", out, clipped), Store("s", out, acc)),
            accumulator=self.wide,
        )
        buffers = [Buffer("a", self.dtype), Buffer("w", self.dtype), Buffer("bias", self.wide)]
        buffers += [Buffer(name, self.wide, "write") for name in ("o", "s")]
        return Kernel("kernel", tuple(buffers), names, template.grid, template)

    @property
    def wide(self) -> DType:
        return f32 if self.dtype is f16 else self.dtype

    def data(self) -> tuple[dict[str, Array], Array]:
        """Buffers, and the sums in float64."""
        rng = np.random.default_rng(self.channels)
        (height, width), (oh, ow), p = self.size, self.out, self.pad
        a = np.zeros((self.images, height + 2 * p, width + 2 * p, self.channels), self.dtype.to_numpy())
        a[:, p : p + height, p : p + width] = rng.standard_normal((self.images, height, width, self.channels))
        w = rng.standard_normal((self.kernel, self.kernel, self.channels)).astype(self.dtype.to_numpy())
        bias = rng.standard_normal(self.channels).astype(self.wide.to_numpy())
        total = np.zeros((self.images, oh, ow, self.channels))
        for ky in range(self.kernel):
            for kx in range(self.kernel):
                y, x = ky * self.dilation, kx * self.dilation
                ends = y + (oh - 1) * self.stride + 1, x + (ow - 1) * self.stride + 1
                total += a[:, y : ends[0] : self.stride, x : ends[1] : self.stride].astype(np.float64) * w[ky, kx]
        empty = np.full(total.size, 77, self.wide.to_numpy())
        buffers = {"a": a.ravel(), "w": w.ravel(), "bias": bias, "o": empty.copy(), "s": empty.copy()}
        return buffers, total

    def compare(self, native: Any, kernel: Kernel, function: Any) -> None:
        buffers, total = self.data()
        (_, width), (_, ow) = self.size, self.out
        values = {"I": self.images, "C": self.channels, "W": ow, "V": width + 2 * self.pad} if kernel.dims else {}
        native.launch(kernel, function, buffers, **values)
        close = 1e-12 if self.dtype is f64 else 2e-5
        np.testing.assert_allclose(buffers["s"].reshape(total.shape), total, rtol=close, atol=close)
        clipped = np.clip(total + buffers["bias"].astype(np.float64), 0, 6)
        np.testing.assert_allclose(buffers["o"].reshape(total.shape), clipped, rtol=close, atol=close)


FILTERS = {
    "3x3": Filter(2, (5, 14), 24),
    "3x3 odd channels": Filter(1, (4, 9), 13),
    "3x3 one position, one channel": Filter(1, (1, 1), 1),
    "3x3 stride 2": Filter(1, (9, 16), 20, stride=2),
    "3x3 dilated": Filter(1, (8, 8), 16, pad=2, dilation=2),
    "5x5": Filter(1, (6, 11), 40, kernel=5, pad=2),
    "5x5 stride 2": Filter(1, (11, 11), 9, kernel=5, stride=2, pad=2),
    "7x7": Filter(1, (7, 8), 17, kernel=7, pad=3),
    "1x1": Filter(1, (3, 5), 16, kernel=1, pad=0),
    "f64": Filter(1, (4, 6), 7, dtype=f64),
    "f16 data": Filter(1, (4, 6), 19, dtype=f16),
}


@pytest.mark.parametrize("name", FILTERS)
def test_against_float64(native: Any, level: features.Level, name: str) -> None:
    case = FILTERS[name]
    kernel = case.build()
    case.compare(native, kernel, native.compile(kernel, level))


@pytest.mark.parametrize("name", ["3x3", "5x5 stride 2"])
def test_against_the_nest(native: Any, level: features.Level, name: str) -> None:
    case = FILTERS[name]
    native.check(case.build(), level, case.data()[0], rtol=1e-5, atol=2e-5)


def test_run_time_extents(native: Any, level: features.Level) -> None:
    first = Filter(1, (5, 14), 24)
    kernel = first.build(run_time=True)
    function = native.compile(kernel, level)
    for images, width, channels in ((1, 14, 24), (3, 1, 5), (2, 6, 8), (1, 9, 33), (0, 4, 8), (1, 3, 0)):
        Filter(images, (5, width), channels).compare(native, kernel, function)


def test_nan_reaches_only_the_taps_that_see_it(native: Any, level: features.Level) -> None:
    case = FILTERS["3x3"]
    kernel = case.build()
    buffers, total = case.data()
    rows, columns = case.size[0] + 2, case.size[1] + 2
    a = buffers["a"].reshape(2, rows, columns, 24)
    a[1, 3, 5, 7] = np.nan
    native.run(kernel, level, buffers)
    reached = np.isnan(buffers["s"].reshape(total.shape))
    want = np.zeros(total.shape, bool)
    want[1, 1:4, 3:6, 7] = True
    np.testing.assert_array_equal(reached, want)


def test_taps_must_be_constant(native: Any, level: features.Level) -> None:
    with pytest.raises(IrError, match="needs a constant extent"):
        native.compile(FILTERS["3x3"].build(taps=symbol("T")), level)
