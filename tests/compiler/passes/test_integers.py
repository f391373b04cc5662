"""Products of quantised values in integers: every spelling against exact sums in int64 and requantisation in f64."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product as cartesian
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import compile
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import AveragePool, Conv, MatMul
from ingot.compiler.ops.movement import Concat
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.passes.integers import INTEGERS
from ingot.compiler.rewrite import rewrite
from ingot.runtime.dtypes import f32, i8, i32, u8

Array = NDArray[Any]
ONNX = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, tuple[str, Sequence[int | str]]],
    **constants: Array,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info(n, ONNX[kind], shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, ONNX[kind], shape) for n, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(data), name) for name, data in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, ["" if n == "_" else n for n in inputs.split()], output.split(), **attributes)


def whole(seed: object, dtype: str, *shape: int) -> Array:
    """Integers from the whole range of a type."""
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(zlib.crc32(repr(seed).encode()))
    return rng.integers(limits.min, limits.max + 1, shape, dtype)


def products(graph: Graph) -> list[MatMul | Conv]:
    """The products and convolutions of a graph and of its groups."""
    found: list[MatMul | Conv] = []
    for n in graph.nodes():
        if isinstance(n, MatMul | Conv):
            found.append(n)
        elif isinstance(n, Fused):
            found += products(n.body)
    return found


def in_integers(graph: Graph, count: int = 1) -> Graph:
    """`graph` after the pass, all of whose products are of u8 by i8."""
    done = rewrite(graph, INTEGERS)
    kinds = [(p.a.dtype, p.b.dtype) if isinstance(p, MatMul) else (p.x.dtype, p.w.dtype) for p in products(done)]
    assert kinds == [(u8, i8)] * count
    return done


def run(proto: onnx.ModelProto, feeds: dict[str, Array], count: int = 1) -> dict[str, Array]:
    """The results of the graph after the pass."""
    return evaluate_graph(in_integers(load_onnx(proto), count), feeds)


def compiled(proto: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    with compile(proto).session(threads=1) as session:
        return dict(session.run(feeds))


def convolved(
    x: Array, w: Array, pads: Sequence[int], strides: Sequence[int], dilations: Sequence[int], group: int
) -> Array:
    """The sums of products of x [N, C, H, W] and w [M, C/g, KH, KW] in int64; padding adds nothing."""
    x = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    kernel = w.shape[2:]
    size = [(x.shape[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(2)]
    own, out = w.shape[1], w.shape[0] // group
    result = np.zeros((x.shape[0], w.shape[0], *size), np.int64)
    for ky, kx in cartesian(range(kernel[0]), range(kernel[1])):
        y0, x0 = ky * dilations[0], kx * dilations[1]
        seen = x[:, :, y0 : y0 + (size[0] - 1) * strides[0] + 1 : strides[0]]
        seen = seen[..., x0 : x0 + (size[1] - 1) * strides[1] + 1 : strides[1]]
        for g in range(group):
            part = seen[:, g * own : (g + 1) * own]
            filters = w[g * out : (g + 1) * out, :, ky, kx].astype(np.int64)
            result[:, g * out : (g + 1) * out] += np.einsum("nchw,mc->nmhw", part, filters)
    return result


def requantised(total: Array, scale: Any, zero: int, dtype: str = "uint8") -> Array:
    limits = np.iinfo(dtype)
    return np.clip(np.rint(total * np.asarray(scale, np.float64)) + zero, limits.min, limits.max).astype(np.int64)


def close(found: Array, wanted: Array) -> None:
    """Equal but for a step where f32 rounds a tie otherwise."""
    difference = np.abs(found.astype(np.int64) - wanted)
    assert difference.max(initial=0) <= 1
    assert (difference != 0).mean() < 0.02 if difference.size else True


# -- integers without scales ------------------------------------------------------------------------------------------

BYTES = st.sampled_from(["uint8", "int8"])


def zero_points(seed: object, dtype: str, form: str, count: int) -> Array | None:
    if form == "none":
        return None
    return whole((seed, "zero"), dtype, count) if form == "several" else whole((seed, "zero"), dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kinds=st.tuples(BYTES, BYTES),
    a_form=st.sampled_from(["none", "one", "several", "run time"]),
    b_form=st.sampled_from(["none", "one", "several"]),
    size=st.tuples(st.integers(0, 5), st.integers(1, 19), st.integers(1, 9)),
)
def test_mat_mul_integer(kinds: tuple[str, str], a_form: str, b_form: str, size: tuple[int, int, int]) -> None:
    m, k, n = size
    seed = (kinds, a_form, b_form, size)
    a, b = whole((seed, "a"), kinds[0], m, k), whole((seed, "b"), kinds[1], k, n)
    za, zb = zero_points((seed, "a"), kinds[0], a_form, m), zero_points((seed, "b"), kinds[1], b_form, n)
    constants = {"b": b, **({} if zb is None else {"zb": zb})}
    inputs: dict[str, tuple[str, Sequence[int | str]]] = {"a": (kinds[0], [m, k])}
    feeds = {"a": a}
    if a_form == "run time" and za is not None:
        inputs["za"], feeds["za"] = (kinds[0], []), za
    elif za is not None:
        constants["za"] = za
    operands = f"a b {'_' if za is None else 'za'} {'_' if zb is None else 'zb'}"
    proto = model([node("MatMulInteger", operands, "y")], inputs, {"y": ("int32", [m, n])}, **constants)
    left = a.astype(np.int64) - (0 if za is None else za.astype(np.int64).reshape(-1, 1))
    right = b.astype(np.int64) - (0 if zb is None else zb.astype(np.int64))
    np.testing.assert_array_equal(run(proto, feeds)["y"], left @ right)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kinds=st.tuples(BYTES, BYTES),
    forms=st.tuples(st.sampled_from(["none", "one", "run time"]), st.sampled_from(["none", "one", "several"])),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    channels=st.sampled_from([(1, 3, 1), (3, 5, 1), (4, 4, 4), (2, 6, 2)]),
)
def test_conv_integer(
    kinds: tuple[str, str],
    forms: tuple[str, str],
    window: tuple[int, int, int, int],
    pads: tuple[int, int, int, int],
    channels: tuple[int, int, int],
) -> None:
    inner, out, group = channels
    seed = (kinds, forms, window, pads, channels)
    x = whole((seed, "x"), kinds[0], 2, inner, 7, 6)
    w = whole((seed, "w"), kinds[1], out, inner // group, *window[:2])
    zx, zw = zero_points((seed, "x"), kinds[0], forms[0], 1), zero_points((seed, "w"), kinds[1], forms[1], out)
    constants = {"w": w, **({} if zw is None else {"zw": zw})}
    inputs: dict[str, tuple[str, Sequence[int | str]]] = {"x": (kinds[0], x.shape)}
    feeds = {"x": x}
    if forms[0] == "run time" and zx is not None:
        inputs["zx"], feeds["zx"] = (kinds[0], []), zx
    elif zx is not None:
        constants["zx"] = zx
    left = x.astype(np.int64) - (0 if zx is None else int(zx))
    right = w.astype(np.int64) - (0 if zw is None else zw.astype(np.int64).reshape(-1, 1, 1, 1))
    wanted = convolved(left, right, pads, window[2:], (1, 1), group)
    operands = f"x w {'_' if zx is None else 'zx'} {'_' if zw is None else 'zw'}"
    one = node("ConvInteger", operands, "y", pads=pads, strides=window[2:], group=group)
    proto = model([one], inputs, {"y": ("int32", wanted.shape)}, **constants)
    graph = load_onnx(proto)
    done = rewrite(graph, INTEGERS)
    np.testing.assert_array_equal(evaluate_graph(done, feeds)["y"], wanted)
    fits = right.min() >= -128 and right.max() < 128
    if fits or group in (1, out):
        assert all(isinstance(p, Conv) and (p.x.dtype, p.w.dtype) == (u8, i8) for p in products(done))
    else:  # grouped filters that fit no i8 stay as they were
        assert done is graph


def test_a_convolution_with_everything_compiled() -> None:
    """i8 activations whose zero point is known at run time, u8 filters with a zero point each, padding, any size."""
    x, w = whole("x", "int8", 2, 3, 6, 5), whole("w", "uint8", 4, 3, 3, 3)
    zx, zw = whole("zx", "int8"), whole("zw", "uint8", 4)
    proto = model(
        [node("ConvInteger", "x w zx zw", "y", pads=[1, 0, 1, 2])],
        {"x": ("int8", ["n", 3, "h", "w"]), "zx": ("int8", [])},
        {"y": ("int32", ["n", 4, "a", "b"])},
        w=w,
        zw=zw,
    )
    in_integers(load_onnx(proto), 2)
    left, right = x.astype(np.int64) - int(zx), w.astype(np.int64) - zw.astype(np.int64).reshape(-1, 1, 1, 1)
    wanted = convolved(left, right, (1, 0, 1, 2), (1, 1), (1, 1), 1)
    np.testing.assert_array_equal(compiled(proto, {"x": x, "zx": zx})["y"], wanted)


def test_sums_wrap_as_i32_does() -> None:
    depth = 70000
    a, b = np.full((1, depth), 255, np.uint8), np.full((depth, 1), 127, np.int8)
    proto = model([node("MatMulInteger", "a b", "y")], {"a": ("uint8", [1, depth])}, {"y": ("int32", [1, 1])}, b=b)
    wanted = np.array([[depth * 255 * 127]], np.int64).astype(np.int32)
    np.testing.assert_array_equal(run(proto, {"a": a})["y"], wanted)
    np.testing.assert_array_equal(compiled(proto, {"a": a})["y"], wanted)


def test_weights_that_are_not_constant_stay() -> None:
    proto = model(
        [node("MatMulInteger", "a b", "y")],
        {"a": ("uint8", [2, 3]), "b": ("int8", [3, 4])},
        {"y": ("int32", [2, 4])},
    )
    graph = load_onnx(proto)
    assert rewrite(graph, INTEGERS) is graph
    a, b = whole("a", "uint8", 2, 3), whole("b", "int8", 3, 4)
    np.testing.assert_array_equal(compiled(proto, {"a": a, "b": b})["y"], a.astype(np.int64) @ b.astype(np.int64))


# -- with scales ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kinds=st.tuples(BYTES, BYTES, BYTES),
    per_channel=st.booleans(),
    bias=st.booleans(),
    window=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    channels=st.sampled_from([(1, 3, 1), (3, 5, 1), (5, 5, 5), (7, 16, 1)]),
)
def test_q_linear_conv_and_qdq(
    kinds: tuple[str, str, str],
    per_channel: bool,
    bias: bool,
    window: tuple[int, int, int],
    pads: tuple[int, int, int, int],
    channels: tuple[int, int, int],
) -> None:
    """The operator and the pattern that stands for it give the same, and what int64 and f64 say."""
    inner, out, group = channels
    seed = (kinds, per_channel, bias, window, pads, channels)
    rng = np.random.default_rng(zlib.crc32(repr(seed).encode()))
    x = whole((seed, "x"), kinds[0], 2, inner, 8, 7)
    w = whole((seed, "w"), kinds[1], out, inner // group, window[0], window[0])
    zx, zw = whole((seed, "zx"), kinds[0]), whole((seed, "zw"), kinds[1], out if per_channel else 1)
    zy = whole((seed, "zy"), kinds[2])
    sx, sw = np.float32(0.02), (rng.random(out if per_channel else 1).astype(np.float32) + 0.5) / 100
    sy = np.float32(0.02 * 0.01 * 2000)
    constants = {"w": w, "zx": zx, "zw": zw, "zy": zy, "sx": np.array(sx), "sw": sw, "sy": np.array(sy)}
    shift = np.zeros(out, np.int32)
    if bias:
        shift = rng.integers(-5000, 5000, out).astype(np.int32)
        constants |= {"b": shift, "sb": np.broadcast_to((sx * sw).astype(np.float32), out)}
    options = {"pads": pads, "strides": [window[1]] * 2, "dilations": [window[2]] * 2, "group": group}
    left, right = x.astype(np.int64) - int(zx), w.astype(np.int64) - zw.astype(np.int64).reshape(-1, 1, 1, 1)
    total = convolved(left, right, pads, [window[1]] * 2, [window[2]] * 2, group) + shift.reshape(-1, 1, 1)
    scale = np.float64(sx) * sw.astype(np.float64).reshape(-1, 1, 1) / np.float64(sy)
    wanted = requantised(total, scale, int(zy), kinds[2])
    ends = {"x": (kinds[0], x.shape)}, {"y": (kinds[2], wanted.shape)}
    direct = [node("QLinearConv", f"x sx zx w sw zw sy zy{' b' if bias else ''}", "y", **options)]
    pattern = [
        node("DequantizeLinear", "x sx zx", "xd"),
        node("DequantizeLinear", "w sw zw", "wd", axis=0),
        *([node("DequantizeLinear", "b sb", "bd", axis=0)] if bias else []),
        node("Conv", f"xd wd{' bd' if bias else ''}", "r", **options),
        node("QuantizeLinear", "r sy zy", "y"),
    ]
    convs = 1 if right.min() >= -128 and right.max() < 128 else 2
    for nodes in (direct, pattern):
        unused = {} if nodes is pattern else {"sb"}
        proto = model(nodes, *ends, **{n: data for n, data in constants.items() if n not in unused})
        close(run(proto, {"x": x}, convs)["y"], wanted)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_q_linear_mat_mul(kind: str) -> None:
    a, b = whole("a", "uint8", 2, 5, 33), whole("b", kind, 33, 17)
    rng = np.random.default_rng(0)
    sb, zb = rng.random(17).astype(np.float32) / 100, whole("zb", kind, 17)
    proto = model(
        [node("QLinearMatMul", "a sa za b sb zb sy zy", "y")],
        {"a": ("uint8", ["batch", 5, 33])},
        {"y": ("uint8", ["batch", 5, 17])},
        b=b,
        sa=np.array(0.02, np.float32),
        za=np.array(117, np.uint8),
        sb=sb,
        zb=zb,
        sy=np.array(0.5, np.float32),
        zy=np.array(90, np.uint8),
    )
    total = (a.astype(np.int64) - 117) @ (b.astype(np.int64) - zb.astype(np.int64))
    wanted = requantised(total, 0.02 * sb.astype(np.float64) / 0.5, 90)
    close(run(proto, {"a": a})["y"], wanted)
    close(compiled(proto, {"a": a})["y"], wanted)


@pytest.mark.parametrize("rows", [False, True])
def test_transposed_weights_and_rows(rows: bool) -> None:
    """Gemm with transB, scales for its columns; activations with a scale and a zero point a row."""
    x, w = whole("x", "uint8", 6, 20), whole("w", "int8", 9, 20)
    rng = np.random.default_rng(1)
    count = 6 if rows else 1
    sx, zx = rng.random(count).astype(np.float32) + 0.1, whole("zx", "uint8", count)
    sw, bias = rng.random(9).astype(np.float32), rng.standard_normal(9).astype(np.float32)
    proto = model(
        [
            node("DequantizeLinear", "x sx zx", "xd", axis=0),
            node("DequantizeLinear", "w sw", "wd", axis=0),
            node("Gemm", "xd wd bias", "y", transB=1),
        ],
        {"x": ("uint8", [6, 20])},
        {"y": ("float32", [6, 9])},
        sx=sx,
        zx=zx,
        w=w,
        sw=sw,
        bias=bias,
    )
    left = (x.astype(np.float64) - zx.reshape(-1, 1)) * sx.reshape(-1, 1)
    wanted = left @ (w.astype(np.float64) * sw.reshape(-1, 1)).T + bias
    np.testing.assert_allclose(run(proto, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(compiled(proto, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-3)


def test_reshaped_operands() -> None:
    """Movement between Dequantize and MatMul, on both sides."""
    x, w = whole("x", "int8", 4, 3, 8), whole("w", "uint8", 2, 4, 10)
    proto = model(
        [
            node("DequantizeLinear", "x s z", "xd"),
            node("Transpose", "xd", "xt", perm=[1, 0, 2]),
            node("Reshape", "xt flat", "xr"),
            node("DequantizeLinear", "w sw zw", "wd", axis=2),
            node("Reshape", "wd square", "wr"),
            node("MatMul", "xr wr", "y"),
        ],
        {"x": ("int8", [4, 3, 8])},
        {"y": ("float32", [12, 10])},
        s=np.array(0.25, np.float32),
        z=np.array(-7, np.int8),
        flat=np.array([12, 8]),
        w=w,
        sw=np.linspace(1, 2, 10).astype(np.float32),
        zw=np.full(10, 128, np.uint8),
        square=np.array([8, 10]),
    )
    left = ((x.astype(np.float64) + 7) * 0.25).transpose(1, 0, 2).reshape(12, 8)
    right = ((w.astype(np.float64) - 128) * np.linspace(1, 2, 10).astype(np.float32)).reshape(8, 10)
    np.testing.assert_allclose(run(proto, {"x": x})["y"], left @ right, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(compiled(proto, {"x": x})["y"], left @ right, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_dynamic_quantisation(kind: str) -> None:
    """Scale and zero point found at run time (DynamicQuantizeLinear), scaled afterwards; a batch known at run time."""
    b = whole("b", kind, 24, 11)
    proto = model(
        [
            node("DynamicQuantizeLinear", "x", "q s z"),
            node("MatMulInteger", "q b z zb", "i"),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "s sb", "scale"),
            node("Mul", "f scale", "y"),
        ],
        {"x": ("float32", ["n", 24])},
        {"y": ("float32", ["n", 11])},
        b=b,
        zb=np.array(3 if kind == "int8" else 131, kind),
        sb=np.array(0.01, np.float32),
    )
    in_integers(load_onnx(proto))
    for count in (1, 7):
        x = np.random.default_rng(count).standard_normal((count, 24)).astype(np.float32) + 0.5
        low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
        s = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
        z = np.clip(np.rint(-np.float32(low) / s), 0, 255)
        q = np.clip(np.rint(x / s) + z, 0, 255)
        wanted = (q - z) @ (b.astype(np.float64) - (3 if kind == "int8" else 131)) * s * 0.01
        np.testing.assert_allclose(compiled(proto, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-3)


def test_bias_beyond_i32_stays_in_floats() -> None:
    """A bias that an i32 sum cannot take in: the float form must hold."""
    x, w = np.full((1, 1, 1, 1), 255, np.uint8), np.full((1, 1, 1, 1), 127, np.int8)
    proto = model(
        [
            node("DequantizeLinear", "x s", "xd"),
            node("DequantizeLinear", "w s", "wd"),
            node("DequantizeLinear", "b s", "bd"),
            node("Conv", "xd wd bd", "y"),
        ],
        {"x": ("uint8", [1, 1, 1, 1])},
        {"y": ("float32", [1, 1, 1, 1])},
        s=np.array(1, np.float32),
        w=w,
        b=np.array([2**31 - 1], np.int32),
    )
    graph = load_onnx(proto)
    wanted = 255 * 127 + 2.0**31
    found = evaluate_graph(rewrite(graph, INTEGERS), {"x": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(compiled(proto, {"x": x})["y"], wanted, rtol=1e-6)


def test_scales_along_the_sums_stay_in_floats() -> None:
    x, w = whole("x", "uint8", 3, 8), whole("w", "int8", 8, 4)
    sw = np.linspace(0.5, 1, 8).astype(np.float32)
    proto = model(
        [
            node("DequantizeLinear", "x s", "xd"),
            node("DequantizeLinear", "w sw", "wd", axis=0),
            node("MatMul", "xd wd", "y"),
        ],
        {"x": ("uint8", [3, 8])},
        {"y": ("float32", [3, 4])},
        s=np.array(0.5, np.float32),
        w=w,
        sw=sw,
    )
    graph = load_onnx(proto)
    assert all(p.type.dtype == f32 for p in products(rewrite(graph, INTEGERS)))
    wanted = x.astype(np.float64) * 0.5 @ (w.astype(np.float64) * sw.reshape(-1, 1))
    np.testing.assert_allclose(compiled(proto, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-3)


# -- between layers ---------------------------------------------------------------------------------------------------


def residual_block() -> onnx.ModelProto:
    """Three quantised 1x1 convolutions, the first of whose results is added to that of the third."""
    nodes: list[onnx.NodeProto] = [node("QuantizeLinear", "x s z", "q0")]
    constants: dict[str, Array] = {"s": np.array(0.05, np.float32), "z": np.array(128, np.uint8)}
    for i in range(3):
        constants[f"w{i}"], constants[f"t{i}"] = whole(("w", i), "int8", 16, 16, 1, 1), np.array(0.00437, np.float32)
        nodes += [
            node("DequantizeLinear", f"q{i} s z", f"d{i}"),
            node("DequantizeLinear", f"w{i} t{i}", f"wd{i}"),
            node("Conv", f"d{i} wd{i}", f"c{i}"),
            node("QuantizeLinear", f"c{i} s z", f"q{i + 1}"),
        ]
    nodes += [
        node("DequantizeLinear", "q1 s z", "first"),
        node("DequantizeLinear", "q3 s z", "third"),
        node("Add", "first third", "sum"),
        node("QuantizeLinear", "sum s z", "y"),
    ]
    shape = ["n", 16, 5, 6]
    return model(nodes, {"x": ("float32", shape)}, {"y": ("uint8", shape)}, **constants)


def residual_reference(x: Array) -> Array:
    q = requantised(np.asarray(x, np.float64), 1 / np.float64(np.float32(0.05)), 128)
    kept: list[Array] = []
    for i in range(3):
        w = whole(("w", i), "int8", 16, 16, 1, 1)[..., 0, 0].astype(np.int64)
        total = np.einsum("nchw,mc->nmhw", q - 128, w)
        q = requantised(total, np.float64(np.float32(0.00437)), 128)
        kept.append(q)
    return np.clip(kept[0] + kept[2] - 128, 0, 255)


def test_results_stay_bytes_between_layers() -> None:
    """What one kernel stores for the next is u8: a Dequantize with several readers is computed in each of them."""
    proto = residual_block()
    graph = default_pipeline().run(load_onnx(proto))
    assert [p.type.dtype for p in products(graph)] == [i32] * 3
    groups = [n for n in graph.nodes() if isinstance(n, Fused)]
    assert groups and all(r.type.dtype == u8 for g in groups for r in g.results())
    for count in (1, 3):
        x = np.random.default_rng(count).standard_normal((count, 16, 5, 6)).astype(np.float32) * 3
        close(compiled(proto, {"x": x})["y"], residual_reference(x))


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 2, 2)])
def test_pooled_bytes(kind: str, pads: tuple[int, ...]) -> None:
    """A maximum between Dequantize and Quantize of one scale is that of the bytes; windows of padding alone stay."""
    x = whole(("pool", kind), kind, 2, 5, 6, 7)
    proto = model(
        [
            node("DequantizeLinear", "x s z", "d"),
            node("MaxPool", "d", "p", kernel_shape=[2, 3], strides=[2, 1], pads=pads),
            node("QuantizeLinear", "p s z", "y"),
        ],
        {"x": (kind, ["n", 5, 6, 7])},
        {"y": (kind, ["n", 5, "h", "w"])},
        s=np.array(0.37, np.float32),
        z=np.array(11, kind),
    )
    kinds = {type(n).__name__ for n in rewrite(load_onnx(proto), INTEGERS).nodes()}
    assert ("Quantize" in kinds) == (max(pads) > 1)
    limits = np.iinfo(kind)
    spread = ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3]))
    wide = np.pad(x.astype(np.int64), spread, constant_values=limits.min)
    wanted = np.lib.stride_tricks.sliding_window_view(wide, (2, 3), (2, 3))[:, :, ::2].max((-2, -1))
    np.testing.assert_array_equal(compiled(proto, {"x": x})["y"], wanted)


def test_infinities_and_nan() -> None:
    """Infinities saturate; a NaN gives some integer, and touches no other."""
    proto = residual_block()
    x = np.random.default_rng(0).standard_normal((1, 16, 5, 6)).astype(np.float32)
    x[0, 3, 1, 1], x[0, 5, 2, 2], x[0, 7, 4, 4] = np.inf, -np.inf, np.nan
    found = compiled(proto, {"x": x})["y"]
    wanted = residual_reference(np.nan_to_num(x, nan=0.0, posinf=1e6, neginf=-1e6))
    touched = np.zeros((5, 6), bool)
    touched[4, 4] = True
    close(found[..., ~touched], wanted[..., ~touched])


@pytest.mark.parametrize("name", ["micro_kws_m_static_qdq"])
def test_a_real_model(name: str) -> None:
    path = Path(__file__).parents[4] / "shared" / "models" / name / "model.onnx"
    if not path.exists():
        pytest.skip("the models are not here")
    graph = default_pipeline().run(load_onnx(path))
    found = products(graph)
    assert found and all(p.type.dtype == i32 for p in found)


@pytest.mark.parametrize("channels", [1, 3])
def test_depthwise_products_with_a_zero_point_from_data(channels: int) -> None:
    x, w = whole("x", "uint8", 1, channels, 7, 7), whole("w", "int8", channels, 1, 1, 3)
    made = model(
        [node("ConvInteger", "x w z", "y", group=channels)],
        {"x": ("uint8", x.shape), "z": ("uint8", ())},
        {"y": ("int32", (1, channels, 7, 5))},
        w=w,
    )
    shifted = x.astype(np.int64) - 5
    wanted = sum(shifted[..., k : k + 5] * w[None, :, 0, :, k, None].astype(np.int64) for k in range(3))
    with compile(made, cache=False).session() as session:
        np.testing.assert_array_equal(session.run({"x": x, "z": np.array(5, np.uint8)})["y"], wanted)


def test_parts_of_a_concatenation_are_quantised_where_they_are_made() -> None:
    a, b = (Input(name, TensorType(u8, (1, channels, 5, 5))) for name, channels in (("a", 3), ("b", 8)))
    own, other = (Dequantize(x, constant(s, f32), constant(z, u8)) for x, s, z in ((a, 0.1, 3), (b, 0.07, 0)))
    y = Quantize(Concat((own, other), 1), constant(0.1, f32), constant(3, u8), u8)
    graph = Graph((a, b), (("y", y),))
    optimised = rewrite(graph, list(INTEGERS))
    (joined,) = [node for node in optimised.nodes() if isinstance(node, Concat)]
    assert joined.dtype == u8 and joined.parts[0] is optimised.inputs[0]
    rng = np.random.default_rng(1)
    feed = {x.label: rng.integers(0, 256, x.type.static_shape()).astype(np.uint8) for x in (a, b)}
    np.testing.assert_array_equal(evaluate_graph(optimised, feed)["y"], evaluate_graph(graph, feed)["y"])
    with compile(graph, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run(feed)["y"], evaluate_graph(graph, feed)["y"])


def test_means_of_bytes_are_sums_of_bytes() -> None:
    x = Input("x", TensorType(u8, (2, 5, 8, 7)))
    real = Dequantize(x, constant(0.1, f32), constant(30, u8))
    mean = AveragePool(real, (2, 3), (2, 2), (0, 0, 0, 0), (1, 1), False, False, False)
    graph = Graph((x,), (("y", Quantize(mean, constant(0.09, f32), constant(25, u8), u8)),))
    optimised = rewrite(graph, list(INTEGERS))
    assert not any(isinstance(node, AveragePool) for node in optimised.nodes())
    feed = {"x": np.random.default_rng(2).integers(0, 256, (2, 5, 8, 7)).astype(np.uint8)}
    want = evaluate_graph(graph, feed)["y"].astype(int)
    with compile(graph, jobs=1).session(threads=1) as session:
        assert np.abs(session.run(feed)["y"].astype(int) - want).max() <= 1
    ragged = replace(mean, pads=(0, 1, 0, 1))  # windows of different numbers of elements
    plain = rewrite(Graph((x,), (("y", ragged),)), list(INTEGERS))
    assert any(isinstance(node, AveragePool) for node in plain.nodes())
