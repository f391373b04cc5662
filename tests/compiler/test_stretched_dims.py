"""A symbolic dim broadcast with a constant: it is 1 or the constant, which is known only when the model runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile
from ingot.runtime import IngotError

RNG = np.random.default_rng(9)
MODELS = {
    "pointwise": "(float[10] x, float[n] m) => (float[10] y) { y = Add(x, m) }",
    "rows": "(float[3, 10] x, float[n, 1] m) => (float[3, 10] y) { a = Mul(x, m) y = Relu(a) }",
    "inner": "(float[3, 10] x, float[3, n] m) => (float[3, 10] y) { y = Sub(m, x) }",
    "softmax": "(float[3, 10] x, float[n, 10] m) => (float[3, 10] y) { a = Add(x, m) y = Softmax<axis = -1>(a) }",
    "product": "(float[4, 5, 6] x, float[n, 6, 7] m) => (float[4, 5, 7] y) { y = MatMul(x, m) }",
    "epilogue": """(float[5, 6] x, float[n, 7] m) => (float[5, 7] y) <float[6, 7] w = {W}> {
        a = MatMul(x, w) b = Add(a, m) y = Relu(b) }""",
    "reduction": """(float[3, 10] x, float[n, 10] m) => (float[3] y) {
        a = Add(x, m) y = ReduceSum<keepdims = 0, axes = [1]>(a) }""",
    "expand": "(float[10] x, float[n] m) => (float[10] y) { s = Shape(x) e = Expand(m, s) y = Neg(e) }",
    "where": "(float[4, 10] x, float[n, 10] m) => (float[4, 10] y) { c = Less(x, m) y = Where(c, x, m) }",
}


@pytest.mark.parametrize("name", MODELS)
def test_one_or_the_constant(name: str) -> None:
    weight = ", ".join(str(v) for v in np.linspace(-1, 1, 42).round(3))
    text = '<ir_version: 8, opset_import: ["": 11]> g ' + MODELS[name].replace("{W}", "{" + weight + "}")
    model = onnx.parser.parse_model(text)
    shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input]  # 0 stands for n
    x_shape, m_shape = shapes
    extent = x_shape[m_shape.index(0)]
    x = RNG.standard_normal(x_shape).astype(np.float32)
    with compile(model, jobs=1).session(threads=1) as session:
        for n in (1, extent, extent - 1):
            m = RNG.standard_normal([d or n for d in m_shape]).astype(np.float32)
            if n == extent - 1:
                with pytest.raises(IngotError, match=f"must be 1 or {extent}"):
                    session.run({"x": x, "m": m})
                continue
            want = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {"x": x, "m": m}))))
            np.testing.assert_allclose(session.run({"x": x, "m": m})["y"], want, rtol=1e-5, atol=1e-6)
