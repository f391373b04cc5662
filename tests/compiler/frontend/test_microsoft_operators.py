"""Operators of com.microsoft, one node each, compiled and held against ONNX Runtime, whose operators they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from ingot.compiler import UnsupportedError, compile, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

Arrays = Mapping[str, Any]
RANDOM = np.random.default_rng(7)
ONE = np.float32(1)


def floats(*shape: int, scale: float = 1.0) -> NDArray[Any]:
    return (RANDOM.standard_normal(shape) * scale).astype(np.float32)


def integers(*shape: int, dtype: type[Any] = np.uint8) -> NDArray[Any]:
    info = np.iinfo(dtype)
    return RANDOM.integers(info.min, info.max + 1, shape).astype(dtype)


def number(value: float, dtype: type[Any] = np.float32) -> NDArray[Any]:
    return np.array(value, dtype)


def node_model(
    op_type: str, inputs: Arrays, results: Sequence[Any], domain: str, constants: Sequence[str], **attributes: Any
) -> onnx.ModelProto:
    """One node; an input named `_...` is left out. The shapes of inputs are symbolic where an extent is more than 1."""
    declared: list[onnx.ValueInfoProto] = []
    stored: list[onnx.TensorProto] = []
    for name, array in inputs.items():
        if name in constants:
            stored.append(onnx.numpy_helper.from_array(array, name))
        elif not name.startswith("_"):
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            declared.append(helper.make_tensor_value_info(name, kind, array.shape))
    outputs = [f"y{i}" if t is not None else "" for i, t in enumerate(results)]
    node = helper.make_node(
        op_type, [n if not n.startswith("_") else "" for n in inputs], outputs, domain=domain, **attributes
    )
    made = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
        for name, kind in zip(outputs, results, strict=True)
        if name
    ]
    graph = helper.make_graph([node], "g", declared, made, stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def peer(model: onnx.ModelProto | bytes | str, inputs: Arrays) -> Sequence[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})


def check(
    op_type: str,
    inputs: Arrays,
    results: Sequence[Any] = (np.float32,),
    *,
    tolerance: float = 2e-5,
    domain: str = "com.microsoft",
    constants: Sequence[str] = (),
    native: bool = False,
    **attributes: Any,
) -> None:
    """Hold the meaning of the node, and with `native` what is compiled, against ONNX Runtime."""
    model = node_model(op_type, inputs, results, domain, constants, **attributes)
    given = {i.name: inputs[i.name] for i in model.graph.input}
    expected = peer(model, given)
    candidates = [list(evaluate_graph(load_onnx(model), given).values())]
    if native:
        with compile(model, cache=False).session() as session:
            candidates.append(list(session.run(given).values()))
    for found in candidates:
        for want, each in zip(expected, found, strict=True):
            assert (each.dtype, each.shape) == (want.dtype, want.shape)
            if want.dtype.kind in "iu" and want.dtype.itemsize == 1:
                steps = np.abs(each.astype(int) - want.astype(int))
                assert steps.max(initial=0) <= 1 and (steps > 0).mean() <= 0.03, f"{(steps > 0).mean():.1%} differ"
            elif want.dtype.kind in "iub":
                np.testing.assert_array_equal(each, want)
            else:
                np.testing.assert_allclose(each, want, rtol=tolerance, atol=tolerance)


# -- quantised tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantised_arithmetic(op_type: str, dtype: type[Any]) -> None:
    inputs = {
        "a": integers(2, 3, 5, dtype=dtype), "as": number(0.02), "az": number(3, dtype),
        "b": integers(3, 1, dtype=dtype), "bs": number(0.03), "bz": number(7, dtype),
        "cs": number(0.05), "cz": number(11, dtype),
    }  # fmt: skip
    check(op_type, inputs, (dtype,), native=dtype is np.uint8)


def unary(dtype: type[Any], *shape: int, y_scale: float = 1 / 256, y_zero: int = 0) -> dict[str, NDArray[Any]]:
    x = integers(*shape, dtype=dtype)
    return {"x": x, "xs": number(0.04), "xz": number(5, dtype), "ys": number(y_scale), "yz": number(y_zero, dtype)}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantised_functions(dtype: type[Any]) -> None:
    low = int(np.iinfo(dtype).min)
    fixed = ("xs", "xz", "ys", "yz")
    check("QLinearSigmoid", unary(dtype, 7, 9, y_zero=low), (dtype,), constants=fixed)
    check("QLinearLeakyRelu", unary(dtype, 3, 4, 5, y_scale=0.05), (dtype,), constants=fixed, alpha=0.2)
    for opset, axis in ((13, 1), (12, 1), (13, -1)):
        case = unary(dtype, 3, 4, 5, y_zero=low)
        check("QLinearSoftmax", case, (dtype,), constants=fixed, opset=opset, axis=axis)


@pytest.mark.parametrize("channels_last", [0, 1])
def test_quantised_pools(channels_last: int) -> None:
    case = unary(np.uint8, 2, 6, 7, 5, y_scale=0.05, y_zero=9)
    check("QLinearGlobalAveragePool", case, (np.uint8,), channels_last=channels_last)
    window: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    for include in (0, 1):
        check(
            "QLinearAveragePool", case, (np.uint8,), channels_last=channels_last, count_include_pad=include,
            native=include == 1, **window,
        )  # fmt: skip


def test_nhwc_max_pool() -> None:
    check("NhwcMaxPool", {"x": integers(2, 7, 6, 3)}, (np.uint8,), kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])


def test_quantised_concat() -> None:
    inputs = {
        "ys": number(0.1), "yz": number(4, np.uint8),
        "a": integers(2, 3), "as": number(0.05), "az": number(9, np.uint8),
        "b": integers(2, 4), "bs": number(0.1), "bz": number(4, np.uint8),
    }  # fmt: skip
    check("QLinearConcat", inputs, (np.uint8,), constants=("ys", "yz", "as", "az", "bs", "bz"), axis=1)


def test_quantised_where() -> None:
    inputs = {
        "c": RANDOM.random((4, 5)) < 0.5,
        "x": integers(4, 5), "xs": number(0.05), "xz": number(9, np.uint8),
        "y": integers(4, 5), "ys": number(0.1), "yz": number(4, np.uint8),
        "zs": number(0.08), "zz": number(20, np.uint8),
    }  # fmt: skip
    check("QLinearWhere", inputs, (np.uint8,), constants=("xs", "xz", "ys", "yz", "zs", "zz"))


def test_quantised_mean() -> None:
    """ONNX Runtime has no kernel for it: the mean of the numbers meant is the reference."""
    case = unary(np.uint8, 3, 4, 5, y_scale=0.05, y_zero=9)
    model = node_model("QLinearReduceMean", case, (np.uint8,), "com.microsoft", (), axes=[1], keepdims=0)
    found = evaluate_graph(load_onnx(model), case)["y0"].astype(int)
    mean = ((case["x"].astype(float) - 5) * 0.04).mean(1)
    assert np.abs(found - np.clip(np.rint(mean / 0.05) + 9, 0, 255)).max() <= 1


@pytest.mark.parametrize("channels_last", [0, 1])
def test_quantised_convolution(channels_last: int) -> None:
    x = integers(2, 6, 7, 4) if channels_last else integers(2, 4, 6, 7)
    inputs = {
        "x": x, "xs": number(0.02), "xz": number(100, np.uint8),
        "w": integers(8, 2, 3, 3, dtype=np.int8), "ws": number(0.01), "wz": number(0, np.int8),
        "ys": number(0.1), "yz": number(120, np.uint8), "b": RANDOM.integers(-999, 999, 8).astype(np.int32),
    }  # fmt: skip
    fixed = [name for name in inputs if name != "x"]
    check(
        "QLinearConv", inputs, (np.uint8,), constants=fixed, channels_last=channels_last, group=2, pads=[1] * 4,
        native=bool(channels_last),
    )  # fmt: skip


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_quantised_gemm(columns: bool, quantised: bool) -> None:
    b_scale = np.linspace(0.01, 0.02, 6).astype(np.float32) if columns else number(0.01)
    b_zero = np.arange(6).astype(np.int8) if columns else number(3, np.int8)
    inputs = {
        "a": integers(5, 9), "as": number(0.02), "az": number(7, np.uint8),
        "b": integers(6, 9, dtype=np.int8), "bs": b_scale, "bz": b_zero,
        "c": RANDOM.integers(-999, 999, 6).astype(np.int32),
    }  # fmt: skip
    if quantised:
        inputs |= {"ys": number(0.1), "yz": number(99, np.uint8)}
    fixed = [name for name in inputs if name != "a"]
    check(
        "QGemm", inputs, (np.uint8 if quantised else np.float32,), constants=fixed, transB=1, alpha=1.5,
        native=columns and quantised,
    )  # fmt: skip


@pytest.mark.parametrize("weight", [np.uint8, np.int8])
@pytest.mark.parametrize("columns", [False, True])
def test_integer_products(weight: type[Any], columns: bool) -> None:
    scale = np.linspace(0.01, 0.02, 6).astype(np.float32) if columns else number(0.01)
    zero = np.arange(6).astype(weight) if columns else number(3, weight)
    b, native = integers(9, 6, dtype=weight), columns and weight is np.int8
    to_float = {
        "a": integers(2, 5, 9), "b": b, "as": number(0.02), "bs": scale, "az": number(7, np.uint8), "bz": zero,
        "bias": floats(6),
    }  # fmt: skip
    check("MatMulIntegerToFloat", to_float, constants=("b", "bs", "bz", "bias"), native=native)
    dynamic = {"a": floats(2, 5, 9), "b": b, "bs": scale, "bz": zero, "bias": floats(6)}
    check("DynamicQuantizeMatMul", dynamic, constants=("b", "bs", "bz", "bias"), tolerance=1e-4, native=native)


def test_quantise_and_back() -> None:
    x = {"x": floats(3, 4), "s": number(0.02), "z": number(30, np.uint8)}
    check("QuantizeLinear", x, (np.uint8,))
    wide = {"x": floats(3, 4), "s": number(0.0002), "z": number(30, np.int16)}
    check("QuantizeLinear", wide, (np.int16,))
    check("DequantizeLinear", {"x": integers(3, 4), "s": number(0.02), "z": number(30, np.uint8)})
    columns = {"x": integers(3, 4), "s": floats(4), "z": integers(4)}
    check("DequantizeLinear", columns, axis=1, constants=("s", "z"))


# -- fused operators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.1]), ("Clip", [-0.5, 0.75]),
        ("HardSigmoid", [0.2, 0.4]),
    ],
)  # fmt: skip
def test_fused_convolution(activation: str, parameters: list[float]) -> None:
    inputs = {"x": floats(2, 4, 6, 5), "w": floats(6, 4, 3, 3, scale=0.2), "b": floats(6), "z": floats(2, 6, 6, 5)}
    fixed = ("w", "b")
    more: dict[str, Any] = {"activation_params": parameters} if parameters else {}
    if activation == "Relu":  # the only one with a sum
        check("FusedConv", inputs, constants=fixed, activation=activation, pads=[1] * 4, native=True, **more)
    del inputs["z"]
    check("FusedConv", inputs, constants=fixed, activation=activation, pads=[1] * 4, **more)


def test_fused_gemm() -> None:
    inputs = {"a": floats(5, 3), "b": floats(4, 5), "c": floats(4)}
    check(
        "FusedGemm", inputs, transA=1, transB=1, alpha=0.5, beta=2.0, activation="LeakyRelu", activation_alpha=0.2
    )  # fmt: skip
    check("FusedGemm", {"a": floats(3, 5), "b": floats(5, 4)}, activation="Relu")


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Elu", {"alpha": 0.7}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("Selu", {"alpha": 1.5, "gamma": 1.2}),
        ("Softplus", {}), ("Softsign", {}), ("ThresholdedRelu", {"alpha": 0.3}), ("Tanh", {}), ("Sigmoid", {}),
    ],
)  # fmt: skip
def test_activations_of_fused_gemm(activation: str, parameters: dict[str, float]) -> None:
    named: dict[str, Any] = {f"activation_{name}": value for name, value in parameters.items()}
    check("FusedGemm", {"a": floats(3, 5), "b": floats(5, 4)}, activation=activation, **named)


@pytest.mark.parametrize("trans", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("batch", [0, 1])
def test_fused_product(trans: tuple[int, int], batch: int) -> None:
    def side(rows: int, columns: int, turned: int) -> NDArray[Any]:
        if turned:
            rows, columns = columns, rows
        return floats(rows, 2, 3, columns) if batch else floats(2, 3, rows, columns)

    attributes: dict[str, Any] = {"transA": trans[0], "transB": trans[1], "alpha": 0.25}
    attributes |= {"transBatchA": batch, "transBatchB": batch}
    native = trans == (1, 0) and batch == 1
    check("FusedMatMul", {"a": side(4, 5, trans[0]), "b": side(5, 6, trans[1])}, native=native, **attributes)


def test_activation_functions() -> None:
    x = np.concatenate([floats(40, scale=3), np.array([0, -0.0, np.inf, 60, -60], np.float32)]).reshape(5, 9)
    check("Gelu", {"x": x[:, :8]})
    check("BiasGelu", {"x": floats(3, 5), "b": floats(5)})
    check("FastGelu", {"x": floats(3, 5)})
    check("FastGelu", {"x": floats(3, 5), "b": floats(5)})
    check("QuickGelu", {"x": floats(3, 5)})
    check("QuickGelu", {"x": floats(3, 5)}, alpha=1.0)


def test_unknown_activation() -> None:
    inputs = {"a": floats(3, 5), "b": floats(5, 4)}
    model = node_model("FusedGemm", inputs, (np.float32,), "com.microsoft", (), activation="Mystery")
    with pytest.raises(UnsupportedError, match="Mystery"):
        load_onnx(model)


# -- norms ------------------------------------------------------------------------------------------------------------


def test_skip_layer_norm() -> None:
    x, skip, gamma, beta, bias = floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)
    f32 = np.float32
    check("SkipLayerNormalization", {"x": x, "s": skip, "g": gamma, "b": beta, "c": bias}, epsilon=1e-5, native=True)
    check("SkipLayerNormalization", {"x": x, "s": skip, "g": gamma, "b": beta}, (f32, None, None, f32))
    check("SkipLayerNormalization", {"x": x, "s": skip[:1], "g": gamma})
    check("SkipSimplifiedLayerNormalization", {"x": x, "s": skip, "g": gamma}, (f32, None, None, f32), native=True)
    check("SkipSimplifiedLayerNormalization", {"x": x, "s": skip, "g": gamma, "c": bias}, epsilon=1e-5)
    check("SimplifiedLayerNormalization", {"x": x, "g": gamma}, domain="", epsilon=1e-5)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_embeddings(segments: bool, mask: bool) -> None:
    i32 = np.int32
    inputs = {
        "ids": RANDOM.integers(0, 11, (2, 5)).astype(i32),
        "segments" if segments else "_s": RANDOM.integers(0, 2, (2, 5)).astype(i32),
        "words": floats(11, 8), "positions": floats(7, 8),
        "kinds" if segments else "_k": floats(2, 8),
        "gamma": floats(8), "beta": floats(8),
        "mask" if mask else "_m": np.array([[1, 1, 1, 0, 0], [1] * 5], i32),
    }  # fmt: skip
    if not mask:
        inputs["places"] = np.array([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]], i32)
    tables = ("words", "positions", "kinds", "gamma", "beta")
    check(
        "EmbedLayerNormalization", inputs, (np.float32, i32, np.float32), constants=tables, mask_index_type=int(mask),
        native=mask and segments,
    )  # fmt: skip


# -- attention --------------------------------------------------------------------------------------------------------

MASKS: dict[str, Any] = {
    "none": None,
    "lengths": np.array([3, 5], np.int32),
    "ranges": np.array([4, 5, 1, 0], np.int32),
    "keys": np.array([[1, 1, 1, 0, 0], [1, 1, 0, 1, 1]], np.int32),
    "scores": (np.random.default_rng(1).random((2, 5, 5)) < 0.7).astype(np.int32),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("unidirectional", [0, 1])
def test_attention(mask: str, unidirectional: int) -> None:
    inputs = {"x": floats(2, 5, 12), "w": floats(12, 36, scale=0.3), "b": floats(36)}
    if MASKS[mask] is not None:
        inputs["mask"] = MASKS[mask]
    check(
        "Attention", inputs, constants=("w", "b"), num_heads=3, unidirectional=unidirectional,
        native=mask == "keys" and unidirectional == 1,
    )  # fmt: skip


def test_attention_with_past_and_bias() -> None:
    inputs = {
        "x": floats(2, 3, 8), "w": floats(8, 24, scale=0.3), "b": floats(24), "_m": ONE, "past": floats(2, 2, 2, 4, 4),
    }  # fmt: skip
    check("Attention", inputs, (np.float32, np.float32), constants=("w", "b"), num_heads=2, unidirectional=1)
    del inputs["past"]
    check("Attention", {**inputs, "_p": ONE, "bias": floats(2, 2, 3, 3)}, constants=("w", "b"), num_heads=2)
    sizes = {"x": floats(2, 3, 8), "w": floats(8, 8 + 8 + 6, scale=0.3), "b": floats(22)}
    check("Attention", sizes, constants=("w", "b"), num_heads=2, qkv_hidden_sizes=[8, 8, 6], scale=0.4)


def test_quantised_attention() -> None:
    inputs = {
        "x": integers(2, 5, 12), "w": integers(12, 36, dtype=np.int8), "b": floats(36), "xs": number(0.01),
        "ws": number(0.01), "mask": MASKS["keys"], "xz": number(128, np.uint8), "wz": number(0, np.int8),
    }  # fmt: skip
    check("QAttention", inputs, constants=("w", "b", "xs", "ws", "xz", "wz"), num_heads=3, tolerance=1e-4)


@pytest.mark.parametrize("form", ["plain", "bias", "mask", "heads", "past"])
def test_multi_head_attention(form: str) -> None:
    q, k, v = floats(2, 3, 8), floats(2, 5, 8), floats(2, 5, 8)
    match form:
        case "plain":
            inputs = {"q": q, "k": k, "v": v}
        case "bias":
            inputs = {"q": q, "k": k, "v": v, "b": floats(24), "_m": ONE, "s": floats(1, 2, 3, 5)}
        case "mask":
            inputs = {"q": q, "k": k, "v": v, "_b": ONE, "m": MASKS["keys"]}
        case "heads":
            inputs = {"q": q, "k": floats(2, 2, 5, 4), "v": floats(2, 2, 5, 4)}
        case _:
            past = {"pk": floats(2, 2, 4, 4), "pv": floats(2, 2, 4, 4)}
            inputs = {"q": q, "k": k[:, :3], "v": v[:, :3], "_b": ONE, "_m": ONE, "_s": ONE, **past}
    results = (np.float32,) * (3 if form == "past" else 1)
    check("MultiHeadAttention", inputs, results, num_heads=2, unidirectional=int(form == "past"), native=form == "past")


@pytest.mark.parametrize("parts", [2, 3])
def test_packed_sides(parts: int) -> None:
    """ONNX Runtime has no kernel for them on processors: the same, unpacked, is the reference."""
    q, k, v = floats(2, 5, 8), floats(2, 5, 8), floats(2, 5, 8)
    packed = np.stack([x.reshape(2, 5, 2, 4) for x in ((q, k, v) if parts == 3 else (k, v))], 3)
    model = node_model("MultiHeadAttention", {"q": q, "k": k, "v": v}, (np.float32,), "com.microsoft", (), num_heads=2)
    (expected,) = peer(model, {"q": q, "k": k, "v": v})
    given = {"q": packed} if parts == 3 else {"q": q, "k": packed}
    model = node_model("MultiHeadAttention", given, (np.float32,), "com.microsoft", (), num_heads=2)
    found = evaluate_graph(load_onnx(model), given)["y0"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def rotary_tables(positions: int, half: int) -> tuple[NDArray[Any], NDArray[Any]]:
    angle = np.arange(positions)[:, None] / 10.0 ** (np.arange(half) / half)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(interleaved: int) -> None:
    cosine, sine = rotary_tables(16, 4)
    tables = {"c": cosine, "s": sine}
    places = np.array([[1, 2, 3, 9, 5], [0, 1, 2, 3, 4]])
    check("RotaryEmbedding", {"x": floats(2, 5, 16), "p": places, **tables}, interleaved=interleaved)
    check("RotaryEmbedding", {"x": floats(2, 2, 5, 8), "p": np.array([3]), **tables}, interleaved=interleaved)
    partial: dict[str, Any] = {"num_heads": 2, "rotary_embedding_dim": 8, "interleaved": interleaved}
    check("RotaryEmbedding", {"x": floats(2, 5, 24), "p": places, **tables}, native=True, **partial)


@pytest.mark.parametrize("stage", ["first", "next", "shared", "packed", "window"])
def test_group_query_attention(stage: str) -> None:
    cosine, sine = rotary_tables(16, 8)
    f32 = np.float32
    tokens, before = (5, 0) if stage in ("first", "window") else (1, 4)
    total = 5
    k, v = (floats(2, tokens, 32) for _ in range(2))
    sides: dict[str, Any] = {"q": floats(2, tokens, 64), "k": k, "v": v}
    if stage == "packed":
        sides = {"q": floats(2, tokens, 128), "_k": k, "_v": v}
    room = 9 if stage == "shared" else before
    past = {"pk": floats(2, 2, room, 16), "pv": floats(2, 2, room, 16)}
    for cache in past.values():
        cache[:, :, total - 1 :] = 0  # what lies behind is kept here, there made 0
    lengths = np.array([total - 1, total - 1 if tokens > 1 else total - 2], np.int32)
    inputs = {**sides, **past, "lengths": lengths, "total": np.array(total, np.int32), "c": cosine, "s": sine}
    more: dict[str, Any] = {"local_window_size": 2} if stage == "window" else {}
    check(
        "GroupQueryAttention", inputs, (f32, f32, f32), num_heads=4,
        kv_num_heads=2, do_rotary=1, constants=("c", "s", "total"), native=stage == "next", **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("attributes", "scales", "message"),
    [
        ({"k_quant_type": "PER_TENSOR"}, False, "a quantised cache"),
        ({"v_quant_type": "PER_CHANNEL"}, False, "a quantised cache"),
        ({"kv_cache_bit_width": 8}, False, "kv_cache_bit_width"),
        ({"k_quant_type": "NONE", "v_quant_type": "NONE"}, True, "input 12"),
    ],
)
def test_quantised_caches_are_refused(attributes: dict[str, Any], scales: bool, message: str) -> None:
    inputs = {
        "q": floats(1, 1, 64), "k": floats(1, 1, 32), "v": floats(1, 1, 32), "pk": integers(1, 2, 4, 16),
        "pv": integers(1, 2, 4, 16), "lengths": np.array([4], np.int32), "total": np.array(5, np.int32),
    }  # fmt: skip
    if scales:
        inputs |= {f"_{i}": ONE for i in range(7, 12)} | {"ks": floats(1), "vs": floats(1)}
    else:
        inputs |= {"pk": floats(1, 2, 4, 16), "pv": floats(1, 2, 4, 16)}
    f32 = np.float32
    model = node_model(
        "GroupQueryAttention", inputs, (f32, f32, f32), "com.microsoft", (), num_heads=4, kv_num_heads=2, **attributes
    )
    with pytest.raises(UnsupportedError, match=message):
        load_onnx(model)


# -- weights of a few bits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_product_with_packed_weights(bits: int, zeros: bool) -> None:
    rows, depth, block = 6, 40, 16
    blocks = -(-depth // block)
    weight = integers(rows, blocks, block * bits // 8)
    inputs = {"a": floats(2, 3, depth), "w": weight, "s": floats(rows, blocks, scale=0.1)}
    if zeros:
        inputs["z"] = integers(rows, -(-blocks * bits // 8))
    attributes: dict[str, Any] = {"K": depth, "N": rows, "bits": bits, "block_size": block}
    check("MatMulNBits", inputs, constants=("w", "s", "z"), tolerance=1e-4, native=zeros and bits == 4, **attributes)


@pytest.mark.parametrize("zeros", [False, True])
def test_table_of_packed_weights(zeros: bool) -> None:
    inputs = {
        "d": integers(9, 16), "i": np.array([[3, 0], [8, 3]]), "s": floats(9, 2, scale=0.1),
    }  # fmt: skip
    if zeros:
        inputs["z"] = integers(9, 1)
    check("GatherBlockQuantized", inputs, constants=("d", "s", "z"), block_size=16, bits=4, native=zeros)


def test_order_of_weights_is_refused() -> None:
    order = np.arange(32, dtype=np.int32)
    inputs = {"a": floats(2, 32), "w": integers(4, 1, 16), "s": floats(4, 1), "_z": ONE, "g": order}
    model = node_model("MatMulNBits", inputs, (np.float32,), "com.microsoft", ("w", "s", "g"), K=32, N=4, block_size=32)
    with pytest.raises(UnsupportedError, match="g_idx"):
        load_onnx(model)
