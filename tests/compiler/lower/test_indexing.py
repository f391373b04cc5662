"""Lookups with constant indices need no checks; indices out of range at run time are reported."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.execute import FaultError, run_program
from ingot.compiler.ir.graph import Array, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.indexing import Scatter, TopK
from ingot.compiler.ops.movement import Gather, Transpose
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32, i64

X = Input("x", TensorType(f32, (4, 5, 3)))
FEED = {"x": np.arange(60, dtype=np.float32).reshape(4, 5, 3)}


def lowered(*results: Value, inputs: tuple[Input, ...] = (X,)) -> tuple[Graph, Program]:
    graph = Graph(inputs, tuple((f"y{i}", v) for i, v in enumerate(results)))
    program = lower(graph, find_target("cpu").machine)
    verify_program(program)
    return graph, program


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("indices", [np.array([[0, -1], [2, -3]]), np.array(1), np.array([], np.int64)])
def test_constant_indices_are_not_checked(axis: int, indices: Array) -> None:
    graph, program = lowered(Gather(X, constant(indices.astype(np.int32)), axis))
    assert not program.faults
    np.testing.assert_array_equal(run_program(program, FEED)["y0"], evaluate_graph(graph, FEED)["y0"])


def test_a_constant_index_out_of_range_is_reported_when_the_model_runs() -> None:
    _, program = lowered(Gather(X, constant(np.array([0, 5])), 0))
    with pytest.raises(FaultError, match="index is out of range for axis 0"):
        run_program(program, FEED)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_index_known_at_run_time_picks_from_a_transposed_table(axis: int, shape: tuple[int, ...]) -> None:
    index = Input("i", TensorType(i64, shape))
    graph, program = lowered(Gather(Transpose(X, (2, 0, 1)), index, axis), inputs=(X, index))
    extent = (3, 4, 5)[axis]
    for place in (0, extent - 1, -1, -extent):
        feed = {**FEED, "i": np.full(shape, place)}
        np.testing.assert_array_equal(run_program(program, feed)["y0"], evaluate_graph(graph, feed)["y0"])
    for place in (extent, -extent - 1):
        with pytest.raises(FaultError, match=f"index is out of range for axis {axis}"):
            run_program(program, {**FEED, "i": np.full(shape, place)})


def test_an_index_into_nothing_is_checked() -> None:
    x, index = Input("x", TensorType(f32, (4, symbol("n"), 3))), Input("i", TensorType(i64, ()))
    _, program = lowered(Gather(x, index, 0), inputs=(x, index))
    assert run_program(program, {"x": np.zeros((4, 0, 3), np.float32), "i": np.array(3)})["y0"].shape == (0, 3)
    with pytest.raises(FaultError, match="index is out of range for axis 0"):
        run_program(program, {"x": np.zeros((4, 0, 3), np.float32), "i": np.array(4)})


@pytest.mark.parametrize("bad", [5, -6])
def test_a_scattered_index_out_of_range_is_reported(bad: int) -> None:
    indices, updates = Input("i", TensorType(i64, (4, 1, 1))), Input("u", TensorType(f32, (4, 2, 3)))
    _, program = lowered(Scatter(X, indices, updates, 1, "add"), inputs=(X, indices, updates))
    feed = {**FEED, "i": np.array([0, 4, bad, 1]).reshape(4, 1, 1), "u": np.ones((4, 2, 3), np.float32)}
    with pytest.raises(FaultError, match="index is out of range for axis 1"):
        run_program(program, feed)


def test_top_k_leaves_the_operand_alone() -> None:
    chosen = TopK(X, 2, 1, True)
    graph, program = lowered(*chosen.results(), X)
    have, want = run_program(program, FEED), evaluate_graph(graph, FEED)
    for name in want:
        np.testing.assert_array_equal(have[name], want[name])
