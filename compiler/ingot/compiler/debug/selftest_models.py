"""The models of the self-test, in the syntax of onnx.parser: a slice of the operators, small enough to compile fast.

`x` and its like are inputs, drawn anew for every size of their symbolic dims; inputs named `w...` become weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18

UNARY = (
    "Abs", "Neg", "Erf", "Exp", "Tanh", "Sigmoid", "Softplus", "Relu", "Sin", "Cos", "Atan", "Asinh", "Sinh", "Floor",
    "Ceil", "Round", "Sign", "Reciprocal", "Elu", "Selu", "HardSwish", "LeakyRelu", "Softsign",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Min", "Max")


@dataclass(frozen=True)
class SelfTestModel:
    """A graph in text form; `sizes` are the values that its symbolic dim `n` is tried at."""

    text: str
    sizes: tuple[int, ...] = (1, 7, 33)
    quick: bool = False


def _each(names: tuple[str, ...], dtype: str, operands: str) -> str:
    """A graph in which each operator gives an output."""
    outputs = ", ".join(f"{dtype} y{i}" for i in range(len(names)))
    nodes = " ".join(f"y{i} = {name} ({operands})" for i, name in enumerate(names))
    return f"({outputs}) {{ {nodes} }}"


MODELS: Mapping[str, SelfTestModel] = MappingProxyType(
    {
        "functions of one f32": SelfTestModel("m (float[n, 13] x) => " + _each(UNARY, "float", "x"), quick=True),
        "functions of one f64": SelfTestModel("m (double[n, 5] x) => " + _each(UNARY[:12], "double", "x")),
        "f16 and bf16": SelfTestModel(
            """m (float16[n, 9] x, float16[9] y) => (float16 a, float16 b, bfloat16 c, float d) {
                a = Mul (x, y)  b = Tanh (x)  c = Cast <to = 16> (x)  d = Cast <to = 1> (c)
            }"""
        ),
        "broadcasting": SelfTestModel(
            "m (float[n, 3, 13] x, float[3, 1] y) => " + _each(BINARY, "float", "x, y"), quick=True
        ),
        "comparisons and selection": SelfTestModel(
            """m (float[n, 13] x, float[13] y) => (bool a, bool b, float c, float d) {
                a = Less (x, y)  b = GreaterOrEqual (x, y)  c = Where (a, x, y)
                low = Constant <value_float = -0.5> ()  high = Constant <value_float = 0.75> ()  d = Clip (x, low, high)
            }"""
        ),
        "integers": SelfTestModel(
            """m (int32[n, 13] x, int32[13] y, uint8[n] u) => (int32 a, int32 b, int32 c, int32 d, int32 e, float f) {
                a = Add (x, y)  b = Mul (x, y)  seven = Constant <value_ints = [7]> ()  s = Cast <to = 6> (seven)
                c = Div (x, s)  d = Mod (x, s)  e = BitwiseXor (x, y)  f = Cast <to = 1> (u)
            }"""
        ),
        "reductions": SelfTestModel(
            """m (float[n, 5, 19] x) => (float a, float b, float c, int64 d, float e, float f) {
                i = Constant <value_ints = [1]> ()  j = Constant <value_ints = [-1]> ()  k = Constant <value_int = 2> ()
                a = ReduceSum (x, i)  b = ReduceMean <keepdims = 0> (x, j)  c = ReduceMax (x)
                d = ArgMax <axis = 2> (x)  e = CumSum (x, k)  f = ReduceProd (x, i)
            }"""
        ),
        "softmax and normalisation": SelfTestModel(
            """m (float[n, 6, 17] x, float[17] w_scale, float[17] w_bias) => (float a, float b, float c) {
                a = Softmax <axis = -1> (x)  b = LogSoftmax <axis = 1> (x)
                c = LayerNormalization <axis = -1> (x, w_scale, w_bias)
            }""",
            quick=True,
        ),
        "matrix products": SelfTestModel(
            """m (float[n, 64] x, float[64, 37] w_a, float[37] w_b, float[4, n, 9] p, float[4, 9, 11] q)
                => (float a, float b, float c) {
                h = MatMul (x, w_a)  i = Add (h, w_b)  a = Relu (i)  b = MatMul (p, q)  c = MatMul (x, w_a)
            }""",
            quick=True,
        ),
        "attention": SelfTestModel(
            """m (float[2, n, 16] q, float[2, n, 16] k, float[2, n, 16] v) => (float y) {
                t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)
                f = Constant <value_float = 0.25> ()  g = Mul (s, f)
                p = Softmax <axis = -1> (g)  y = MatMul (p, v)
            }"""
        ),
        "convolutions": SelfTestModel(
            """m (float[n, 8, 14, 15] x, float[24, 8, 3, 3] w_a, float[24] w_b, float[8, 1, 3, 3] w_c,
                float[16, 8, 1, 1] w_d) => (float a, float b, float c, float d) {
                e = Conv <pads = [1, 1, 1, 1]> (x, w_a, w_b)  a = Relu (e)
                b = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w_a)
                c = Conv <group = 8, dilations = [1, 2]> (x, w_c)  d = Conv (x, w_d)
            }""",
            sizes=(1, 3),
            quick=True,
        ),
        "pooling and transposed convolution": SelfTestModel(
            """m (float[n, 6, 12, 11] x, float[6, 4, 3, 3] w_a) => (float a, float b, float c, float d) {
                a = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)
                b = AveragePool <kernel_shape = [2, 2]> (x)  c = GlobalAveragePool (x)
                d = ConvTranspose <strides = [2, 2]> (x, w_a)
            }""",
            sizes=(1, 3),
        ),
        "moving elements": SelfTestModel(
            """m (float[n, 4, 6] x) => (float a, float b, float c, float d, float e, float f) {
                a = Transpose <perm = [2, 0, 1]> (x)  s = Constant <value_ints = [0, -1]> ()  b = Reshape (x, s)
                low = Constant <value_ints = [5]> ()  high = Constant <value_ints = [-9]> ()
                axis = Constant <value_ints = [2]> ()  step = Constant <value_ints = [-2]> ()
                c = Slice (x, low, high, axis, step)  d = Concat <axis = 1> (x, x)
                i = Constant <value_ints = [3, -1, 0]> ()  e = Gather <axis = 1> (x, i)
                p = Constant <value_ints = [0, 1, 2, 0, 1, 0]> ()  f = Pad (x, p)
            }"""
        ),
        "scattering and sorting": SelfTestModel(
            """m (float[n, 9] x) => (float a, int64 b, float c) {
                k = Constant <value_ints = [4]> ()  a, b = TopK (x, k)
                c = ScatterElements <axis = 1> (x, b, a)
            }"""
        ),
        "quantised": SelfTestModel(
            """m (float[n, 16] x, float[16, 8] w) => (float y, uint8 q) {
                s = Constant <value_float = 0.05> ()  z = Constant <value = uint8 {128}> ()
                q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = MatMul (d, w)
            }"""
        ),
        "recurrent layers": SelfTestModel(
            """m (float[n, 3, 8] x, float[2, 64, 8] w_a, float[2, 64, 16] w_b, float[1, 48, 8] w_c,
                float[1, 48, 16] w_d) => (float a, float b) {
                a = LSTM <hidden_size = 16, direction = "bidirectional"> (x, w_a, w_b)
                b = GRU <hidden_size = 16> (x, w_c, w_d)
            }"""
        ),
        "branches and loops": SelfTestModel(
            """m (float[n, 5] x, bool flag) => (float y, float[n, 5] z) {
                y = If (flag) <
                    then_branch = g1 () => (float[n, 5] r) { r = Relu (x) },
                    else_branch = g2 () => (float[n, 5] s) { s = Neg (x) }
                >
                count = Constant <value_int = 5> ()  going = Constant <value = bool {1}> ()
                z = Loop (count, going, y) <body = g3 (int64 i, bool c, float[n, 5] v) => (bool d, float[n, 5] t) {
                    d = Identity (c)  u = Add (v, x)  t = Tanh (u)
                }>
            }"""
        ),
    }
)


def build(text: str, seed: int = 0) -> onnx.ModelProto:
    """The model of a text, its weights drawn with `seed`, about of variance 1 over the number of their rows."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {OPSET}]> {text}')
    for output in model.graph.output:  # without extents it is written as a scalar, but any shape is meant
        if not output.type.tensor_type.shape.dim:
            output.type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(seed)
    inputs = list(model.graph.input)
    del model.graph.input[:]
    for value in inputs:
        if not value.name.startswith("w"):
            model.graph.input.append(value)
            continue
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        scale = float(np.prod(shape[1:])) ** -0.5
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        weights = np.asarray(rng.standard_normal(shape) * scale, dtype)
        model.graph.initializer.append(numpy_helper.from_array(weights, value.name))
    return onnx.shape_inference.infer_shapes(model)
