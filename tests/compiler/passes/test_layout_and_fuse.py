"""Layout, norm folding and fusion keep what a graph computes, and do what they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, Node, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.composite import BatchNorm
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import AveragePool, Conv, MatMul, MaxPool
from ingot.compiler.ops.movement import Concat, Pad, Slice, Transpose
from ingot.compiler.ops.pointwise import Add, Div, Exp, Mul, Relu, Sub
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceSum
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.passes.fold_norm import FOLD_NORM
from ingot.compiler.passes.fuse import fuse
from ingot.compiler.passes.layout import LAYOUT
from ingot.compiler.rewrite import Trace, rewrite
from ingot.runtime.dtypes import f32

BATCH = symbol("batch")
X = Input("x", TensorType(f32, (BATCH, 3, 8, 7)))


def random(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def conv(x: Value, out: int, inner: int, **options: Any) -> Conv:
    settings: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    settings |= options
    bias = settings.pop("bias", constant(random(out)))
    return Conv(x, constant(random(out, inner, 3, 3)), bias, **settings, channels_last=False)


def norm(x: Value, channels: int) -> BatchNorm:
    scale, bias, mean = (constant(random(channels) + i) for i in range(3))
    return BatchNorm(x, scale, bias, mean, constant(np.abs(random(channels)) + 0.5), 1e-5)


def residual_net() -> Value:
    first = Relu(norm(conv(X, 16, 3), 16))
    pool = MaxPool(first, (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False, channels_last=False)
    block = Relu(Add(norm(conv(pool, 16, 16, bias=None), 16), pool))
    mean = AveragePool(block, (2, 2), (1, 1), (0, 0, 0, 0), (1, 1), False, True, channels_last=False)
    joined = Concat((mean, Slice(mean, (0, 2, 0, 0), (BATCH, 5, 3, 2), (1, 1, 1, 1))), 1)
    padded = Pad(joined, (0, 0, 1, 0, 0, 2, 0, 0), "constant", constant(np.float32(0)))
    return ReduceMean(Mul(padded, constant(random(1, 23, 1, 1))), (2, 3), False)


def graph_of(*results: Value) -> Graph:
    return Graph((X,), tuple((f"y{i}", value) for i, value in enumerate(results)), ranges={"batch": (1, 8)})


def agree(before: Graph, after: Graph) -> None:
    inputs = {"x": random(2, 3, 8, 7)}
    want, have = evaluate_graph(before, inputs), evaluate_graph(after, inputs)
    assert want.keys() == have.keys()
    for name in want:
        np.testing.assert_allclose(have[name], want[name], rtol=2e-4, atol=2e-4)


def kinds(graph: Graph, kind: type[Node]) -> list[Node]:
    return [n for n in graph.nodes() if isinstance(n, kind)]


def test_batch_norm_folds_into_the_weights() -> None:
    before = graph_of(residual_net())
    after = rewrite(before, FOLD_NORM)
    assert len(kinds(before, BatchNorm)) == 2
    assert not kinds(after, BatchNorm)
    agree(before, after)


def test_layout_leaves_one_transpose_at_the_input() -> None:
    before = rewrite(graph_of(residual_net()), FOLD_NORM)
    after = rewrite(before, LAYOUT)
    agree(before, after)
    assert all(c.channels_last for c in after.nodes() if isinstance(c, Conv))
    transposes = kinds(after, Transpose)
    assert [t.x for t in transposes if isinstance(t, Transpose)] == [X]


def test_shifts_and_scales_fold() -> None:
    scaled = Add(Mul(conv(X, 4, 3), constant(random(4, 1, 1))), constant(np.float32(2)))
    before = graph_of(scaled)
    after = rewrite(before, FOLD_NORM)
    assert len(after.nodes()) == 4  # input, weights, bias, conv
    agree(before, after)


def test_a_scale_along_pixels_does_not_fold() -> None:
    before = graph_of(Mul(conv(X, 4, 3), constant(random(8, 7))))
    after = rewrite(before, FOLD_NORM)
    assert kinds(after, Mul)
    agree(before, after)


def test_groups() -> None:
    before = rewrite(graph_of(residual_net()), (*FOLD_NORM, *LAYOUT))
    after = fuse(before)
    agree(before, after)
    groups = [g for g in after.nodes() if isinstance(g, Fused)]
    anchored = [g for g in groups if kinds(g.body, Conv)]
    assert len(anchored) == 2
    assert not kinds(after, Relu)


def softmax(x: Value, axis: int) -> Value:
    shifted = Exp(Sub(x, ReduceMax(x, (axis,), True)))
    return Div(shifted, ReduceSum(shifted, (axis,), True))


@pytest.mark.parametrize("axis", [1, 3])
def test_softmax_is_one_row_group(axis: int) -> None:
    before = graph_of(softmax(Mul(X, constant(np.float32(0.5))), axis))
    after = fuse(before)
    agree(before, after)
    assert len(kinds(after, Fused)) == 1
    assert len(after.nodes()) == 2


def test_no_cycle_between_groups() -> None:
    """b joins neither group where that would close a cycle through the matmul."""
    a = Relu(X)
    product = MatMul(a, constant(random(7, 7)))
    b = Add(a, product)
    before = graph_of(Mul(b, a), a)
    after = fuse(before)
    agree(before, after)


def test_values_read_outside_are_results() -> None:
    a = Relu(X)
    b = Exp(a)
    before = graph_of(a, Add(b, a))
    after = fuse(before)
    agree(before, after)
    (group,) = kinds(after, Fused)
    assert len(group.types) == 2


def test_different_reduction_axes_are_different_groups() -> None:
    before = graph_of(ReduceSum(X, (3,), True), ReduceSum(X, (2,), True), ReduceMax(Relu(X), (1, 2, 3), False))
    after = fuse(before)
    agree(before, after)


def test_a_transpose_of_tokens_settles() -> None:
    """Patch embeddings turned to tokens, then residual blocks: the transpose must not be handed round for ever."""
    patches = Input("p", TensorType(f32, (BATCH, 6, 4)))
    tokens = Input("t", TensorType(f32, (BATCH, 1, 6)))
    x: Value = Concat((tokens, Transpose(patches, (0, 2, 1))), 1)
    for seed in range(3):
        x = Add(x, MatMul(Relu(x), constant(random(6, 6) + seed)))
    trace = Trace(stop_at=2000)
    before = Graph((patches, tokens), (("y", x),))
    after = default_pipeline().run(before, trace=trace)
    assert len(trace.firings) < 200
    feed = {"p": random(2, 6, 4), "t": random(2, 1, 6)}
    np.testing.assert_allclose(
        evaluate_graph(after, feed)["y"], evaluate_graph(before, feed)["y"], rtol=1e-4, atol=1e-4
    )
