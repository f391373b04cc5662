"""Nodes of custom domains in ONNX models, against numpy and ONNX Runtime."""

# pyright: reportMissingParameterType=false
# The operators are written as their authors write them.

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ingot.compiler import CustomOpError, ModelError, UnsupportedError, compile, custom_op, load_onnx
from ingot.compiler.frontend.operators import TABLE
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.pointwise import Relu
from ingot.runtime import Session


def model(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "test.domain" : 2]>\n{text}')


@custom_op("test.domain::Swish")
def swish(x, *, beta: float = 1.0):
    return x / (1 + math.exp(-beta * x))


@custom_op("test.domain::Everything", form="graph")
def everything(
    x,
    bias=None,
    extra=None,
    *,
    count: int,
    flag: bool = False,
    mode: str = "none",
    sizes: tuple[int, ...] = (1, 2),
    weights: tuple[float, ...] = (),
    names: tuple[str, ...] = (),
):
    """Gives back what it was given, so that it can be looked at."""
    seen.append((bias is None, extra is None, count, flag, mode, sizes, weights, names))
    return Relu(x), Relu(Relu(x))


seen: list[Any] = []


def test_against_onnx_runtime(tmp_path: Path) -> None:
    """The same operator as a function of the model, which ONNX Runtime runs, and as a Python function."""
    text = 'main (float[batch, 5] x) => (float[batch, 5] y) { t = test.domain.Swish <beta = 1.5> (x)  y = Add(t, x) }'
    plain = model(text)
    with_function = onnx.ModelProto()
    with_function.CopyFrom(plain)
    body = """
        <opset_import: ["" : 17], domain: "test.domain">
        Swish <beta> (x) => (y) {
            b = Constant <value_float: float = @beta> ()
            p = Mul(b, x)
            s = Sigmoid(p)
            y = Mul(x, s)
        }"""
    with_function.functions.add().CopyFrom(onnx.parser.parse_function(body))
    x = np.concatenate([np.linspace(-40, 40, 33), [-np.inf, np.nan]]).astype(np.float32).reshape(7, 5)
    runtime = onnxruntime.InferenceSession(with_function.SerializeToString(), providers=["CPUExecutionProvider"])
    want = np.asarray(runtime.run(None, {"x": x})[0])
    path = tmp_path / "model.ingot"
    compile(plain, custom=[swish], verify=True).save(path)
    session = Session(path)
    np.testing.assert_allclose(session.run({"x": x})["y"], want, rtol=1e-5, atol=1e-6)
    for n in (0, 1):
        np.testing.assert_allclose(session.run({"x": x[:n]})["y"], want[:n], rtol=1e-5, atol=1e-6)
    # the model's own function comes first
    own = load_onnx(with_function, custom=[custom_op("test.domain::Swish")(negated)])
    np.testing.assert_allclose(evaluate_graph(own, {"x": x})["y"], want, rtol=1e-5, atol=1e-6)


def negated(x):
    return -x


def test_attributes_and_optional_inputs() -> None:
    seen.clear()
    load_onnx(
        model("""
        main (float[n] x) => (float[n] y, float[n] z) {
            y, z = test.domain.Everything <count = 3, flag = 1, mode = "max", sizes = [4], weights = [0.5, 2.0],
                                           names = ["a", "b"]> (x, "", x)
        }"""),
        custom=[everything],
    )
    assert seen[-1] == (True, False, 3, True, "max", (4,), (0.5, 2.0), ("a", "b"))
    load_onnx(
        model("main (float[n] x) => (float[n] z) { y, z = test.domain.Everything <count = 7> (x, x) }"),
        custom=[everything],
    )
    assert seen[-1] == (False, True, 7, False, "none", (1, 2), (), ())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Everything (x)", "needs the attribute 'count'"),
        ("Everything <count = 1.5> (x)", "attribute 'count' is a float, not a int"),
        ("Everything <count = 1, flag = 2.0> (x)", "attribute 'flag' is a float"),
        ("Everything <count = 1, sizes = 4> (x)", "attribute 'sizes' is not a list of integers"),
        ("Everything <count = 1, other = 1> (x)", "attribute 'other' of Everything is not supported"),
        ("Everything <count = 1> (x, x, x, x)", "input 3 of Everything is not supported"),
        ('Everything <count = 1> ("", x)', "input 0 is missing"),
        ("Other (x)", "Other .*not supported|not supported.*Other"),
    ],
)
def test_nodes_refused(call: str, message: str) -> None:
    """The message names the node."""
    with pytest.raises(ModelError, match=f"(?s){message}"):
        load_onnx(model(f"main (float[n] x) => (float[n] y) {{ y = test.domain.{call} }}"), custom=[everything])


def test_what_is_wrong_with_the_function_names_the_node() -> None:
    text = "main (double[n] x, float[n] z) => (double[n] y) { [the_node] y = test.domain.Sum (x, z) }"

    def add(x, z):
        return x + z

    with pytest.raises(ModelError, match=r"the_node.*f64 meets f32: convert one of them, as in numpy\.float64\(x\)"):
        load_onnx(model(text), custom=[custom_op("test.domain::Sum")(add)])


def test_versions() -> None:
    """The newest that is not newer than the model's opset of the domain, which is 2."""

    def scaled(factor: float, since: int) -> Any:
        def f(x):
            return x * factor

        return custom_op("test.domain::Scale", since=since)(f)

    text = "main (float[n] x) => (float[n] y) { y = test.domain.Scale (x) }"
    graph = load_onnx(model(text), custom=[scaled(2.0, 1), scaled(3.0, 2), scaled(4.0, 3)])
    assert evaluate_graph(graph, {"x": np.ones(1, np.float32)})["y"].tolist() == [3.0]
    with pytest.raises(UnsupportedError, match="Scale"):
        load_onnx(model(text), custom=[scaled(4.0, 3)])
    with pytest.raises(CustomOpError, match="two custom operators have this name and opset 1"):
        load_onnx(model(text), custom=[scaled(2.0, 1), scaled(3.0, 1)])


def test_standard_operators_are_shadowed_only_when_asked() -> None:
    text = "main (float[n] x) => (float[n] y) { t = Relu(x) y = Identity(t) }"

    def leaky(x):
        return x if x > 0 else 0.5 * x

    replacement = custom_op("ai.onnx::Relu", shadow=True)(leaky)
    x = {"x": np.array([-2, 3], np.float32)}
    assert evaluate_graph(load_onnx(model(text), custom=[replacement]), x)["y"].tolist() == [-1, 3]
    assert evaluate_graph(load_onnx(model(text)), x)["y"].tolist() == [0, 3]
    # an operator of another domain that Ingot has
    domain, _, op_type = next(name for name in TABLE.names() if "." in name).rpartition(".")
    with pytest.raises(CustomOpError, match=f"{domain}::{op_type} is an operator that Ingot has: shadow=True"):
        load_onnx(model(text), custom=[custom_op(f"{domain}::{op_type}")(leaky)])


def test_inside_of_a_branch(tmp_path: Path) -> None:
    """A sub-graph with operators of both kinds that get code."""

    def cumulate(x, y):
        total = 0.0
        for i in range(x.shape[0]):
            total += x[i]
            y[i] = total

    cumulative = custom_op("test.domain::Cumulative", form="loops", infer=lambda x: x)(cumulate)
    made = model("""
    main (bool c, float[n] x) => (float[n] y) {
        y = If (c) <
            then_branch = a () => (float[n] p) { t = test.domain.Swish(x)  p = test.domain.Cumulative (t) },
            else_branch = b () => (float[n] q) { q = test.domain.Swish <beta = 0.0> (x) }
        >
    }""")
    path = tmp_path / "model.ingot"
    compile(made, custom=[swish, cumulative]).save(path)
    session = Session(path)
    x = np.linspace(-2, 2, 11, dtype=np.float32)
    then = session.run({"c": np.array(True), "x": x})["y"]
    np.testing.assert_allclose(then, np.cumsum(x / (1 + np.exp(-x))), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(session.run({"c": np.array(False), "x": x})["y"], x / 2, rtol=1e-6)
