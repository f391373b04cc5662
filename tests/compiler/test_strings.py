"""Tensors of strings and what the host computes: every level and native code, against ONNX Runtime."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile, default_pipeline
from ingot.compiler.artifact import Artifact
from ingot.compiler.driver import build
from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import export_onnx
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Host, Program
from ingot.compiler.ir.text.graph import parse_graph, show_graph
from ingot.compiler.ir.text.program import parse_program, show_program
from ingot.compiler.ir.types import IrError
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.request import Request
from ingot.compiler.targets.errors import TargetError
from ingot.compiler.targets.registry import find_library_target, find_target
from ingot.runtime import ArtifactError, InputError, RuntimeFault, Session
from ingot.runtime.manifest import parse_manifest

STRING, INT64, BOOL, FLOAT = TensorProto.STRING, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT
Feed = dict[str, np.ndarray]
Port = tuple[str, int, Sequence[int | str] | None]

WORDS = {"w_pad": "pad", "w_a": "a", "w_list": ["a", "é", ""], "w_off_on": ["off", "on"], "w_mark": ["!"]}
NUMBERS: Mapping[str, Any] = {
    "n_shape": [3, -1],
    "n_pads": [1, 0, 0, 2],
    "n_two": [2, 1],
    "n_one": [1],
    "n_three": [3],
    "n_depth": 3,
    "n_first": 1,
}


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def texts(name: str, content: Any) -> onnx.TensorProto:
    array = np.array(content, object)
    return helper.make_tensor(name, STRING, array.shape, [t.encode() for t in array.reshape(-1)])


def port(name: str, dtype: int, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes: Sequence[onnx.NodeProto], inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.ModelProto:
    constants = [texts(name, content) for name, content in WORDS.items()]
    constants += [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in NUMBERS.items()]
    graph = helper.make_graph(nodes, "net", [port(*i) for i in inputs], [port(*o) for o in outputs], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def array(content: Any) -> np.ndarray:
    return np.array(content, object)


X = array([["b", "a", "ü"], ["", "a", "zz"]])
TEXT: list[Port] = [("x", STRING, ["n", 3])]
Case = tuple[Sequence[onnx.NodeProto], Sequence[Port], Sequence[Port], Feed, int]


def bodies() -> dict[str, Any]:
    def branch(word: str, out: str) -> onnx.GraphProto:
        return helper.make_graph([node("StringConcat", f"x {word}", out)], out, [], [port(out, STRING)])

    loop = helper.make_graph(
        [
            node("StringConcat", "acc w_mark_0", "acc2"),
            node("Identity", "cond", "cond2"),
            node("Identity", "acc2", "s"),
        ],
        "body",
        [port("i", INT64, []), port("cond", BOOL, []), port("acc", STRING, [])],
        [port("cond2", BOOL, []), port("acc2", STRING, []), port("s", STRING, [])],
    )
    return {"then_branch": branch("w_a", "t"), "else_branch": branch("w_pad", "e"), "body": loop}


def cases() -> dict[str, Case]:
    """Nodes, inputs, outputs, feed and the number of host steps."""
    inner = bodies()
    y, mask = ("y", STRING, None), ("m", BOOL, None)
    counts: list[Port] = [("i", INT64, None), ("v", INT64, None), ("c", INT64, None)]
    comma = array(["a,b,c", "", "d", "e,"])
    return {
        "concat": ([node("StringConcat", "x w_list", "y")], TEXT, [y], {"x": X}, 1),
        "movement": (
            [
                node("Gather", "x k", "g", axis=1),
                node("Transpose", "g", "t"),
                node("Concat", "t t", "c", axis=0),
                node("Slice", "c n_one n_three", "s"),
                node("Tile", "s n_two", "y"),
                node("Reshape", "x n_shape", "r"),
            ],
            [*TEXT, ("k", INT64, [2])],
            [y, ("r", STRING, None)],
            {"x": X, "k": np.array([2, -1])},
            0,
        ),
        "comparison": (
            [node("Equal", "x w_list", "m"), node("Where", "m x w_pad", "y")],
            TEXT,
            [y, mask],
            {"x": X},
            0,
        ),
        "elements": (
            [node("GatherElements", "x k", "u", axis=1), node("ScatterElements", "x k u", "y", axis=1)],
            [("x", STRING, [2, 3]), ("k", INT64, [2, 2])],
            [y],
            {"x": X, "k": np.array([[0, 1], [2, 1]])},
            0,
        ),
        "compress": (
            [node("Compress", "x m", "y", axis=0)],
            [*TEXT, ("m", BOOL, [2])],
            [y],
            {"x": X, "m": np.array([False, True])},
            0,
        ),
        "unique": ([node("Unique", "x", "y i v c")], TEXT, [y, *counts], {"x": X}, 1),
        "read_numbers": (
            [node("Cast", "x", "f", to=FLOAT), node("Cast", "x", "k", to=INT64), node("Cast", "x", "m", to=BOOL)],
            [("x", STRING, ["n"])],
            [("f", FLOAT, None), ("k", INT64, None), mask],
            {"x": array(["1", "-2", "0"])},
            3,
        ),
        "write_numbers": (
            [node("Cast", "k", "a", to=STRING), node("Cast", "f", "b", to=STRING), node("StringConcat", "a b", "y")],
            [("k", INT64, ["n"]), ("f", FLOAT, ["n"])],
            [y],
            {"k": np.array([1, -2, 3]), "f": np.array([0.5, -np.inf, np.nan], np.float32)},
            3,
        ),
        "split": (
            [
                node("StringSplit", "x", "p v", delimiter=","),
                node("StringConcat", "p w_mark", "y"),
                node("Shape", "p", "c"),
            ],
            [("x", STRING, ["n"])],
            [y, *counts[1:]],
            {"x": comma[[0, 2, 3]]},
            3,
        ),
        "split_nothing": (
            [node("StringSplit", "x", "y v", delimiter=",")],
            [("x", STRING, ["n"])],
            [y, counts[1]],
            {"x": comma[:0]},
            2,
        ),
        "split_scalar": (
            [node("StringSplit", "x", "y v", maxsplit=1)],
            [("x", STRING, [])],
            [y, counts[1]],
            {"x": array(" a b c ")},
            2,
        ),
        "normalise": (
            [
                node(
                    "StringNormalizer",
                    "x",
                    "y",
                    stopwords=["a"],
                    case_change_action="UPPER",
                    is_case_sensitive=1,
                    locale="C",
                )
            ],
            [("x", STRING, ["n"])],
            [y],
            {"x": array(["a", "A", "b"])},
            2,
        ),
        "match": ([node("RegexFullMatch", "x", "m", pattern="[a-z]+|")], TEXT, [mask], {"x": X}, 1),
        "n_grams": (
            [
                node(
                    "TfIdfVectorizer",
                    "x",
                    "f",
                    mode="TF",
                    min_gram_length=1,
                    max_gram_length=2,
                    max_skip_count=0,
                    ngram_counts=[0, 3],
                    ngram_indexes=[0, 1, 2, 3],
                    pool_strings=["a", "b", "zz", "a", "zz"],
                )
            ],
            [("x", STRING, [2, 3])],
            [("f", FLOAT, None)],
            {"x": X},
            0,
        ),
        "branch": (
            [node("If", "m", "y", then_branch=inner["then_branch"], else_branch=inner["else_branch"])],
            [*TEXT, ("m", BOOL, [])],
            [y],
            {"x": X, "m": np.array(False)},
            2,
        ),
        "loop": (
            [
                node("Constant", "", "w_mark_0", value_string="·"),
                node("Loop", "k m x", "y r", body=inner["body"]),
            ],
            [("x", STRING, []), ("k", INT64, []), ("m", BOOL, [])],
            [y, ("r", STRING, None)],
            {"x": array("x"), "k": np.array(3), "m": np.array(True)},
            1,
        ),
        "constants": (
            [
                node("Constant", "", "p", value_string="hi"),
                node("Constant", "", "q", value_strings=["", "q\0"]),
                node("StringConcat", "p q", "r"),
                node("StringConcat", "r x", "y"),
            ],
            [("x", STRING, ["n", 1])],
            [y],
            {"x": array([["1"], ["2"]])},
            1,
        ),
        "itself": ([node("Identity", "x", "y")], TEXT, [y], {"x": X[:0]}, 0),
    }


CASES = cases()
# ONNX's reference where ONNX Runtime differs: it says that the empty string has no parts, the reference says one.
PADDED = (
    [node("Pad", "x n_pads", "y"), node("Pad", "x n_pads w_pad", "z")],
    TEXT,
    [("y", STRING, None), ("z", STRING, None)],
)


def equal(found: Mapping[str, np.ndarray], wanted: Sequence[Any]) -> None:
    for (name, a), b in zip(found.items(), wanted, strict=True):
        b = np.asarray(b)
        assert a.shape == b.shape and a.tolist() == b.tolist(), name
        assert a.dtype == b.dtype or b.dtype.kind in "OU", name


def lowered(graph: Graph) -> Program:
    program = lower(default_pipeline().run(graph), find_target("cpu").machine)
    verify_program(program)
    return program


def outputs_of(program: Program, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_program(program, feed)


@pytest.mark.parametrize("name", CASES)
def test_every_level_agrees_with_onnx_runtime(name: str) -> None:
    nodes, inputs, outputs, feed, steps = CASES[name]
    proto = model(nodes, inputs, outputs)
    session = ort.InferenceSession(proto.SerializeToString())
    wanted: Sequence[Any] = list(session.run(None, feed))
    graph = load_onnx(proto)
    equal(evaluate_graph(graph, feed), wanted)
    text = show_graph(graph)
    equal(evaluate_graph(parse_graph(text), feed), wanted)
    program = lowered(graph)
    assert sum(1 for _ in program.host_steps()) == steps
    equal(outputs_of(program, feed), wanted)
    resources: dict[str, np.ndarray] = {}
    shown = show_program(program, resources)
    again = parse_program(shown, resources)
    verify_program(again)
    assert show_program(again, {}) == shown and again.strings == program.strings
    with compile(proto).session(threads=1) as native:
        for _ in range(3):
            equal(native.run(feed), wanted)
    if name in ("concat", "split"):
        with compile(proto, checked=True).session(threads=1) as native:
            equal(native.run(feed), wanted)


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("compress", "normalise")])
def test_exported_models_mean_the_same(name: str) -> None:
    nodes, inputs, outputs, feed, _ = CASES[name]
    graph = load_onnx(model(nodes, inputs, outputs))
    written = export_onnx(graph)
    onnx.checker.check_model(written, full_check=True)
    wanted = evaluate_graph(graph, feed)
    equal(evaluate_graph(load_onnx(written), feed), list(wanted.values()))
    equal(wanted, ort.InferenceSession(written.SerializeToString()).run(None, feed))


def test_padding_and_the_empty_string() -> None:
    proto = model(*PADDED)
    with compile(proto).session() as session:
        found = session.run({"x": X})
    assert found["y"].tolist() == np.pad(X, ((1, 0), (0, 2)), constant_values="").tolist()
    assert found["z"].tolist() == np.pad(X, ((1, 0), (0, 2)), constant_values="pad").tolist()
    nodes, inputs, outputs, _, _ = CASES["split_nothing"]
    feed = {"x": array(["", "a", ",a"])}
    wanted = list(ReferenceEvaluator(model(nodes, inputs, outputs)).run(None, feed))
    with compile(model(nodes, inputs, outputs)).session() as session:
        equal(session.run(feed), wanted)


def test_one_string_of_a_constant() -> None:
    """Folded, it is an array of rank 0."""
    nodes = [node("Gather", "words at", "y"), node("Equal", "y x", "z")]
    proto = model(nodes, [("x", STRING, [2])], [("y", STRING, []), ("z", BOOL, [2])])
    proto.graph.initializer.extend([texts("words", ["a", "b"]), numpy_helper.from_array(np.array(-1), "at")])
    with compile(proto).session() as session:
        equal(session.run({"x": array(["b", "a"])}), [np.array("b", object), np.array([True, False])])


def test_sequences_and_optionals_hold_strings() -> None:
    nodes = [
        node("SequenceConstruct", "x x", "q"),
        node("SequenceAt", "q n_first", "a"),
        node("ConcatFromSequence", "q", "y", axis=0),
        node("Optional", "a", "o"),
        node("OptionalGetElement", "o", "z"),
    ]
    with compile(model(nodes, TEXT, [("y", STRING, None), ("z", STRING, None)])).session() as session:
        found = session.run({"x": X})
    assert found["y"].tolist() == [*X.tolist(), *X.tolist()] and found["z"].tolist() == X.tolist()


def joined() -> Artifact:
    nodes, inputs, outputs, _, _ = CASES["concat"]
    made = compile(model(nodes, inputs, outputs))
    assert isinstance(made, Artifact)
    return made


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_what_sessions_take_and_refuse() -> None:
    with joined().session() as session:
        assert session.inputs[0].dtype == np.dtype(object) == session.outputs[0].dtype
        wanted = [["ba", "aé", "ü"], ["a", "aé", "zz"]]
        for given in (
            X,
            X.tolist(),
            X.astype(str),
            np.asfortranarray(X),
            X[::-1][::-1],
            X.astype(np.dtypes.StringDType()),
        ):
            assert session.run({"x": given})["y"].tolist() == wanted
        for bad in (
            np.zeros((1, 3)),
            [[1, 2, 3]],
            [[b"a", b"b", b"c"]],
            np.array([[b"a", b"b", b"c"]]),
            array([["a", None, "b"]]),
        ):
            with pytest.raises(InputError, match="'x'"):
                session.run({"x": bad})
        with pytest.raises(InputError, match="axes"):
            session.run({"x": array(["a"])})
        with pytest.raises(InputError, match="strings"):
            session.bind({"x": X}, {"y": np.empty_like(X)})
        assert session.run({"x": X}, ["y"])["y"].tolist() == wanted
        assert session.profile({"x": X}, runs=2).launches[0].kernel == "host string_concat"


def test_variants_have_strings_of_their_own() -> None:
    nodes, inputs, outputs, _, _ = CASES["split"]
    for general in (True, False):
        proto = model(nodes, inputs, outputs)
        with compile(proto, specialise=[{"n": 1}, {"n": (2, 3)}], general=general).session() as session:
            for count in (1, 3, 2) if not general else (1, 5, 0, 2):
                feed = {"x": array([f"{i},b" for i in range(count)])}
                assert session.run(feed)["y"].tolist() == [[f"{i}!", "b!"] for i in range(count)]


def test_threads_have_strings_of_their_own() -> None:
    with joined().session() as session, ThreadPoolExecutor(4) as pool:

        def run(number: int) -> bool:
            x = array([[f"{number} {i} {j}" for j in range(3)] for i in range(number % 7)]).reshape(-1, 3)
            found = session.run({"x": x})["y"]
            return found.tolist() == [[a + "a", b + "é", c] for a, b, c in x.tolist()]

        assert all(pool.map(run, range(200)))


def test_a_failure_on_the_host_ends_the_run_and_says_why() -> None:
    nodes = [node("Cast", "x", "f", to=FLOAT), node("StringConcat", "x w_mark", "y")]
    proto = model(nodes, [("x", STRING, ["n"])], [("f", FLOAT, None), ("y", STRING, None)])
    for target in ("cpu", "interpreter"):
        with compile(proto, target=target).session() as session:  # pyright: ignore[reportAttributeAccessIssue]
            for _ in range(2):
                with pytest.raises(
                    RuntimeFault, match=r"string_to_number.*Cast.*failed: the string 'no' is no number"
                ) as caught:
                    session.run({"x": array(["1", "no"])})
                assert caught.value.__cause__ is not None
                assert session.run({"x": array(["1", "2"])})["f"].tolist() == [1.0, 2.0]


def test_a_constant_that_fails_fails_in_the_run() -> None:
    nodes = [node("Cast", "w_pad", "f", to=FLOAT), node("Identity", "x", "y")]
    proto = model(nodes, TEXT, [("f", FLOAT, None), ("y", STRING, None)])
    with compile(proto).session() as session, pytest.raises(RuntimeFault, match="'pad' is no number"):
        session.run({"x": X})


def test_interrupts_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingot.runtime.host import text

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with joined().session() as session:
        monkeypatch.setattr(text, "concat", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run({"x": X})
        monkeypatch.undo()
        assert session.run({"x": X})["y"][0, 0] == "ba"


def test_bound_runs_may_have_host_steps() -> None:
    pytest.importorskip("PIL.Image")
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(2).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), np.uint8).copy()
    nodes = [
        node("ImageDecoder", "d", "i"),
        node("Shape", "i", "s"),
        node("ReduceMax", "f", "m", keepdims=0),
        node("Cast", "i", "f", to=FLOAT),
    ]
    order = [nodes[0], nodes[1], nodes[3], nodes[2]]
    proto = model(
        order, [("d", TensorProto.UINT8, ["n"])], [("s", INT64, [3]), ("m", FLOAT, []), ("i", TensorProto.UINT8, None)]
    )
    with compile(proto).session() as session:
        assert session.run({"d": data})["i"].tolist() == pixels.tolist()
        sizes, largest = np.zeros(3, np.int64), np.zeros((), np.float32)
        run = session.bind({"d": data}, {"s": sizes, "m": largest, "i": None})
        for _ in range(2):
            run()
            assert sizes.tolist() == [4, 6, 3] and largest == pixels.max()
        nothing = session.run({"d": data[:20]})
        assert nothing["i"].shape == (0, 0, 3)


def test_a_saved_artifact_and_damage_to_it(tmp_path: Path) -> None:
    path = tmp_path / "m.ingot"
    artifact = joined()
    artifact.save(path)
    with Session(path) as session:
        assert session.run({"x": X})["y"][1].tolist() == ["a", "aé", "zz"]
    document = json.loads(artifact.manifest.encode())
    assert document["strings"][0] == "" and "é" in document["strings"] and len(document["host"]) == 1

    def refused(change: Mapping[str, Any], problem: str) -> None:
        with pytest.raises(ArtifactError, match=problem):
            parse_manifest(json.dumps({**document, **change}).encode())

    refused({"strings": ["a"]}, "begin with an empty one")
    refused({"strings": []}, "begin with an empty one")
    refused({"strings": ["", "a", "a"]}, "two are equal")
    refused({"strings": ["", 1]}, "not a string")
    refused({"strings": ["", "\ud800"]}, "not valid Unicode")
    refused({"host": {}}, "host")
    gone = {k: v for k, v in document.items() if k != "strings"}
    with pytest.raises(ArtifactError, match="not even the empty string"):
        parse_manifest(json.dumps(gone).encode())
    storages = {
        **document["storages"],
        "dtypes": ["string" if d == "i64" else d for d in document["storages"]["dtypes"]],
    }
    refused({"storages": storages}, "storages.dtypes")


def test_handles_that_are_none_are_found() -> None:
    """A weight that names a string which there is not."""
    nodes, inputs, outputs, _, _ = CASES["concat"]
    program = lowered(load_onnx(model(nodes, inputs, outputs)))
    broken = dataclasses.replace(program, strings=("",))
    with pytest.raises(RuntimeFault, match="no handle"):
        outputs_of(broken, {"x": np.full((1, 3), "", object)})


# -- programs ---------------------------------------------------------------------------------------------------------


def test_host_steps_are_verified() -> None:
    nodes, inputs, outputs, _, _ = CASES["split"]
    program = lowered(load_onnx(model(nodes, inputs, outputs)))
    found = {s.function: s for s in program.steps if isinstance(s, Host)}
    step, joining = found["string_split"], found["string_concat"]

    def refused(problem: str, step: Host = step, **changes: Any) -> None:
        steps = list(program.steps)
        steps[steps.index(step)] = dataclasses.replace(step, **changes)
        with pytest.raises(IrError, match=problem):
            verify_program(dataclasses.replace(program, steps=tuple(steps)))

    refused("no host function", function="nothing")
    refused("takes no i64|takes no string|operands", function="string_to_number")
    refused("attributes", attributes={})
    refused("type int", attributes={**step.attributes, "maxsplit": "1"})
    refused("cannot be reported", fault=0)
    refused("cannot be reported", fault=99)
    refused("1 operands, 0 are given", operands=())
    refused("1 results, 2 are given", results=step.results * 2)
    refused("in another place", joining, results=joining.operands[:1])
    refused("writes input", results=(dataclasses.replace(step.operands[0], type=step.results[0].type),))
    refused("beyond the end", results=(dataclasses.replace(step.results[0], offset=step.results[0].type.size + 1),))


def test_libraries_for_c_are_refused() -> None:
    for name, problem in (("concat", "string_concat"), ("movement", "strings")):
        nodes, inputs, outputs, _, _ = CASES[name]
        with pytest.raises(TargetError, match=problem):
            build(Request(model(nodes, inputs, outputs), target="cpu"), find_library_target("cpu"))
