"""Reduction: small, valid, deterministic, and still the same failure."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ingot.compiler.cli import main
from ingot.compiler.debug.failure import Failure
from ingot.compiler.debug.reduction import ReductionError, reduce_model
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

WIDE = """<ir_version: 8, opset_import: ["" : 17]>
m (float[batch, 12, 8] x, bool flag) => (float[batch, 12, 8] y, float z) <float[8, 8] w, int64[3] shape = {0, -1, 4}> {
    [one] a = MatMul (x, w)
    [two] b = Relu (a)
    [three] c = If (flag) <
        then_branch = g () => (float[batch, 12, 8] d) { [four] e = Erf (b) [five] d = Neg (e) },
        else_branch = h () => (float[batch, 12, 8] f) { f = Identity (b) }
    >
    [six] y = Softmax <axis = -1> (c)
    [seven] r = Reshape (y, shape)
    [eight] z = ReduceMean <keepdims = 0> (r)
}"""


def wide() -> onnx.ModelProto:
    model = onnx.parser.parse_model(WIDE)
    weights = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, -1, 4]), "shape"))
    return model


def operators(graph: onnx.GraphProto) -> list[str]:
    found: list[str] = []
    for node in graph.node:
        found.append(node.op_type)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found += operators(attribute.g)
    return found


def fails_with(*wanted: str) -> Any:
    def try_case(model: bytes, data: object) -> Failure | None:
        present = operators(onnx.ModelProto.FromString(model).graph)
        return Failure("compile", "E", "m") if set(wanted) <= set(present) else None

    return try_case


@pytest.mark.parametrize(
    ("wanted", "left"),
    [(("Erf",), 1), (("Softmax",), 1), (("MatMul", "Softmax"), 2), (("Reshape",), 1), (("If",), 3)],
)
def test_only_what_fails_is_left(wanted: tuple[str, ...], left: int) -> None:
    reduced = reduce_model(wide(), fails_with(*wanted))
    assert len(operators(reduced.case.model.graph)) <= left
    assert set(wanted) <= set(operators(reduced.case.model.graph))
    assert not reduced.stopped
    onnx.checker.check_model(reduced.case.model, full_check=True)
    extents = [d.dim_value for i in reduced.case.model.graph.input for d in i.type.tensor_type.shape.dim]
    assert all(extent <= 4 for extent in extents), extents


def test_the_same_every_time() -> None:
    first, second = (reduce_model(wide(), fails_with("Relu", "Softmax")) for _ in range(2))
    assert first.case.model.SerializeToString(deterministic=True) == second.case.model.SerializeToString(
        deterministic=True
    )
    assert first.tried == second.tried


def test_data_follow() -> None:
    """New inputs get what the tensors were, and the failure hangs on them."""
    rng = np.random.default_rng(1)
    data = {"x": rng.standard_normal((2, 12, 8)).astype(np.float32), "flag": np.array(True)}
    model = wide()

    def try_case(proto: bytes, given: Mapping[str, Any] | None) -> Failure | None:
        loaded = onnx.ModelProto.FromString(proto)
        assert given is not None and [i.name for i in loaded.graph.input] == list(given)
        results = evaluate_graph(load_onnx(loaded), given)
        wrong = any(a.dtype.kind == "f" and a.size and float(a.max()) > 0.15 for a in results.values())
        return Failure("accuracy", "", "m", 1.0) if wrong and "Softmax" in operators(loaded.graph) else None

    reduced = reduce_model(model, try_case, data=data)
    assert operators(reduced.case.model.graph) == ["Softmax"]
    assert reduced.case.data is not None
    assert try_case(reduced.case.model.SerializeToString(), reduced.case.data) is not None


def test_time_runs_out_in_a_consistent_state() -> None:
    reduced = reduce_model(wide(), fails_with("Erf"), seconds=0)
    assert reduced.stopped and operators(reduced.case.model.graph) == operators(wide().graph)


def test_nothing_to_reduce() -> None:
    with pytest.raises(ReductionError, match="does not fail"):
        reduce_model(wide(), lambda model, data: None)
    with pytest.raises(ReductionError, match="cannot be evaluated"):
        reduce_model(wide(), lambda model, data: Failure("reference", "E", "m"))


def test_given_data_have_the_types_of_the_inputs(faulty: str, tmp_path: Path) -> None:
    """numpy's files hold bfloat16 as bytes without a type: the model says what they are."""
    text = "m (bfloat16[2, 4] x) => (bfloat16[2, 4] y) { a = Relu (x)  y = Neg (a) }"
    wide, small = tmp_path / "wide.onnx", tmp_path / "small.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {text}'), wide)
    data = np.full((2, 4), -1.5, onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
    np.savez(wide.with_suffix(".npz"), x=data)
    options = [str(wide), "--pass", f"after:simplify={faulty}:drop_relu", "--data", str(wide.with_suffix(".npz"))]
    assert main(["reduce", *options, "-o", str(small)]) == 0
    assert operators(onnx.load(small).graph) == ["Relu"]
    with np.load(small.with_suffix(".npz")) as arrays:
        assert (arrays["x"].view(data.dtype) < 0).any()
    assert main(["bisect", *options]) == 1


def test_command(model: Path, faulty: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = Path("small.onnx")
    data = Path("data.npz")
    np.savez(data, x=-np.ones((2, 4), np.float32))
    options = ["--pass", f"after:simplify={faulty}:drop_relu", "--data", str(data)]
    assert main(["reduce", str(model), "-o", str(small), *options]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert operators(onnx.load(small).graph) == ["Relu"]
    with np.load(small.with_suffix(".npz")) as arrays:
        assert all((array < 0).any() for array in arrays.values())
    module = importlib.import_module(faulty)
    assert module is not None
    assert main(["reduce", str(model), "-o", str(small), "--fails", "compile"]) == 2
    assert "does not fail" in capsys.readouterr().err
    compile_fails = ["--fails", "compile", "--pass", f"{faulty}:throw_on_tanh"]
    assert main(["reduce", str(model), "-o", str(small), *compile_fails]) == 0
    assert operators(onnx.load(small).graph) == ["Tanh"]
    assert main(["reduce", str(model), "-o", str(small), "--check", f"{faulty}:nothing"]) == 2
