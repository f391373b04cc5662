"""Composites found in what exporters write, and left alone where something else uses the parts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Node, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import show_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.composite import (
    COMPOSITES,
    Attention,
    Gelu,
    HardSigmoid,
    HardSwish,
    LayerNorm,
    LogSoftmax,
    Silu,
    Softmax,
)
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Reshape, Transpose
from ingot.compiler.ops.pointwise import Add, Clip, Div, Erf, Exp, Mul, Pow, Sigmoid, Sqrt, Sub, Tanh, Where
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceSum
from ingot.compiler.passes.expand import expand
from ingot.compiler.passes.recognise import recognise
from ingot.compiler.passes.simplify import simplify
from ingot.runtime.dtypes import f32

N = symbol("n")
X = Input("x", TensorType(f32, (N, 6, 8)))
Y = Input("y", TensorType(f32, (N, 6, 8)))
MASK = Input("mask", TensorType(f32, (N, 1, 1, 6)))
INPUTS = (X, Y, MASK)
RNG = np.random.default_rng(5)
FEED: Mapping[str, Array] = {
    "x": RNG.standard_normal((2, 6, 8)).astype(np.float32) * 2,
    "y": RNG.standard_normal((2, 6, 8)).astype(np.float32),
    "mask": np.where(RNG.integers(0, 2, (2, 1, 1, 6)), 0, -1e9).astype(np.float32),
}


def c(value: float) -> Constant:
    """An f32 scalar."""
    return constant(value, f32)


def row(seed: int, *shape: int) -> Constant:
    """Random f32 parameters."""
    return constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


SCALE, BIAS, BIG = row(1, 8), row(2, 8), Add(X, row(3, 8))


def gelu_erf(x: Value, order: int) -> Value:
    """The erf form in the orders that exporters use."""
    cdf = Add(Erf(Div(x, c(1.4142135381698608))), c(1))
    return (
        Mul(Mul(x, cdf), c(0.5)),
        Mul(Mul(x, c(0.5)), cdf),
        Mul(c(0.5), Mul(cdf, x)),
        Mul(Add(c(1), Erf(Mul(x, c(0.70710678)))), Mul(c(0.5), x)),
        Div(Mul(x, cdf), c(2)),
    )[order]


def gelu_tanh(x: Value, order: int) -> Value:
    """The tanh form in the orders that exporters use."""
    root = c(math.sqrt(2 / math.pi))
    cubes = (Pow(x, c(3)), Mul(x, Mul(x, x)), Mul(Mul(x, x), x))
    if order < 3:
        inner: Value = Mul(Add(x, Mul(cubes[order], c(0.044715))), root)
    else:
        inner = Mul(Mul(x, root), Add(c(1), Mul(Mul(x, c(0.044715)), x)))
    return Mul(Mul(x, c(0.5)), Add(Tanh(inner), c(1)))


def norm(x: Value, scale: Value, bias: Value | None, *, square: str = "pow", divide: bool = True) -> Value:
    """Layer normalisation as torch writes it before opset 17."""
    centred = Sub(x, ReduceMean(x, (2,), True))
    again = Sub(x, ReduceMean(x, (2,), True))
    squares = Pow(again, c(2)) if square == "pow" else Mul(centred, centred)
    deviation = Sqrt(Add(ReduceMean(squares, (2,), True), c(1e-5)))
    normal = Div(centred, deviation) if divide else Mul(centred, Div(c(1), deviation))
    scaled = Mul(normal, scale)
    return scaled if bias is None else Add(scaled, bias)


def softmax(x: Value) -> Value:
    """Softmax over the last axis from its parts."""
    powers = Exp(Sub(x, ReduceMax(x, (x.rank - 1,), True)))
    return Div(powers, ReduceSum(powers, (x.rank - 1,), True))


def heads(x: Value, *perm: int) -> Value:
    """[N, 6, 8] in two heads: axes N, 6, 2, 4 permuted."""
    return Transpose(Reshape(x, (N, 6, 2, 4)), perm)


Q, K, V = heads(X, 0, 2, 1, 3), heads(Y, 0, 2, 1, 3), heads(MASKED := Add(X, Y), 0, 2, 1, 3)
KEEP = constant(np.tril(np.ones((6, 6), bool)))
KT = heads(Y, 0, 2, 3, 1)


def attention(scores: Value) -> Value:
    """The rest of attention after the scores."""
    return MatMul(Softmax(scores, 3), V)


CASES: Mapping[str, tuple[Value, Value]] = {
    **{f"gelu_erf_{i}": (gelu_erf(X, i), Gelu(X, False)) for i in range(5)},
    **{f"gelu_erf_of_sum_{i}": (gelu_erf(BIG, i), Gelu(BIG, False)) for i in range(5)},
    **{f"gelu_tanh_{i}": (gelu_tanh(X, i), Gelu(X, True)) for i in range(4)},
    "gelu_tanh_of_sum": (gelu_tanh(BIG, 0), Gelu(BIG, True)),
    "silu": (Mul(X, Sigmoid(X)), Silu(X)),
    "silu_reversed": (Mul(Sigmoid(BIG), BIG), Silu(BIG)),
    "hard_swish": (Mul(X, Div(Clip(Add(X, c(3)), c(0), c(6)), c(6))), HardSwish(X)),
    "hard_swish_outside": (Div(Mul(X, Clip(Add(X, c(3)), c(0), c(6))), c(6)), HardSwish(X)),
    "hard_swish_of_sigmoid": (Mul(X, HardSigmoid(X, 1 / 6, 0.5)), HardSwish(X)),
    "layer_norm": (norm(X, SCALE, BIAS), LayerNorm(X, SCALE, BIAS, 2, float(np.float32(1e-5)))),
    "layer_norm_product": (
        norm(X, SCALE, BIAS, square="mul", divide=False),
        LayerNorm(X, SCALE, BIAS, 2, float(np.float32(1e-5))),
    ),
    "layer_norm_no_bias": (norm(X, SCALE, None), LayerNorm(X, SCALE, None, 2, float(np.float32(1e-5)))),
    "layer_norm_residual": (
        Add(norm(X, SCALE, None), Y),
        Add(LayerNorm(X, SCALE, None, 2, float(np.float32(1e-5))), Y),
    ),
    "softmax": (softmax(X), Softmax(X, 2)),
    "attention": (attention(Mul(MatMul(Q, KT), c(0.5))), Attention(Q, K, V, None, 0.5)),
    "attention_divided": (attention(Div(MatMul(Q, KT), c(2))), Attention(Q, K, V, None, 0.5)),
    "attention_unscaled": (attention(MatMul(Q, KT)), Attention(Q, K, V, None, 1.0)),
    "attention_masked": (attention(Add(Div(MatMul(Q, KT), c(2)), MASK)), Attention(Q, K, V, MASK, 0.5)),
    "attention_mask_first": (attention(Add(MASK, Mul(MatMul(Q, KT), c(0.5)))), Attention(Q, K, V, MASK, 0.5)),
    "attention_where": (
        attention(Where(KEEP, Mul(MatMul(Q, KT), c(0.5)), c(-math.inf))),
        Attention(Q, K, V, Where(KEEP, c(0), c(-math.inf)), 0.5),
    ),
    "attention_fill": (
        attention(Where(KEEP, c(-3.4e38), MatMul(Q, KT))),
        Attention(Q, K, V, Where(KEEP, c(-3.4e38), c(0)), 1.0),
    ),
    "attention_scaled_operands": (
        attention(Add(MatMul(Mul(Q, c(0.5)), Mul(KT, c(0.5))), MASK)),
        Attention(Q, K, V, MASK, 0.25),
    ),
    "attention_swapped_twice": (
        attention(Mul(MatMul(Q, Transpose(K, (0, 1, 3, 2))), c(0.5))),
        Attention(Q, K, V, None, 0.5),
    ),
    "attention_scaled_before_transpose": (
        attention(MatMul(heads(Mul(X, c(0.5)), 0, 2, 1, 3), KT)),
        Attention(Q, K, V, None, 0.5),
    ),
}


def graph(*values: Value) -> Graph:
    """A graph of all inputs above."""
    return Graph(INPUTS, tuple((f"r{i}", v) for i, v in enumerate(values)), "t")


def found(value: Graph) -> list[str]:
    """The names of the composites in a graph."""
    return [n.name for n in value.nodes() if type(n) in COMPOSITES]


@pytest.mark.parametrize("name", CASES)
def test_recognised(name: str) -> None:
    value, wanted = CASES[name]
    before = graph(value)
    after = simplify(recognise(simplify(before)))
    assert show_graph(after) == show_graph(simplify(graph(wanted)))
    a, b = evaluate_graph(before, FEED)["r0"], evaluate_graph(after, FEED)["r0"]
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-6)


CDF = Add(Erf(Div(X, c(math.sqrt(2)))), c(1))
POWERS = Exp(Sub(X, ReduceMax(X, (2,), True)))
SCORES = Mul(MatMul(Q, KT), c(0.5))
WEIGHTS = Softmax(SCORES, 3)


@pytest.mark.parametrize(
    "values",
    [
        (Mul(Mul(X, CDF), c(0.25)),),
        (Mul(Mul(Y, CDF), c(0.5)),),
        (Mul(Mul(X, Add(Erf(Div(X, c(1.5))), c(1))), c(0.5)),),
        (Mul(X, Sigmoid(Y)),),
        (Mul(X, Div(Clip(Add(X, c(3)), c(0), c(5)), c(6))),),
        (Div(POWERS, ReduceSum(POWERS, (1,), True)),),
        (Div(POWERS, ReduceSum(Exp(X), (2,), True)),),
        (MatMul(WEIGHTS, V), WEIGHTS),
        (MatMul(Softmax(SCORES, 2), V),),
        (MatMul(WEIGHTS, V), SCORES),
    ],
    ids=range(10),
)
def test_not_recognised(values: tuple[Value, ...]) -> None:
    before = simplify(graph(*values))
    after = recognise(before)
    assert found(after) == found(before)


@pytest.mark.parametrize(
    "composite",
    [Gelu(X, True), Silu(X), Softmax(X, 2), LayerNorm(X, SCALE, BIAS, 2, 1e-5), HardSwish(X)],
    ids=lambda n: n.name,
)
def test_what_was_expanded_is_recognised_again(composite: Node) -> None:
    parts = expand(graph(composite))
    assert found(parts) == []
    assert found(recognise(simplify(parts))) == [composite.name]


def test_expand_keeps_what_it_is_told_to() -> None:
    before = graph(Attention(Q, K, V, None, 0.5), LogSoftmax(X, 1))
    assert found(expand(before)) == []
    assert found(expand(before, lambda node: isinstance(node, Softmax))) == ["softmax"]
    assert found(expand(before, lambda node: isinstance(node, Attention | LogSoftmax))) == ["attention", "log_softmax"]
    assert expand(before, lambda node: type(node) in COMPOSITES) is before
    a, b = evaluate_graph(before, FEED), evaluate_graph(expand(before), FEED)
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-5, atol=1e-6)
