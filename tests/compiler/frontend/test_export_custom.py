"""Custom operators as ONNX: those over arrays are nodes of their own domain, the others what they are made of."""

# pyright: reportMissingParameterType=false
# The operators are written as their authors write them.

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from tests.compiler.frontend.test_export import run, same

from ingot.compiler import custom_op, load_onnx
from ingot.compiler.frontend.export import ExportError, export_onnx
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Array, Graph, Input, Value
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops import pointwise
from ingot.compiler.ops.composite import Silu
from ingot.compiler.ops.custom import CustomOp
from ingot.compiler.passes.default import default_pipeline
from ingot.runtime.dtypes import f32

pytest.importorskip("onnxruntime")

X = TensorType(f32, (symbol("n"), 4))
DATA = np.random.default_rng(3).standard_normal((3, 4)).astype(np.float32)


def like(x: TensorType, bias: TensorType | None = None) -> TensorType:
    return x


def one_input(x: TensorType) -> TensorType:
    return x


def pair(x: TensorType) -> tuple[TensorType, TensorType]:
    return x, TensorType(f32, (x.shape[0] + 1,))


@custom_op("my.domain::Scaled", form="loops", infer=like, since=3)
def scaled(
    x,
    bias,
    out,
    *,
    factor: float = 2.0,
    flip: bool = False,
    offset: int = -7,
    mode: str = "plain",
    steps: tuple[int, ...] = (),
    weights: tuple[float, ...] = (0.5, 0.25),
    names: tuple[str, ...] = ("a", "b"),
):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            value = x[i, j] * factor + offset + len(steps) + weights[0] * len(names)
            if bias is not None:
                value += bias[j]
            out[i, j] = -value if flip and mode == "plain" else value


@custom_op("other::Split", form="loops", infer=pair)
def split(x, same, sums):
    sums[x.shape[0]] = 0
    for i in range(x.shape[0]):
        sums[i] = 0
        for j in range(x.shape[1]):
            same[i, j] = x[i, j]
            sums[i] += x[i, j]


@custom_op("my.domain::Soft")
def soft(x, *, beta: float = 1.0):
    return x / (1 + math.exp(-beta * x))


@custom_op("my.domain::Twice", form="graph")
def twice(x):
    return pointwise.Add(scaled(x, None), scaled(soft(x, beta=2.0), None))


def graph_of(*results: Value, inputs: tuple[Input, ...]) -> Graph:
    return Graph(inputs, tuple((f"y{i}", v) for i, v in enumerate(results)), "custom")


def check(graph: Graph, feed: Mapping[str, Array], custom: list[CustomOp], opset: int = 21) -> onnx.ModelProto:
    """Valid, and the same when it is loaded again by who knows the operators, at every stage."""
    model = onnx.ModelProto()
    for stage in (graph, default_pipeline().run(graph)):
        model = export_onnx(stage, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        loaded = load_onnx(model, custom=custom)
        same(evaluate_graph(loaded, feed), evaluate_graph(graph, feed))
    return model


@pytest.mark.parametrize("biased", [False, True])
def test_attributes_and_operands(biased: bool) -> None:
    x, bias = Input("x", X), Input("bias", TensorType(f32, (4,)))
    inputs = (x, bias) if biased else (x,)
    settings: dict[str, Any] = {"factor": 0.75, "flip": True, "offset": 2**40, "steps": (1, -(2**62))}
    settings |= {"weights": (1.5, -math.inf), "names": ("é", "")}
    value = scaled(x, bias if biased else None, **settings)
    again = scaled(value, None, names=(), mode="")
    feed = {"x": DATA, "bias": DATA[0]} if biased else {"x": DATA}
    model = check(graph_of(value, again, inputs=inputs), feed, [scaled])
    assert {i.domain: i.version for i in model.opset_import} == {"": 21, "my.domain": 3}
    nodes = [node for node in model.graph.node if node.domain == "my.domain"]
    assert [node.op_type for node in nodes] == ["Scaled", "Scaled"]
    loaded = [node for node in load_onnx(model, custom=[scaled]).nodes() if isinstance(node, scaled.node)]
    assert loaded[0].attribute_values() == {**settings, "mode": "plain"}
    assert loaded[1].attribute_values() == {
        **{a.name: a.default for a in scaled.signature.attributes},
        "names": (),
        "mode": "",
    }


def test_several_results_and_domains() -> None:
    x = Input("x", X)
    same_x, sums = split(scaled(x, None))
    model = check(graph_of(sums, pointwise.Relu(same_x), inputs=(x,)), {"x": DATA}, [scaled, split])
    assert {i.domain: i.version for i in model.opset_import} == {"": 21, "my.domain": 3, "other": 1}
    empty = {"x": DATA[:0]}
    check(graph_of(sums, inputs=(x,)), empty, [scaled, split])


def test_the_other_forms_need_nobody() -> None:
    """Functions of elements and of values become standard operators, which onnxruntime runs."""
    x = Input("x", X)
    graph = graph_of(soft(x, beta=3.0), inputs=(x,))
    model = check(graph, {"x": DATA}, [])
    assert not {i.domain for i in model.opset_import} - {"", "ingot"}
    same(run(model, {"x": DATA}), evaluate_graph(graph, {"x": DATA}))
    check(graph_of(twice(x), inputs=(x,)), {"x": DATA}, [scaled])


def test_inside_of_a_branch() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "my.domain" : 3]>
    main (bool which, float[n, 4] x) => (float[n, 4] y) {
        y = If(which) <
            then_branch = one () => (float[n, 4] a) { a = my.domain.Scaled<factor = 4.0>(x) },
            else_branch = two () => (float[n, 4] b) { b = Neg(x) }
        >
    }"""
    graph = load_onnx(onnx.parser.parse_model(text), custom=[scaled])
    for which in (True, False):
        check(graph, {"which": np.array(which), "x": DATA}, [scaled])


def test_what_attributes_of_onnx_do_not_hold() -> None:
    x = Input("x", X)
    settings: tuple[tuple[dict[str, Any], str], ...] = (
        ({"offset": 2**63}, "attribute 'offset' is 9223372036854775808, which a 64-bit integer does not hold"),
        ({"weights": (1e300,)}, "attribute 'weights' is 1e.300, which a float of 32 bits does not hold"),
    )
    for setting, message in settings:
        with pytest.raises(ExportError, match=message):
            export_onnx(graph_of(scaled(x, None, **setting), inputs=(x,)))


@custom_op("ai.onnx::Gelu", form="loops", infer=one_input, shadow=True)
def gelu(x, out, *, approximate: str = "none"):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = 0.5 * x[i, j] * (1 + math.erf(x[i, j] * math.sqrt(0.5)))


@custom_op("::Gelu", form="loops", infer=one_input, shadow=True)
def odd_gelu(x, out, *, sharpness: float = 1.0):
    out[:] = x


def test_in_the_place_of_standard_operators() -> None:
    x = Input("x", X)
    graph = graph_of(gelu(x), inputs=(x,))
    model = check(graph, {"x": DATA}, [gelu])
    assert [(node.domain, node.op_type) for node in model.graph.node] == [("", "Gelu")]
    same(run(model, {"x": DATA}), evaluate_graph(graph, {"x": DATA}))
    with pytest.raises(ExportError, match="opset 19 has no Gelu"):
        export_onnx(graph, opset=19)
    with pytest.raises(ExportError, match="Gelu of opset 21 has no attribute 'sharpness'"):
        export_onnx(graph_of(odd_gelu(x), inputs=(x,)))


def test_the_domain_of_our_functions() -> None:
    mine = custom_op("ingot::Copied", form="loops", infer=one_input)(lambda x, out: None)
    x = Input("x", X)
    graph = graph_of(mine(Silu(x)), inputs=(x,))
    with pytest.raises(ExportError, match="a custom operator has the domain 'ingot'"):
        export_onnx(graph)
    model = export_onnx(graph, functions=False)
    onnx.checker.check_model(model, full_check=True)
    assert {i.domain for i in model.opset_import} == {"", "ingot"}
