"""``ingot cut``: parts of models that onnxruntime runs to the same values as the whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper, numpy_helper

Ingot = Callable[..., Any]
onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
W = RNG.standard_normal((16, 32)).astype(np.float32)  # 2 KB: the parser leaves it in the file
BIAS = RNG.standard_normal(32).astype(np.float32)
UNUSED = RNG.standard_normal((32, 32)).astype(np.float32)


def run(path: Path | str, feed: Mapping[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def proto() -> onnx.ModelProto:
    """x[batch, 16] @ w -> linear; + bias -> biased; a function `my.Act`; an If on `flag` that captures; two outputs."""
    act = helper.make_function(
        "my", "Act", ["v"], ["r"], [helper.make_node("Relu", ["v"], ["r"])], [helper.make_opsetid("", 17)]
    )
    inner = onnx.TensorProto.FLOAT
    then, otherwise = (
        helper.make_graph(
            [helper.make_node(op, ["active", "bias"], [f"{name}_out"], name=f"{name}_node")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", inner, ["batch", 32])],
        )
        for name, op in (("then_branch", "Add"), ("else_branch", "Sub"))
    )
    big = numpy_helper.from_array(UNUSED, "in_node")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["linear"], name="matmul"),
            helper.make_node("Add", ["linear", "bias"], ["biased"], name="add", doc_string="adds"),
            helper.make_node("Act", ["biased"], ["active"], name="act", domain="my"),
            helper.make_node("If", ["flag"], ["chosen"], name="if", then_branch=then, else_branch=otherwise),
            helper.make_node("Constant", [], ["matrix"], name="matrix", value=big),
            helper.make_node("MatMul", ["chosen", "matrix"], ["y"], name="last"),
            helper.make_node("ReduceSum", ["active", "axes"], ["z"], name="sum", keepdims=0),
        ],
        "whole",
        [
            helper.make_tensor_value_info("x", inner, ["batch", 16]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("y", inner, ["batch", 32]),
            helper.make_tensor_value_info("z", inner, ["batch"]),
        ],
        [
            numpy_helper.from_array(W, "w"),
            numpy_helper.from_array(BIAS, "bias"),
            numpy_helper.from_array(np.array([1]), "axes"),
            numpy_helper.from_array(UNUSED, "never_used"),
        ],
        doc_string="the graph",
        value_info=[helper.make_tensor_value_info("biased", inner, ["batch", 32])],
    )
    graph.quantization_annotation.add(tensor_name="biased")
    graph.quantization_annotation.add(tensor_name="z")
    model = helper.make_model(
        graph,
        functions=[act],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my", 1)],
        ir_version=8,
        producer_name="somebody",
        doc_string="the model",
    )
    model.metadata_props.add(key="author", value="me")
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.onnx"
    onnx.save(proto(), path)
    return path


def feed(batch: int = 3, flag: bool = True) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((batch, 16)).astype(np.float32), "flag": np.array(flag)}


def names(values: Any) -> list[str]:
    return [v.name for v in values]


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


# -- parts ------------------------------------------------------------------------------------------------------------


def test_between_two_tensors(ingot: Ingot, whole: Path) -> None:
    done = ingot("cut", whole, "-o", "part.onnx", "--inputs", "biased", "--outputs", "z,active")
    assert done.status == 0
    assert done.out.splitlines() == [
        "part.onnx: 2 nodes",
        "  input biased float[batch, 32]",
        "  output z float[batch]",
        "  output active float[batch, 32]",
    ]
    part, model = onnx.load("part.onnx"), proto()
    onnx.checker.check_model("part.onnx", full_check=True)
    assert list(part.graph.node) == [model.graph.node[2], model.graph.node[6]]
    assert names(part.graph.initializer) == ["axes"]
    assert list(part.functions) == list(model.functions) and list(part.opset_import) == list(model.opset_import)
    assert list(part.metadata_props) == list(model.metadata_props)
    for field in ("producer_name", "doc_string", "ir_version"):
        assert getattr(part, field) == getattr(model, field)
    assert part.graph.name == "whole" and part.graph.doc_string == "the graph"
    assert [q.tensor_name for q in part.graph.quantization_annotation] == ["biased", "z"]
    x = feed()["x"]
    biased = x @ W + BIAS
    found = run("part.onnx", {"biased": biased})
    assert_allclose(found["active"], np.maximum(biased, 0), rtol=1e-6)
    assert_allclose(found["z"], run(whole, feed())["z"], rtol=1e-5, atol=1e-5)


def test_the_end_alone(ingot: Ingot, whole: Path) -> None:
    """The inputs by default are the model's, those that are needed; weights in node attributes are kept."""
    assert ingot("cut", whole, "-o", "y.onnx", "--outputs", "y").status == 0
    assert names(onnx.load("y.onnx").graph.input) == ["x", "flag"]
    assert_array_equal(run("y.onnx", feed())["y"], run(whole, feed())["y"])
    assert ingot("cut", whole, "-o", "z.onnx", "--outputs", "z").status == 0
    assert names(onnx.load("z.onnx").graph.input) == ["x"]
    assert ingot("cut", whole, "-o", "start.onnx", "--outputs", "linear", "-q").out == ""
    start = onnx.load("start.onnx")
    assert names(start.graph.node) == ["matmul"] and names(start.graph.initializer) == ["w"]
    assert_allclose(run("start.onnx", {"x": feed()["x"]})["linear"], feed()["x"] @ W, rtol=1e-4, atol=1e-5)


def test_inputs_that_sub_graphs_capture(ingot: Ingot, whole: Path) -> None:
    """Both branches read `active`, and `bias` stays an initialiser for them."""
    assert (
        ingot("cut", whole, "-o", "part.onnx", "--inputs", "active", "--inputs", "flag", "--outputs", "y").status == 0
    )
    part = onnx.load("part.onnx")
    assert names(part.graph.node) == ["if", "matrix", "last"] and names(part.graph.initializer) == ["bias"]
    active = np.maximum(feed()["x"] @ W + BIAS, 0)
    for flag in (True, False):
        found = run("part.onnx", {"active": active, "flag": np.array(flag)})
        assert_allclose(found["y"], run(whole, feed(flag=flag))["y"], rtol=1e-4, atol=1e-4)


def test_a_weight_as_input(ingot: Ingot, whole: Path) -> None:
    assert ingot("cut", whole, "-o", "part.onnx", "--inputs", "x,w", "--outputs", "linear").status == 0
    part = onnx.load("part.onnx")
    assert shape(part.graph.input[1]) == [16, 32] and not part.graph.initializer
    x, w = feed()["x"], -2 * W
    assert_allclose(run("part.onnx", {"x": x, "w": w})["linear"], x @ w, rtol=1e-4, atol=1e-4)


def test_a_whole_model_stays_the_same(ingot: Ingot, whole: Path) -> None:
    assert ingot("cut", whole, "-o", "same.onnx").status == 0
    same, model = onnx.load("same.onnx"), proto()
    kept = [t for t in model.graph.initializer if t.name != "never_used"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    assert same == model
    first = Path("same.onnx").read_bytes()
    assert ingot("cut", whole, "-o", "again.onnx").status == 0
    assert Path("again.onnx").read_bytes() == first


def test_as_json(ingot: Ingot, whole: Path) -> None:
    record = ingot("cut", whole, "-o", "part.onnx", "--inputs", "linear", "--outputs", "biased", "--json").record
    assert record["nodes"] == 1 and record["output"] == "part.onnx"
    assert record["inputs"] == {"linear": "float[batch, 32]"} and record["outputs"] == {"biased": "float[batch, 32]"}


def test_every_tensor_of_a_real_model(ingot: Ingot) -> None:
    """The model of the demo, cut in two at every node: the halves make the whole."""
    from ingot.compiler.demo import model_path

    path = model_path()
    model = onnx.load(path)
    (start,) = names(model.graph.input)
    (end,) = names(model.graph.output)
    x = np.random.default_rng(0).random([d if isinstance(d, int) else 2 for d in shape(model.graph.input[0])])
    wanted = run(path, {start: x.astype(np.float32)})[end]
    for node in model.graph.node[:-1]:
        middle = node.output[0]
        assert ingot("cut", path, "-o", "a.onnx", "--outputs", middle).status == 0
        assert ingot("cut", path, "-o", "b.onnx", "--inputs", middle).status == 0
        onnx.checker.check_model("b.onnx", full_check=True)
        found = run("b.onnx", run("a.onnx", {start: x.astype(np.float32)}))[end]
        assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


# -- names and dims ---------------------------------------------------------------------------------------------------


def test_rename(ingot: Ingot, whole: Path) -> None:
    """Everywhere: in nodes, annotations and the sub-graphs that capture."""
    arguments = (
        "--inputs",
        "active,flag",
        "--outputs",
        "y,z",
        "--rename",
        "active=features,y=logits",
        "--rename",
        "z=sum",
    )
    assert ingot("cut", whole, "-o", "part.onnx", *arguments).status == 0
    part = onnx.load("part.onnx")
    onnx.checker.check_model(part, full_check=True)
    assert names(part.graph.input) == ["features", "flag"] and names(part.graph.output) == ["logits", "sum"]
    assert [q.tensor_name for q in part.graph.quantization_annotation] == ["sum"]
    assert names(part.graph.node) == ["if", "matrix", "last", "sum"]
    active = np.maximum(feed()["x"] @ W + BIAS, 0)
    found = run("part.onnx", {"features": active, "flag": np.array(True)})
    assert_allclose(found["logits"], run(whole, feed())["y"], rtol=1e-4, atol=1e-4)
    assert ingot("cut", whole, "-o", "swapped.onnx", "--rename", "y=z", "--rename", "z=y").status == 0
    assert_array_equal(run("swapped.onnx", feed())["z"], run(whole, feed())["y"])


def test_named_dims(ingot: Ingot, whole: Path) -> None:
    assert ingot("cut", whole, "-o", "one.onnx", "--dim", "batch=1").status == 0
    one = onnx.load("one.onnx")
    onnx.checker.check_model(one, full_check=True)
    assert [shape(v) for v in (one.graph.input[0], *one.graph.output, *one.graph.value_info)] == [
        [1, 16],
        [1, 32],
        [1],
        [1, 32],
    ]
    branch = next(a.g for a in one.graph.node[3].attribute if a.name == "then_branch")
    assert shape(branch.output[0]) == [1, 32]
    assert_array_equal(run("one.onnx", feed(1))["y"], run(whole, feed(1))["y"])
    assert ingot("cut", whole, "-o", "n.onnx", "--dim", "batch=n").status == 0
    assert shape(onnx.load("n.onnx").graph.output[1]) == ["n"]
    assert ingot("cut", whole, "-o", "x.onnx", "--dim", "x=5,16").status == 0
    assert shape(onnx.load("x.onnx").graph.output[0]) == [5, 32]
    assert_array_equal(run("x.onnx", feed(5))["z"], run(whole, feed(5))["z"])


def image_model(path: str, height: int | str = 8) -> None:
    """A convolution of stride 2 and a mean over what is left."""
    inner = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["y"]),
        ],
        "image",
        [helper.make_tensor_value_info("x", inner, [1, 3, height, 8])],
        [
            helper.make_tensor_value_info("y", inner, [1, 4 * 4 * 4]),
            helper.make_tensor_value_info("r", inner, [1, 4, 4, 4]),
        ],
        [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")],
        value_info=[helper.make_tensor_value_info("c", inner, [1, 4, 4, 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_fixed_extents_become_others(ingot: Ingot) -> None:
    """Declared types that speak of the old extents go, those of the outputs are inferred anew."""
    image_model("m.onnx")
    assert ingot("cut", "m.onnx", "-o", "big.onnx", "--dim", "x=1,3,16,24").status == 0
    big = onnx.load("big.onnx")
    onnx.checker.check_model(big, full_check=True)
    assert [shape(v) for v in big.graph.output] == [[1, 4 * 8 * 12], [1, 4, 8, 12]] and not big.graph.value_info
    x = np.random.default_rng(0).random((1, 3, 16, 24), np.float32)
    assert run("big.onnx", {"x": x})["r"].shape == (1, 4, 8, 12)
    assert ingot("cut", "m.onnx", "-o", "free.onnx", "--dim", "x=batch,3,height,8").status == 0
    free = onnx.load("free.onnx")
    onnx.checker.check_model(free, full_check=True)
    assert shape(free.graph.input[0]) == ["batch", 3, "height", 8] and shape(free.graph.output[1])[0] == "batch"
    x = np.random.default_rng(0).random((2, 3, 5, 8), np.float32)
    assert run("free.onnx", {"x": x})["r"].shape == (2, 4, 3, 4)


def test_extents_that_the_weights_do_not_fit(ingot: Ingot, whole: Path) -> None:
    complaint = ingot("cut", whole, "-o", "no.onnx", "--dim", "x=batch,15").complaint
    assert complaint.startswith("the model cannot take these dims: ") and not Path("no.onnx").exists()


def test_expressions_over_dims(ingot: Ingot) -> None:
    inner = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        "twice",
        [helper.make_tensor_value_info("x", inner, ["n", "some dim"])],
        [helper.make_tensor_value_info("y", inner, ["2*n", "some dim"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
    for given, expected in (("n=4", [8, "some dim"]), ("n=rows", ["2*rows", "some dim"]), ("some dim=3", ["2*n", 3])):
        assert ingot("cut", "m.onnx", "-o", "p.onnx", "--dim", given).status == 0
        assert shape(onnx.load("p.onnx").graph.output[0]) == expected


# -- external data ----------------------------------------------------------------------------------------------------


def external(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    onnx.save(proto(), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def test_external_data_stay_beside_the_model(ingot: Ingot) -> None:
    path = external(Path("model"))
    before = (Path("model") / "weights.bin").read_bytes()
    assert ingot("cut", path, "-o", "model/part.onnx", "--outputs", "z").status == 0
    assert sorted(p.name for p in Path("model").iterdir()) == ["m.onnx", "part.onnx", "weights.bin"]
    assert (Path("model") / "weights.bin").read_bytes() == before
    assert_array_equal(run("model/part.onnx", {"x": feed()["x"]})["z"], run(path, feed())["z"])


def test_external_data_that_are_needed_come_along(ingot: Ingot) -> None:
    path = external(Path("model"))
    assert ingot("cut", path, "-o", "part.onnx", "--outputs", "linear").status == 0
    assert Path("part.onnx.data").stat().st_size == W.nbytes
    shutil.rmtree("model")
    assert_allclose(run("part.onnx", {"x": feed()["x"]})["linear"], feed()["x"] @ W, rtol=1e-4, atol=1e-5)


def test_more_than_one_file_holds(ingot: Ingot, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limit of a message lowered, what was inside goes outside, node attributes too."""
    from ingot.compiler.frontend.cut import model

    monkeypatch.setattr(model, "LARGEST", 4000)
    assert ingot("cut", whole, "-o", "part.onnx", "--outputs", "y").status == 0
    assert Path("part.onnx.data").stat().st_size == W.nbytes + UNUSED.nbytes
    assert Path("part.onnx").stat().st_size < 2000
    assert_array_equal(run("part.onnx", feed())["y"], run(whole, feed())["y"])


def test_missing_external_data(ingot: Ingot) -> None:
    path = external(Path("model"))
    (Path("model") / "weights.bin").unlink()
    complaint = ingot("cut", path, "-o", "part.onnx", "--outputs", "linear").complaint
    assert "weights.bin" in complaint and "does not exist" in complaint
    assert not Path("part.onnx").exists() and not list(Path().glob(".part*"))


# -- what cannot be cut -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--outputs", "baised"], "there is no tensor 'baised' in the model to be an output; did you mean 'biased'"),
        (["--inputs", "bia"], "there is no tensor 'bia' in the model to be an input; did you mean 'bias', 'biased'?"),
        (["--inputs", "qqqq"], "there is no tensor 'qqqq' in the model to be an input"),
        (["--inputs", "biased"], "the outputs also need the input(s) 'flag' of the model: add them to the inputs"),
        (["--inputs", "biased", "--outputs", "linear"], "the outputs also need the input(s) 'x'"),
        (["--inputs", "x,active", "--outputs", "linear"], "no output depends on the input(s) 'active': leave them out"),
        (["--inputs", "biased", "--outputs", "biased"], "'biased' is given as an input and as an output"),
        (["--outputs", "y,y"], "'y' is given twice as an output"),
        (["--outputs", "y,,z"], "--outputs 'y,,z' has an empty name; write --outputs a,b"),
        (["--rename", "biased=b"], "'biased' is no input or output, so it cannot be renamed; there are 'x', 'flag', "),
        (["--rename", "y=biased"], "'y' cannot be renamed to 'biased': there is another tensor of that name"),
        (["--rename", "y=then_branch_out"], "there is another tensor of that name"),
        (["--rename", "y=a,z=a"], "two tensors would be named 'a'"),
        (["--rename", "y"], "--rename 'y' is no OLD=NEW"),
        (["--rename", "y=a", "--rename", "y=b"], "--rename gives 'y' twice"),
        (["--dim", "bacth=1"], "'bacth' is no input, output or named dim; did you mean 'batch'?"),
        (["--dim", "x=1,2,3"], "'x' has 2 axes, 3 dims are given"),
        (["--dim", "batch=1,2"], "'batch' is a dim, which has one value, not 2"),
        (["--dim", "batch=1,x=2,16"], "the dim 'batch' is given the values 1 and 2"),
        (["--dim", "batch=1..4"], "--dim gives 'batch' the range 1..4; ONNX has no ranges"),
        (["--dim", "batch=-1"], "--dim gives 'batch' the dim '-1'"),
    ],
)
def test_complaints(ingot: Ingot, whole: Path, arguments: list[str], problem: str) -> None:
    assert problem in ingot("cut", whole, "-o", "part.onnx", *arguments).complaint
    assert not list(Path().iterdir())


def test_files_that_are_no_models(ingot: Ingot, whole: Path) -> None:
    assert ingot("cut", "nothing.onnx", "-o", "p.onnx").complaint == "nothing.onnx: there is no such file"
    Path("text.onnx").write_text("hello")
    assert "not a well-formed ONNX model" in ingot("cut", "text.onnx", "-o", "p.onnx").complaint
    Path("empty.onnx").write_bytes(b"")
    assert "the file is empty" in ingot("cut", "empty.onnx", "-o", "p.onnx").complaint
    assert "-o" in ingot("cut", whole).complaint


def test_tensors_of_unknown_type(ingot: Ingot) -> None:
    """What comes out of an operator that nobody knows has a type only where the model declares it."""
    graph = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["m"], domain="nobody"), helper.make_node("Relu", ["m"], ["y"])],
        "mystery",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), "m.onnx")
    complaint = ingot("cut", "m.onnx", "-o", "p.onnx", "--outputs", "m").complaint
    assert complaint.startswith("the element type of 'm' is neither declared in the model nor follows from it")
    assert ingot("cut", "m.onnx", "-o", "p.onnx", "--dim", "x=7", "--rename", "x=in").status == 0
    assert names(onnx.load("p.onnx").graph.input) == ["in"]
