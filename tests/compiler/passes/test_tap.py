"""Watched values through the passes, and which of them become outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from ingot.compiler import default_pipeline
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.verify import verify_graph
from ingot.compiler.passes.tap import tap

RNG = np.random.default_rng(5)
WEIGHTS = {
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "one": np.ones(4, np.float32),
    "half": np.full(4, 0.5, np.float32),
}


def load(signature: str, body: str, *, watch: bool = True) -> Graph:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> main {signature} {{ {body} }}')
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in WEIGHTS.items() if name in used)
    return load_onnx(proto, watch=watch)


def tapped(graph: Graph, *, before: str = "fuse") -> Graph:
    result = default_pipeline().before(before, tap).run(graph, verify=True)
    verify_graph(result)
    return result


def names(graph: Graph) -> list[str]:
    return [name for name, _ in graph.outputs]


IMAGE = "(float[n, 3, 6, 5] x) => (float[n, 4, 6, 5] y)"
CHAIN = "c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(c) i = Identity(r) t = Tanh(i) y = Add(t, r)"


def test_only_on_demand() -> None:
    assert load(IMAGE, CHAIN, watch=False).watched == {}
    assert {"x", "w", "c", "r", "i", "t", "y"} <= load(IMAGE, CHAIN).watched.keys()


def test_values_are_those_of_the_model() -> None:
    graph = load(IMAGE, CHAIN)
    everything = dataclasses.replace(
        graph, outputs=tuple((name, graph.watched[name]) for name in ("c", "r", "t", "y")), watched={}
    )
    result = tapped(graph)
    assert names(result) == ["y", "c", "r", "t"]  # i is r
    assert result.watched == {}
    inputs = {"x": RNG.standard_normal((2, 3, 6, 5)).astype(np.float32)}
    want, have = evaluate_graph(everything, inputs), evaluate_graph(result, inputs)
    for name in want:
        np.testing.assert_allclose(have[name], want[name], rtol=1e-5, atol=1e-5)


def test_what_is_folded_into_something_else_is_left_out() -> None:
    body = "c = Conv <pads = [1, 1, 1, 1]> (x, w) b = BatchNormalization(c, one, half, half, one) y = Relu(b)"
    assert names(tapped(load(IMAGE, body))) == ["y", "b"]
    # Before the passes nothing is folded yet.
    assert names(tap(load(IMAGE, body))) == ["y", "c", "b"]


def test_no_arithmetic_is_added() -> None:
    def kinds(graph: Graph) -> list[str]:
        return sorted(n.name for n in graph.nodes() if n.name not in ("transpose", "reshape", "input", "constant"))

    passes = default_pipeline().without("fuse")
    plain = passes.run(load(IMAGE, CHAIN, watch=False), verify=True)
    assert kinds(passes.after("cleanup", tap).run(load(IMAGE, CHAIN), verify=True)) == kinds(plain)


@pytest.mark.parametrize(
    ("signature", "body", "expected"),
    [
        ("(float[3] x) => (float[3] y)", "y = Relu(x)", ["y"]),
        # An output is not given twice, whatever else it is called.
        ("(float[3] x) => (float[3] y)", "a = Relu(x) y = Identity(a)", ["y"]),
        # Inputs, constants and sizes are known.
        ("(float[3, n] x) => (int64[2] y)", "s = Shape(x) y = Identity(s)", ["y"]),
        # A node that nothing needs is not there.
        ("(float[3] x) => (float[3] y)", "a = Exp(x) b = Sin(x) y = Relu(b)", ["y", "b"]),
        # Two that are the same are one.
        ("(float[3] x) => (float[3] y)", "a = Exp(x) b = Exp(x) y = Mul(a, b)", ["y", "a"]),
        ("(float[2, 3] x) => (float[3, 2] y)", "a = Exp(x) t = Transpose(a) y = Sin(t)", ["y", "a", "t"]),
    ],
)
def test_which_values(signature: str, body: str, expected: list[str]) -> None:
    assert names(tapped(load(signature, body))) == expected


def test_a_graph_without_names_is_returned() -> None:
    graph: Any = load(IMAGE, CHAIN, watch=False)
    assert tap(graph) is graph
