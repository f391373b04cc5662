"""Programs whose weights take no more room than the model's: what each form of a weight gives, and how large it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import AVX2
from ingot.compiler.lower.weight_forms import WeightForms
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.pointwise import Add
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32, i8, i64, u8

SMALL = WeightForms("small")
MACHINE = find_target("cpu").machine


def random(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(graph: Graph, feeds: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    with compile(graph, memory="small", jobs=1).session(threads=1) as session:
        return session.run(feeds)["y"]


def weight_bytes(program: Program) -> int:
    return sum(s.data.nbytes for s in program.of_kind("weight") if s.data is not None)


def graph_of(value: Value, *inputs: Input) -> Graph:
    return Graph(inputs, (("y", value),))


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 7, 8, 10, 12, 17, 24, 100, 1000])
@pytest.mark.parametrize("rows", [1, 3, 13])
def test_matrices_are_filled_up_little(columns: int, rows: int) -> None:
    x, w = Input("x", TensorType(f32, (rows, 19))), random(1, 19, columns)
    graph = graph_of(MatMul(x, constant(w)), x)
    size = weight_bytes(lower(graph, MACHINE, forms=SMALL))
    assert w.nbytes <= size <= w.nbytes * 65 / 64
    data = random(2, rows, 19)
    want = data.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(run(graph, {"x": data}), want, rtol=1e-5, atol=1e-5)


def test_filters_are_not_transformed() -> None:
    x, w = Input("x", TensorType(f32, (1, 14, 14, 64))), random(1, 40, 64, 3, 3)
    graph = graph_of(Conv(x, constant(w), None, (1, 1), (1, 1, 1, 1), (1, 1), 1, True), x)
    assert weight_bytes(lower(graph, MACHINE)) > 1.7 * w.nbytes
    assert weight_bytes(lower(graph, MACHINE, forms=SMALL)) == w.nbytes
    data = random(2, 1, 14, 14, 64)
    np.testing.assert_allclose(run(graph, {"x": data}), evaluate_graph(graph, {"x": data})["y"], rtol=1e-4, atol=1e-4)


QUANTISED = {
    "conv": (24, 16, 3, 3, 1),
    "odd": (5, 3, 3, 3, 1),
    "depthwise": (20, 1, 3, 3, 20),
    "pointwise": (33, 7, 1, 1, 1),
}


@pytest.mark.parametrize("case", QUANTISED)
def test_bytes_stay_bytes(case: str) -> None:
    out, inner, *taps, groups = QUANTISED[case]
    channels = inner * groups
    x = Input("x", TensorType(u8, (2, 9, 8, channels)))
    rng = np.random.default_rng(3)
    w = rng.integers(-128, 128, (out, inner, *taps)).astype(np.int8)
    graph = graph_of(Conv(x, constant(w), None, (1, 1), (1, 1, 1, 1), (1, 1), groups, True), x)
    program = lower(graph, replace(AVX2, dot=2), forms=SMALL)
    assert [s.dtype for s in program.of_kind("weight")] == [i8]
    data = rng.integers(0, 256, (2, 9, 8, channels)).astype(np.uint8)
    np.testing.assert_array_equal(run(graph, {"x": data}), evaluate_graph(graph, {"x": data})["y"])


@pytest.mark.parametrize("shape", [(37, 5), (1, 3), (100, 64), (16, 1)])
def test_a_table_is_read_from_the_panels_that_a_product_reads(shape: tuple[int, int]) -> None:
    ids = Input("ids", TensorType(i64, (symbol("n"),)))
    table = random(4, *shape)
    rows = Gather(constant(table), ids, 0)
    graph = graph_of(MatMul(rows, constant(table.T)), ids)
    program = lower(graph, MACHINE, forms=SMALL)
    assert weight_bytes(program) <= table.nbytes * 65 / 64
    assert weight_bytes(lower(graph, MACHINE)) >= 2 * table.nbytes
    for count in (0, 1, 6):
        at = np.random.default_rng(count).integers(-shape[0], shape[0], count)
        want = table[at].astype(np.float64) @ table.T.astype(np.float64)
        np.testing.assert_allclose(run(graph, {"ids": at}), want, rtol=1e-5, atol=1e-5)


def test_rows_of_a_shared_table_are_exact() -> None:
    ids = Input("ids", TensorType(i64, (4,)))
    table = random(4, 37, 6)
    rows = Gather(constant(table), ids, 0)
    graph = Graph((ids,), (("y", rows), ("z", MatMul(rows, constant(table.T)))))
    at = np.array([36, 0, -1, 17])
    np.testing.assert_array_equal(run(graph, {"ids": at}), table[at])


def test_all_readers_of_a_matrix_share_it() -> None:
    """Whatever the rows: the width that suits one row is not the one that suits a hundred."""
    x, one = Input("x", TensorType(f32, (100, 24))), Input("one", TensorType(f32, (1, 24)))
    w = constant(random(1, 24, 48))
    graph = graph_of(Add(MatMul(x, w), MatMul(one, w)), x, one)
    assert weight_bytes(lower(graph, MACHINE)) > w.data.nbytes
    assert weight_bytes(lower(graph, MACHINE, forms=SMALL)) == w.data.nbytes
    feeds = {"x": random(2, 100, 24), "one": random(3, 1, 24)}
    np.testing.assert_allclose(run(graph, feeds), evaluate_graph(graph, feeds)["y"], rtol=1e-4, atol=1e-4)
