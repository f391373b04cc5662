"""Symbolic contents of shape-computing sub-graphs, against their evaluation on concrete dims."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.movement import Concat, DimValues, Expand, Gather, Iota, Reshape, Slice, Split, Transpose
from ingot.compiler.ops.pointwise import (
    Abs,
    Add,
    Cast,
    Clip,
    Div,
    Equal,
    Floor,
    Fmod,
    Greater,
    Max,
    Min,
    Mod,
    Mul,
    Neg,
    Not,
    Pow,
    Relu,
    Sub,
    Where,
)
from ingot.compiler.ops.reduction import ReduceMax, ReduceMin, ReduceProd, ReduceSum
from ingot.compiler.ops.shape_arithmetic import contents, known_dims
from ingot.runtime.dtypes import boolean, f32, i32, i64

B, S = symbol("batch"), symbol("seq")
X = Input("x", TensorType(f32, (B, S, 12)))
UNKNOWN = Input("unknown", TensorType(i64, (2,)))
SHAPE = DimValues((B, S, 12), False)
SEQ = Gather(SHAPE, constant(1), 0)


def ints(*values: int) -> Constant:
    """An i64 vector."""
    return constant(np.array(values, np.int64))


def joined(*parts: Value) -> Value:
    """Scalars as one vector."""
    return Concat(tuple(Reshape(p, (1,)) for p in parts), 0)


def torch_pads(value: Value) -> Value:
    """Pads reversed in pairs, as torch writes them: [a, b, c, d] -> [c, a, d, b]."""
    pairs = Slice(Reshape(value, (2, 2)), (1, 0), (2, 2), (-1, 1))
    return Reshape(Transpose(pairs, (1, 0)), (4,))


KNOWN: Mapping[str, tuple[Value, tuple[Dim, ...]]] = {
    "gather": (Gather(SHAPE, ints(0, -1), 0), (B, 12)),
    "scalar": (SEQ, (S,)),
    "heads": (joined(Gather(SHAPE, constant(0), 0), SEQ, constant(3), Div(constant(12), constant(3))), (B, S, 3, 4)),
    "slice": (Slice(SHAPE, (2,), (2,), (-1,)), (12, S)),
    "arithmetic": (Sub(Mul(SEQ, constant(2)), Add(SEQ, constant(1))), (S - 1,)),
    "halved": (Div(Add(SEQ, constant(1)), constant(2)), ((S + 1) // 2,)),
    "exact": (Div(Mul(SEQ, constant(6)), constant(3)), (2 * S,)),
    "remainder": (Mod(SEQ, constant(8)), (S % 8,)),
    "expand_target": (Where(Equal(SHAPE, ints(-1, -1, -1)), ints(1, 1, 1), SHAPE), (B, S, 12)),
    "where_unknown_same": (Where(Equal(SEQ, constant(3)), SEQ, SEQ), (S,)),
    "clamped": (Min(SEQ, constant(2**63 - 1)), (S,)),
    "clamped_below": (Max(SEQ, constant(0)), (S,)),
    "clipped": (Clip(SEQ, constant(0), None), (S,)),
    "relu": (Relu(Sub(SEQ, constant(3))), (dims.maximum(S - 3, 0),)),
    "size": (ReduceProd(SHAPE, (0,), False), (12 * B * S,)),
    "sum": (ReduceSum(SHAPE, (0,), True), (B + S + 12,)),
    "largest": (ReduceMax(joined(SEQ, Add(SEQ, constant(5))), (0,), False), (S + 5,)),
    "float_detour": (Cast(Floor(Mul(Cast(SEQ, f32), constant(2.0, f32))), i64), (2 * S,)),
    "i32": (Cast(SHAPE, i32), (B, S, 12)),
    "bool": (Cast(Not(Equal(SEQ, constant(-2))), i64), (1,)),
    "split": (Split(SHAPE, 0, (1, 2)).result(1), (S, 12)),
    "expand": (Expand(SEQ, (3,)), (S, S, S)),
    "iota": (Iota(SEQ, constant(2), 3), (S, S + 2, S + 4)),
    "power": (Pow(SEQ, constant(2)), (S * S,)),
    "torch_pads": (torch_pads(joined(SEQ, constant(0), constant(3), Neg(SEQ))), (3, S, -S, 0)),
    "nothing": (Slice(SHAPE, (0,), (0,), (1,)), ()),
    "partly": (Slice(Concat((UNKNOWN, SHAPE), 0), (2,), (2,), (1,)), (B, S)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known(name: str) -> None:
    value, wanted = KNOWN[name]
    assert known_dims(value) == wanted
    assert known_dims(value) == wanted  # memoised
    feed: dict[str, Array] = {"x": np.ones((2, 7, 12), np.float32), "unknown": np.array([5, 6])}
    found = evaluate_graph(Graph((X, UNKNOWN), (("r", value),)), feed)["r"]
    assert found.ravel().tolist() == [dims.evaluate(d, {"batch": 2, "seq": 7}) for d in wanted]


@pytest.mark.parametrize(
    "value",
    [
        UNKNOWN,
        Concat((UNKNOWN, SHAPE), 0),
        Reshape(SHAPE, (1, 3)),
        Cast(SHAPE, f32),
        Iota(constant(0), constant(1), 65),
        Div(SEQ, constant(0)),
        Where(Equal(SEQ, constant(1)), constant(1), constant(2)),
        Cast(Mul(Cast(SEQ, f32), constant(0.5, f32)), i64),
        Gather(SHAPE, UNKNOWN, 0),
        Gather(SHAPE, constant(7), 0),
        Cast(Greater(SEQ, constant(4)), i64),
    ],
    ids=range(11),
)
def test_not_known(value: Value) -> None:
    assert known_dims(value) is None


def test_elements_are_known_one_by_one() -> None:
    found = contents(Reshape(Concat((UNKNOWN, Slice(SHAPE, (1,), (2,), (1,))), 0), (2, 2)))
    assert found is not None
    assert found.tolist() == [[None, None], [S, 12]]


def test_truth_values() -> None:
    found = contents(Equal(joined(SEQ, constant(3), SEQ), joined(constant(-1), constant(3), constant(4))))
    assert found is not None
    assert found.tolist() == [False, True, None]
    unknown = contents(Input("b", TensorType(boolean, ())))
    assert unknown is not None and unknown.item() is None
    assert contents(X) is None


def test_a_deep_chain() -> None:
    value: Value = SEQ
    for _ in range(5000):
        value = Add(value, constant(1))
    assert known_dims(value) == (S + 5000,)


BINARY: Mapping[str, Callable[[Value, Value], Value]] = {
    "add": Add,
    "sub": Sub,
    "mul": Mul,
    "min": Min,
    "max": Max,
    "div": lambda a, b: Div(a, Max(b, constant(1))),
    "div_negative": lambda a, b: Div(a, Min(b, constant(-1))),
    "mod": lambda a, b: Mod(a, Max(b, constant(1))),
    "fmod": lambda a, b: Fmod(a, Max(b, constant(1))),
    "abs": lambda a, b: Abs(Sub(a, b)),
    "where": lambda a, b: Where(Greater(a, b), Neg(a), b),
    "reduce": lambda a, b: ReduceMin(joined(a, b), (0,), False),
}


@st.composite
def computations(draw: st.DrawFn) -> Value:
    """Random integer arithmetic on two dims."""
    values: list[Value] = [SEQ, Gather(SHAPE, constant(0), 0), constant(3), constant(-2), constant(8)]
    for _ in range(draw(st.integers(1, 6))):
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        values.append(BINARY[draw(st.sampled_from(sorted(BINARY)))](a, b))
    return values[-1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(computations(), st.integers(0, 9), st.integers(0, 9))
def test_what_is_known_is_what_evaluates(value: Value, batch: int, seq: int) -> None:
    known = known_dims(value)
    if known is None:
        return
    feed: dict[str, Array] = {"x": np.ones((batch, seq, 12), np.float32), "unknown": np.array([5, 6])}
    found = evaluate_graph(Graph((X, UNKNOWN), (("r", value),)), feed)["r"]
    assert found.item() == dims.evaluate(known[0], {"batch": batch, "seq": seq})
