"""Evaluation of graphs: binding of symbols, sub-graphs, checks on results, specialisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Array, Graph, Input, Node, Value, constant, op
from ingot.compiler.ir.interpret import BindingError, bind, evaluate_graph, specialise
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.ops.control import If, Loop
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.movement import Concat, DimValues, Expand, Reshape, Slice, Split
from ingot.compiler.ops.pointwise import Add, Exp, Greater, Mul, Neg, Relu
from ingot.compiler.ops.reduction import ReduceSum
from ingot.runtime.dtypes import boolean, f32, i64

N, M = symbol("n"), symbol("m")
X = Input("x", TensorType(f32, (N, 4)))
Y = Input("y", TensorType(f32, (M, 2 * N)))


def ones(*shape: int) -> Array:
    """f32 ones."""
    return np.ones(shape, np.float32)


def one(value: Value, *inputs: Input, **ranges: tuple[int, int]) -> Graph:
    """A graph with one output."""
    return Graph(inputs or (X,), (("r", value),), "g", ranges)


def test_symbols_are_bound_and_checked() -> None:
    g = one(Reshape(Y, (2 * M * N,)), X, Y)
    assert bind(g, {"x": ones(3, 4), "y": ones(5, 6)}) == {"n": 3, "m": 5}
    assert evaluate_graph(g, {"x": ones(3, 4), "y": ones(0, 6)})["r"].shape == (0,)


def test_a_symbol_is_solved_from_an_expression() -> None:
    z = Input("z", TensorType(f32, (2 * N + 1,)))
    assert bind(one(z, z), {"z": ones(7)}) == {"n": 3}
    with pytest.raises(BindingError, match=r"input 'z' axis 0: 2\*n \+ 1 does not tell n"):
        bind(one(z, z), {"z": ones(8)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": ones(3, 5)}, r"missing: \['y'\]"),
        ({"x": ones(3, 4), "y": ones(1, 6), "z": ones(1)}, r"unknown: \['z'\]"),
        ({"x": ones(3, 5), "y": ones(1, 6)}, r"input 'x' axis 1: expected 4, got 5"),
        ({"x": ones(3, 4), "y": ones(1, 7)}, r"input 'y' axis 1: expected 2\*n = 6 \(with n = 3\), got 7"),
        ({"x": ones(3), "y": ones(1, 7)}, r"input 'x': expected f32\[n, 4\], got f32\[3\]"),
        ({"x": np.ones((3, 4)), "y": ones(1, 6)}, r"input 'x': expected f32\[n, 4\], got f64\[3, 4\]"),
        ({"x": ones(9, 4), "y": ones(1, 18)}, r"n = 9 is outside its range 1\.\.8"),
    ],
)
def test_contradictions_are_named(inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(BindingError, match=message):
        evaluate_graph(one(Reshape(Y, (2 * M * N,)), X, Y, n=(1, 8)), inputs)


def test_symbolic_attributes() -> None:
    ends = Slice(X, (N - 1, 0), (1, 4), (1, 1))
    g = one(Concat((Expand(ends, (N, 4)), X), 0))
    data = np.arange(12, dtype=np.float32).reshape(3, 4)
    wanted = np.concatenate([np.tile(data[2:], (3, 1)), data])
    np.testing.assert_array_equal(evaluate_graph(g, {"x": data})["r"], wanted)
    np.testing.assert_array_equal(evaluate_graph(one(DimValues((N, 2 * N), False)), {"x": data})["r"], [3, 6])


def test_sub_graphs_see_the_dims_around_them() -> None:
    x = Input("inner", X.type)
    flat = Graph((x,), (("r", Reshape(x, (4 * N,))),), "flat")
    other = Input("inner", X.type)
    padded = Graph((other,), (("r", Reshape(Neg(other), (4 * N,))),), "negated")
    condition = Greater(ReduceSum(X, (0, 1), False), constant(0.0, f32))
    g = one(If(condition, (X,), flat, padded))
    np.testing.assert_array_equal(evaluate_graph(g, {"x": ones(2, 4)})["r"], ones(8))
    np.testing.assert_array_equal(evaluate_graph(g, {"x": -ones(2, 4)})["r"], ones(8))


def test_a_loop_with_an_extent_that_only_the_run_tells() -> None:
    limit = Input("limit", TensorType(i64, ()))
    count = symbol("count")
    parts = (Input("i", TensorType(i64, ())), Input("go", TensorType(boolean, ())), Input("a", X.type))
    body = Graph(parts, (("go", parts[1]), ("a", Add(parts[2], parts[2])), ("s", parts[2])), "body")
    loop = Loop(limit, None, (X,), (), body, (count,))
    rows = loop.result(1)
    g = Graph((X, limit), (("rows", rows), ("flat", Reshape(rows, (count * 4 * N,)))))
    for trips in (0, 1, 3):
        found = evaluate_graph(g, {"x": ones(2, 4), "limit": np.array(trips)})
        assert found["rows"].shape == (trips, 2, 4)
        np.testing.assert_array_equal(found["rows"][:, 0, 0], 2.0 ** np.arange(trips))
        assert found["flat"].shape == (trips * 8,)


def test_several_results_and_shared_values() -> None:
    first, second = Split(X, 1, (1, 3)).results()
    g = Graph((X,), (("a", first), ("b", Add(second, first)), ("again", first), ("x", X)))
    data = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = evaluate_graph(g, {"x": data})
    np.testing.assert_array_equal(found["b"], data[:, 1:] + data[:, :1])
    assert found["a"] is found["again"]
    np.testing.assert_array_equal(found["x"], data)


def test_a_long_chain_and_a_wide_diamond() -> None:
    value: Value = X
    for _ in range(3000):
        value = Mul(Add(value, value), constant(0.5, f32))
    np.testing.assert_array_equal(evaluate_graph(one(value), {"x": ones(1, 4)})["r"], ones(1, 4))


@op("test_interpret_liar")
class Liar(Node):
    """Says one thing and does another."""

    x: Value
    dtype_too: bool

    def infer(self) -> Sequence[TensorType]:
        return (TensorType(f32, (*self.x.shape, 2)),)

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return (np.stack([operands[0]] * 2, -1).astype(np.float64) if self.dtype_too else operands[0],)


@op("test_interpret_square")
class Square(Node):
    """Defined by its expansion alone."""

    x: Value

    def infer(self) -> Sequence[TensorType]:
        return (self.x.type,)

    def expand(self) -> Value:
        return Mul(self.x, self.x)


@op("test_interpret_undefined")
class Undefined(Node):
    """Neither evaluate nor expand."""

    x: Value

    def infer(self) -> Sequence[TensorType]:
        return (self.x.type,)


def test_results_are_checked_against_the_type() -> None:
    with pytest.raises(
        IrError, match=r"liar \(here\): result 0 is declared f32\[3, 4, 2\] but evaluates to f32\[3, 4\]"
    ):
        evaluate_graph(one(Liar(X, False, origin=("here",))), {"x": ones(3, 4)})
    with pytest.raises(IrError, match=r"evaluates to f64\[3, 4, 2\]"):
        evaluate_graph(one(Liar(X, True)), {"x": ones(3, 4)})


def test_an_op_defined_by_expansion() -> None:
    np.testing.assert_array_equal(evaluate_graph(one(Square(X)), {"x": 3 * ones(1, 4)})["r"], 9 * ones(1, 4))
    with pytest.raises(IrError, match="neither evaluate nor expand"):
        evaluate_graph(one(Undefined(X)), {"x": ones(1, 4)})


def test_an_input_that_is_not_declared() -> None:
    with pytest.raises(IrError, match="'y' is used but is not among the inputs"):
        evaluate_graph(one(Add(Reshape(Y, (N, 4)), X)), {"x": ones(3, 4)})


def test_specialise() -> None:
    inner = Input("inner", X.type)
    group = Fused((X,), Graph((inner,), (("r", Relu(Exp(inner))),), "body"))
    g = one(Reshape(group, (2 * N, 2)), n=(1, 8), m=(0, 3))
    static = specialise(g, {"n": 3})
    assert all(t.is_static for node in static.nodes() for t in node.types)
    assert static.inputs[0].declared.shape == (3, 4)
    assert static.ranges == {"m": (0, 3)}
    data = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(evaluate_graph(static, {"x": data})["r"], evaluate_graph(g, {"x": data})["r"])
    assert specialise(g, {}) is g
    assert specialise(static, {"n": 3}) is static
    with pytest.raises(IrError, match=r"n = 9 is outside its range 1\.\.8"):
        specialise(g, {"n": 9})


def test_specialise_refuses_what_does_not_fit() -> None:
    g = one(Reshape(X, (N // 2, 8)))
    assert specialise(g, {"n": 4}).results[0].type.shape == (2, 8)
    with pytest.raises(IrError, match="reshape"):
        specialise(g, {"n": 3})
