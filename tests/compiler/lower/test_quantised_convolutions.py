"""Layers of bytes as networks are quantised to them: exactly what the operators one by one give, on every level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler import compile
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.templates import Depthwise
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.weight_forms import WeightForms
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.pointwise import Add, Cast, Mul
from ingot.compiler.ops.quantised import Quantize
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import features
from ingot.runtime.dtypes import DType, f32, i8, i32, u8, u16

RUNNABLE = [
    name
    for name in ("x86-64-v3", "x86-64-v4+avx512vnni", "aarch64")
    if features.level(name).arch == features.host_arch()
    and features.level(name).required - {"avx512vnni"} <= features.level("native").required | {"fp-armv8", "cx8"}
    and ("avx512vnni" not in name or "avx512vnni" in features.level("native").required)
]


@dataclass(frozen=True)
class Layer:
    """A convolution of u8 by i8, its bias, and what makes bytes of its sums; `group` 0 is depthwise."""

    size: tuple[int, int]
    channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    dilation: int = 1
    group: int = 0
    out: int = 0
    zero: int = 0
    to: DType = u8
    bias: bool = True
    sums: bool = False  # whether the sums are a result too
    planes: bool = False  # channels first

    def graph(self) -> Graph:
        rng = np.random.default_rng(self.channels)
        groups, out = self.group or self.channels, self.out or self.channels
        x = Input("x", TensorType(u8, self.shape))
        w = constant(rng.integers(-128, 128, (out, self.channels // groups, *self.kernel)).astype(np.int8))
        reach = [(k - 1) * self.dilation for k in self.kernel]
        pads = (*(r // 2 for r in reach), *(r - r // 2 for r in reach))
        steps = (self.stride,) * 2, pads, (self.dilation,) * 2
        conv = Conv(x, w, None, *steps, groups, not self.planes)
        sums: Value = conv
        each = (out, 1, 1) if self.planes else (out,)
        if self.bias:
            sums = Add(sums, constant(rng.integers(-9000, 9000, each).astype(np.int32)))
        scale = (rng.uniform(1e-4, 4e-3, out) * 0.05).astype(np.float32)
        scale[:: max(1, out // 2)] = 0.0078125 * 0.05  # sums that lie half way between steps
        real = Mul(Cast(sums, f32), constant(scale.reshape(each)))
        made = Quantize(real, constant(0.05, f32), constant(self.zero, self.to), self.to)
        return Graph((x,), (("y", made), *((("s", conv),) if self.sums else ())))

    @property
    def shape(self) -> tuple[int, ...]:
        return (2, self.channels, *self.size) if self.planes else (2, *self.size, self.channels)

    def feed(self) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(1)
        data = rng.integers(0, 256, self.shape).astype(np.uint8)
        data[0] = 255
        return {"x": data}


LAYERS = {
    "depthwise 3x3": Layer((9, 31), 48),
    "depthwise 3x3 odd channels, signed": Layer((5, 8), 37, to=i8, zero=-7),
    "depthwise one channel": Layer((4, 3), 1, zero=3),
    "depthwise one pixel": Layer((1, 1), 16, zero=255),
    "depthwise stride 2": Layer((11, 18), 33, stride=2, zero=128),
    "depthwise 5x5": Layer((7, 16), 20, kernel=(5, 5)),
    "depthwise 4x2": Layer((6, 15), 32, kernel=(4, 2), zero=1),
    "depthwise 9x1": Layer((10, 4), 16, kernel=(9, 1)),
    "depthwise row": Layer((3, 12), 18, kernel=(1, 5)),
    "depthwise dilated": Layer((9, 9), 16, dilation=2, bias=False),
    "depthwise sums wanted": Layer((5, 6), 19, sums=True),
    "1x1": Layer((7, 9), 24, kernel=(1, 1), group=1, out=48),
    "1x1 deep, signed": Layer((3, 5), 160, kernel=(1, 1), group=1, out=32, to=i8, zero=11),
    "1x1 to 16 bits": Layer((5, 5), 24, kernel=(1, 1), group=1, out=32, to=u16, zero=30001),
    "1x1 cut off": Layer((5, 5), 16, kernel=(1, 1), group=1, out=21, zero=9),
    "1x1 sums wanted": Layer((5, 5), 16, kernel=(1, 1), group=1, out=32, sums=True),
    "first layer": Layer((9, 70), 3, stride=2, group=1, out=16, planes=True),
    "first layer, one pixel wide": Layer((4, 1), 3, kernel=(3, 1), group=1, out=8, planes=True, zero=5),
    "first layer, 2 of 4 channels": Layer((5, 33), 2, kernel=(1, 1), group=1, out=16, planes=True),
    "3x3": Layer((6, 6), 8, group=1, out=16, zero=100),
}


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", LAYERS)
def test_as_the_operators_say(name: str, target: str) -> None:
    graph, feed = LAYERS[name].graph(), LAYERS[name].feed()
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        have, want = session.run(feed), evaluate_graph(graph, feed)
    for label in want:
        np.testing.assert_array_equal(have[label], want[label])


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("depthwise")])
@pytest.mark.parametrize("target", ["x86-64-v3+avxvnni", "aarch64"])
def test_what_the_program_means(name: str, target: str) -> None:
    graph, feed = LAYERS[name].graph(), LAYERS[name].feed()
    program = lower(default_pipeline().run(graph), features.machine(features.level(target)))
    found = run_program(program, feed)
    for label, want in evaluate_graph(graph, feed).items():
        np.testing.assert_array_equal(found[label], want)
    (body,) = (launch.kernel.body for launch in program.launches() if isinstance(launch.kernel.body, Depthwise))
    together = target != "aarch64" and LAYERS[name].kernel[0] > 1
    assert isinstance(body, Depthwise) and body.dot == (4 if together else 1)
    assert body.accumulator == (i32 if together else f32)


@pytest.mark.parametrize(("name", "dot"), [("depthwise 3x3", 1), ("depthwise 4x2", 4)])
def test_small_programs_fill_no_columns_up(name: str, dot: int) -> None:
    graph, machine = default_pipeline().run(LAYERS[name].graph()), features.machine(features.level("x86-64-v3+avxvnni"))
    program = lower(graph, machine, forms=WeightForms("small"))
    (body,) = (launch.kernel.body for launch in program.launches() if isinstance(launch.kernel.body, Depthwise))
    assert isinstance(body, Depthwise) and body.dot == dot
