"""Floats of 8 bits and less and integers of 4 and 2: every value and every rounding against ml_dtypes, compiled too."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.runtime import dtypes

FLOATS = {
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    TensorProto.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
}
INTEGERS = {
    TensorProto.INT4: ml_dtypes.int4,
    TensorProto.UINT4: ml_dtypes.uint4,
    TensorProto.INT2: ml_dtypes.int2,
    TensorProto.UINT2: ml_dtypes.uint2,
}


def name_of(code: TensorProto.DataType) -> str:
    return TensorProto.DataType.Name(code)


def node_model(op: str, code: int, to: int, count: int | str = "n", **attributes: Any) -> onnx.ModelProto:
    """One node from a vector of type `code` to a vector of type `to`."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], to=to, **attributes)],
        "cast",
        [helper.make_tensor_value_info("x", code, [count])],
        [helper.make_tensor_value_info("y", to, [count])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=11)


def both(graph: Graph, x: np.ndarray) -> np.ndarray:
    """What the interpreter and the compiled model agree on, bit for bit."""
    wanted = evaluate_graph(graph, {"x": x})["y"]
    with compile(graph, jobs=1).session(threads=1) as session:
        got = session.run({"x": x})["y"]
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got.view(np.uint8), wanted.view(np.uint8))
    return got


def trying(code: TensorProto.DataType) -> np.ndarray:
    """f32 around everything that the type can hold: each value, the middle between neighbours, and a little beside."""
    own = np.arange(256, dtype=np.uint8).view(FLOATS[code]).astype(np.float32)
    finite = np.unique(own[np.isfinite(own)])
    middles = (finite[1:] + finite[:-1]) / 2
    marks = np.concatenate([finite, middles, 2 * finite[-1:], -2 * finite[-1:], finite * np.float32(1.01)])
    beside = [np.nextafter(marks, np.float32(sign * np.inf)) for sign in (1, -1)]
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 1e-30, 3e38], np.float32)
    return np.concatenate([marks, *beside, special]).astype(np.float32)


def same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal but for the bits of NaN."""
    a, b = (np.isnan(v.astype(np.float32)) for v in (got, wanted))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(got.view(np.uint8)[~a], wanted.view(np.uint8)[~a])


@pytest.mark.parametrize("code", FLOATS, ids=name_of)
def test_floats_round_to_nearest_even(code: TensorProto.DataType) -> None:
    x = trying(code)
    with np.errstate(all="ignore"):
        same_bits(both(load_onnx(node_model("Cast", 1, code, saturate=0)), x), x.astype(FLOATS[code]))
        limit = float(ml_dtypes.finfo(FLOATS[code]).max)
        kept = np.clip(x, -limit, limit).astype(FLOATS[code])
    same_bits(evaluate_graph(load_onnx(node_model("Cast", 1, code)), {"x": x})["y"], kept)
    nothing = np.zeros(0, np.float32)
    assert evaluate_graph(load_onnx(node_model("Cast", 1, code)), {"x": nothing})["y"].shape == (0,)


@pytest.mark.parametrize("code", FLOATS, ids=name_of)
def test_f64_is_rounded_once(code: TensorProto.DataType) -> None:
    """Halfway between neighbours in f32 is not halfway: the nearer one is found by exact comparison."""
    with np.errstate(all="ignore"):
        own = np.arange(256, dtype=np.uint8).view(FLOATS[code]).astype(np.float64)
        finite = np.unique(own[np.isfinite(own)])
        middles = (finite[1:] + finite[:-1]) / 2
        x = np.concatenate([middles, middles * (1 + 2.0**-40), middles * (1 - 2.0**-40), finite, [-0.0, 1e-320]])
        got = both(load_onnx(node_model("Cast", TensorProto.DOUBLE, code)), x)
        even = middles.astype(np.float32).astype(FLOATS[code]).astype(np.float64)  # which f32 holds
    upper, lower = np.maximum(finite[1:], finite[:-1]), np.minimum(finite[1:], finite[:-1])
    away = np.where(middles > 0, upper, lower), np.where(middles > 0, lower, upper)
    wanted = np.concatenate([even, *away, finite, [0, 0]])
    np.testing.assert_array_equal(got.astype(np.float64), wanted)
    beyond = both(load_onnx(node_model("Cast", TensorProto.DOUBLE, code)), np.array([1e300, -1e39]))
    np.testing.assert_array_equal(beyond.astype(np.float64), [finite[-1], finite[0]])
    if code != TensorProto.FLOAT4E2M1:
        nan = both(load_onnx(node_model("Cast", TensorProto.DOUBLE, code)), np.array([np.nan, -np.nan]))
        assert np.isnan(nan.astype(np.float64)).all()


@pytest.mark.parametrize(("mode", "wanted"), [("up", 2.0), ("down", 1.0), ("nearest", 2.0)])
def test_f64_as_a_power_of_two(mode: str, wanted: float) -> None:
    """What is next to 1 or to 1.5 in f64 alone is on the right side of it."""
    x = np.array([1.5 if mode == "nearest" else 1 + 2.0**-50 if mode == "up" else 2 - 2.0**-50])
    got = both(load_onnx(node_model("Cast", TensorProto.DOUBLE, TensorProto.FLOAT8E8M0, round_mode=mode)), x)
    assert got.astype(np.float64) == [wanted]
    ends = both(load_onnx(node_model("Cast", TensorProto.DOUBLE, TensorProto.FLOAT8E8M0)), np.array([1e-320, 1e300]))
    np.testing.assert_array_equal(ends.astype(np.float64), [2.0**-127, 2.0**127])


@pytest.mark.parametrize("code", FLOATS, ids=name_of)
def test_nan(code: TensorProto.DataType) -> None:
    x = np.array([np.nan, -np.nan], np.float32)
    got = evaluate_graph(load_onnx(node_model("Cast", 1, code)), {"x": x})["y"].astype(np.float32)
    if code == TensorProto.FLOAT4E2M1:
        np.testing.assert_array_equal(got, 0)
    else:
        assert np.isnan(got).all()


@pytest.mark.parametrize("code", [*FLOATS, TensorProto.FLOAT8E8M0], ids=name_of)
@pytest.mark.parametrize("to", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=name_of)
def test_every_float_is_read(code: TensorProto.DataType, to: TensorProto.DataType) -> None:
    dtype = {**FLOATS, TensorProto.FLOAT8E8M0: ml_dtypes.float8_e8m0fnu}[code]
    x = np.arange(16 if code == TensorProto.FLOAT4E2M1 else 256, dtype=np.uint8).view(dtype)
    with np.errstate(all="ignore"):
        wanted = x.astype(np.float32).astype(helper.tensor_dtype_to_np_dtype(to))
    got = both(load_onnx(node_model("Cast", code, to)), x)
    np.testing.assert_array_equal(got.astype(np.float32), wanted.astype(np.float32))


@pytest.mark.parametrize("code", INTEGERS, ids=name_of)
def test_integers(code: TensorProto.DataType) -> None:
    """Every byte is read by its low bits; numbers are written as theirs."""
    bits = 4 if code in (TensorProto.INT4, TensorProto.UINT4) else 2
    low = -(2 ** (bits - 1)) if code in (TensorProto.INT4, TensorProto.INT2) else 0
    x = np.arange(256, dtype=np.uint8).view(INTEGERS[code])
    for to in (TensorProto.INT32, TensorProto.FLOAT, TensorProto.UINT8):
        plain = (np.arange(256) - low) % 2**bits + low
        wanted = plain.astype(np.int64).astype(helper.tensor_dtype_to_np_dtype(to))
        np.testing.assert_array_equal(both(load_onnx(node_model("Cast", code, to)), x), wanted)
    numbers = np.arange(-40, 40)
    for source in (TensorProto.INT64, TensorProto.FLOAT, TensorProto.INT8):
        given = (numbers + 0.25 * (source == TensorProto.FLOAT)).astype(helper.tensor_dtype_to_np_dtype(source))
        got = both(load_onnx(node_model("Cast", source, code)), given)
        kept = np.trunc(given.astype(np.float64)).astype(np.int64)
        np.testing.assert_array_equal(got.view(np.uint8), kept % 2**bits)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_powers_of_two(mode: str, saturate: int) -> None:
    powers = np.ldexp(np.float32(1), np.arange(-149, 128))
    factors = np.array([1, 1.49, 1.5, 1.75, -1], np.float32)
    x = np.append(np.outer(powers, factors), [0, np.inf, np.nan]).astype(np.float32)
    wanted = onnx.numpy_helper.to_float8e8m0(x, bool(saturate), mode)
    model = node_model("Cast", 1, TensorProto.FLOAT8E8M0, saturate=saturate, round_mode=mode)
    np.testing.assert_array_equal(both(load_onnx(model), x).view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize(
    ("have", "to"),
    [("float32", "int32"), ("int64", "float64"), ("float16", "uint16"), ("bool", "uint8"), ("uint8", "bool")],
)
def test_bits_as_another_type(have: str, to: str) -> None:
    count = np.dtype(have).itemsize * 12
    x = np.random.default_rng(2).integers(0, 2, count).astype(np.uint8) * (1 if "bool" in (have, to) else 0x31)
    x = x.view(have)
    codes = [helper.np_dtype_to_tensor_dtype(np.dtype(d)) for d in (have, to)]
    got = both(load_onnx(node_model("BitCast", *codes)), x)
    np.testing.assert_array_equal(got, x.view(np.uint8) != 0 if to == "bool" else x.view(to))


def test_what_is_refused() -> None:
    with pytest.raises(ModelError, match="different sizes"):
        load_onnx(node_model("BitCast", TensorProto.FLOAT, TensorProto.INT64))
    with pytest.raises(ModelError, match="different sizes"):
        load_onnx(node_model("BitCast", TensorProto.UINT8, TensorProto.INT4))
    model = node_model("Cast", TensorProto.INT4, TensorProto.INT4)
    model.graph.node[0].op_type = "Neg"
    del model.graph.node[0].attribute[:]
    with pytest.raises(ModelError, match="float or signed elements are needed"):
        load_onnx(model)


@pytest.mark.parametrize("dtype", [*dtypes.OPAQUE], ids=lambda d: d.name)
def test_constants_are_moved_and_written_as_text(dtype: dtypes.DType) -> None:
    data = (np.arange(24, dtype=np.uint8) % 16).view(dtype.to_numpy()).reshape(4, 6)
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("Gather", ["t", "x"], ["y"])],
        "moved",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(data, "w")],
    )
    imported = load_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11))
    places = np.array([5, 0, -1])
    kept = data.T[places].astype(np.float32)
    np.testing.assert_array_equal(both(imported, places).astype(np.float32), kept)
    resources: dict[str, np.ndarray] = {}
    text = show_graph(imported, resources)
    assert show_graph(parse_graph(text, resources), {}) == text
