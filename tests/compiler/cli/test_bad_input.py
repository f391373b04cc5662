"""Everything that a user can get wrong: exit status 2 and one line on stderr that names the culprit."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

Ingot = Callable[..., Any]


def save(path: Path, nodes: list[onnx.NodeProto], **options: Any) -> Path:
    """A model of `nodes` from x f32[n, 4] to y."""
    inputs = options.pop("inputs", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    proto = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=imports, ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["compile", "check", "bench", "opt"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is a text, not a model\n", ["broken.onnx"]),
        (b"", ["broken.onnx"]),
        (b"\x08\x08", ["broken.onnx", "graph"]),
        (bytes(range(256)), ["broken.onnx"]),
    ],
    ids=["text", "empty", "no graph", "noise"],
)
def test_not_onnx(ingot: Ingot, command: str, content: bytes, words: list[str]) -> None:
    Path("broken.onnx").write_bytes(content)
    complaint = ingot(command, "broken.onnx").complaint
    assert all(word in complaint for word in words)


@pytest.mark.parametrize("command", ["compile", "check", "bench", "opt"])
def test_truncated_model(ingot: Ingot, command: str, model: Path) -> None:
    data = model.read_bytes()
    for length in (len(data) // 4, len(data) // 2, len(data) - 1):
        Path("short.onnx").write_bytes(data[:length])
        assert "short.onnx" in ingot(command, "short.onnx").complaint


@pytest.mark.parametrize("command", ["compile", "check", "run", "bench", "inspect", "opt"])
def test_missing_and_unsuitable_files(ingot: Ingot, command: str, tmp_path: Path) -> None:
    assert "nowhere.onnx: there is no such file" in ingot(command, "nowhere.onnx").complaint
    (tmp_path / "folder.onnx").mkdir()
    assert "folder.onnx" in ingot(command, "folder.onnx").complaint


def test_unknown_operators_are_all_listed(ingot: Ingot) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="second"),
        helper.make_node("Twirl", ["b"], ["y"], name="third", domain="com.example"),
    ]
    save(Path("odd.onnx"), nodes)
    complaint = ingot("compile", "odd.onnx").complaint
    for word in ("Frobnicate", "first", "second", "com.example.Twirl", "third", "17"):
        assert word in complaint
    assert not Path("odd.ingot").exists()


def test_check_lists_what_is_missing(ingot: Ingot) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Twirl", ["b"], ["y"], name="third", domain="com.example"),
    ]
    save(Path("odd.onnx"), nodes)
    outcome = ingot("check", "odd.onnx", "--json")
    assert outcome.status == 1
    record = outcome.record
    assert record["compilable"] is False
    assert record["operators"] == {"Frobnicate": 1, "Relu": 1, "com.example.Twirl": 1}
    found = {each["operator"]: (each["opset"], each["count"], each["nodes"]) for each in record["unsupported"]}
    assert found == {"Frobnicate": (17, 1, ["first"]), "com.example.Twirl": (1, 1, ["third"])}
    assert all(each["reason"] for each in record["unsupported"])
    text = ingot("check", "odd.onnx")
    assert text.status == 1 and "Frobnicate" in text.out and "com.example.Twirl" in text.out and "third" in text.out


def test_check_of_several_targets(ingot: Ingot, model: Path) -> None:
    targets = ["--target", "cpu", "--target", "null", "--target", "aarch64", "--target", "interpreter"]
    outcome = ingot("check", model, *targets, "--json")
    assert outcome.status == 0 and list(outcome.record["targets"]) == targets[1::2]
    for found in outcome.record["targets"].values():
        assert found["compilable"] and found["launches"] > 0 and found["host"] == {} and found["missing"] == []
        assert found["native"] == outcome.record["operators"]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], name="text", to=14),
        helper.make_node("Twirl", ["b"], ["y"], name="third", domain="com.example"),
        helper.make_node("Neg", ["x"], ["unused"]),
    ]
    save(Path("odd.onnx"), nodes)
    outcome = ingot("check", "odd.onnx", *targets[:4], "--json")
    assert outcome.status == 1 and outcome.record["unused"] == {"Neg": 1}
    for found in outcome.record["targets"].values():
        assert not found["compilable"] and found["native"] == {"Relu": 1} and found["launches"] is None
        assert [(each["operator"], each["nodes"], each["types"]) for each in found["missing"]] == [
            ("com.example.Twirl", ["third"], None),
            ("Cast", ["text"], ["f32[n, 4]"]),
        ]
    complaint = ingot("compile", "odd.onnx").complaint
    for word in ("Twirl", "third", "'text' (Cast, opset 17 on f32[n, 4])", "write-an-operator"):
        assert word in complaint


def test_cyclic_graph(ingot: Ingot) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="up"), helper.make_node("Relu", ["a"], ["b"], name="down")]
    nodes.append(helper.make_node("Neg", ["b"], ["y"]))
    save(Path("ring.onnx"), nodes)
    for command in ("compile", "check"):
        complaint = ingot(command, "ring.onnx").complaint
        assert "ring.onnx" in complaint and ("up" in complaint or "down" in complaint)


def test_dims_that_contradict_each_other(ingot: Ingot) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size]) for name, size in (("x", 3), ("z", 4))]
    save(Path("clash.onnx"), [helper.make_node("Add", ["x", "z"], ["y"], name="joined")], inputs=inputs)
    complaint = ingot("compile", "clash.onnx").complaint
    assert "clash.onnx" in complaint and "joined" in complaint


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("x=2,5", ["'x'", "axis 1", "5", "4"]),
        ("x=2,3,4", ["'x'", "3 axes"]),
        ("z=1,4", ["'z'"]),
        ("z=3", ["'z'"]),
        ("z=1..4", ["'z'"]),
        ("batch=5..2", ["batch", "5..2"]),
        ("x=1..4,4", ["'x'", "1..4", "--shape"]),
        ("x=two!,4", ["'x'", "'two!'"]),
        ("x=-1,4", ["'x'", "'-1'"]),
        ("7,3", ["no name"]),
        ("x=1,4,x=2,4", ["'x'", "twice"]),
        ("batch=other", ["'batch'"]),
    ],
)
def test_shapes_that_do_not_fit(ingot: Ingot, model: Path, shape: str, words: list[str]) -> None:
    complaint = ingot("compile", model, "-o", "m.ingot", "--shape", shape).complaint
    assert all(word in complaint for word in words), complaint
    assert not Path("m.ingot").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "z80"], ["z80", "native"]),
        (["--numerics", "sloppy"], ["sloppy", "strict"]),
        (["--jobs", "0"], ["--jobs", "'0'"]),
        (["--pass", "nonsense"], ["nonsense", "simplify"]),
        (["--pass", "no_such_module:go"], ["no_such_module"]),
        (["--pass", "json:nothing"], ["json:nothing"]),
        (["--pass", "json:__name__"], ["json:__name__", "not a pass"]),
        (["--pass", "after:nonsense=simplify"], ["nonsense"]),
        (["--pass", "simplify{depth=3}"], ["simplify", "depth"]),
        (["--without", "nonsense"], ["nonsense"]),
        (["--pipeline", "simplify,nonsense"], ["nonsense"]),
        (["--pipeline", "simplify{"], ["simplify{"]),
        (["--print-after", "nonsense"], ["nonsense"]),
        (["--flag-without-meaning"], ["--flag-without-meaning"]),
        (["-o", "no/such/folder/m.ingot"], ["no/such/folder"]),
        (["-o", "."], ["folder"]),
    ],
)
def test_options_of_compile(ingot: Ingot, model: Path, arguments: list[str], words: list[str]) -> None:
    complaint = ingot("compile", model, *(["-o", "m.ingot"] if "-o" not in arguments else []), *arguments).complaint
    assert all(word in complaint for word in words), complaint


def test_a_model_is_not_overwritten(ingot: Ingot, model: Path) -> None:
    before = model.read_bytes()
    assert "overwritten" in ingot("compile", model, "-o", model).complaint
    assert model.read_bytes() == before


def test_artifact_and_model_are_told_apart(ingot: Ingot, model: Path, artifact: Path) -> None:
    assert "artifact already" in ingot("compile", artifact).complaint
    for command in ("run", "inspect"):
        assert f"ingot compile {model}" in ingot(command, model).complaint


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["compile"]])
def test_commands_that_are_not(ingot: Ingot, arguments: list[str]) -> None:
    assert "--help" in ingot(*arguments).complaint


@pytest.mark.parametrize(
    ("name", "value"), [("INGOT_STOP_AT", "soon"), ("INGOT_TRACEBACK", "yes"), ("INGOT_THREADS", "none")]
)
def test_environment_variables(
    ingot: Ingot, artifact: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    complaint = ingot("run", artifact, "--random").complaint
    assert name in complaint and value in complaint


# -- passes -----------------------------------------------------------------------------------------------------------

MODULE = """
from ingot.compiler.ops.pointwise import Div, Neg, Relu

def stumble(graph):
    raise KeyError("key of nothing")

def forget(graph):
    return None

def negate(node: Div, graph):
    return {node: Neg(node.a)}

def fail_rule(node: Relu, graph):
    raise ZeroDivisionError("rule at fault")

from ingot.compiler import rules
wrong = rules(negate)
broken = rules(fail_rule)
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [("stumble", ["bad:stumble", "key of nothing"]), ("forget", ["bad:forget", "Graph"]), ("broken", ["fail_rule"])],
)
def test_passes_that_fail(ingot: Ingot, model: Path, name: str, words: list[str]) -> None:
    Path("bad.py").write_text(MODULE)
    complaint = ingot("compile", model, "-o", "m.ingot", "--pass", f"bad:{name}").complaint
    assert all(word in complaint for word in [*words, "ingot opt", "repro.ir"]), complaint
    assert Path("repro.ir").is_file() and not Path("m.ingot").exists()
    # The reproducer does what it says.
    assert words[-1] in ingot("opt", "repro.ir", "--pass", f"bad:{name}").complaint


def test_verify_names_the_rule(ingot: Ingot, model: Path) -> None:
    Path("bad.py").write_text(MODULE)
    complaint = ingot("compile", model, "-o", "m.ingot", "--verify", "--pass", "before:simplify=bad:wrong").complaint
    assert "bad:wrong" in complaint and "negate" in complaint and "third" in complaint
    assert not Path("m.ingot").exists()


def test_module_that_does_not_import(ingot: Ingot, model: Path) -> None:
    Path("crooked.py").write_text("def half(:\n")
    assert "crooked" in ingot("compile", model, "-o", "m.ingot", "--pass", "crooked:half").complaint


# -- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("z", np.zeros((1, 4), np.float32), ["'z'", "'x'"]),
        ("x", np.zeros((1, 4), np.float64), ["'x'", "float64", "float32"]),
        ("x", np.zeros((1, 4), np.int32), ["'x'", "int32"]),
        ("x", np.zeros((1, 5), np.float32), ["'x'", "5", "4"]),
        ("x", np.zeros((4, 1), np.float32), ["'x'", "axis 1"]),
        ("x", np.zeros(4, np.float32), ["'x'", "axes"]),
        ("x", np.zeros((1, 1, 4), np.float32), ["'x'", "axes"]),
    ],
    ids=["name", "f64", "i32", "extent", "order", "rank 1", "rank 3"],
)
@pytest.mark.parametrize("form", ["npy", "npz"])
def test_inputs_that_do_not_fit(
    ingot: Ingot, artifact: Path, name: str, array: Any, words: list[str], form: str
) -> None:
    if form == "npy":
        np.save("a.npy", array)
        given = f"{name}=a.npy"
    else:
        np.savez("a.npz", **{name: array})
        given = "a.npz"
    complaint = ingot("run", artifact, "--input", given, "-o", "y.npz").complaint
    assert all(word in complaint for word in words), complaint
    assert not Path("y.npz").exists()


def test_input_files(ingot: Ingot, artifact: Path) -> None:
    Path("text.npy").write_text("1 2 3 4\n")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.save("x.npy", np.zeros((1, 4), np.float32))
    np.savez("two.npz", x=np.zeros((1, 4), np.float32), z=np.zeros(1))
    Path("short.npy").write_bytes(Path("x.npy").read_bytes()[:-4])
    Path("short.npz").write_bytes(Path("two.npz").read_bytes()[:-30])
    for text, words in {
        "x=absent.npy": ["absent.npy"],
        "absent.npz": ["absent.npz"],
        "x=text.npy": ["text.npy", "numpy"],
        "x=objects.npy": ["objects.npy", "numpy"],
        "x=short.npy": ["short.npy"],
        "short.npz": ["short.npz"],
        "x=two.npz": ["two.npz", "archive"],
        "two.npz": ["'z'"],
        "x.npy": ["name=array.npy"],
        "x=": ["name=array.npy"],
    }.items():
        complaint = ingot("run", artifact, "--input", text).complaint
        assert all(word in complaint for word in words), complaint
    assert "twice" in ingot("run", artifact, "--input", "x=x.npy", "--input", "x=x.npy").complaint
    assert "x float32['batch', 4]" in ingot("run", artifact).complaint
    assert "--random" in ingot("run", artifact, "--input", "x=x.npy", "--shape", "batch=1").complaint
    assert "no folder a" in ingot("run", artifact, "--input", "x=x.npy", "-o", "a/b.npz").complaint


@pytest.mark.parametrize(
    ("shape", "words"),
    [("batch=x", ["'batch'"]), ("x=1,5", ["axis 1"]), ("x=1", ["axes"]), ("q=3", ["'q'", "batch"])],
)
def test_shapes_of_random_inputs(ingot: Ingot, artifact: Path, shape: str, words: list[str]) -> None:
    for command in (("run", artifact, "--random"), ("inspect", artifact)):
        complaint = ingot(*command, "--shape", shape).complaint
        assert all(word in complaint for word in words), complaint


def test_ranges_are_kept(ingot: Ingot, model: Path) -> None:
    assert ingot("compile", model, "-o", "m.ingot", "--shape", "batch=2..3", "-q").status == 0
    assert "2 to 3" in ingot("run", "m.ingot", "--random", "--shape", "batch=4").complaint
    np.save("x.npy", np.zeros((4, 4), np.float32))
    assert "2 to 3" in ingot("run", "m.ingot", "--input", "x=x.npy").complaint


def test_threads(ingot: Ingot, artifact: Path) -> None:
    assert "--threads" in ingot("run", artifact, "--random", "--threads", "0").complaint


# -- artifacts --------------------------------------------------------------------------------------------------------


def patched(artifact: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(artifact.read_bytes())
    change(data)
    path = Path("m.ingot")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_artifact(ingot: Ingot, artifact: Path, share: float) -> None:
    data = artifact.read_bytes()
    Path("m.ingot").write_bytes(data[: int(len(data) * share)])
    for command in (("run", "m.ingot", "--random"), ("inspect", "m.ingot")):
        assert "m.ingot" in ingot(*command).complaint


@pytest.mark.parametrize("member", ["code", "weights", "manifest"])
def test_altered_artifact(ingot: Ingot, artifact: Path, member: str) -> None:
    def flip(data: bytearray) -> None:
        place = {
            "code": data.index(b"\x7fELF") + 700,
            "weights": data.index(struct.pack("<f", -2.0)),
            "manifest": data.index(b'"format":') + 12,
        }[member]
        data[place] ^= 1

    path = patched(artifact, flip)
    if member != "weights":  # reading all weights is left to inspect --verify
        assert "m.ingot" in ingot("run", path, "--random").complaint
    complaint = ingot("inspect", path, "--verify").complaint
    assert "m.ingot" in complaint and ("damaged" in complaint or "JSON" in complaint)


def test_artifact_of_another_format_version(ingot: Ingot, artifact: Path) -> None:
    from ingot.runtime.container import Member, read, write

    with read(artifact) as file:
        members = {name: file.view(name).tobytes() for name in file.members}
    document = json.loads(members["manifest.json"])
    document["format"] = 99
    members["manifest.json"] = json.dumps(document).encode()
    write("m.ingot", [Member(name, data, 4096) for name, data in members.items()])
    for command in (("run", "m.ingot", "--random"), ("inspect", "m.ingot")):
        complaint = ingot(*command).complaint
        assert "99" in complaint and "compile the model again" in complaint


def test_artifact_for_another_processor(ingot: Ingot, model: Path) -> None:
    from ingot.runtime.cpu import host_architecture

    other = "aarch64" if host_architecture() == "x86-64" else "x86-64-v3"
    assert ingot("compile", model, "-o", "m.ingot", "--target", other, "-q").status == 0
    complaint = ingot("run", "m.ingot", "--random").complaint
    assert "m.ingot" in complaint and other.removesuffix("-v3") in complaint and "--target" in complaint
    outcome = ingot("inspect", "m.ingot")
    assert outcome.status == 0 and "does not run on this machine" in outcome.out


# -- graphs in text form ----------------------------------------------------------------------------------------------


def test_graph_texts(ingot: Ingot) -> None:
    Path("noise.ir").write_bytes(bytes(range(128, 256)))
    Path("half.ir").write_text('graph "g" {\n  %x = input("x") : f32[2]\n')
    Path("lost.ir").write_text('graph "g" {\n  %w = constant(f32[64]@0123456789abcdef)\n  return %w as "y"\n}\n')
    assert "noise.ir" in ingot("opt", "noise.ir").complaint
    assert "half.ir:3" in ingot("opt", "half.ir").complaint
    assert "0123456789abcdef" in ingot("opt", "lost.ir").complaint
    assert "--shape" in ingot("opt", "half.ir", "--shape", "x=1").complaint


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_are_not_commands_to_the_terminal(ingot: Ingot) -> None:
    name, shown = "a\x1b[2J\x00\u202eb", "a\\x1b[2J\\x00\\u202eb"
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])]
    save(Path("m.onnx"), [helper.make_node("Relu", [name], ["y"])], inputs=given)
    assert ingot("compile", "m.onnx", "-o", "m.ingot", "-v").status == 0
    assert shown in ingot("inspect", "m.ingot").out
    assert shown in ingot("run", "m.ingot").complaint


def test_long_names(ingot: Ingot) -> None:
    name = "n" * 400  # longer than the name of a file may be
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])]
    path = save(Path("m.onnx"), [helper.make_node("Relu", [name], ["y"])], inputs=given)
    proto = onnx.load(path)
    proto.graph.name = "g" * 70_000
    onnx.save(proto, path)
    assert ingot("compile", "m.onnx", "-o", "m.ingot").status == 0
    np.save("x.npy", np.ones((2, 4), np.float32))
    assert ingot("run", "m.ingot", "--input", f"{name}=x.npy", "-o", "y.npz").status == 0
    assert "there is no such file" in ingot("run", "m.ingot", "--input", f"{name}={'x' * 400}").complaint
