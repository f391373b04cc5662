"""Sums of byte products in 16 bits: what the weights are split into, and that nothing ever saturates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler import compile
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.templates import Contraction
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower import short_sums
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.short_sums import BOUND, STEP, TOGETHER, WIDTH, ShortSums
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.cpu import features
from ingot.runtime.dtypes import i8, u8

Array = NDArray[Any]
TARGETS = [
    name
    for name in ("x86-64-v3", "x86-64-v4")
    if features.level(name).arch == features.host_arch()
    and features.level(name).required <= features.level("native").required | {"cx8"}
]


def spread(*shape: int, most: int = 64, deviations: float = 4.0) -> NDArray[np.int8]:
    """Normal weights whose largest magnitude may be `most`."""
    drawn = np.random.default_rng(7).standard_normal(shape) * most / deviations
    return np.clip(np.rint(drawn), -most, most).astype(np.int8)


EXTREMES = {
    "positive": lambda shape: np.full(shape, 127, np.int8),
    "negative": lambda shape: np.full(shape, -128, np.int8),
    "seven bits": lambda shape: np.full(shape, 64, np.int8),
    "both": lambda shape: np.random.default_rng(3).choice([-128, 127, 0], shape).astype(np.int8),
}


@pytest.fixture
def any_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists may be as long as they must."""
    monkeypatch.setattr(short_sums, "SHARE", 16.0)


def halves(steps: Array) -> Array:
    """Sums of weights that share 16 bits: [..., steps, 4] to those of the positive and of the negative ones."""
    pairs = steps.astype(np.int64).reshape(*steps.shape[:-1], 2, 2)
    return np.stack([np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1)])


def check_split(matrix: NDArray[np.int8], split: ShortSums) -> None:
    """The parts come to the matrix, and the sums of each fit."""
    depth, columns = matrix.shape
    whole = split.main.astype(np.int64)
    for panel, (places, rest) in enumerate(zip(split.places, split.rest, strict=True)):
        width = min(WIDTH, columns - panel * WIDTH)
        for place, weights in zip(places, rest, strict=True):
            whole[place : place + STEP, panel * WIDTH : panel * WIDTH + width] += weights[:width].T
            assert not weights[width:].any()
    np.testing.assert_array_equal(whole, matrix)
    grouped = split.main.T.reshape(columns, depth // (STEP * TOGETHER), TOGETHER, STEP)
    assert halves(grouped).sum(-2).max() <= BOUND
    assert halves(split.rest).max(initial=0) <= BOUND


@pytest.mark.parametrize("columns", [1, 16, 37, 200])
def test_weights_of_seven_bits_need_few_steps(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_sums, "BLOCK", 512 * 48)  # several blocks of columns
    matrix = spread(512, columns)
    split = ShortSums.of(matrix)
    assert split is not None and split.count <= 0.2 * 512 / STEP
    check_split(matrix, split)


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("shape", [(8, 1), (24, 17)])
def test_all_weights_can_be_split(extreme: str, shape: tuple[int, int]) -> None:
    matrix = EXTREMES[extreme](shape)
    split = ShortSums.of(matrix)
    assert split is not None
    check_split(matrix, split)


def test_weights_with_nothing_over_have_no_lists() -> None:
    split = ShortSums.of(spread(64, 20, most=32))
    assert split is not None and split.count == 0


def test_weights_that_would_need_long_lists_are_not_split() -> None:
    assert ShortSums.of(EXTREMES["both"]((64, 16))) is None
    assert ShortSums.of(np.full((64, 300), 64, np.int8)) is None


def product(rows: int, w: NDArray[np.int8]) -> tuple[Graph, Array]:
    x = Input("x", TensorType(u8, (rows, w.shape[0])))
    return Graph((x,), (("y", MatMul(x, constant(w, i8))),)), np.empty((rows, w.shape[0]), np.uint8)


def convolution(size: int, w: NDArray[np.int8], stride: int = 1) -> tuple[Graph, Array]:
    x = Input("x", TensorType(u8, (1, size, size, w.shape[1])))
    pad = w.shape[2] // 2
    y: Value = Conv(x, constant(w, i8), None, (stride, stride), (pad,) * 4, (1, 1), 1, True)
    return Graph((x,), (("y", y),)), np.empty((1, size, size, w.shape[1]), np.uint8)


def check(graph: Graph, like: Array, target: str) -> None:
    """Compiled code gives what integers of 64 bits do, for the largest elements and for any."""
    program = lower(default_pipeline().run(graph), features.machine(features.level(target)))
    (template,) = [k.body for k in (each.kernel for each in program.launches()) if isinstance(k.body, Contraction)]
    assert template.dot == STEP
    drawn = np.random.default_rng(1).integers(0, 256, like.shape).astype(np.uint8)
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        for x in (drawn, np.full_like(like, 255), np.where(drawn > 90, 255, 0).astype(np.uint8)):
            want = evaluate_graph(graph, {"x": x})["y"]
            np.testing.assert_array_equal(session.run({"x": x})["y"], want)
    np.testing.assert_array_equal(run_program(program, {"x": drawn})["y"], evaluate_graph(graph, {"x": drawn})["y"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 256, 37), (2, 512, 90), (13, 264, 48)])
def test_products(rows: int, depth: int, columns: int, target: str) -> None:
    check(*product(rows, spread(depth, columns)), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("size", "taps", "stride"), [(5, 3, 2), (4, 1, 1)])
def test_convolutions(size: int, taps: int, stride: int, target: str) -> None:
    check(*convolution(size, spread(24, 72, taps, taps), stride), target)


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_weights(extreme: str, target: str) -> None:
    check(*product(9, EXTREMES[extreme]((40, 33))), target)
    check(*convolution(4, EXTREMES[extreme]((17, 8, 3, 3))), target)


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("target", TARGETS)
def test_accesses_of_lists_are_within_bounds(target: str) -> None:
    graph, like = convolution(5, EXTREMES["both"]((20, 8, 3, 3)))
    x = np.full_like(like, 255)
    with compile(graph, target=target, jobs=1, checked=True).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], evaluate_graph(graph, {"x": x})["y"])
