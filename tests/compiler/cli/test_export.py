"""``ingot export``: optimised graphs as ONNX models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper
from tests.compiler.cli.test_cut import run

Ingot = Callable[..., Any]
pytest.importorskip("onnxruntime")


def kinds(path: str) -> list[str]:
    return [f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in onnx.load(path).graph.node]


def test_export_simplifies(ingot: Ingot, model: Path, scale: Callable[[Any], Any]) -> None:
    done = ingot("export", model, "-o", "out.onnx")
    assert done.status == 0
    assert done.out.startswith("out.onnx: ") and done.out.endswith(", opset 20; simplify,recognise,fold_norm\n")
    onnx.checker.check_model("out.onnx", full_check=True)
    out = onnx.load("out.onnx")
    assert kinds("out.onnx").count("Relu") == 1 and kinds(str(model)).count("Relu") == 2
    assert [d.dim_param for d in out.graph.input[0].type.tensor_type.shape.dim] == ["batch", ""]
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert_allclose(run("out.onnx", {"x": x})["y"], scale(x), rtol=1e-6, atol=1e-6)
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_pipelines(ingot: Ingot, model: Path) -> None:
    assert ingot("export", model, "-o", "as_it_is.onnx", "--pipeline", "").status == 0
    assert kinds("as_it_is.onnx") == ["Mul", "Relu", "Relu", "Div", "Add"]
    record = ingot(
        "export", model, "-o", "out.onnx", "--without", "recognise,fold_norm", "--opset", "17", "--json"
    ).record
    assert record["pipeline"] == "simplify" and record["opset"] == 17 and record["output"] == "out.onnx"
    assert record["nodes_after"] < record["nodes_before"] and record["bytes"] == Path("out.onnx").stat().st_size
    assert onnx.load("out.onnx").opset_import[0].version == 17
    assert ingot("export", model, "-o", "fused.onnx", "--pipeline", "simplify,fuse", "--verify", "-q").out == ""
    x = np.ones((2, 4), np.float32)
    assert_allclose(run("fused.onnx", {"x": x})["y"], run("out.onnx", {"x": x})["y"], rtol=1e-6)


def test_shapes_are_pinned(ingot: Ingot, model: Path) -> None:
    assert ingot("export", model, "-o", "one.onnx", "--shape", "batch=1", "--name", "pinned").status == 0
    one = onnx.load("one.onnx")
    assert one.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1 and one.graph.name == "pinned"


def test_text_comes_back_as_a_model(ingot: Ingot, model: Path, scale: Callable[[Any], Any]) -> None:
    assert ingot("opt", model, "--pass", "simplify", "-o", "graph.ir").status == 0
    assert ingot("export", "graph.ir", "-o", "out.onnx", "--pipeline", "").status == 0
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    assert_allclose(run("out.onnx", {"x": x})["y"], scale(x), rtol=1e-6, atol=1e-6)


def silu(path: str, opset: int) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])],
        "silu",
        [info("x", TensorProto.FLOAT, [4])],
        [info("y", TensorProto.FLOAT, [4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


def test_functions(ingot: Ingot) -> None:
    silu("m.onnx", 13)
    assert ingot("export", "m.onnx", "-o", "f.onnx").status == 0
    assert ingot("export", "m.onnx", "-o", "p.onnx", "--no-functions").status == 0
    assert ingot("export", "m.onnx", "-o", "s.onnx", "--opset", "24").status == 0
    assert kinds("f.onnx") == ["ingot.Silu"] and kinds("p.onnx") == ["Sigmoid", "Mul"] and kinds("s.onnx") == ["Swish"]
    x = np.array([-1, 0, 1, 9], np.float32)
    for path in ("f.onnx", "p.onnx", "s.onnx"):
        assert_allclose(run(path, {"x": x})["y"], x / (1 + np.exp(-x)), rtol=1e-6)


def test_narrow_weights_stay_narrow(ingot: Ingot) -> None:
    """Halves that are cast, and quantised weights with one scale a channel: as large as before, and what runtimes that
    compute in integers look for."""
    info, rng = helper.make_tensor_value_info, np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "step", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["wq", "steps", "zeros"], ["wd"], axis=0),
            helper.make_node("Conv", ["xd", "wd"], ["c"]),
            helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["c", "wide"], ["y"]),
        ],
        "narrow",
        [info("x", TensorProto.FLOAT, ["n", 3, 9, 82])],
        [info("y", TensorProto.FLOAT, ["n", 8, 7, 80])],
        [
            numpy_helper.from_array(np.array(0.05, np.float32), "step"),
            numpy_helper.from_array(np.array(128, np.uint8), "zero"),
            numpy_helper.from_array(rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8), "wq"),
            numpy_helper.from_array(rng.random(8).astype(np.float32) / 100, "steps"),
            numpy_helper.from_array(np.zeros(8, np.int8), "zeros"),
            numpy_helper.from_array(rng.standard_normal((80, 80)).astype(np.float16), "half"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
    assert ingot("export", "m.onnx", "-o", "out.onnx", "--verify").status == 0
    assert sorted(kinds("out.onnx")) == sorted(kinds("m.onnx"))
    types = {t.name: t.data_type for t in onnx.load("out.onnx").graph.initializer}
    assert types["half"] == TensorProto.FLOAT16 and types["wq"] == TensorProto.INT8
    assert [i.name for i in onnx.load("out.onnx").graph.input] == ["x"]
    x = rng.standard_normal((2, 3, 9, 82)).astype(np.float32)
    assert_allclose(run("out.onnx", {"x": x})["y"], run("m.onnx", {"x": x})["y"], rtol=1e-5, atol=1e-4)


def test_the_opset_of_the_model_is_kept(ingot: Ingot) -> None:
    silu("m.onnx", 22)
    assert ingot("export", "m.onnx", "-o", "out.onnx").status == 0
    assert onnx.load("out.onnx").opset_import[0].version == 22


def test_external_data(ingot: Ingot) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "add",
        [info("x", TensorProto.FLOAT, [600])],
        [info("y", TensorProto.FLOAT, [600])],
        [numpy_helper.from_array(np.arange(600, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
    assert ingot("export", "m.onnx", "-o", "out.onnx", "--external-data", "always").status == 0
    assert Path("out.onnx.data").stat().st_size == 2400
    assert run("out.onnx", {"x": np.ones(600, np.float32)})["y"].tolist() == list(range(1, 601))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--opset", "9"], "opset 9 cannot be written: opsets 13 to"),
        (["--opset", "new"], "'new' is no opset"),
        (["--pipeline", "simplfy"], "simplfy"),
        (["--shape", "rows=3"], "rows"),
        (["--external-data", "maybe"], "--external-data"),
    ],
)
def test_complaints(ingot: Ingot, model: Path, arguments: list[str], problem: str) -> None:
    assert problem in ingot("export", model, "-o", "out.onnx", *arguments).complaint
    assert not list(Path().iterdir())


def test_files_that_are_no_models(ingot: Ingot) -> None:
    assert ingot("export", "nothing.onnx", "-o", "out.onnx").complaint == "nothing.onnx: there is no such file"
    Path("graph.ir").write_text("graph of nothing")
    assert "graph.ir" in ingot("export", "graph.ir", "-o", "out.onnx").complaint
