"""One use of every operator of the standard, written so that it fits all versions of it.

A parameter that is an attribute in one version and an input in another (axes, pads, k, ..) is given by name: the schema
of the version says which of the two it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(11)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return (np.abs(RNG.standard_normal(shape)) + 0.1).astype(np.float32)


def unit(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.9, 0.9, shape).astype(np.float32)


def whole(*shape: int, low: int = 0, high: int = 4, dtype: Any = np.int64) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def flag(*shape: int) -> np.ndarray:
    return RNG.integers(0, 2, shape).astype(bool)


@dataclass(frozen=True)
class Form:
    """Operands, parameters that are attributes or constant inputs, and attributes that a version may lack.

    `named` parameters are attributes where the version has such attributes, else constant inputs where it has those.
    """

    operands: tuple[np.ndarray | None, ...] = ()
    named: dict[str, Any] = field(default_factory=dict[str, Any])
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: int = 1
    before: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    """Attributes of versions below the key, which replace `attributes`."""


X, Y = real(2, 3, 4), real(2, 3, 4)
IMAGE = real(1, 2, 6, 7)
WINDOW = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}


def broadcast(a: np.ndarray, b: np.ndarray) -> Form:
    """A binary operator whose second operand is broadcast along axis 1, as opsets before 7 say it."""
    return Form((a, b), before={7: {"broadcast": 1, "axis": 1}})


def layer(gates: int, **more: Any) -> Form:
    hidden, size = 3, 4
    x, w, r = real(5, 2, size), real(1, gates * hidden, size), real(1, gates * hidden, hidden)
    return Form((x, w, r, real(1, 2 * gates * hidden)), attributes={"hidden_size": hidden, **more}, outputs=2)


def reduce(x: np.ndarray = X) -> Form:
    return Form((x,), {"axes": [1, 2]}, {"keepdims": 0})


def graph(text: str) -> onnx.GraphProto:
    return onnx.parser.parse_graph(text)


UNARY = [
    "Abs",
    "Asinh",
    "Atan",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "IsNaN",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
FORMS: dict[str, Form] = {
    **{op: Form((X,)) for op in UNARY},
    **{op: Form((unit(2, 3),)) for op in ("Acos", "Asin", "Atanh")},
    **{op: Form((positive(2, 3) + 1,)) for op in ("Acosh", "Log", "Sqrt")},
    **{op: broadcast(X, real(3, 1)) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater")},
    **{op: broadcast(flag(2, 3, 4), flag(3, 1)) for op in ("And", "Or", "Xor")},
    **{op: Form((X, Y)) for op in ("GreaterOrEqual", "LessOrEqual", "SwiGLU")},
    **{op: Form((X, Y, real(2, 3, 4))) for op in ("Sum", "Max", "Min", "Mean")},
    **{op: reduce() for op in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd")},
    **{op: reduce() for op in ("ReduceSum", "ReduceSumSquare", "ReduceLogSumExp")},
    "ReduceLogSum": reduce(positive(2, 3, 4)),
    **{op: Form((X,), attributes={"axis": 1, "keepdims": 0}) for op in ("ArgMax", "ArgMin")},
    **{op: Form((X,), attributes={"axis": 1}) for op in ("Softmax", "LogSoftmax", "Hardmax", "Flatten")},
    "Pow": broadcast(positive(2, 3, 4), positive(3, 1)),
    "Equal": broadcast(whole(2, 3, 4), whole(3, 1)),
    "PRelu": Form((X, positive(2, 3, 4)), before={7: {}}),
    "Not": Form((flag(2, 3),)),
    "BitwiseNot": Form((whole(2, 3),)),
    **{op: Form((whole(2, 3), whole(3))) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "BitShift": Form((whole(2, 3, dtype=np.uint32), whole(2, 3, dtype=np.uint32)), attributes={"direction": "LEFT"}),
    "BitCast": Form((X,), attributes={"to": TensorProto.INT32}),
    "Mod": Form((whole(2, 3, low=-9, high=9), whole(2, 3, low=1, high=5))),
    "IsInf": Form((np.array([1, np.inf, -np.inf, np.nan], np.float32),)),
    "Where": Form((flag(2, 3, 4), X, Y)),
    "Clip": Form((X,), {"min": -0.5, "max": 0.5}),
    "Cast": Form((X * 3,), attributes={"to": TensorProto.INT32}, before={6: {"to": "INT32"}}),
    "CastLike": Form((X, whole(1))),
    "Identity": Form((X,)),
    "Dropout": Form((X,), before={7: {"is_test": 1}}),
    "Constant": Form(attributes={"value": numpy_helper.from_array(X, "value")}),
    "ConstantOfShape": Form((), {"input": [2, 3]}, {"value": numpy_helper.from_array(np.array([7], np.int64))}),
    "Shape": Form((X,)),
    "Size": Form((X,)),
    "Range": Form((), {"start": 1.0, "limit": 9.0, "delta": 2.5}),
    "EyeLike": Form((real(3, 4),), attributes={"k": 1}),
    "Trilu": Form((real(3, 4),)),
    "OneHot": Form((whole(2, 3),), {"depth": 4, "values": [0.5, 2.0]}),
    "Concat": Form((X, Y), attributes={"axis": 1}),
    "Split": Form((X,), {"split": [1, 2]}, {"axis": 1}, 2),
    "Slice": Form((X,), {"starts": [1, 0], "ends": [3, 9], "axes": [1, 2]}),
    "Squeeze": Form((real(2, 1, 3, 1),), {"axes": [1, 3]}),
    "Unsqueeze": Form((X,), {"axes": [0, 2]}),
    "Reshape": Form((X,), {"shape": [0, -1, 2]}),
    "Transpose": Form((X,), attributes={"perm": [2, 0, 1]}),
    "Expand": Form((real(3, 1),), {"shape": [2, 3, 4]}),
    "Tile": Form((real(2, 3),), {"repeats": [2, 1], "tiles": 2, "axis": 0}),
    "Pad": Form((X,), {"pads": [0, 1, 0, 0, 2, 1], "paddings": [0, 1, 0, 0, 2, 1]}, {"mode": "constant"}),
    "Gather": Form((X, whole(2, 2, high=3)), attributes={"axis": 1}),
    "GatherElements": Form((X, whole(2, 2, 4, high=3)), attributes={"axis": 1}),
    "GatherND": Form((X, whole(2, 2, high=2))),
    **{
        op: Form((X, np.array([[[2, 0, 1, 1]]]), real(1, 1, 4)), attributes={"axis": 1})
        for op in ("Scatter", "ScatterElements")
    },
    "ScatterND": Form((X, np.array([[1], [0]]), real(2, 3, 4))),
    "TopK": Form((X,), {"K": [2], "k": 2}, {"axis": 1}, 2),
    "Compress": Form((X,), {"condition": [True, False, True]}, {"axis": 1}),
    "NonZero": Form((whole(2, 3, high=2),)),
    "TensorScatter": Form((real(2, 5, 3), real(2, 2, 3), np.array([1, 2]))),
    "ReverseSequence": Form((real(4, 2, 3), np.array([3, 2])), attributes={"time_axis": 0, "batch_axis": 1}),
    "CumSum": Form((X,), {"axis": 1}),
    "CumProd": Form((X,), {"axis": 1}),
    "DepthToSpace": Form((real(1, 8, 2, 3),), attributes={"blocksize": 2}),
    "SpaceToDepth": Form((real(1, 2, 4, 6),), attributes={"blocksize": 2}),
    "Upsample": Form((IMAGE,), {"scales": [1.0, 1.0, 2.0, 3.0]}, before={7: {"height_scale": 2.0, "width_scale": 3.0}}),
    "Resize": Form((IMAGE,), {"roi": np.zeros(0, np.float32), "scales": [1.0, 1.0, 2.0, 3.0]}, {"mode": "linear"}),
    "CenterCropPad": Form((X,), {"shape": [2, 4, 3]}),
    "Col2Im": Form((real(1, 12, 6),), {"image_shape": [3, 4], "block_shape": [2, 2]}),
    "AffineGrid": Form((real(1, 2, 3),), {"size": [1, 2, 3, 4]}),
    "GridSample": Form((IMAGE, unit(1, 3, 4, 2))),
    "RoiAlign": Form(
        (IMAGE, np.array([[0, 0, 4, 5], [1, 1, 5, 4]], np.float32), np.array([0, 0])),
        attributes={"output_height": 2, "output_width": 2, "sampling_ratio": 2},
    ),
    "MaxRoiPool": Form(
        (IMAGE, np.array([[0, 0, 0, 4, 5], [0, 1, 1, 5, 4]], np.float32)), attributes={"pooled_shape": [2, 2]}
    ),
    "DeformConv": Form((real(1, 2, 4, 5), real(3, 2, 2, 2), real(1, 8, 3, 4) * 0.3)),
    "Conv": Form((IMAGE, real(4, 2, 3, 2), real(4)), attributes=WINDOW),
    "ConvTranspose": Form((IMAGE, real(2, 4, 3, 2)), attributes=WINDOW),
    "MaxPool": Form((IMAGE,), attributes=WINDOW),
    "AveragePool": Form((IMAGE,), attributes=WINDOW, before={7: {"kernel_shape": [3, 2]}}),
    "LpPool": Form((IMAGE,), attributes={"kernel_shape": [3, 2], "strides": [2, 1]}),
    "MaxUnpool": Form(
        (real(1, 1, 2, 2), np.array([[[[0, 2], [8, 10]]]])), attributes={"kernel_shape": [2, 2], "strides": [2, 2]}
    ),
    "GlobalAveragePool": Form((IMAGE,)),
    "GlobalMaxPool": Form((IMAGE,)),
    "GlobalLpPool": Form((IMAGE,)),
    "LRN": Form((IMAGE,), attributes={"size": 3}),
    "BatchNormalization": Form(
        (IMAGE, real(2), real(2), real(2), positive(2)),
        before={2: {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]}, 7: {"is_test": 1}, 9: {"spatial": 1}},
    ),
    "InstanceNormalization": Form((IMAGE, real(2), real(2))),
    "LayerNormalization": Form((X, real(4), real(4))),
    "RMSNormalization": Form((X, real(4))),
    "GroupNormalization": Form((real(2, 4, 3), real(4), real(4)), attributes={"num_groups": 2}),
    "MeanVarianceNormalization": Form((real(2, 3, 4, 5),)),
    "LpNormalization": Form((X,), attributes={"axis": 1}),
    "MatMul": Form((real(2, 3, 4), real(4, 5))),
    "Gemm": Form(
        (real(3, 4), real(5, 4), real(5)),
        attributes={"transB": 1, "alpha": 0.5},
        before={7: {"transB": 1, "alpha": 0.5, "broadcast": 1}},
    ),
    "Einsum": Form((real(2, 3), real(3, 4)), attributes={"equation": "ij,jk->ki"}),
    "Det": Form((real(2, 3, 3),)),
    "Attention": Form((real(1, 2, 3, 4), real(1, 2, 5, 4), real(1, 2, 5, 4))),
    "RotaryEmbedding": Form((real(1, 2, 3, 4), real(1, 3, 2), real(1, 3, 2))),
    "LinearAttention": Form(
        (real(1, 3, 8), real(1, 3, 8), real(1, 3, 8)),
        attributes={"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear"},
    ),
    "CausalConvWithState": Form((real(1, 2, 5), real(2, 1, 3))),
    "RNN": layer(1),
    "GRU": layer(3),
    "LSTM": layer(4),
    "QuantizeLinear": Form((X, np.array(0.1, np.float32), np.array(3, np.uint8))),
    "DequantizeLinear": Form((whole(2, 3, dtype=np.uint8), np.array(0.1, np.float32), np.array(3, np.uint8))),
    "DynamicQuantizeLinear": Form((X,), outputs=3),
    "MatMulInteger": Form((whole(2, 3, dtype=np.uint8), whole(3, 4, dtype=np.uint8))),
    "QLinearMatMul": Form(
        (
            whole(2, 3, dtype=np.uint8),
            np.array(0.1, np.float32),
            np.array(1, np.uint8),
            whole(3, 4, dtype=np.uint8),
            np.array(0.2, np.float32),
            np.array(2, np.uint8),
            np.array(0.05, np.float32),
            np.array(9, np.uint8),
        )
    ),
    "ConvInteger": Form((whole(1, 2, 5, 5, dtype=np.uint8), whole(3, 2, 3, 3, dtype=np.uint8))),
    "QLinearConv": Form(
        (
            whole(1, 2, 5, 5, dtype=np.uint8),
            np.array(0.1, np.float32),
            np.array(1, np.uint8),
            whole(3, 2, 3, 3, dtype=np.uint8),
            np.array(0.2, np.float32),
            np.array(2, np.uint8),
            np.array(0.05, np.float32),
            np.array(9, np.uint8),
        )
    ),
    **{op: Form((), {"size": 7}) for op in ("BlackmanWindow", "HammingWindow", "HannWindow")},
    "DFT": Form((real(1, 8, 1),), {"axis": 1}),
    "STFT": Form((real(1, 16, 1),), {"frame_step": 4, "window": np.hanning(8).astype(np.float32)}),
    "MelWeightMatrix": Form(
        (),
        {"num_mel_bins": 4, "dft_length": 16, "sample_rate": 8000, "lower_edge_hertz": 0.0, "upper_edge_hertz": 4000.0},
    ),
    "NegativeLogLikelihoodLoss": Form((real(3, 5), whole(3, high=5))),
    "SoftmaxCrossEntropyLoss": Form((real(3, 5), whole(3, high=5))),
    "TfIdfVectorizer": Form(
        (whole(6, high=3),),
        attributes={
            "mode": "TF",
            "min_gram_length": 1,
            "max_gram_length": 2,
            "max_skip_count": 1,
            "ngram_counts": [0, 2],
            "ngram_indexes": [0, 1, 2],
            "pool_int64s": [1, 2, 1, 2],
        },
    ),
    "If": Form(
        (np.array(True),),
        attributes={
            "then_branch": graph("t () => (float[1] a) { a = Constant<value = float[1] {1}>() }"),
            "else_branch": graph("e () => (float[1] b) { b = Constant<value = float[1] {2}>() }"),
        },
    ),
    "Loop": Form(
        (np.array(3), np.array(True), real(2)),
        attributes={
            "body": graph("b (int64 i, bool c, float[2] v) => (bool d, float[2] w) { d = Identity(c) w = Add(v, v) }")
        },
    ),
    "Scan": Form(
        (real(3), real(4, 3)),
        outputs=2,
        attributes={
            "num_scan_inputs": 1,
            "body": graph("b (float[3] s, float[3] x) => (float[3] t, float[3] y) { t = Add(s, x) y = Identity(t) }"),
        },
    ),
    "Unique": Form((whole(6, high=4),)),
    "NonMaxSuppression": Form(
        (np.sort(RNG.uniform(0, 1, (1, 6, 4)), -1).astype(np.float32), real(1, 2, 6)),
        {"max_output_boxes_per_class": 3, "iou_threshold": 0.5},
    ),
}

# Where a version is used in another way than the later ones.
OTHER_FORMS: dict[tuple[str, int], Form] = {
    ("Scan", 8): Form((None, real(2, 3), real(2, 4, 3)), FORMS["Scan"].named, FORMS["Scan"].attributes, 2),
}

Model = tuple[onnx.ModelProto, dict[str, np.ndarray]]
_DTYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(("axes", "pads", "split", "starts", "ends", "shape", "repeats", "K", "input"), np.int64),
    **dict.fromkeys(("size", "image_shape", "block_shape", "axis", "frame_step", "num_mel_bins"), np.int64),
    **dict.fromkeys(("dft_length", "sample_rate", "max_output_boxes_per_class", "depth", "tiles"), np.int64),
    "condition": np.bool_,
}


def model_of(op: str, version: int) -> Model:
    """A model with one node, `op` as opset `version` defines it, and its inputs. What is `named` is constant."""
    form, schema = OTHER_FORMS.get((op, version), FORMS[op]), onnx.defs.get_schema(op, version)
    attributes = dict(form.attributes)
    for before in sorted(form.before, reverse=True):
        if version < before:
            attributes = dict(form.before[before])
    attributes = {k: v for k, v in attributes.items() if k in schema.attributes}
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(form.operands)]
    given = {name: x for name, x in zip(names, form.operands, strict=True) if x is not None}
    fixed: dict[str, np.ndarray] = {}
    declared = [i.name for i in schema.inputs]
    for name, value in form.named.items():
        if name in schema.attributes:
            attributes[name] = value
        elif name in declared:
            position = declared.index(name)
            names += [""] * (position + 1 - len(names))
            names[position] = name
            fixed[name] = np.asarray(value, _DTYPES.get(name, np.float32))
    outputs = [f"y{i}" for i in range(form.outputs)]
    made = helper.make_graph(
        [helper.make_node(op, names, outputs, **attributes)],
        "form",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(x, n) for n, x in fixed.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", version)], ir_version=10), given
