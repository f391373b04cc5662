"""Operators that the standard defines by function bodies: attributes that make no sense, and operands of two types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ingot.compiler.frontend import ModelError, load_onnx
from ingot.compiler.frontend.attribute_rules import RULES
from ingot.compiler.frontend.operators import TABLE
from ingot.compiler.ir.interpret import evaluate_graph

Array = NDArray[Any]
F16, F32, I64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
Operand = tuple[int, list[int | str]]
HEADS: Operand = (F32, [1, 4, 3, 8])
PACKED: Operand = (F32, [1, 3, 8])
CACHE: Operand = (F32, [1, 3, 4])


def model(op_type: str, operands: list[Operand | None], opset: int, outputs: int, **attributes: Any) -> onnx.ModelProto:
    names = [f"x{i}" if operand else "" for i, operand in enumerate(operands)]
    inputs = [helper.make_tensor_value_info(f"x{i}", *operand) for i, operand in enumerate(operands) if operand]
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    node = helper.make_node(op_type, names, [each.name for each in results], **attributes)
    graph = helper.make_graph([node], "g", inputs, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


GROUPED: list[Operand | None] = [(F32, [2, 4, 5]), (F32, [4]), (F32, [4])]
NORMED: list[Operand | None] = [(F32, [2, 3]), (F32, [3])]
LOSS: list[Operand | None] = [(F32, [2, 4]), (I64, [2])]
ROTATED: list[Operand | None] = [HEADS, CACHE, CACHE]

WRONG: list[tuple[str, list[Operand | None], dict[str, Any], str]] = [
    ("RMSNormalization", NORMED, {"axis": 65}, "'axis' of RMSNormalization is 65.* between -2 and 1"),
    ("RMSNormalization", NORMED, {"axis": -3}, "between -2 and 1"),
    ("RMSNormalization", NORMED, {"axis": 1.5}, "of type FLOAT, not INT"),
    ("RMSNormalization", NORMED, {"axes": 1}, "no attribute 'axes'"),
    ("RMSNormalization", NORMED, {"stash_type": 7}, "one of 1, 10, 11, 16"),
    ("RMSNormalization", [(TensorProto.INT32, [2, 3]), (F32, [3])], {}, r"input 0 \(X\) .* is i32, .*tensor\(float\)"),
    ("HannWindow", [(I64, [])], {"periodic": 7}, "one of 0, 1"),
    ("HammingWindow", [(I64, [])], {"output_datatype": 8}, "'output_datatype' of HammingWindow is 8"),
    ("BlackmanWindow", [(I64, [])], {"periodic": -1}, "one of 0, 1"),
    *(("GroupNormalization", GROUPED, {"num_groups": n}, "divisor of the extent of axis 1") for n in (0, -1, 3, 8)),
    ("GroupNormalization", GROUPED, {}, "'num_groups' of GroupNormalization is missing"),
    ("NegativeLogLikelihoodLoss", LOSS, {"reduction": "median"}, "one of none, sum, mean"),
    ("SoftmaxCrossEntropyLoss", LOSS, {"reduction": "median"}, "one of none, sum, mean"),
    ("Attention", [HEADS] * 3, {"is_causal": 2}, "one of 0, 1"),
    ("Attention", [HEADS] * 3, {"qk_matmul_output_mode": 4}, "one of 0, 1, 2, 3"),
    ("Attention", [HEADS] * 3, {"softmax_precision": 7}, "one of 1, 10, 11, 16"),
    ("Attention", [HEADS] * 3, {"left_window_size": -2}, "-1 or more"),
    ("Attention", [HEADS] * 3, {"q_num_heads": 4, "kv_num_heads": 4}, "left out, because .* 4 axes"),
    ("Attention", [PACKED] * 3, {}, "is missing: .* 3 axes"),
    ("Attention", [PACKED] * 3, {"q_num_heads": 4, "kv_num_heads": 3}, "divisor of the extent of axis 2"),
    ("Attention", [PACKED] * 3, {"q_num_heads": 2, "kv_num_heads": 4}, "multiple of kv_num_heads, which is 4"),
    ("Attention", [HEADS, (F16, [1, 4, 3, 8]), HEADS], {}, r"0 \(f32\) and 1 \(f16\) .* one type by the standard"),
    ("RotaryEmbedding", ROTATED, {"interleaved": 5}, "one of 0, 1"),
    ("RotaryEmbedding", ROTATED, {"rotary_embedding_dim": -2}, "an even number"),
    ("RotaryEmbedding", [PACKED, CACHE, CACHE], {}, "'num_heads' of RotaryEmbedding is missing"),
    ("RotaryEmbedding", [PACKED, CACHE, CACHE], {"num_heads": 0}, "divisor of the extent of axis 2"),
    ("CausalConvWithState", [PACKED, (F32, [3, 1, 2])], {"activation": "relu"}, "one of none, silu, swish"),
    ("LinearAttention", [PACKED] * 3, {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "x"}, "one of linear"),
    ("LinearAttention", [PACKED] * 3, {"q_num_heads": 2}, "'kv_num_heads' of LinearAttention is missing"),
    ("STFT", [(F32, [1, 16, 2]), (I64, [])], {}, "complex data .* set onesided to 0"),
    ("STFT", [(F32, [1, 16, 1]), (I64, [])], {"onesided": 3}, "must be 0 or 1"),
    ("DFT", [(F32, [1, 16, 2])], {"onesided": 1}, "takes real data, .* is complex"),
    ("DFT", [(F32, [1, 16, 1])], {"onesided": 1, "inverse": 1}, "takes complex data, .* is real"),
    ("DFT", [(F32, [1, 16, 1])], {"inverse": 2}, "must be 0 or 1"),
]


@pytest.mark.parametrize(("op_type", "operands", "attributes", "message"), WRONG)
def test_values_that_the_standard_does_not_allow(
    op_type: str, operands: list[Operand | None], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_onnx(model(op_type, operands, 27, 1, **attributes))


def test_the_rules_name_attributes_of_operators_without_a_row() -> None:
    newest = onnx.defs.onnx_opset_version()
    for op_type, attributes in RULES.items():
        schema = onnx.defs.get_schema(op_type, newest)
        assert attributes.keys() <= schema.attributes.keys()
        assert TABLE.find("", op_type, newest) is None


@pytest.mark.parametrize(
    ("op_type", "operands", "attributes"),
    [
        ("RMSNormalization", NORMED, {"axis": -2, "stash_type": 11}),
        ("GroupNormalization", [(F32, [2, "c", 5]), (F32, [4]), (F32, [4])], {"num_groups": 2}),
        ("GroupNormalization", GROUPED, {"num_groups": 4, "stash_type": 10}),
        ("HannWindow", [(I64, [])], {"periodic": 0, "output_datatype": 6}),
        ("Attention", [PACKED, CACHE, CACHE], {"q_num_heads": 4, "kv_num_heads": 2, "left_window_size": 0}),
        ("RotaryEmbedding", [PACKED, (F32, [1, 3, 2]), (F32, [1, 3, 2])], {"num_heads": 2, "interleaved": 1}),
        ("STFT", [(F32, [1, 16, 2]), (I64, [])], {"onesided": 0}),
    ],
)
def test_values_that_it_allows(op_type: str, operands: list[Operand | None], attributes: dict[str, Any]) -> None:
    load_onnx(model(op_type, operands, 27, 1, **attributes))


@pytest.mark.parametrize(("first", "second"), [(np.float16, np.float32), (np.float32, np.float16)])
def test_a_norm_and_its_scale_of_two_types(first: Any, second: Any) -> None:
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 7)).astype(first), rng.normal(size=7).astype(second)
    operands: list[Operand | None] = [(helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)) for a in (x, scale)]
    graph = load_onnx(model("RMSNormalization", operands, 23, 1))
    (found,) = evaluate_graph(graph, {"x0": x, "x1": scale}).values()
    wide = x.astype(np.float64)
    normal = (wide / np.sqrt((wide * wide).mean(1, keepdims=True) + 1e-5)).astype(first)
    assert found.dtype == second  # Y is of the scale's type
    np.testing.assert_allclose(found, normal.astype(np.float64) * scale, rtol=2e-3)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("first", "second"), [(np.float16, np.float32), (np.float32, np.float16)])
def test_attention_to_values_of_another_type(first: Any, second: Any, groups: int) -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(1, heads, rows, 8)) for heads, rows in ((4, 3), (4 // groups, 5), (4 // groups, 5)))
    past_k, past_v = (rng.normal(size=(1, 4 // groups, 2, 8)) for _ in range(2))
    given = [q.astype(first), k.astype(first), v.astype(second), None, past_k.astype(first), past_v.astype(second)]
    operands: list[Operand | None] = [
        None if a is None else (helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)) for a in given
    ]
    graph = load_onnx(model("Attention", operands, 24, 3))
    feed = {f"x{i}": a for i, a in enumerate(given) if a is not None}
    y, keys, values = evaluate_graph(graph, feed).values()
    assert (y.dtype, keys.dtype, values.dtype) == (first, first, second)
    np.testing.assert_array_equal(values, np.concatenate((feed["x5"], feed["x2"]), 2))
    wide = [a.repeat(groups, 1).astype(np.float64) for a in (keys, values)]
    scores = feed["x0"].astype(np.float64) @ wide[0].swapaxes(2, 3) / np.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(y, weights / weights.sum(-1, keepdims=True) @ wide[1], rtol=5e-3, atol=2e-3)
