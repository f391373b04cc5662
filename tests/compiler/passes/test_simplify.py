"""Each rule of `simplify` by example: what it makes of a graph, and that the graph means the same afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Value, constant, node_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import show_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.control import If, Loop
from ingot.compiler.ops.custom.definition import custom_op
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import (
    Concat,
    DimValues,
    Expand,
    Gather,
    Iota,
    Pad,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from ingot.compiler.ops.pointwise import (
    Abs,
    Add,
    And,
    Binary,
    Cast,
    Ceil,
    Clip,
    Div,
    Equal,
    Exp,
    Floor,
    Identity,
    Less,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Reciprocal,
    Relu,
    Round,
    Sqrt,
    Sub,
    Tanh,
    Unary,
    Where,
    Xor,
)
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceProd, ReduceSum
from ingot.compiler.passes.arithmetic import holds_exactly
from ingot.compiler.passes.numbering import merge_equal
from ingot.compiler.passes.simplify import RULES, simplify
from ingot.compiler.rewrite import Trace, rule_name
from ingot.runtime import dtypes
from ingot.runtime.dtypes import boolean, f16, f32, i32, i64

N = symbol("n")
X = Input("x", TensorType(f32, (3, 4)))
Y = Input("y", TensorType(f32, (3, 4)))
S = Input("s", TensorType(f32, (N, 4)))
ROW = Input("row", TensorType(f32, (4,)))
ONE = Input("one", TensorType(f32, (1, 3, 1, 4)))
CUBE = Input("cube", TensorType(f32, (2, 3, 4)))
I = Input("i", TensorType(i64, (3,)))  # noqa: E741
J = Input("j", TensorType(i64, (2,)))
B = Input("b", TensorType(boolean, (3, 4)))
D = Input("d", TensorType(boolean, (3, 4)))
H = Input("h", TensorType(f16, (5,)))
INPUTS = (X, Y, S, ROW, ONE, CUBE, I, J, B, D, H)

TABLE = constant(np.arange(600 * 8, dtype=np.float16).reshape(600, 8))
FEED: Mapping[str, Array] = {
    "x": np.array([[0.0, -0.0, 1.5, -2.5], [np.inf, -np.inf, np.nan, 7], [3, 0.5, 1e-40, -1e30]], np.float32),
    "y": np.array([[1, 2, -3, 4], [np.nan, 1, 2, np.inf], [-0.5, 0.25, 6, 9]], np.float32),
    "s": np.arange(20, dtype=np.float32).reshape(5, 4) - 7,
    "row": np.array([1, -2, 0, 4], np.float32),
    "one": np.arange(12, dtype=np.float32).reshape(1, 3, 1, 4),
    "cube": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "i": np.array([-3, 0, 8], np.int64),
    "j": np.array([1, -1], np.int64),
    "b": np.array([True, False] * 6).reshape(3, 4),
    "d": np.array([True, True, False] * 4).reshape(3, 4),
    "h": np.array([0.1, -2, np.inf, np.nan, 0], np.float16),
}


def c(value: float) -> Constant:
    """An f32 scalar."""
    return constant(value, f32)


def ones(*shape: int) -> Constant:
    """f32 ones."""
    return constant(np.ones(shape, np.float32))


def ints(*values: int) -> Constant:
    """An i64 vector."""
    return constant(np.array(values, np.int64))


def graph(*values: Value) -> Graph:
    """A graph of all inputs above."""
    return Graph(INPUTS, tuple((f"r{i}", v) for i, v in enumerate(values)), "t")


def branch(f: Callable[[Value], Value]) -> Graph:
    """A sub-graph of one input like X."""
    x = Input("captured", X.type)
    return Graph((x,), (("r", f(x)),), "branch")


def chosen(condition: Value) -> If:
    """relu or exp of X."""
    return If(condition, (X,), branch(Relu), branch(Exp))


def scaled(captures: tuple[Value, ...]) -> If:
    """relu(x) * 2 or exp(x) + 2 of X, decided by I; the 2 is a capture or the sub-graphs' own."""

    def made(f: type[Unary], g: type[Binary]) -> Graph:
        x, two = Input("x", X.type), Input("two", TensorType(f32, ()))
        return Graph((x, two)[: len(captures)], (("r", g(f(x), two if len(captures) == 2 else c(2))),), "branch")

    return If(Less(ReduceSum(I, (0,), False), constant(0)), captures, made(Relu, Mul), made(Exp, Add))


def counted(trip: int) -> Loop:
    """X + Y `trip` times, the values before each addition stacked."""
    parts = (
        Input("iteration", TensorType(i64, ())),
        Input("go", TensorType(boolean, ())),
        Input("total", X.type),
        Input("step", Y.type),
    )
    body = Graph(parts, (("go", parts[1]), ("total", Add(parts[2], parts[3])), ("scan", parts[2])), "body")
    return Loop(constant(trip, i64), None, (X,), (Y,), body, (trip,))


@custom_op("test::Distance", form="graph")
def distance(x: Value, y: Value) -> Value:
    return Abs(Sub(x, y))


# rule -> pairs of a value and what it becomes
Cases = Mapping[str, list[tuple[Value, Value]]]
CASES: Cases = {
    "open_custom": [(distance(X, Y), Abs(Sub(X, Y)))],
    "put_constant_right": [(Add(c(2), X), Add(X, c(2))), (Equal(ints(1, 2, 3), I), Equal(I, ints(1, 2, 3)))],
    "drop_identity": [(Identity(X), X)],
    "add_zero": [(Sub(X, c(0)), X), (Add(X, constant(np.zeros((3, 4), np.float32))), X), (Add(c(0), X), X)],
    "multiply_one": [(Mul(X, ones(3, 4)), X), (Mul(ROW, ones(3, 1)), Expand(ROW, (3, 4))), (Div(I, ints(1)), I)],
    "multiply_minus_one": [(Mul(X, c(-1)), Neg(X)), (Div(I, ints(-1)), Neg(I))],
    "divide_by_power_of_two": [(Div(X, c(8)), Mul(X, c(0.125))), (Div(X, c(-0.5)), Mul(X, c(-2)))],
    "add_negated": [(Add(X, Neg(Y)), Sub(X, Y)), (Add(Neg(X), Y), Sub(Y, X)), (Sub(X, Neg(Y)), Add(X, Y))],
    "power_to_products": [
        (Pow(X, c(1)), X),
        (Pow(X, c(2)), Mul(X, X)),
        (Pow(I, ints(3)), Mul(Mul(I, I), I)),
        (Pow(X, c(-1)), Reciprocal(X)),
        (Pow(Exp(X), c(0.5)), Sqrt(Exp(X))),
        (Pow(Exp(X), c(-0.5)), Reciprocal(Sqrt(Exp(X)))),
    ],
    "divide_to_reciprocal": [(Div(c(1), X), Reciprocal(X))],
    "undo_involution": [(Neg(Neg(X)), X), (Not(Not(B)), B)],
    "drop_repeated": [(Relu(Relu(X)), Relu(X)), (Abs(Abs(X)), Abs(X))],
    "drop_absolute": [(Abs(Neg(X)), Abs(X)), (Abs(Relu(X)), Relu(X))],
    "drop_rounding": [(Floor(Ceil(X)), Ceil(X)), (Round(Cast(I, f32)), Cast(I, f32))],
    "max_to_relu": [(Max(X, c(0)), Relu(X)), (Max(ints(0), I), Relu(I))],
    "minmax_to_clip": [
        (Min(Max(X, c(-1)), c(2)), Clip(X, c(-1), c(2))),
        (Max(Min(X, c(2)), c(-1)), Clip(X, c(-1), c(2))),
        (Min(Relu(X), c(6)), Clip(X, c(0), c(6))),
    ],
    "drop_clip_bounds": [
        (Clip(X, c(-math.inf), c(3)), Clip(X, None, c(3))),
        (Clip(X, None, c(math.inf)), X),
        (Clip(X, c(0), None), Relu(X)),
    ],
    "choose_where": [
        (Where(constant(True), X, Y), X),
        (Where(constant(np.zeros((3, 4), bool)), X, ROW), Expand(ROW, (3, 4))),
        (Where(B, X, X), X),
        (Where(Not(B), X, Y), Where(B, Y, X)),
    ],
    "logic": [
        (And(B, constant(True)), B),
        (Or(B, constant(False)), B),
        (Xor(B, constant(True)), Not(B)),
        (And(B, B), B),
        (Or(B, constant(True)), constant(np.ones((3, 4), bool))),
    ],
    "merge_casts": [
        (Cast(X, f32), X),
        (Cast(Cast(H, f32), f16), H),
        (Cast(Cast(B, i64), f32), Cast(B, f32)),
        (Cast(Cast(X, i32), f32), Cast(Cast(X, i32), f32)),
    ],
    "reduce_nothing": [
        (ReduceSum(X, (), False), X),
        (ReduceMean(ONE, (0, 2), False), Reshape(ONE, (3, 4))),
        (ReduceMax(ONE, (2,), True), ONE),
    ],
    "merge_reshapes": [
        (Reshape(Reshape(X, (2, 6)), (12,)), Reshape(X, (12,))),
        (Reshape(Reshape(X, (12,)), (3, 4)), X),
    ],
    "unwrap_reshapes": [
        (Reshape(Exp(Reshape(X, (12,))), (3, 4)), Exp(X)),
        (Reshape(Mul(Reshape(S, (2 * N, 2)), c(3)), (N, 4)), Mul(S, c(3))),
    ],
    "merge_transposes": [
        (Transpose(CUBE, (0, 1, 2)), CUBE),
        (Transpose(Transpose(CUBE, (1, 2, 0)), (1, 2, 0)), Transpose(CUBE, (2, 0, 1))),
        (Transpose(Transpose(X, (1, 0)), (1, 0)), X),
    ],
    "transpose_to_reshape": [(Transpose(ONE, (1, 0, 3, 2)), Reshape(ONE, (3, 1, 4, 1)))],
    "merge_expands": [
        (Expand(X, (3, 4)), X),
        (Expand(Expand(ROW, (3, 4)), (2, 3, 4)), Expand(ROW, (2, 3, 4))),
    ],
    "broadcast_implicitly": [
        (Add(X, Expand(ROW, (3, 4))), Add(X, ROW)),
        (Where(B, X, Expand(c(3), (3, 4))), Where(B, X, c(3))),
    ],
    "merge_slices": [
        (Slice(X, (0, 0), (3, 4), (1, 1)), X),
        (Slice(Slice(X, (0, 3), (3, 4), (1, -1)), (1, 1), (2, 2), (1, 2)), Slice(X, (1, 2), (2, 2), (1, -2))),
    ],
    "slice_of_concat": [
        (Slice(Concat((X, Y), 1), (1, 5), (2, 3), (1, 1)), Slice(Y, (1, 1), (2, 3), (1, 1))),
        (Slice(Concat((X, Y), 0), (3, 0), (3, 4), (1, 1)), Y),
    ],
    "flatten_concat": [
        (Concat((X,), 1), X),
        (Concat((Concat((X, Y), 0), S), 0), Concat((X, Y, S), 0)),
        (Concat((X, Slice(Y, (0, 0), (3, 0), (1, 1))), 1), X),
    ],
    "concat_of_split": [(Concat(Split(X, 1, (1, 3)).results(), 1), X)],
    "split_once": [(Split(X, 1, (4,)).result(0), X)],
    "pad_nothing": [(Pad(X, (0, 0, 0, 0), "edge", None), X)],
    "gather_to_slice": [
        (Gather(X, ints(1, 2), 0), Slice(X, (1, 0), (2, 4), (1, 1))),
        (Gather(X, ints(3, 1), 1), Slice(X, (0, 3), (3, 2), (1, -2))),
        (Gather(S, constant(-1), 0), Reshape(Slice(S, (N - 1, 0), (1, 4), (1, 1)), (4,))),
        (Gather(X, ints(0, 2, 1), 0), Gather(X, ints(0, 2, 1), 0)),
    ],
    "gather_before_cast": [(Gather(Cast(TABLE, f32), J, 0), Cast(Gather(TABLE, J, 0), f32))],
    "inline_if": [
        (chosen(constant(True)), Relu(X)),
        (chosen(Less(DimValues((N,), True), constant(0))), Exp(X)),
    ],
    "inline_loop": [
        (counted(0).result(0), X),
        (counted(1).result(0), Add(X, Y)),
        (counted(1).result(1), Reshape(X, (1, 3, 4))),
    ],
    "capture_constants": [(scaled((X, c(2))), scaled((X,)))],
    "fold_constants": [
        (Add(X, Mul(c(2), c(3))), Add(X, c(6))),
        (MatMul(X, Transpose(ones(5, 4), (1, 0))), MatMul(X, ones(4, 5))),
        (Iota(c(0), c(2), 3), constant(np.array([0, 2, 4], np.float32))),
    ],
    "fold_shape_arithmetic": [
        (Mul(DimValues((N,), False), ints(2)), DimValues((2 * N,), False)),
        (Gather(DimValues((N, 4), False), constant(1), 0), constant(4)),
        (Cast(Add(DimValues((N,), True), constant(1)), i32), Cast(DimValues((N + 1,), True), i32)),
        (Equal(DimValues((N,), True), constant(-1)), constant(False)),
    ],
}


@pytest.mark.parametrize(("rule", "index"), [(rule, i) for rule, pairs in CASES.items() for i in range(len(pairs))])
def test_rule(rule: str, index: int) -> None:
    value, wanted = CASES[rule][index]
    before, trace = graph(value), Trace()
    after = simplify(before, trace=trace)
    assert show_graph(after) == show_graph(graph(wanted))
    if wanted is not value and show_graph(before) != show_graph(after):
        assert rule in {f.rule for f in trace.firings}
    with np.errstate(all="ignore"):
        a, b = evaluate_graph(before, FEED)["r0"], evaluate_graph(after, FEED)["r0"]
    assert a.dtype == b.dtype
    if rule == "power_to_products":
        np.testing.assert_allclose(b, a, rtol=2e-7)
    else:
        np.testing.assert_array_equal(b, a)


def test_every_rule_is_shown() -> None:
    assert CASES.keys() == {rule_name(r) for r in RULES}


@pytest.mark.parametrize(
    "value",
    [
        Mul(X, c(0)),
        Sub(X, X),
        Div(X, X),
        Div(X, c(3)),
        Pow(X, c(4)),
        Add(ROW, constant(np.array([0, 0, 0, 1], np.float32))),
        Reshape(Add(Reshape(X, (12,)), constant(np.arange(12, dtype=np.float32))), (3, 4)),
        Transpose(X, (1, 0)),
        Cast(Cast(X, f16), f32),
        Cast(Cast(I, i32), i64),
        Equal(DimValues((N,), True), constant(1)),
        Less(X, X),
    ],
)
def test_what_is_not_exact_stays(value: Value) -> None:
    before = graph(value)
    assert simplify(before) is before


def test_an_expanded_scalar_is_not_folded() -> None:
    big = Expand(c(3), (1000, 1000))
    assert simplify(graph(MatMul(X, Reshape(big, (4, 250000))))).nodes()[-1].type.shape == (3, 250000)
    assert not any(isinstance(n, Constant) and n.data.size > 1 for n in simplify(graph(big)).nodes())


def test_a_table_that_is_not_only_looked_up_is_folded() -> None:
    wide = Cast(TABLE, f32)
    after = simplify(graph(Gather(wide, J, 0), ReduceSum(wide, (0,), False)))
    assert not any(isinstance(n, Cast) and n.x is TABLE for n in after.nodes())


def test_an_index_out_of_range_is_left_to_the_run() -> None:
    value = Gather(ones(3, 2), ints(0, 7), 0)
    assert simplify(graph(value)).results == (value,)


def test_common_subexpressions() -> None:
    left, right = Exp(Add(X, c(1))), Exp(Add(X, c(1)))
    merged = merge_equal(graph(Mul(left, right), Tanh(right)))
    product, tanh = merged.results
    assert isinstance(product, Mul) and product.a is product.b
    assert isinstance(tanh, Tanh) and tanh.x is product.a
    first, second = Split(X, 1, (1, 3)), Split(X, 1, (1, 3))
    parts = merge_equal(graph(first.result(1), second.result(1))).results
    assert parts[0] is parts[1]
    assert merge_equal(merged) is merged


def test_common_subexpressions_keep_what_differs() -> None:
    values = (
        Add(X, c(0.1)),
        Add(X, constant(0.0, f32)),
        Add(X, constant(-0.0, f32)),
        ReduceSum(X, (1,), True),
        ReduceSum(X, (1,), False),
        ReduceProd(X, (1,), False),
        Cast(X, f16),
        Cast(X, i32),
    )
    before = graph(*values)
    assert merge_equal(before) is before


def test_common_subexpressions_in_sub_graphs() -> None:
    inner = branch(lambda x: Add(Exp(x), Exp(x)))
    condition = Less(ReduceSum(I, (0,), False), constant(0))
    after = merge_equal(graph(If(condition, (X,), inner, branch(Relu))))
    node = node_of(after.results[0])
    assert isinstance(node, If)
    total = node.then_graph.results[0]
    assert isinstance(total, Add) and total.a is total.b


def test_rules_reach_into_sub_graphs() -> None:
    condition = Less(ReduceSum(I, (0,), False), constant(0))
    after = simplify(graph(If(condition, (X,), branch(lambda x: Neg(Neg(x))), branch(Relu))))
    node = node_of(after.results[0])
    assert isinstance(node, If)
    assert isinstance(node.then_graph.results[0], Input)


def test_a_deep_graph() -> None:
    value: Value = X
    for i in range(5000):
        value = Tanh(value) if i % 2 else Add(Exp(value), Y)
    after = simplify(graph(value))
    assert len(after.nodes()) == len(INPUTS) + 7500


def test_holds_exactly_is_true_to_the_values() -> None:
    samples = {
        "f32": np.array([1.5, 2**24 + 1, 3e38, 1e-45], np.float32),
        "f16": np.array([65504, 6e-8, 0.1, -3], np.float16),
        "bf16": np.array([3e38, 1e-40, 0.1, -3]).astype(dtypes.bf16.to_numpy()),
        "f64": np.array([1e300, 1e-310, 0.1]),
        "bool": np.array([True, False]),
        **{
            t.name: np.array([np.iinfo(t.to_numpy()).min, np.iinfo(t.to_numpy()).max, 1], t.to_numpy())
            for t in dtypes.ALL
            if t.is_integer
        },
    }
    for narrow in dtypes.ALL:
        for wide in dtypes.ALL:
            data = samples[narrow.name]
            with np.errstate(all="ignore"):
                back = data.astype(wide.to_numpy()).astype(narrow.to_numpy())
                survives = bool(np.all(back == data))
                if narrow.name == "u64" or narrow.name == "i64":  # a cast back saturates or wraps by accident
                    survives = survives and not wide.is_float
            if holds_exactly(wide, narrow):
                assert survives, (wide, narrow)


VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, -2.5, math.inf, -math.inf])
UNARY = (Abs, Neg, Relu, Floor, Ceil, Round, Identity)
BINARY = (Add, Sub, Mul, Div, Min, Max, Pow)


@st.composite
def programs(draw: st.DrawFn) -> Value:
    """Random pointwise and movement graphs over X, Y, ROW and special constants."""
    values: list[Value] = [X, Y, Expand(ROW, (3, 4)), ones(3, 4)]
    for _ in range(draw(st.integers(1, 10))):
        match draw(st.integers(0, 5)):
            case 0:
                values.append(draw(st.sampled_from(UNARY))(draw(st.sampled_from(values))))
            case 1:
                values.append(
                    draw(st.sampled_from(BINARY))(draw(st.sampled_from(values)), draw(st.sampled_from(values)))
                )
            case 2:
                kind = draw(st.sampled_from(BINARY[:-1]))
                values.append(kind(draw(st.sampled_from(values)), c(draw(VALUES))))
            case 3:
                values.append(kind_of_two(draw(st.sampled_from(values)), draw(st.booleans())))
            case 4:
                choice = [draw(st.sampled_from(values)) for _ in range(2)]
                values.append(Where(draw(st.sampled_from([B, Not(D), And(B, D), constant(True)])), *choice))
            case _:
                values.append(Clip(draw(st.sampled_from(values)), c(draw(VALUES)), c(draw(VALUES))))
    return values[-1]


def kind_of_two(value: Value, transposed: bool) -> Value:
    """value through two movements and back."""
    if transposed:
        return Transpose(Neg(Transpose(value, (1, 0))), (1, 0))
    return Reshape(Abs(Reshape(value, (2, 6))), (3, 4))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(programs())
def test_simplify_keeps_the_meaning(value: Value) -> None:
    before = graph(value)
    after = simplify(before)
    with np.errstate(all="ignore"):
        a, b = evaluate_graph(before, FEED)["r0"], evaluate_graph(after, FEED)["r0"]
    np.testing.assert_array_equal(a, b)
    assert simplify(after) is after
