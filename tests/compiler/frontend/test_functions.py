"""Functions of a model's own, and what else a model may say besides nodes: defaults, overloads, metadata, old forms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ingot.compiler.frontend import ModelError, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

X = np.random.default_rng(5).standard_normal((2, 3)).astype(np.float32)


def check(text: str) -> None:
    """A model in ONNX's text form with the input X agrees with the reference."""
    model = onnx.parser.parse_model(text)
    graph = load_onnx(model)
    got = evaluate_graph(graph, {i.label: X for i in graph.inputs})
    want = [np.asarray(v) for v in ReferenceEvaluator(model).run(None, {i.label: X for i in graph.inputs})]
    for (name, _), expected in zip(graph.outputs, want, strict=True):
        np.testing.assert_allclose(got[name], expected, rtol=1e-6, atol=1e-6)


def test_functions_call_functions() -> None:
    check("""<ir_version: 9, opset_import: ["": 18, "d": 1]>
        main (float[2, 3] x) => (float[2, 3] y) { t = d.outer(x)  y = d.inner(t) }
        <domain: "d", opset_import: ["": 18]> inner (a) => (b) { b = Neg(a) }
        <domain: "d", opset_import: ["": 18, "d": 1]> outer (a) => (b) { c = d.inner(a)  e = d.inner(c)  b = Add(e, a) }
    """)


def test_attributes_have_defaults_and_pass_through() -> None:
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18, "d": 1]>
        main (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) { y = d.leak(x)  z = d.leak<slope = 0.25>(x) }
        <domain: "d", opset_import: ["": 18, "d": 1]> leak <slope: float = 0.5> (a) => (b) {
            b = d.inner<k: float = @slope>(a)
        }
        <domain: "d", opset_import: ["": 18]> inner <k> (a) => (b) { b = LeakyRelu<alpha: float = @k>(a) }
    """)
    got = evaluate_graph(load_onnx(model), {"x": X})
    for name, slope in (("y", 0.5), ("z", 0.25)):
        np.testing.assert_allclose(got[name], np.where(X < 0, slope * X, X), rtol=1e-6)


def test_a_function_has_opsets_of_its_own() -> None:
    """Squeeze by attribute and ReduceSum by attribute, in a model of an opset that has them as inputs."""
    check("""<ir_version: 9, opset_import: ["": 18, "d": 1]>
        main (float[2, 3] x) => (float[2] y) { y = d.total(x) }
        <domain: "d", opset_import: ["": 11]> total (a) => (b) {
            s = ReduceSum<axes = [1]>(a)
            b = Squeeze<axes = [1]>(s)
        }
    """)


def test_functions_in_branches_and_loops() -> None:
    check("""<ir_version: 9, opset_import: ["": 18, "d": 1]>
        main (float[2, 3] x) => (float[2, 3] y) {
            n = Constant<value = int64 {3}>()
            t = Constant<value = bool {1}>()
            y = Loop(n, t, x) <body = step (int64 i, bool c, float[2, 3] v) => (bool k, float[2, 3] w) {
                k = Identity(c)
                w = d.halve(v)
            }>
        }
        <domain: "d", opset_import: ["": 18]> halve (a) => (b) { h = Constant<value_float = 0.5>()  b = Mul(a, h) }
    """)


def overloaded() -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 18)]
    functions = [
        helper.make_function("d", "f", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])], imports, overload=overload)
        for op, overload in (("Neg", ""), ("Abs", "size"))
    ]
    nodes = [
        helper.make_node("f", ["x"], ["y"], domain="d"),
        helper.make_node("f", ["x"], ["z"], domain="d", overload="size"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xyz"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    opsets = [*imports, helper.make_opsetid("d", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def test_overloads() -> None:
    got = evaluate_graph(load_onnx(overloaded()), {"x": X})
    np.testing.assert_array_equal(got["y"], -X)
    np.testing.assert_array_equal(got["z"], np.abs(X))


def test_optional_inputs_and_outputs_of_functions() -> None:
    text = """<ir_version: 9, opset_import: ["": 18, "d": 1]>
        main (float[2, 3] x) => (float[2, 3] y) {{ y, unused = d.f({0}) }}
        <domain: "d", opset_import: ["": 18]> f (a, low) => (b, c) {{ b = Clip(a, low)  c = Neg(a) }}
    """
    model = onnx.parser.parse_model(text.format("x"))  # the reference refuses to leave an input out
    np.testing.assert_array_equal(evaluate_graph(load_onnx(model), {"x": X})["y"], X)
    with pytest.raises(ModelError, match="has 2 inputs, 3 are passed"):
        check(text.format("x, x, x"))


def test_functions_without_end() -> None:
    with pytest.raises(ModelError, match="without end"):
        check("""<ir_version: 9, opset_import: ["": 18, "d": 1]>
            main (float[2, 3] x) => (float[2, 3] y) { y = d.f(x) }
            <domain: "d", opset_import: ["": 18, "d": 1]> f (a) => (b) { b = d.f(a) }
        """)


# -- the model around the nodes ---------------------------------------------------------------------------------------


def test_initialisers_that_are_inputs_are_constants() -> None:
    """IR version 3 wants every initialiser among the inputs."""
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "w", "y")]
    stored = [numpy_helper.from_array(2 * X, "w"), numpy_helper.from_array(X, "unused")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ports[:2], ports[2:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)
    imported = load_onnx(model)
    assert [i.label for i in imported.inputs] == ["x"]
    np.testing.assert_allclose(evaluate_graph(imported, {"x": X})["y"], 3 * X, rtol=1e-6)


def test_metadata_changes_nothing() -> None:
    model = overloaded()
    plain = load_onnx(model)
    model.producer_name, model.doc_string, model.graph.doc_string = "someone", "text", "more"
    model.metadata_props.add(key="k", value="v")
    model.graph.metadata_props.add(key="k", value="v")
    model.graph.node[0].metadata_props.add(key="k", value="v")
    annotation = model.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="absent")
    model.training_info.add()
    assert str(load_onnx(model)) == str(plain)
