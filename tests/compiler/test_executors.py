"""One problem set, every executor.

The problems are the operator examples and a few whole graphs. Their answers come from the graph interpreter, which
`ops/test_ops.py` holds against independent implementations. The executors: the optimised graph, the program with its
loop nests interpreted, native code with one and with two threads, and native code from a saved file. Examples are
compiled by the dozen in one artifact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.compiler.ops.examples import EXAMPLES, Example

from ingot.compiler import compile, default_pipeline
from ingot.compiler.artifact import Artifact
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Array, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType, type_of
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.control import If, Loop
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Split
from ingot.compiler.ops.pointwise import Add, Exp, Greater, Identity, Mul, Relu, Sub
from ingot.compiler.ops.reduction import ReduceMax, ReduceSum
from ingot.compiler.targets.registry import find_target
from ingot.runtime import Session
from ingot.runtime.dtypes import boolean, f32, i64

BATCH = 24  # examples an artifact


class Problem(NamedTuple):
    """A graph with what goes in and what must come out."""

    graph: Graph
    feed: dict[str, Array]
    want: dict[str, Array]


def joined(examples: Sequence[Example]) -> Problem:
    """The examples side by side in one graph."""
    inputs: list[Input] = []
    outputs: list[tuple[str, Value]] = []
    feed: dict[str, Array] = {}
    want: dict[str, Array] = {}
    for number, example in enumerate(examples):
        mine = [Input(f"e{number}_x{i}", type_of(array)) for i, array in enumerate(example.inputs)]
        inputs += mine
        feed |= {x.label: array for x, array in zip(mine, example.inputs, strict=True)}
        alone = evaluate_graph(example.graph(), example.feed())
        for i, value in enumerate(example.build(*mine).results()):
            outputs.append((f"e{number}_y{i}", value))
            want[f"e{number}_y{i}"] = alone[f"y{i}"]
    return Problem(Graph(tuple(inputs), tuple(outputs), "examples"), feed, want)


def agree(have: Mapping[str, Array], want: Mapping[str, Array], names: Sequence[str] = ()) -> None:
    """Equal dtypes and shapes; integers and bools exact, floats within a few roundings of the largest element."""
    assert have.keys() == want.keys()
    for name, expected in want.items():
        label = names[int(name[1 : name.index("_")])] if names else name
        assert have[name].dtype == expected.dtype, label
        if expected.dtype.kind in "iubO":
            np.testing.assert_array_equal(have[name], expected, err_msg=label)
            continue
        tolerance = {2: 2e-2, 4: 2e-5, 8: 1e-11}[expected.dtype.itemsize]
        finite = expected[np.isfinite(expected.astype(np.float64))]
        scale = float(np.max(np.abs(finite.astype(np.float64)), initial=0.0)) if expected.ndim else 0.0
        np.testing.assert_allclose(
            have[name].astype(np.float64),
            expected.astype(np.float64),
            rtol=tolerance,
            atol=tolerance * min(max(scale, 1e-3), 1.0),
            err_msg=label,
        )


COMPARED = [e for e in EXAMPLES if e.name != "entropy"]  # which is another one in each session
BATCHES = [COMPARED[i : i + BATCH] for i in range(0, len(COMPARED), BATCH)]


def ids(batches: Iterable[Sequence[Example]]) -> list[str]:
    return [f"{batch[0].name}..{batch[-1].name}" for batch in batches]


@pytest.mark.parametrize("examples", BATCHES, ids=ids(BATCHES))
def test_examples(examples: Sequence[Example], tmp_path: Path) -> None:
    run_everywhere(joined(examples), tmp_path, [e.name for e in examples])


def run_everywhere(problem: Problem, folder: Path, names: Sequence[str] = ()) -> None:
    """Check every executor."""
    graph, feed, want = problem
    optimised = default_pipeline().run(graph)
    agree(evaluate_graph(optimised, feed), want, names)
    machine = find_target("cpu").machine
    program = lower(optimised, machine)
    verify_program(program)
    agree(run_program(program, feed), want, names)
    artifact: Artifact = compile(graph, jobs=1)
    with artifact.session(threads=1) as session:
        single = session.run(feed)
        agree(single, want, names)
    with artifact.session(threads=2) as session:
        double = session.run(feed)
        for name, array in single.items():
            same = double[name].tobytes() == array.tobytes() or double[name].tolist() == array.tolist()
            assert same, f"two threads change {name}"
    artifact.save(folder / "model.ingot")
    with Session(folder / "model.ingot", threads=1) as session:
        agree(session.run(feed), want, names)


def random(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


N = symbol("n")


def branching() -> Graph:
    """An If on the data, with captures and two results."""
    x = Input("x", TensorType(f32, (N, 8)))
    w = constant(random(8, 8))
    total = ReduceSum(x, (0, 1), False)
    a, b = Input("a", x.type), Input("b", x.type)
    then = Graph((a,), (("p", Relu(MatMul(a, w))), ("q", Mul(a, a))), "then")
    other = Graph((b,), (("p", Exp(b)), ("q", Identity(b))), "else")
    node = If(Greater(total, constant(np.float32(0))), (x,), then, other)
    return Graph((x,), (("p", node.result(0)), ("q", Add(node.result(1), x))), "branching")


def looping() -> Graph:
    """A Loop that swaps its carried values, scans, and reads a capture."""
    x = Input("x", TensorType(f32, (N, 4)))
    i, running = Input("i", TensorType(i64, ())), Input("running", TensorType(boolean, ()))
    a, b, c = (Input(name, x.type) for name in "abc")
    body = Graph(
        (i, running, a, b, c),
        (("go", running), ("a", b), ("b", Add(Mul(a, c), b)), ("scan", Sub(b, a))),
        "body",
    )
    node = Loop(constant(np.int64(5)), None, (x, Relu(x)), (Mul(x, constant(np.float32(0.5))),), body, (5,))
    return Graph((x,), tuple((f"y{k}", node.result(k)) for k in range(3)), "looping")


def splitting() -> Graph:
    """An op with several results whose parts go different ways."""
    x = Input("x", TensorType(f32, (N, 12)))
    node = Split(x, 1, (3, 4, 5))
    first, second, third = node.results()
    row = ReduceMax(third, (1,), True)
    return Graph((x,), (("a", Add(first, row)), ("b", Relu(second)), ("c", third)), "splitting")


@pytest.mark.parametrize("make", [branching, looping, splitting])
@pytest.mark.parametrize("n", [1, 3, 64])
def test_whole_graphs(make: Any, n: int, tmp_path: Path) -> None:
    graph = make()
    width = {"branching": 8, "looping": 4, "splitting": 12}[graph.name]
    for sign in (1.0, -1.0):
        feed = {"x": (np.abs(random(n, width)) * sign).astype(np.float32)}
        run_everywhere(Problem(graph, feed, evaluate_graph(graph, feed)), tmp_path)


def test_empty_batch() -> None:
    graph = dataclasses.replace(splitting())
    feed = {"x": np.zeros((0, 12), np.float32)}
    with compile(graph, jobs=1).session(threads=2) as session:
        have = session.run(feed)
    assert {name: array.shape for name, array in have.items()} == {"a": (0, 3), "b": (0, 4), "c": (0, 5)}
