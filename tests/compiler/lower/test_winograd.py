"""Winograd convolutions: the transforms, odd sizes and borders, the bound on the error, and who asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower import winograd
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.winograd import F2, F4, Algorithm
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.pointwise import Add, Relu
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32, u8


def random(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph_of(height: int, width: int, inner: int, out: int, pads: tuple[int, ...], batch: Dim = 2) -> Graph:
    """relu(conv(x) + x2) in channels-last layout; the conv reads a kernel's result, so that it gets its border."""
    x = Input("x", TensorType(f32, (batch, height, width, inner)))
    weights = constant(random(1, out, inner, 3, 3) / np.float32(np.sqrt(9 * inner)))
    conv = Conv(Relu(x), weights, constant(random(2, out)), (1, 1), pads, (1, 1), 1, True)
    return Graph((x,), (("y", Relu(Add(conv, conv.bias or conv))),))


def reference(graph: Graph, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same in f64, summed tap by tap."""
    conv = next(n for n in graph.nodes() if isinstance(n, Conv))
    w, bias = conv.w.data.astype(np.float64), conv.bias.data.astype(np.float64)  # type: ignore[union-attr]
    top, left, bottom, right = conv.pads
    padded = np.pad(np.maximum(x, 0).astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    h, wd = padded.shape[1] - 2, padded.shape[2] - 2
    total = sum(padded[:, i : i + h, j : j + wd] @ w[:, :, i, j].T for i in range(3) for j in range(3))
    return np.maximum(total + 2 * bias, 0)


def kernels(program: Program) -> list[str]:
    return [launch.kernel.name for launch in program.launches()]


@pytest.mark.parametrize("algorithm", [F2, F4], ids=["F2", "F4"])
def test_transforms_are_exact_in_one_dimension(algorithm: Algorithm) -> None:
    """A^T ((G g) * (B^T d)) is the correlation of d with g."""
    g, d = random(3, 3).astype(np.float64), random(4, algorithm.reach).astype(np.float64)
    have = algorithm.output @ ((algorithm.filters @ g) * (algorithm.data @ d))
    np.testing.assert_allclose(have, np.correlate(d, g, "valid"), rtol=1e-12, atol=1e-12)


CASES = [
    (8, 8, 16, 32, (1, 1, 1, 1)),
    (7, 7, 64, 64, (1, 1, 1, 1)),
    (13, 9, 32, 24, (1, 1, 1, 1)),
    (14, 14, 64, 40, (0, 0, 0, 0)),
    (10, 11, 32, 32, (2, 0, 1, 2)),
    (28, 28, 128, 128, (1, 1, 1, 1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_f64(case: tuple[Any, ...]) -> None:
    graph = graph_of(*case)
    x = random(5, 2, *case[:3])
    want = reference(graph, x)
    program = lower(graph, find_target("cpu").machine)
    verify_program(program)
    assert any(name.startswith("winograd") for name in kernels(program))
    with compile(graph).session(threads=2) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_allclose(have, want, atol=2e-5 * float(np.abs(want).max()))


def test_the_interpreted_program_agrees() -> None:
    graph = graph_of(5, 6, 16, 16, (1, 1, 1, 1))
    x = random(6, 2, 5, 6, 16)
    program = lower(graph, find_target("cpu").machine)
    np.testing.assert_allclose(run_program(program, {"x": x})["y"], reference(graph, x), atol=1e-4)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_symbolic_batch(batch: int) -> None:
    graph = graph_of(14, 14, 32, 32, (1, 1, 1, 1), symbol("batch"))
    x = random(7, batch, 14, 14, 32)
    with compile(graph).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_allclose(have, reference(graph, x), atol=1e-4)


def test_strict_numerics_sum_directly() -> None:
    program = lower(graph_of(28, 28, 64, 64, (1, 1, 1, 1)), find_target("cpu").machine, reorder=False)
    assert not any(name.startswith("winograd") for name in kernels(program))


def test_nan_and_infinity_reach_every_output_they_touch() -> None:
    graph = graph_of(12, 12, 32, 32, (1, 1, 1, 1), 1)
    x = random(8, 1, 12, 12, 32)
    x[0, 5, 5, 3] = np.nan
    with compile(graph).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    assert np.isnan(have[0, 4:7, 4:7]).all()


BYTE_TARGETS = [
    name
    for name in ("x86-64-v3", "x86-64-v4")
    if features.level(name).arch == features.host_arch()
    and features.level(name).required <= features.level("native").required | {"cx8"}
]


def bytes_graph(height: int, width: int, w: np.ndarray[Any, Any], pads: tuple[int, ...]) -> Graph:
    """A convolution of u8 by i8 with an i32 bias."""
    x = Input("x", TensorType(u8, (2, height, width, w.shape[1])))
    bias = constant(np.arange(-7, w.shape[0] - 7).astype(np.int32) * 1001)
    conv = Conv(x, constant(w), bias, (1, 1), pads, (1, 1), 1, True)
    return Graph((x,), (("y", conv),))


@pytest.mark.parametrize("target", BYTE_TARGETS)
@pytest.mark.parametrize(("height", "width", "pads"), [(8, 8, (1, 1, 1, 1)), (5, 7, (0, 1, 2, 0))])
@pytest.mark.parametrize("weights", ["any", "largest", "smallest"])
def test_bytes_are_exact(
    height: int, width: int, pads: tuple[int, ...], weights: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "PAIRS_SHARE", 100.0)  # whatever the cost model thinks of small images
    rng = np.random.default_rng(8)
    any_ = rng.integers(-128, 128, (32, 24, 3, 3)).astype(np.int8)
    w = {"any": any_, "largest": np.full_like(any_, 127), "smallest": np.full_like(any_, -128)}[weights]
    graph = bytes_graph(height, width, w, pads)
    program = lower(graph, features.machine(features.level(target)))
    verify_program(program)
    assert any(name.startswith("winograd_data") for name in kernels(program))
    drawn = rng.integers(0, 256, graph.inputs[0].type.static_shape()).astype(np.uint8)
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        for x in (drawn, np.full_like(drawn, 255), np.where(drawn > 127, 255, 0).astype(np.uint8)):
            np.testing.assert_array_equal(session.run({"x": x})["y"], evaluate_graph(graph, {"x": x})["y"])
    want = evaluate_graph(graph, {"x": drawn})["y"]
    np.testing.assert_array_equal(run_program(program, {"x": drawn})["y"], want)


def test_sums_that_four_times_as_large_need_more_bits_are_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "PAIRS_SHARE", 100.0)
    machine = features.machine(features.level("x86-64-v3"))
    for inner, transformed in ((1826, True), (1828, False)):  # 4 * 255 * 128 * 9 * inner about 2**31
        graph = bytes_graph(4, 4, np.full((16, inner, 3, 3), -128, np.int8), (1, 1, 1, 1))
        names = kernels(lower(graph, machine))
        assert any(name.startswith("winograd_data") for name in names) == transformed
