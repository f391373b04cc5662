"""``ingot diff``: layers, artifacts and other models beside a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from .conftest import Ingot

# Halves what `relu_b` gives: a pass that is wrong.
WRONG = """
from ingot.compiler import Patch
from ingot.compiler.ir.graph import Graph, constant
from ingot.compiler.ops.pointwise import Div, Mul, Relu


def halve(node: Div, graph: Graph) -> Patch | None:
    if isinstance(node.a, Mul):
        return None
    return {node: Div(Mul(node.a, constant(0.5, node.dtype)), node.b)}
"""


def by_name(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in record["tensors"]}


@pytest.mark.parametrize("reference", ["exact", "onnxruntime"])
def test_layers(ingot: Ingot, model: Path, reference: str) -> None:
    if reference == "onnxruntime":
        pytest.importorskip("onnxruntime")
    done = ingot("diff", model, "--reference", reference, "--shape", "batch=3", "--json")
    record = done.record
    assert done.status == 0 and record["first_over"] is None and record["over"] == 0
    assert record["reference"] == reference and record["bound"] == 1e-3
    assert record["inputs"] == {"x": {"dtype": "float32", "shape": [3, 4]}}
    tensors = by_name(record)
    assert list(tensors) == [name for name in ("scaled", "once", "twice", "third", "y") if name in tensors]
    assert {"scaled", "y"} <= tensors.keys() and tensors["y"]["output"] and not tensors["scaled"]["output"]
    assert all(each["shape"] == [3, 4] and each["max_rel"] < 1e-6 for each in tensors.values())
    assert record["reference_tensors"] == 5 and record["taps_deviation"] == 0


def test_text(ingot: Ingot, model: Path) -> None:
    done = ingot("diff", model)
    assert done.status == 0 and "in float64" in done.out and "tensors compared" in done.out
    assert "all within the bound" in done.out
    strict = ingot("diff", model, "--bound", "0", "--top", "1")
    assert strict.status == 1 and "over the bound, the first is" in strict.out and "more deviate less" in strict.out


def test_a_wrong_pass_is_found_by_layer(ingot: Ingot, model: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong_pass.py").write_text(WRONG, encoding="utf-8")
    done = ingot("diff", model, "--pass", "after:simplify=wrong_pass:halve", "--without", "recognise", "--json")
    record = done.record
    assert done.status == 1
    tensors = by_name(record)
    assert record["first_over"] == next(name for name in ("third", "y") if name in tensors)
    assert not tensors["scaled"]["over"] and tensors["y"]["over"] and tensors["y"]["max_rel"] > 0.01
    worst = tensors["y"]
    assert abs(worst["want"] - worst["have"]) == pytest.approx(worst["max_abs"])


def test_an_artifact(ingot: Ingot, model: Path, artifact: Path) -> None:
    record = ingot("diff", model, artifact, "--shape", "batch=2", "--seed", "7", "--json").record
    assert [each["name"] for each in record["tensors"]] == ["y"] and record["taps_deviation"] is None
    assert record["first_over"] is None and record["inputs"]["x"]["shape"] == [2, 4]
    same = ingot("diff", artifact, artifact, "--bound", "0", "--json")
    assert same.status == 0 and same.record["tensors"][0]["differing"] == 0


def test_given_inputs(ingot: Ingot, model: Path, artifact: Path, tmp_path: Path) -> None:
    x = np.array([[1, 2, 3, np.nan], [np.inf, 0, -1, 5]], np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    record = ingot("diff", model, artifact, "--data", "data.npz", "--json").record
    assert record["first_over"] is None and record["inputs"]["x"]["shape"] == [2, 4]
    np.savez(tmp_path / "other.npz", z=x)
    assert "z" in ingot("diff", model, artifact, "--data", "other.npz").complaint


def changed(proto: onnx.ModelProto, path: Path) -> Path:
    """The model with another divisor."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(4, np.float32), "three"))
    onnx.save(copy, path)
    return path


def test_outputs_that_no_node_makes(ingot: Ingot) -> None:
    x, w = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xw")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1, -2, 3])
    graph = helper.make_graph([], "nothing", [x], [x, w], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=9)
    onnx.save(proto, "nothing.onnx")
    assert ingot("compile", "nothing.onnx", "-o", "nothing.ingot", "-q").status == 0
    for reference in ("exact", "onnxruntime"):
        outcome = ingot("diff", "nothing.onnx", "nothing.ingot", "--reference", reference, "--json")
        assert outcome.status == 0 and [each["name"] for each in outcome.record["tensors"]] == ["x", "w"]


def test_two_models(ingot: Ingot, model: Path, scale_proto: onnx.ModelProto, tmp_path: Path) -> None:
    other = changed(scale_proto, tmp_path / "other.onnx")
    done = ingot("diff", model, other, "--shape", "batch=2", "--json")
    assert done.status == 1
    tensors = by_name(done.record)
    assert list(tensors) == ["scaled", "once", "twice", "third", "y"]
    assert [each["over"] for each in tensors.values()] == [False, False, False, True, True]
    assert done.record["first_over"] == "third"
    assert tensors["third"]["max_rel"] == pytest.approx(0.25)
    assert "!" in ingot("diff", model, other).out


RANDOM = """<ir_version: 9, opset_import: ["" : 18]>
m (float[3, 4] x) => (float[3, 4] y, float[3, 4] z, float[3, 4] w) {
    doubled = Add (x, x)  noise = RandomNormalLike (x)  y = Exp (doubled)  z = Mul (y, noise)
    w = If <then_branch = t () => (float[3, 4] a) { a = Add (noise, x) },
            else_branch = e () => (float[3, 4] b) { b = Identity (x) }> (on) }"""


def test_random_numbers_are_left_out(ingot: Ingot, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(RANDOM)
    proto.graph.input.append(helper.make_tensor_value_info("on", TensorProto.BOOL, []))
    path, compiled = tmp_path / "random.onnx", tmp_path / "random.ingot"
    onnx.save(proto, path)
    done = ingot("diff", path, "--json")
    assert done.status == 0 and set(done.record["random"]) >= {"z", "w"}
    assert {"y"} <= by_name(done.record).keys() <= {"doubled", "y"}
    assert "depend on random numbers: " in ingot("diff", path).out
    assert ingot("compile", path, "-o", compiled, "-q").status == 0
    beside = ingot("diff", path, compiled, "--json").record
    assert list(by_name(beside)) == ["y"] and beside["random"] == ["z", "w"]
    twice = ingot("diff", path, path, "--json").record
    assert list(by_name(twice)) == ["doubled", "y"] and twice["random"] == ["noise", "z", "w"]
    same = ingot("diff", compiled, compiled, "--bound", "0", "--json")
    assert same.status == 0 and list(by_name(same.record)) == ["y", "z", "w"] and same.record["random"] == []
    del proto.graph.output[0]
    onnx.save(proto, path)
    assert ingot("compile", path, "-o", compiled, "-q").status == 0
    assert "random numbers" in ingot("diff", path, compiled).complaint


def test_mistakes(ingot: Ingot, model: Path, artifact: Path, scale_proto: onnx.ModelProto, tmp_path: Path) -> None:
    assert "no such file" in ingot("diff", "gone.onnx").complaint
    assert "no such file" in ingot("diff", model, "gone.onnx").complaint
    assert "give its model" in ingot("diff", artifact).complaint
    assert "no tolerance" in ingot("diff", model, "--bound", "-1").complaint
    renamed = onnx.ModelProto()
    renamed.CopyFrom(scale_proto)
    for node in renamed.graph.node:
        node.output[0] += "_2"
        for index, name in enumerate(node.input):
            if name not in ("x", "w", "three"):
                node.input[index] = name + "_2"
    renamed.graph.output[0].name += "_2"
    onnx.save(renamed, tmp_path / "renamed.onnx")
    assert "nothing to compare" in ingot("diff", model, tmp_path / "renamed.onnx").complaint
