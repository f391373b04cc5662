"""Requantisation by multipliers and shifts: what a network becomes, that code and interpreter agree bit for bit, and
how far the two modes are from float scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiler.ops.rescale_examples import apply_scale
from tests.compiler.targets.levels import RUNNABLE

from ingot.compiler import compile
from ingot.compiler.ir.graph import Graph, Input, Node, Value, constant, operands_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Concat, Gather, Reshape
from ingot.compiler.ops.pointwise import Add, Clip, Mul, Relu, Sigmoid
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.ops.reduction import ReduceMean
from ingot.compiler.ops.rescale import Rescale, Rounding, multiplier_and_shift
from ingot.compiler.passes.default import default_pipeline
from ingot.runtime.dtypes import DType, f32, i8, i32, u8

Array = NDArray[Any]
MODES = ("tosa", "tosa-double")


def real(x: Value, scale: float, zero: int | None = None) -> Value:
    return Dequantize(x, constant(scale, f32), None if zero is None else constant(zero, x.dtype))


def steps(x: Value, scale: float, zero: int = 0, to: DType = u8) -> Value:
    return Quantize(x, constant(scale, f32), constant(zero, to), to)


def weights(rng: np.random.Generator, *shape: int) -> Value:
    """Of i8 with a scale for each output channel, the first axis."""
    scale = rng.uniform(0.002, 0.01, (shape[0], *(1,) * (len(shape) - 1))).astype(np.float32)
    return Dequantize(constant(rng.integers(-128, 128, shape).astype(np.int8)), constant(scale), None)


def network() -> tuple[Graph, dict[str, Array]]:
    """Convolutions with exact and other biases, a clip, a residual sum of bytes and one with a convolution's sums, a
    product, a concatenation on another grid, a mean, a dense layer."""
    rng = np.random.default_rng(2)
    x = Input("x", TensorType(u8, (2, 6, 9, 7)))
    one = ((1, 1), (1, 1, 1, 1), (1, 1), 1, False)
    numbers = constant(rng.integers(-9000, 9000, 16).astype(np.int32))
    bias = Dequantize(numbers, constant(np.float32(0.02 * 0.005)), None)
    first = Conv(real(x, 0.02, 120), weights(rng, 16, 6, 3, 3), bias, *one)
    a = steps(Clip(first, constant(0, f32), constant(6, f32)), 0.03)
    shift = constant(rng.standard_normal(16).astype(np.float32))
    b = steps(Conv(real(a, 0.03, 0), weights(rng, 16, 16, 3, 3), shift, *one), 0.11, 131)
    c = steps(Relu(Add(real(a, 0.03, 0), real(b, 0.11, 131))), 0.07)
    again = Conv(real(c, 0.07, 0), weights(rng, 16, 16, 1, 1), None, (1, 1), (0, 0, 0, 0), (1, 1), 1, False)
    d = steps(Add(again, real(c, 0.07, 0)), 0.2, 100)
    e = steps(Mul(real(c, 0.07, 0), real(d, 0.2, 100)), 0.9, 128)
    both = Concat((real(d, 0.2, 100), real(e, 0.9, 128)), 1)
    f = steps(both, 0.5, 7, i8)
    g = steps(ReduceMean(real(f, 0.5, 7), (2, 3), True), 0.3, -3, i8)
    flat = Reshape(real(g, 0.3, -3), (2, 32))
    dense = Dequantize(
        constant(rng.integers(-128, 128, (32, 10)).astype(np.int8)), constant(np.full((1, 10), 0.01, np.float32)), None
    )
    h = steps(MatMul(flat, dense), 0.25, 128)
    outputs = {"c": c, "d": d, "e": e, "g": g, "h": h, "y": real(h, 0.25, 128)}
    feed = {"x": rng.integers(0, 256, (2, 6, 9, 7)).astype(np.uint8)}
    return Graph((x,), tuple(outputs.items())), feed


def optimised(graph: Graph, mode: str) -> Graph:
    """What is lowered, before it is grouped."""
    return default_pipeline("default", mode).without("fuse").run(graph)


def kinds(graph: Graph, kind: type[Node]) -> list[Any]:
    return [node for node in graph.nodes() if isinstance(node, kind)]


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("mode", MODES)
def test_a_network_is_integers_from_end_to_end(mode: Any, target: str) -> None:
    graph, feed = network()
    done = optimised(graph, mode)
    assert not kinds(done, Quantize) and len(kinds(done, Rescale)) > 8
    floats = [node for node in done.nodes() if node.types[0].dtype.is_float and operands_of(node)]
    assert [type(node) for node in floats] == [Dequantize, Reshape]  # of the last output
    want = evaluate_graph(done, feed)
    artifact = compile(graph, target=target, requantise=mode, jobs=1)
    assert artifact.manifest.provenance["requantise"] == mode
    with artifact.session(threads=1) as session:
        have = session.run(feed)
    for name, array in want.items():
        np.testing.assert_array_equal(have[name], array, err_msg=name)
    usual = evaluate_graph(optimised(graph, "onnx"), feed)
    for name in ("c", "d", "e", "g"):  # a step that differs moves those after it
        difference = np.abs(want[name].astype(int) - usual[name].astype(int))
        assert difference.mean() < 0.05, name


def test_the_modes_differ_where_they_should() -> None:
    """A quarter is rounded up twice: to a half, and to one; a negative half away from zero."""
    x = Input("x", TensorType(i32, (4,)))
    found = multiplier_and_shift(np.asarray(0.25))
    assert found is not None
    multiplier, shift = (constant(part) for part in found)
    feed = {"x": np.array([1, -1, 2, -2], np.int32)}
    expected: dict[Rounding, list[int]] = {"single": [0, 0, 1, 0], "double": [1, 0, 1, -1]}
    for rounding, wanted in expected.items():
        node = Rescale(x, multiplier, shift, None, None, i32, rounding)
        have = evaluate_graph(Graph((x,), (("y", node),)), feed)["y"]
        own = [apply_scale(int(v), int(found[0]), int(found[1]), rounding == "double") for v in feed["x"]]
        assert have.tolist() == own == wanted


@pytest.mark.parametrize("mode", MODES)
def test_functions_and_scales_of_run_time_stay_floats(mode: str) -> None:
    x, y, s = Input("x", TensorType(u8, (2, 3))), Input("y", TensorType(u8, (2, 3))), Input("s", TensorType(f32, ()))
    of_function = steps(Mul(Sigmoid(real(x, 0.1, 3)), real(y, 0.2, 7)), 1 / 256)
    of_scale = Quantize(real(x, 0.1, 3), s, constant(0, u8), u8)
    graph = Graph((x, y, s), (("a", of_function), ("b", of_scale)))
    assert len(kinds(optimised(graph, mode), Quantize)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_functions_of_one_byte_are_tables(mode: Any) -> None:
    x = Input("x", TensorType(u8, (16, 16)))
    value = real(x, 0.05, 131)
    line = Add(Mul(value, constant(1 / 6, f32)), constant(0.5, f32))
    hard = Mul(value, Clip(line, constant(0, f32), constant(1, f32)))
    graph = Graph((x,), (("y", steps(hard, 0.03, 11)),))
    done, feed = optimised(graph, mode), {"x": np.arange(256, dtype=np.uint8).reshape(16, 16)}
    assert len(kinds(done, Gather)) == 1 and not kinds(done, Quantize) and not kinds(done, Dequantize)
    want = evaluate_graph(graph, feed)["y"]
    np.testing.assert_array_equal(evaluate_graph(done, feed)["y"], want)
    with compile(graph, requantise=mode, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], want)


def test_biases_that_do_not_fit_stay_floats() -> None:
    x = Input("x", TensorType(u8, (1, 1, 1, 1)))
    w = Dequantize(constant(np.ones((1, 1, 1, 1), np.int8)), constant(1e-9, f32), None)
    conv = Conv(real(x, 1.0), w, constant(np.array([4.0], np.float32)), (1, 1), (0, 0, 0, 0), (1, 1), 1, False)
    done = optimised(Graph((x,), (("y", steps(conv, 0.1)),)), "tosa")
    assert kinds(done, Quantize) and not kinds(done, Rescale)


def test_multipliers_and_shifts() -> None:
    scales = np.concatenate([2.0 ** np.arange(-31, 30), np.random.default_rng(0).uniform(1e-8, 2, 200), [1 - 2.0**-40]])
    for bits in (16, 32):
        found = multiplier_and_shift(scales, bits)
        kept = scales[scales < 2.0 ** (bits - 3)]
        assert (found is None) == (kept.size < scales.size)
        found = multiplier_and_shift(kept, bits)
        assert found is not None
        multiplier, shift = found
        assert multiplier.min() >= 2 ** (bits - 2) and shift.min() >= 2 and shift.max() <= 62
        np.testing.assert_allclose(multiplier / 2.0**shift, kept, rtol=2.0 ** -(bits - 1))
    small = multiplier_and_shift(np.array([2.0**-40, 2.0**-70]))
    assert small is not None and small[1].tolist() == [62, 62] and small[0].tolist() == [1 << 22, 0]
    assert multiplier_and_shift(np.array([0.0])) is None and multiplier_and_shift(np.array([np.inf])) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multiplier": constant(-1, i32)}, "a multiplier of -1"),
        ({"shift": constant(1, i32)}, "a shift of 1"),
        ({"shift": constant(63, i32)}, "from 2 to 62"),
        ({"multiplier": constant(1, i8)}, "is not one of i32"),
        ({"x": Input("x", TensorType(f32, (1,)))}, "is not rescaled"),
        ({"to": f32}, "nothing is rescaled to f32"),
        ({"output_zero": constant(0, i32)}, "the output zero point"),
        ({"rounding": "thrice"}, "rounding 'thrice'"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": Input("x", TensorType(i32, (1,))), "multiplier": constant(1 << 30, i32)}
    given |= {"shift": constant(40, i32), "input_zero": None, "output_zero": None, "to": i8, "rounding": "single"}
    with pytest.raises(Exception, match=message):
        Rescale(**{**given, **fields})
