"""What follows a transposed convolution channel by channel becomes part of it."""

from __future__ import annotations

import numpy as np

from ingot.compiler.ir.graph import Array, Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.composite import BatchNorm
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.pointwise import Relu
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.passes.default import default_pipeline
from ingot.runtime.dtypes import f32

RNG = np.random.default_rng(2)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def test_batch_norm_and_relu_join_the_convolution() -> None:
    x = Input("x", TensorType(f32, (1, 3, 5, 4)))
    w, bias = constant(normal(3, 6, 2, 2)), constant(normal(6))
    grown = ConvTranspose(x, w, bias, (2, 2), (0, 0, 0, 0), (1, 1), (0, 0), 1, False)
    scale, shift, mean, var = (constant(v) for v in (normal(6), normal(6), normal(6), np.abs(normal(6))))
    graph = Graph((x,), (("y", Relu(BatchNorm(grown, scale, shift, mean, var, 1e-5))),))
    made = default_pipeline().run(graph)
    (group,) = (n for n in made.nodes() if isinstance(n, Fused))
    assert [n.name for n in group.body.nodes() if n.name not in ("input", "constant")] == ["conv", "relu"]
    feed = {"x": normal(1, 3, 5, 4)}
    np.testing.assert_allclose(evaluate_graph(made, feed)["y"], evaluate_graph(graph, feed)["y"], rtol=1e-4, atol=1e-5)
