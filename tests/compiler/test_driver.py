"""The whole way of a model, where no stage alone is to be asked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, load_onnx


def model(name: str) -> onnx.ModelProto:
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[n] x) => (float[n] y) { y = Neg(x) }'
    )
    made.graph.name = name
    return made


@pytest.mark.parametrize("name", ["new\nline", "a/b", "größe", "\x00", "名" * 4000, " "])
def test_any_name_of_a_graph(name: str) -> None:
    session = compile(model(name)).session()
    assert session.run({"x": np.array([1, -2], np.float32)})["y"].tolist() == [-1, 2]
    assert session.metadata["name"] == name


def test_malformed_graphs_are_the_models_fault() -> None:
    made = model("twice")
    made.graph.output.append(made.graph.output[0])
    with pytest.raises(ModelError):
        load_onnx(made)


def test_a_lone_half_precision_number() -> None:
    """Functions computed in f64 are narrowed twice, which code generation must not join."""
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 22]> m (float16 x) => (float16 y) { a = Asinh(x) y = Asinh(a) }'
    )
    with compile(made, cache=False).session() as session:
        found = session.run({"x": np.array(0.5, np.float16)})["y"]
    assert found == np.float16(np.arcsinh(np.float64(np.float16(np.arcsinh(0.5)))))


def test_parts_of_one_result_written_by_blocks_of_columns() -> None:
    """Two softmaxes over a middle axis lie side by side: their kernel's blocks of columns must be seen to lie apart."""
    made = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[2, 3, s, s] x) => (float[2, 6, s, s] y) {
            a = Softmax<axis = 1>(x) b = LogSoftmax<axis = 1>(x) y = Concat<axis = 1>(a, b) }"""
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 70, 70)).astype(np.float32)
    wide = np.exp(x.astype(np.float64))
    wanted = wide / wide.sum(1, keepdims=True)
    with compile(made, cache=False).session() as session:
        found = session.run({"x": x})["y"]
    np.testing.assert_allclose(found, np.concatenate((wanted, np.log(wanted)), 1), rtol=1e-5, atol=1e-6)
