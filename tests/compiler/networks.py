"""Small networks in ONNX's text form, with random weights, and an input for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Arrays = Mapping[str, NDArray[Any]]


def model_of(
    text: str, weights: Mapping[str, tuple[int, ...]], random: np.random.Generator, opset: int = 17
) -> onnx.ModelProto:
    """A model in ONNX's text form with random f32 initialisers of these shapes."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, shape in weights.items():
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:]) if len(shape) == 4 else shape[0]))
        data = (random.standard_normal(shape) * scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(data, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def image_network(random: np.random.Generator) -> tuple[onnx.ModelProto, Arrays]:
    """Convolutions, a residual sum, pools, a concatenation, activations and a dense layer."""
    text = """g (float[2, 3, 12, 12] x) => (float[2, 10] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
        s2 = Add (c2, r1)
        r2 = Relu (s2)
        p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
        c3 = Conv (p2, w3, b3)
        l3 = LeakyRelu <alpha = 0.1> (c3)
        c4 = Conv (p2, w4, b3)
        s4 = Sigmoid (c4)
        m4 = Mul (l3, s4)
        k = Concat <axis = 1> (m4, p2)
        a = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (k)
        g = GlobalAveragePool (a)
        f = Flatten (g)
        z = Gemm <transB = 1> (f, w5, b5)
        y = Softmax <axis = 1> (z)
    }"""
    weights = {
        "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (8, 8, 1, 1), "b3": (8,),
        "w4": (8, 8, 1, 1), "w5": (10, 16), "b5": (10,),
    }  # fmt: skip
    return model_of(text, weights, random), {"x": random.standard_normal((2, 3, 12, 12)).astype(np.float32)}


def dense_network(random: np.random.Generator) -> tuple[onnx.ModelProto, Arrays]:
    text = """g (float[batch, 16] x) => (float[batch, 8] y) {
        m1 = MatMul (x, w1)
        a1 = Add (m1, b1)
        r1 = Relu (a1)
        m2 = MatMul (r1, w2)
        y = Add (m2, b2)
    }"""
    weights = {"w1": (16, 32), "b1": (32,), "w2": (32, 8), "b2": (8,)}
    return model_of(text, weights, random), {"x": random.standard_normal((4, 16)).astype(np.float32)}


def transformer_layer(
    random: np.random.Generator, *, heads: int = 4, depth: int = 4, shape: tuple[int, int] = (2, 5)
) -> tuple[onnx.ModelProto, Arrays]:
    """Attention, layer norms and a feed-forward part with GELU, as exporters write them, with `heads` heads of `depth`
    elements; its input is [batch, length, heads * depth], whose first extents are `shape`."""
    width = heads * depth
    text = f"""g (float[batch, length, {width}] x) => (float[batch, length, {width}] y)
    <int64[4] heads = {{0, 0, {heads}, {depth}}}, int64[3] whole = {{0, 0, {width}}}, float half = {{0.5}},
     float one = {{1.0}}, float root = {{1.4142135}}, float depth = {{{depth**-0.5}}}> {{
        q0 = MatMul (x, wq)
        q1 = Add (bq, q0)
        q2 = Reshape (q1, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (q2)
        k0 = MatMul (x, wk)
        k1 = Add (bk, k0)
        k2 = Reshape (k1, heads)
        k = Transpose <perm = [0, 2, 3, 1]> (k2)
        v0 = MatMul (x, wv)
        v1 = Add (bv, v0)
        v2 = Reshape (v1, heads)
        v = Transpose <perm = [0, 2, 1, 3]> (v2)
        s0 = MatMul (q, k)
        s = Mul (s0, depth)
        p = Softmax <axis = -1> (s)
        o0 = MatMul (p, v)
        o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
        o2 = Reshape (o1, whole)
        o3 = MatMul (o2, wo)
        o4 = Add (bo, o3)
        r = Add (o4, x)
        n = LayerNormalization <axis = -1> (r, g1, h1)
        f0 = MatMul (n, w1)
        f1 = Add (f0, b1)
        e0 = Div (f1, root)
        e1 = Erf (e0)
        e2 = Add (e1, one)
        e3 = Mul (f1, e2)
        e4 = Mul (e3, half)
        f2 = MatMul (e4, w2)
        f3 = Add (f2, b2)
        t = Add (f3, n)
        y = LayerNormalization <axis = -1> (t, g2, h2)
    }}"""
    square, row = (width, width), (width,)
    weights = {
        **dict.fromkeys(("wq", "wk", "wv", "wo"), square), **dict.fromkeys(("bq", "bk", "bv", "bo", "b2"), row),
        **dict.fromkeys(("g1", "h1", "g2", "h2"), row), "w1": (width, 4 * width), "b1": (4 * width,),
        "w2": (4 * width, width),
    }  # fmt: skip
    return model_of(text, weights, random), {"x": random.standard_normal((*shape, width)).astype(np.float32)}
