"""Functions of bytes as tables: what is made a table, and what comes out, on every level and wherever the bytes lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.templates import Lookup
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.movement import Gather, Pad, Transpose
from ingot.compiler.ops.pointwise import Mul, Relu, Sigmoid
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import features
from ingot.runtime.dtypes import DType, f32, i8, u8

TARGETS = [
    name
    for name in ("x86-64-v3", "native")
    if name == "native" or features.level(name).required <= features.level("native").required | {"cx8"}
]
SCALE = constant(0.05, f32)


def silu(x: Value, to: DType = u8) -> Value:
    """What a quantised network has for x * sigmoid(x)."""
    real = Dequantize(x, SCALE, constant(100, u8))
    gate = Dequantize(Quantize(Sigmoid(real), constant(1 / 255, f32), None, u8), constant(1 / 255, f32), None)
    return Quantize(Mul(real, gate), constant(0.03, f32), constant(9, to), to)


def graph_of(shape: Sequence[int], to: DType = u8, *, padded: bool = False, turned: bool = False) -> Graph:
    x = Input("x", TensorType(u8, tuple(shape)))
    y = silu(x, to)
    if padded:
        y = Pad(y, (0, 1, 2, 0, 0, 2, 1, 0), "constant", constant(7, to))
    if turned:
        y = Transpose(y, (0, 3, 1, 2))
    return Graph((x,), (("y", y),))


def tables(graph: Graph) -> int:
    return sum(isinstance(node, Gather) for node in default_pipeline().run(graph).nodes())


def check(graph: Graph, target: str) -> None:
    shape = graph.inputs[0].type.static_shape()
    drawn = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    drawn.reshape(-1)[: min(256, drawn.size)] = np.arange(min(256, drawn.size))
    want = evaluate_graph(graph, {"x": drawn})["y"]
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": drawn})["y"], want)
    program = lower(default_pipeline().run(graph), features.machine(features.level("native")))
    assert any(isinstance(launch.kernel.body, Lookup) for launch in program.launches())
    if drawn.size < 10_000:  # the interpreter takes its time
        np.testing.assert_array_equal(run_program(program, {"x": drawn})["y"], want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("to", [u8, i8], ids=["u8", "i8"])
@pytest.mark.parametrize("shape", [(4097,), (70001,), (3, 1400, 1)])
def test_tables(shape: tuple[int, ...], to: DType, target: str) -> None:
    check(graph_of(shape, to), target)


@pytest.mark.parametrize("target", TARGETS)
def test_into_the_inside_of_a_border(target: str) -> None:
    graph = graph_of((1, 9, 11, 45), padded=True)
    check(graph, target)
    program = lower(default_pipeline().run(graph), features.machine(features.level(target)))
    assert len(list(program.launches())) == 2  # the table, and the border: nothing is copied


@pytest.mark.parametrize("target", TARGETS)
def test_axes_that_are_turned(target: str) -> None:
    check(graph_of((1, 8, 20, 40), turned=True), target)


def test_few_bytes_and_cheap_functions_stay_in_their_kernels() -> None:
    assert tables(graph_of((4, 1024))) == 1
    assert tables(graph_of((4, 1023))) == 0
    x = Input("x", TensorType(u8, (64, 99)))
    cheap = Quantize(Relu(Dequantize(x, SCALE, None)), SCALE, constant(1, u8), u8)
    assert tables(Graph((x,), (("y", cheap),))) == 0


def test_functions_of_two_values_or_of_scales_a_channel_are_no_tables() -> None:
    x, other = (Input(name, TensorType(u8, (2, 64, 64))) for name in "xy")
    real = Sigmoid(Dequantize(x, SCALE, None))
    both = Quantize(Mul(real, Dequantize(other, SCALE, None)), SCALE, None, u8)
    assert tables(Graph((x, other), (("y", both),))) == 0
    several = constant(np.linspace(0.1, 0.2, 64).astype(np.float32))
    assert tables(Graph((x,), (("y", Quantize(Mul(real, several), SCALE, None, u8)),))) == 0
