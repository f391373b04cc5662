"""Lowering as a whole: cost that stays linear, names that meet, one status for all sub-graphs."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.loops import Call, Expr
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.composite import Silu
from ingot.compiler.ops.control import Loop
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.pointwise import Add, Mul
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.registry import find_target
from ingot.runtime import RuntimeFault
from ingot.runtime.dtypes import boolean, f32, i64

X = Input("x", TensorType(f32, (symbol("n"), 8)))


def doubled(x: Value, times: int) -> Value:
    for _ in range(times):
        x = Mul(Add(x, x), constant(np.float32(0.5)))
    return x


def largest_expression(graph: Graph) -> int:
    """Calls in the largest expression of the lowered program."""

    def size(expr: Expr) -> int:
        return 1 + sum(map(size, expr.args)) if isinstance(expr, Call) else 0

    program = lower(default_pipeline().run(graph), find_target("cpu").machine)
    sizes = [0]
    for launch in program.launches():
        stack: list[object] = [launch.kernel.body]
        while stack:
            item = stack.pop()
            if isinstance(item, Call):
                sizes.append(size(item))
            elif isinstance(item, tuple):
                stack.extend(item)
            elif hasattr(item, "__slots__"):
                stack.extend(getattr(item, name) for name in item.__slots__)  # type: ignore[attr-defined]
    return max(sizes)


def test_reused_values_are_computed_once() -> None:
    """x+x, then that plus itself, and so on: 2**60 terms if written out."""
    graph = Graph((X,), (("y", doubled(X, 60)),))
    assert largest_expression(graph) < 10
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    with compile(graph).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], x)


def test_reuse_after_a_matmul() -> None:
    value: Value = MatMul(X, constant(np.eye(8, dtype=np.float32)))
    for _ in range(24):
        value = Silu(value)
    graph = Graph((X,), (("y", value),))
    assert largest_expression(graph) < 200
    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(3, 8)
    with compile(graph).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_allclose(have, evaluate_graph(graph, {"x": x})["y"], rtol=1e-4, atol=1e-6)


def test_an_input_may_be_an_output_of_the_same_name() -> None:
    graph = Graph((X,), (("y", Add(X, X)), ("x", X)))
    x = np.ones((2, 8), np.float32)
    with compile(graph).session(threads=1) as session:
        have = session.run({"x": x})
    assert list(have) == ["y", "x"]
    np.testing.assert_array_equal(have["x"], x)


@pytest.mark.parametrize("index", [1, 5])
def test_faults_inside_and_outside_a_loop_share_the_status(index: int) -> None:
    table = constant(np.arange(4, dtype=np.float32))
    k = Input("k", TensorType(i64, ()))
    i, go = Input("i", TensorType(i64, ())), Input("go", TensorType(boolean, ()))
    total, key = Input("total", TensorType(f32, ())), Input("key", TensorType(i64, ()))
    body = Graph((i, go, total, key), (("go", go), ("total", Add(total, Gather(table, key, 0)))), "body")
    loop = Loop(constant(np.int64(3)), None, (Gather(table, k, 0),), (k,), body, ())
    graph = Graph((k,), (("y", loop.result(0)),))
    with compile(graph).session(threads=1) as session:
        if index < 4:
            assert session.run({"k": np.array(index)})["y"] == 4 * index
        else:
            with pytest.raises(RuntimeFault, match="index is out of range"):
                session.run({"k": np.array(index)})
