"""Snippets written node by node: what tf2onnx, jax2tf with tf2onnx, and skl2onnx make of their layers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.compiler.corpus.sources.snippet import Snippet


class Writer:
    """Nodes and weights of one model."""

    def __init__(self, name: str, opset: int = 13) -> None:
        self.name, self.opset = name, opset
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def op(self, kind: str, *operands: str, outputs: int = 1, **attributes: Any) -> str:
        """A node; the name of its first result."""
        stem = f"{self.name}/{kind}_{len(self.nodes)}"
        names = [f"{stem}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, operands, names, stem, **attributes))
        return names[0]

    def constant(self, value: Any, dtype: str = "float32") -> str:
        """An initialiser of given contents."""
        name = f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, "int64")

    def weight(self, *shape: int) -> str:
        """An initialiser of random numbers."""
        data: NDArray[np.float64] = (
            self.random.standard_normal(shape) / max(1, shape[0] if len(shape) > 1 else 1) ** 0.5
        )
        return self.constant(data)

    def takes(self, **shapes: Sequence[int | str]) -> None:
        """The inputs: f32, masks i64."""
        for name, shape in shapes.items():
            kind = TensorProto.INT64 if name == "mask" else TensorProto.FLOAT
            self.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def gives(self, value: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> None:
        """One more result."""
        name = f"y{len(self.outputs)}"
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def tf_layer_norm(w: Writer) -> None:
    """tf.nn.moments and tf.nn.batch_normalization, which Keras' LayerNormalization calls."""
    w.takes(x=("batch", "tokens", 16))
    mean = w.op("ReduceMean", "x", axes=[-1], keepdims=1)
    distance = w.op("Sub", "x", mean)
    variance = w.op("ReduceMean", w.op("Mul", distance, distance), axes=[-1], keepdims=1)
    root = w.op("Reciprocal", w.op("Sqrt", w.op("Add", variance, w.constant([[[1e-3]]]))))
    factor = w.op("Mul", root, w.weight(16))
    shift = w.op("Sub", w.weight(16), w.op("Mul", mean, factor))
    w.gives(w.op("Add", w.op("Mul", "x", factor), shift), "batch", "tokens", 16)


def jax_mean(w: Writer, x: str, extent: int) -> str:
    """A sum without the axis, its shape restored, over the number of elements."""
    total = w.op("ReduceSum", x, w.ints(2), keepdims=0)
    return w.op("Div", w.op("Reshape", total, w.ints(0, 7, 1)), w.constant([[[extent]]]))


def jax_layer_norm(w: Writer) -> None:
    """Flax' LayerNorm: means are sums over constants, E[x**2] - E[x]**2 at least 0, rsqrt, broadcasts spelled out."""
    w.takes(x=("batch", 7, 16))
    mean = jax_mean(w, "x", 16)
    square = jax_mean(w, w.op("Mul", "x", "x"), 16)
    variance = w.op("Max", w.constant([[[0]]]), w.op("Sub", square, w.op("Mul", mean, mean)))
    root = w.op("Reciprocal", w.op("Sqrt", w.op("Add", variance, w.constant([[[1e-6]]]))))
    scale = w.op("Reshape", w.weight(16), w.ints(1, 1, 16))
    y = w.op("Mul", w.op("Sub", "x", mean), w.op("Mul", root, scale))
    w.gives(w.op("Add", y, w.op("Reshape", w.weight(16), w.ints(1, 1, 16))), "batch", 7, 16)


def jax_softmax(w: Writer) -> None:
    """jax.nn.softmax: the maximum is bounded below by -inf, reductions drop the axis and reshapes bring it back."""
    w.takes(x=("batch", 7, 9))
    top = w.op("Max", w.constant(-np.inf), w.op("ReduceMax", "x", axes=[2], keepdims=0))
    powers = w.op("Exp", w.op("Sub", "x", w.op("Reshape", top, w.ints(0, 7, 1))))
    total = w.op("Reshape", w.op("ReduceSum", powers, w.ints(2), keepdims=0), w.ints(0, 7, 1))
    w.gives(w.op("Div", powers, total), "batch", 7, 9)


def jax_attention(w: Writer) -> None:
    """flax.linen.dot_product_attention: scaled queries, einsums as products of transposed operands, a `where`d mask."""
    w.takes(x=("batch", 7, 16), mask=("batch", 7))

    def project() -> str:
        flat = w.op("MatMul", w.op("Reshape", "x", w.ints(-1, 16)), w.weight(16, 16))
        return w.op(
            "Add", w.op("Reshape", flat, w.ints(-1, 7, 2, 8)), w.op("Reshape", w.weight(2, 8), w.ints(1, 1, 2, 8))
        )

    q = w.op("Div", project(), w.constant(8**0.5))
    k, v = project(), project()
    scores = w.op("MatMul", w.op("Transpose", q, perm=[0, 2, 1, 3]), w.op("Transpose", k, perm=[0, 2, 3, 1]))
    keep = w.op("Cast", w.op("Reshape", "mask", w.ints(-1, 1, 1, 7)), to=TensorProto.BOOL)
    scores = w.op("Where", keep, scores, w.constant(np.finfo(np.float32).min))
    top = w.op("Reshape", w.op("ReduceMax", scores, axes=[3], keepdims=0), w.ints(-1, 2, 7, 1))
    powers = w.op("Exp", w.op("Sub", scores, top))
    total = w.op("Reshape", w.op("ReduceSum", powers, w.ints(3), keepdims=0), w.ints(-1, 2, 7, 1))
    weights = w.op("Div", powers, total)
    context = w.op("MatMul", weights, w.op("Transpose", v, perm=[0, 2, 1, 3]))
    joined = w.op("Reshape", w.op("Transpose", context, perm=[0, 2, 1, 3]), w.ints(-1, 16))
    y = w.op("Reshape", w.op("MatMul", joined, w.weight(16, 16)), w.ints(-1, 7, 16))
    w.gives(y, "batch", 7, 16)


def tf_gelu(w: Writer) -> None:
    """tf.nn.gelu."""
    w.takes(x=("batch", 16))
    y = w.op("Add", w.op("MatMul", "x", w.weight(16, 24)), w.weight(24))
    erf = w.op("Erf", w.op("Div", y, w.constant(2**0.5)))
    y = w.op("Mul", w.op("Mul", w.constant(0.5), y), w.op("Add", w.constant(1.0), erf))
    w.gives(y, "batch", 24)


def tf_gelu_tanh(w: Writer) -> None:
    """tf.nn.gelu(approximate=True)."""
    w.takes(x=("batch", 16))
    y = w.op("Add", w.op("MatMul", "x", w.weight(16, 24)), w.weight(24))
    cube = w.op("Mul", w.constant(0.044715), w.op("Pow", y, w.constant(3.0)))
    tanh = w.op("Tanh", w.op("Mul", w.constant(0.7978845608028654), w.op("Add", y, cube)))
    y = w.op("Mul", w.op("Mul", w.constant(0.5), y), w.op("Add", w.constant(1.0), tanh))
    w.gives(y, "batch", 24)


def tf_mish(w: Writer) -> None:
    """x * tanh(softplus(x)) with softplus from its parts."""
    w.takes(x=("batch", 16))
    soft = w.op("Log", w.op("Add", w.op("Exp", "x"), w.constant(1.0)))
    w.gives(w.op("Mul", "x", w.op("Tanh", soft)), "batch", 16)


def tf_dense(w: Writer, x: str, inputs: int, outputs: int) -> str:
    """A Dense layer on [batch, tokens, inputs]: tf.tensordot over a matrix, shapes computed in the graph."""
    shape = w.op("Cast", w.op("Shape", x), to=TensorProto.INT64)
    lead = w.op("Gather", shape, w.ints(0, 1), axis=0)
    rows = w.op("ReduceProd", lead, axes=[0], keepdims=0)
    inner = w.op("ReduceProd", w.op("Gather", shape, w.ints(2), axis=0), axes=[0], keepdims=0)
    target = w.op("Concat", *(w.op("Unsqueeze", v, w.ints(0)) for v in (rows, inner)), axis=0)
    flat = w.op("MatMul", w.op("Reshape", x, target), w.weight(inputs, outputs))
    return w.op("Add", w.op("Reshape", flat, w.op("Concat", lead, w.ints(outputs), axis=0)), w.weight(outputs))


def tf_attention(w: Writer) -> None:
    """TFBertSelfAttention: dense layers by tensordot, heads by reshape with a computed batch, an added mask."""
    w.takes(x=("batch", "tokens", 16), mask=("batch", "tokens"))
    batch = w.op(
        "Unsqueeze", w.op("Squeeze", w.op("Slice", w.op("Shape", "x"), w.ints(0), w.ints(1)), w.ints(0)), w.ints(0)
    )
    heads = w.op("Concat", batch, w.ints(-1), w.ints(2), w.ints(8), axis=0)
    q, k, v = (w.op("Transpose", w.op("Reshape", tf_dense(w, "x", 16, 16), heads), perm=[0, 2, 1, 3]) for _ in range(3))
    scores = w.op("MatMul", q, w.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = w.op("Div", scores, w.constant(8**0.5))
    keep = w.op("Cast", w.op("Unsqueeze", "mask", w.ints(1, 2)), to=TensorProto.FLOAT)
    lowest = w.op("Mul", w.op("Sub", w.constant(1.0), keep), w.constant(-10000.0))
    weights = w.op("Softmax", w.op("Add", scores, lowest), axis=-1)
    context = w.op("Transpose", w.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    joined = w.op("Reshape", context, w.op("Concat", batch, w.ints(-1), w.ints(16), axis=0))
    w.gives(tf_dense(w, joined, 16, 16), "batch", "tokens", 16)


def tf_inverted_residual(w: Writer) -> None:
    """MobileNetV3 of Keras: NHWC around, transposes at the border, hard swish from relu6, squeeze-and-excite."""
    w.takes(x=("batch", 6, 5, 8))

    def hard_sigmoid(y: str) -> str:
        clipped = w.op("Clip", w.op("Add", y, w.constant(3.0)), w.constant(0.0), w.constant(6.0))
        return w.op("Mul", clipped, w.constant(1 / 6))

    def norm(y: str) -> str:
        variance = w.constant(np.abs(w.random.standard_normal(12)) + 0.5)
        return w.op("BatchNormalization", y, w.weight(12), w.weight(12), w.weight(12), variance, epsilon=1e-3)

    x = w.op("Transpose", "x", perm=[0, 3, 1, 2])
    y = norm(w.op("Conv", x, w.weight(12, 8, 1, 1), auto_pad="SAME_UPPER", kernel_shape=[1, 1]))
    y = w.op("Mul", y, hard_sigmoid(y))
    y = norm(w.op("Conv", y, w.weight(12, 1, 3, 3), auto_pad="SAME_UPPER", kernel_shape=[3, 3], group=12))
    y = w.op("Mul", y, hard_sigmoid(y))
    mean = w.op("ReduceMean", y, axes=[2, 3], keepdims=1)
    small = w.op("Relu", w.op("Conv", mean, w.weight(4, 12, 1, 1), w.weight(4)))
    y = w.op("Mul", y, hard_sigmoid(w.op("Conv", small, w.weight(12, 4, 1, 1), w.weight(12))))
    y = w.op("Add", x, w.op("Conv", y, w.weight(8, 12, 1, 1), w.weight(8)))
    w.gives(w.op("Transpose", y, perm=[0, 2, 3, 1]), "batch", 6, 5, 8)


def tf_classifier(w: Writer) -> None:
    """Convolution, bias added after it, global mean, Dense, softmax."""
    w.takes(x=("batch", 6, 5, 8))
    y = w.op("Transpose", "x", perm=[0, 3, 1, 2])
    y = w.op("Conv", y, w.weight(12, 8, 3, 3), strides=[2, 2], pads=[0, 0, 1, 1])
    y = w.op("Relu", w.op("Add", y, w.op("Reshape", w.weight(12), w.ints(1, 12, 1, 1))))
    y = w.op("Squeeze", w.op("ReduceMean", y, axes=[2, 3], keepdims=1), w.ints(2, 3))
    y = w.op("Softmax", w.op("Add", w.op("MatMul", y, w.weight(12, 5)), w.weight(5)), axis=-1)
    w.gives(y, "batch", 5)


def sklearn_scaled_mlp(w: Writer) -> None:
    """StandardScaler, PCA and MLPClassifier of two classes: probabilities and the label."""
    w.takes(x=("batch", 10))
    y = w.op("Div", w.op("Sub", "x", w.weight(10)), w.constant(np.abs(w.random.standard_normal(10)) + 0.5))
    y = w.op("MatMul", w.op("Sub", y, w.weight(10)), w.weight(10, 6))
    y = w.op("Cast", y, to=TensorProto.FLOAT)
    y = w.op("Relu", w.op("Add", w.op("MatMul", y, w.weight(6, 12)), w.weight(1, 12)))
    y = w.op("Sigmoid", w.op("Add", w.op("MatMul", y, w.weight(12, 1)), w.weight(1, 1)))
    both = w.op("Concat", w.op("Sub", w.constant(1.0), y), y, axis=1)
    label = w.op("Gather", w.ints(3, 8), w.op("ArgMax", both, axis=1, keepdims=0), axis=0)
    w.gives(w.op("Cast", label, to=TensorProto.INT64), "batch", dtype=TensorProto.INT64)
    w.gives(both, "batch", 2)


def sklearn_kmeans(w: Writer) -> None:
    """KMeans: distances by a product, the nearest centre, and the distances themselves."""
    w.takes(x=("batch", 10))
    centres = w.random.standard_normal((4, 10))
    squares = w.op("ReduceSumSquare", "x", axes=[1], keepdims=1)
    product = w.op("Gemm", "x", w.constant(centres), alpha=-2.0, transB=1)
    distance = w.op("Add", w.constant((centres**2).sum(1)[None]), w.op("Add", squares, product))
    label = w.op("ArgMin", distance, axis=1, keepdims=0)
    w.gives(label, "batch", dtype=TensorProto.INT64)
    w.gives(w.op("Sqrt", distance), "batch", 4)


def sklearn_logistic(w: Writer) -> None:
    """Normalizer (L2) and LogisticRegression of several classes."""
    w.takes(x=("batch", 10))
    y = w.op("Div", "x", w.op("ReduceL2", "x", axes=[1], keepdims=1))
    scores = w.op("Gemm", y, w.weight(10, 4), w.weight(4))
    w.gives(w.op("ArgMax", scores, axis=1, keepdims=0), "batch", dtype=TensorProto.INT64)
    w.gives(w.op("Softmax", scores, axis=1), "batch", 4)


def _snippet(write: Callable[[Writer], None]) -> Snippet:
    def build() -> onnx.ModelProto:
        writer = Writer(write.__name__)
        write(writer)
        return writer.model()

    return Snippet(write.__name__, build, exporters=("opset-13",))


SNIPPETS = tuple(
    _snippet(write)
    for write in (
        tf_layer_norm,
        tf_gelu,
        tf_gelu_tanh,
        tf_mish,
        tf_attention,
        tf_inverted_residual,
        tf_classifier,
        jax_layer_norm,
        jax_softmax,
        jax_attention,
        sklearn_scaled_mlp,
        sklearn_kmeans,
        sklearn_logistic,
    )
)
