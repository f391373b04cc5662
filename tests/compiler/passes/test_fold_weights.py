"""Folding a transposition of a weight reads nothing: the constant is a view, whatever the size of the weight."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.graph import Constant, Graph, Input, constant
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Transpose
from ingot.compiler.ops.pointwise import Add
from ingot.compiler.passes.simplify import simplify
from ingot.runtime.dtypes import f32

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (33, 5), (48, 64)])
def test_a_transposed_weight_is_a_view(rows: int, columns: int) -> None:
    weight = RNG.standard_normal((rows, columns)).astype(np.float32)
    x = Input("x", TensorType(f32, (3, columns)))
    graph = Graph((x,), (("y", MatMul(x, Transpose(constant(weight), (1, 0)))),))
    (folded,) = (node for node in simplify(graph).nodes() if isinstance(node, Constant))
    assert np.shares_memory(folded.data, weight)
    np.testing.assert_array_equal(folded.data, weight.T)
    given = RNG.standard_normal((3, columns)).astype(np.float32)
    with compile(graph).session(threads=1) as session:
        found = session.run({"x": given})["y"]
    np.testing.assert_allclose(found, given.astype(np.float64) @ weight.T, rtol=1e-4, atol=1e-5)


def test_views_that_are_results_or_added() -> None:
    """A transposed constant as an output, as a plain operand and transposed back."""
    data = RNG.standard_normal((2, 3, 5)).astype(np.float32)
    x = Input("x", TensorType(f32, (5, 2, 3)))
    turned = Transpose(constant(data), (2, 0, 1))
    back = Transpose(turned, (1, 2, 0))
    graph = Graph((x,), (("sum", Add(x, turned)), ("turned", turned), ("back", back)))
    given = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    with compile(graph).session(threads=1) as session:
        found = session.run({"x": given})
    np.testing.assert_array_equal(found["turned"], data.transpose(2, 0, 1))
    np.testing.assert_array_equal(found["back"], data)
    np.testing.assert_array_equal(found["sum"], given + data.transpose(2, 0, 1))
