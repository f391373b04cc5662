"""Quantisation steps between kernels: what is fused must round as the steps alone do."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler import compile, default_pipeline
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.program import show_program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Add, Cast, Clip, Exp, Mul, Relu, Round
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import DType, f16, f32, i8, i32, u8

TARGETS = [
    name
    for name in ("x86-64-v3", "x86-64-v4", "aarch64")
    if features.level(name).arch == features.host_arch()
    and features.level(name).required <= features.level("native").required | {"fp-armv8", "cx8"}
]
X = Input("x", TensorType(f32, (4, 99)))
FEED = {"x": (np.random.default_rng(3).standard_normal((4, 99)) * 100).astype(np.float32)}
SCALE = constant(0.37, f32)


def divides(graph: Graph) -> bool:
    """Whether a kernel divides."""
    return "div(" in show_program(lower(default_pipeline().run(graph), find_target("cpu").machine))


def check(value: Value) -> None:
    graph = Graph((X,), (("y", value),))
    with compile(graph, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(FEED)["y"], evaluate_graph(graph, FEED)["y"])


@pytest.mark.parametrize(("dtype", "zero"), [(u8, 11), (i8, -3), (i8, 0)])
def test_requantised_values_keep_their_rounding_and_saturation(dtype: DType, zero: int) -> None:
    point = constant(zero, dtype)
    check(Dequantize(Quantize(X, SCALE, point, dtype), SCALE, point))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "zero"), [(u8, 0), (u8, 128), (u8, 255), (i8, -3), (i8, 127), (i8, -128)])
def test_halves_and_what_is_far_outside(dtype: DType, zero: int, target: str) -> None:
    x = Input("x", TensorType(f32, (3, 701)))
    values = np.concatenate([np.arange(-350, 350) * 0.25 + 0.125, [-0.0]]).astype(np.float32)
    far = np.resize(np.array([np.inf, -np.inf, 3e38, -3e38, 2.0**31, -(2.0**31), 2.0**30, 1e-45], np.float32), 701)
    feed = {"x": np.stack([values, far, -values])}
    graph = Graph((x,), (("y", Quantize(x, constant(0.25, f32), constant(zero, dtype), dtype)),))
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], evaluate_graph(graph, feed)["y"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "zero"), [(u8, 5), (i8, -7)])
@pytest.mark.parametrize("scale", [0.5, 0.37])  # with a reciprocal that is one float, and one that is not
def test_halves_that_an_integer_overflows_saturate(dtype: DType, zero: int, scale: float, target: str) -> None:
    x = Input("x", TensorType(i32, (41,)))
    far = [65504, 65519, 65520, 70000, -70000, 2**31 - 1, -(2**31)]
    feed = {"x": np.concatenate([np.arange(-17, 17), far]).astype(np.int32)}
    whole = Quantize(Cast(x, f16), constant(scale, f16), constant(zero, dtype), dtype)
    graph = Graph((x,), (("y", whole),))
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], evaluate_graph(graph, feed)["y"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("first", "second", "scale"), [(0.25, 0.5, 0.75), (0.056, 0.0328, 0.0422), (3e-5, 7e3, 0.9)])
def test_sums_of_bytes_are_quantised_as_a_division_does(first: float, second: float, scale: float, target: str) -> None:
    """All pairs of bytes, many of whose sums are halves of the last scale."""
    a, b = Input("a", TensorType(u8, (256, 256))), Input("b", TensorType(i8, (256, 256)))
    parts = Dequantize(a, constant(first, f32), constant(3, u8)), Dequantize(b, constant(second, f32), None)
    whole = Quantize(Relu(Add(*parts)), constant(scale, f32), constant(7, u8), u8)
    every = np.arange(256)
    first_bytes, second_bytes = np.meshgrid(every.astype(np.uint8), (every - 128).astype(np.int8))
    feed = {"a": first_bytes, "b": second_bytes}
    graph = Graph((a, b), (("y", whole),))
    assert not divides(graph)
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], evaluate_graph(graph, feed)["y"])


def test_what_may_be_infinite_is_divided() -> None:
    x = Input("u", TensorType(u8, (5,)))
    large = Mul(Dequantize(x, constant(1e20, f32), None), constant(1e20, f32))
    for value in (large, Exp(Cast(x, f32)), Add(Cast(x, f32), constant(np.inf, f32)), X):
        assert divides(Graph((x, X), (("y", Quantize(value, constant(0.37, f32), None, u8)),)))
    assert divides(Graph((x,), (("y", Quantize(Cast(x, f32), constant(1e-20, f32), None, u8)),)))
    repeated: Value = Cast(x, f32)
    for _ in range(40):  # every sum of the one before, twice
        repeated = Add(repeated, repeated)
    assert not divides(Graph((x,), (("y", Quantize(repeated, constant(0.37, f32), None, u8)),)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shift", [np.inf, -np.inf])
def test_what_is_added_to_whole_numbers_need_not_be_one(shift: float, target: str) -> None:
    x = Input("x", TensorType(f32, (37,)))
    moved = Add(Round(x), constant(shift, f32))
    graph = Graph((x,), (("y", Cast(Clip(moved, constant(0.0, f32), constant(255.0, f32)), u8)),))
    feed = {"x": np.arange(-18, 19).astype(np.float32) * 9.5}
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], np.full(37, 255 if shift > 0 else 0, np.uint8))


def test_the_integers_may_leave_the_kernel_too() -> None:
    whole = Quantize(X, SCALE, None, i8)
    graph = Graph((X,), (("q", whole), ("y", Dequantize(whole, SCALE, None))))
    with compile(graph, jobs=1).session(threads=1) as session:
        have, want = session.run(FEED), evaluate_graph(graph, FEED)
    for name in want:
        np.testing.assert_array_equal(have[name], want[name])


def test_a_clipped_and_cast_value_is_truncated_before_it_is_dequantised() -> None:
    whole = Cast(Clip(X, constant(0.0, f32), constant(90.5, f32)), u8)
    check(Dequantize(whole, SCALE, None))


def test_weights_of_constants_are_dequantised_at_compile_time() -> None:
    x = Input("x", TensorType(f32, (1, 3, 8, 8)))
    w = constant(np.arange(-54, 54).reshape(4, 3, 3, 3).astype(np.int8))
    scales = constant(np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(4, 1, 1, 1))
    conv = Conv(x, Dequantize(w, scales, None), None, (1, 1), (1, 1, 1, 1), (1, 1), 1, False)
    graph = Graph((x,), (("y", conv),))
    artifact = compile(graph, jobs=1)
    feed = {"x": np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    with artifact.session(threads=1) as session:
        np.testing.assert_allclose(session.run(feed)["y"], evaluate_graph(graph, feed)["y"], rtol=1e-4, atol=1e-4)


def test_bytes_are_multiplied_by_bytes_that_are_computed() -> None:
    rng = np.random.default_rng(6)
    a, b = Input("a", TensorType(u8, (3, 10))), Input("b", TensorType(i8, (10, 17)))
    graph = Graph((a, b), (("y", MatMul(a, b)),))
    feed = {"a": rng.integers(0, 256, (3, 10)).astype(np.uint8), "b": rng.integers(-128, 128, (10, 17)).astype(np.int8)}
    with compile(graph, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], feed["a"].astype(np.int32) @ feed["b"].astype(np.int32))
