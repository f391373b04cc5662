"""Sinking movement keeps every result, ends, and brings pointwise ops beside what makes their operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Constant, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import show_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Concat, Pad, Reshape, Slice, Split, Transpose
from ingot.compiler.ops.pointwise import Add, Exp, Mul, Neg, Relu
from ingot.compiler.ops.reduction import ReduceMax, ReduceSum
from ingot.compiler.passes import sink
from ingot.compiler.passes.axes import Run, carried, runs
from ingot.compiler.passes.simplify import simplify
from ingot.compiler.rewrite import rewrite
from ingot.runtime.dtypes import f32

N = symbol("n")
X = Input("x", TensorType(f32, (N, 4, 6)))
Y = Input("y", TensorType(f32, (N, 4, 6)))
RANDOM = np.random.default_rng(3)
FEED = {"x": RANDOM.standard_normal((3, 4, 6), np.float32), "y": RANDOM.standard_normal((3, 4, 6), np.float32)}


def row(*shape: int) -> Constant:
    return constant(np.random.default_rng(sum(shape)).standard_normal(shape, np.float32))


def graph(*values: Value) -> Graph:
    return Graph((X, Y), tuple((f"r{i}", v) for i, v in enumerate(values)), "t")


def sunk(before: Graph) -> Graph:
    after = simplify(rewrite(simplify(before), sink.RULES))
    want, have = evaluate_graph(before, FEED), evaluate_graph(after, FEED)
    for name, array in want.items():
        np.testing.assert_allclose(have[name], array, rtol=1e-5, atol=1e-5)
    return after


TURNED = Transpose(X, (0, 2, 1))
CASES: Mapping[str, tuple[Value, Value]] = {
    "two transposes cancel": (Transpose(Relu(TURNED), (0, 2, 1)), Relu(X)),
    "a constant is turned": (
        Transpose(Add(TURNED, row(6, 1)), (0, 2, 1)),
        Add(X, constant(row(6, 1).data.reshape(1, 1, 6))),
    ),
    "a reduction": (
        ReduceSum(TURNED, (1,), True),
        Transpose(ReduceSum(X, (2,), True), (0, 2, 1)),
    ),
    "bias after a folded batch": (
        Add(Reshape(MatMul(Reshape(X, (N * 4, 6)), row(6, 5)), (N, 4, 5)), row(5)),
        Add(MatMul(X, row(6, 5)), row(5)),
    ),
    "heads are cut": (
        Reshape(Slice(Reshape(X, (N, 4, 3, 2)), (0, 0, 1, 0), (N, 4, 1, 2), (1, 1, 1, 1)), (N, 4, 2)),
        Slice(X, (0, 0, 2), (N, 4, 2), (1, 1, 1)),
    ),
    "split and joined": (Concat(tuple(Relu(p) for p in Split(X, 2, (6,)).results()), 2), Relu(X)),
    "cut and joined": (
        Concat(
            (Slice(X, (0, 0, 0), (N, 4, 2), (1, 1, 1)), Slice(X, (0, 0, 2), (N, 4, 4), (1, 1, 1))),
            2,
        ),
        X,
    ),
    "merged axes move together": (
        Reshape(Transpose(Reshape(X, (N, 2, 2, 6)), (0, 3, 1, 2)), (N, 6, 4)),
        TURNED,
    ),
    "rows of a product": (
        Transpose(MatMul(Transpose(X, (1, 0, 2)), row(6, 5)), (1, 0, 2)),
        MatMul(X, row(6, 5)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sinks(name: str) -> None:
    before, wanted = CASES[name]
    assert show_graph(sunk(graph(before))) == show_graph(simplify(graph(wanted)))


@pytest.mark.parametrize(
    "value",
    [
        ReduceMax(Relu(Reshape(X, (N, 3, 8))), (2,), True),  # the reduction would be parted from the relu
        Add(Reshape(X, (N, 24)), Reshape(Transpose(Y, (0, 2, 1)), (N, 24))),
        Reshape(TURNED, (N, 24)),
    ],
)
def test_stays(value: Value) -> None:
    before = simplify(graph(value))
    assert show_graph(sunk(before)) == show_graph(before)


def test_runs() -> None:
    assert runs((N, 4, 6), (N * 4, 2, 3)) == (Run((0, 1), (0,)), Run((2,), (1, 2)))
    assert runs((2, 1, 6), (1, 2, 6, 1)) == (Run((0,), (1,)), Run((2,), (2,)))
    assert runs((4, 6), (6, 4)) == (Run((0, 1), (0, 1)),)
    assert runs((0, 6), (6, 0)) is None
    assert runs((N, 6), (6, symbol("m"))) is None


def test_carried() -> None:
    assert carried((1, 6), (4, 6), (4, 2, 3)) == (2, 3)
    assert carried((4, 1), (4, 6), (4, 2, 3)) == (4, 1, 1)
    assert carried((), (4, 6), (4, 2, 3)) == ()
    assert carried((2, 1), (2, 3), (6,)) is None
    assert carried((1,), (4, 6), (24,)) == (1,)


PERMS = [(0, 2, 1), (1, 0, 2), (2, 0, 1), (2, 1, 0)]
SHAPES: list[tuple[int, ...]] = [(3, 4, 6), (3, 24), (12, 6), (3, 2, 2, 6), (3, 4, 2, 3), (3, 1, 4, 6), (6, 12), (72,)]


@st.composite
def movements(draw: st.DrawFn) -> Value:
    """Random chains of movement and computing on values of 72 elements."""
    values: list[Value] = [*STATIC]
    for _ in range(draw(st.integers(2, 9))):
        x = draw(st.sampled_from(values))
        match draw(st.integers(0, 7)):
            case 0 | 1:
                perm = draw(st.permutations(range(x.rank)))
                values.append(Transpose(x, tuple(perm)))
            case 2 | 3:
                fitting = [s for s in SHAPES if np.prod(s) == x.type.size]
                if fitting:
                    values.append(Reshape(x, draw(st.sampled_from(fitting))))
            case 4:
                values.append(draw(st.sampled_from([Relu, Neg, Exp]))(x))
            case 5:
                other = draw(st.sampled_from([v for v in values if v.type == x.type]))
                kind: Callable[..., Any] = draw(st.sampled_from([Add, Mul]))
                values.append(kind(x, other))
            case 6:
                shape = [d if draw(st.booleans()) else 1 for d in x.type.static_shape()]
                values.append(Add(x, row(*shape)))
            case _:
                axis = draw(st.integers(0, x.rank - 1))
                values.append(draw(st.sampled_from([ReduceSum, ReduceMax]))(x, (axis,), True))
    return values[-1]


STATIC = (Input("x", TensorType(f32, (3, 4, 6))), Input("y", TensorType(f32, (3, 4, 6))))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(movements())
def test_sinking_keeps_the_meaning(value: Value) -> None:
    before = Graph(STATIC, (("r0", value),), "t")
    after = rewrite(simplify(before), sink.RULES)
    with np.errstate(all="ignore"):
        want, have = evaluate_graph(before, FEED)["r0"], evaluate_graph(after, FEED)["r0"]
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)
    assert rewrite(after, sink.RULES) is after


def test_a_pad_of_a_transpose() -> None:
    after = sunk(graph(Pad(TURNED, (0, 1, 0, 0, 2, 3), "edge", None)))
    assert isinstance(after.results[0], Transpose)
