"""Models with strings at the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.compiler.cli.conftest import Ingot


@pytest.fixture
def words(ingot: Ingot) -> Path:
    """A model that splits strings, in the current folder."""
    nodes = [
        helper.make_node("StringSplit", ["x"], ["parts", "counts"], delimiter=","),
        helper.make_node("StringConcat", ["parts", "mark"], ["y"]),
        helper.make_node("Relu", ["f"], ["g"]),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [
            helper.make_tensor_value_info("x", TensorProto.STRING, ["n"]),
            helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.STRING, None),
            helper.make_tensor_value_info("counts", TensorProto.INT64, None),
            helper.make_tensor_value_info("g", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.array(["!"], object), "mark")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = Path("words.onnx")
    onnx.save(model, path)
    return path


def test_check_says_what_the_host_computes(ingot: Ingot, words: Path) -> None:
    outcome = ingot("check", words, "--json")
    found = outcome.record["targets"]["cpu"]
    assert found["native"] == {"Relu": 1} and found["launches"] > 0
    assert found["host"] == {"string_parts": 1, "string_split": 1, "string_concat": 1}
    assert "host steps: string_parts 1, string_split 1, string_concat 1;" in ingot("check", words).out


def test_casts_of_strings_are_the_hosts_and_others_are_not(ingot: Ingot) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    casts (string[n] x, float[n] f) => (float[n] y, string[n] z, float16[n] h)
    { a = Cast <to = 1> (x)  y = Neg (a)  z = Cast <to = 8> (f)  h = Cast <to = 10> (f) }"""
    onnx.save(onnx.parser.parse_model(text), "casts.onnx")
    found = ingot("check", "casts.onnx", "--json").record["targets"]["cpu"]
    assert found["native"] == {"Cast": 1, "Neg": 1}
    assert found["host"] == {"string_to_number": 1, "number_to_string": 1}


def test_a_model_is_compiled_looked_at_and_run(ingot: Ingot, words: Path) -> None:
    artifact = Path("words.ingot")
    assert ingot("compile", words, "-o", artifact).status == 0
    record = ingot("inspect", artifact, "--json").record
    assert record["host"] == {"string_parts": 1, "string_split": 1, "string_concat": 1}
    assert [each["dtype"] for each in record["inputs"]] == ["string", "f32"]
    np.save("x.npy", np.array(["a,b", "ccc"]))
    np.save("f.npy", np.array([1, -1], np.float32))
    given = ("--input", "x=x.npy", "--input", "f=f.npy")
    outcome = ingot("run", artifact, *given, "-o", "out.npz")
    assert "'a!' 'b!' 'ccc!' '!'" in outcome.out
    with np.load("out.npz") as outputs:
        assert outputs["y"].tolist() == [["a!", "b!"], ["ccc!", "!"]] and outputs["counts"].tolist() == [2, 1]
    for arguments in ((artifact,), (words, "--target", "interpreter")):
        record = ingot("run", *arguments, "--random", "--shape", "n=20", "--json").record
        assert record["outputs"]["y"] == {"dtype": "object", "shape": [20, 1]}
    assert "host string_concat" in ingot("profile", artifact, *given).out
    outcome = ingot("diff", words, artifact, "--shape", "n=3")
    assert outcome.status == 0, outcome


def test_a_library_for_c_is_refused(ingot: Ingot, words: Path) -> None:
    complaint = ingot("compile", words, "--emit", "so", "-o", "words.so").complaint
    assert "string_concat" in complaint and ".ingot artifact" in complaint and not Path("words.so").exists()
