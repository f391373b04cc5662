"""Malformed, contradictory and hostile models: a ModelError that says where, never another exception or a crash."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from ingot.compiler.frontend import ModelError, UnsupportedError, load_onnx
from ingot.compiler.ir.graph import Constant
from ingot.compiler.ir.interpret import evaluate_graph

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def parse(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEADER + text)


def small() -> onnx.ModelProto:
    return parse(
        """net (float[n, 4] x) => (float[n, 2] y) <float[4, 2] w = {1,2,3,4,5,6,7,8}, float[2] b = {1, 2}> {
          h = MatMul(x, w)
          y = Add(h, b)
        }"""
    )


def fails(model: object, problem: str, **options: object) -> ModelError:
    with pytest.raises(ModelError, match=problem) as caught:
        load_onnx(model, **options)  # type: ignore[arg-type]
    return caught.value


# -- structure --------------------------------------------------------------------------------------------------------


def test_cycle_names_its_nodes() -> None:
    model = parse(
        """net (float[2] x) => (float[2] y) {
          [first] a = Add(x, c)
          [second] b = Neg(a)
          [third] c = Exp(b)
          y = Neg(x)
        }"""
    )
    fails(model, "cycle of 3 node.s.: 'first' -> 'second' -> 'third' -> 'first'")
    fails(parse("net (float[2] x) => (float[2] y) { [loop] y = Add(x, y) }"), "cycle of 1 node.s.: 'loop' -> 'loop'")


def test_long_chains_and_any_order_are_fine() -> None:
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(5000)]
    graph = helper.make_graph(
        nodes[::-1],
        "g",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("v5000", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert len(load_onnx(model).nodes()) == 5001


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("y = Neg(nowhere)", "node 'Neg:y' .Neg., opset 17: the name 'nowhere' is used but never defined"),
        ("y = Neg(x) y = Exp(x)", "the name 'y' is defined twice: by node 'Neg:y' and by node 'Exp:y'"),
        ("x = Exp(x) y = Neg(x)", "the name 'x' is defined twice: by an input"),
        ("z = Neg(x)", "the name 'y' is used but never defined"),
        ("y = Add(x)", "input 1 is missing"),
        ("y = Add(x, )", "input 1 is missing"),
        ("y = Neg<speed = 3>(x)", "attribute 'speed' of Neg is not supported"),
        ("y = Neg(x, x)", "input 1 of Neg is not supported"),
        ("y, z = Neg(x)", "the node names 2 outputs, Neg has 1 at most"),
        ("s = Constant<value = int64[1] {1}>() v, y, z = TopK(x, s)", "names 3 outputs, TopK has 2 at most"),
        ("y = Transpose<perm = [0, 0]>(x)", "axes .0, 0. name one axis twice"),
        ("y = Transpose<perm = [7, 0]>(x)", "axis 7 is outside"),
        ("y = Transpose<perm = 1.5>(x)", "'perm' is not a list of integers"),
        ("y = Softmax<axis = 9>(x)", "axis 9 is outside -2..1"),
        ("y = Concat(x, x)", "attribute 'axis' is missing"),
        ("c = Constant<value = bool {1}>() y = If(c)", "attribute 'then_branch' must be a graph"),
        ("s = Shape(x) y = Add(x, s)", "different element types"),
        ("y = Cast<to = 99>(x)", "element type number 99"),
        ("y = Cast<to = 14>(x)", "element type complex64"),
        ("y = Cast<to = 0>(x)", "no element type"),
        ("y, m = MaxPool<kernel_shape = [1]>(x)", "kernel_shape .1. does not fit"),
        ("s = Constant<value = int64[2] {-1, -1}>() y = Reshape(x, s)", "one -1 at most"),
        ("s = Constant<value = int64[2] {5, 7}>() y = Reshape(x, s)", "8 elements, shape .5, 7. another number"),
        ("s = Constant<value = int64[1] {0}>() y = Slice(x, s, s, s, s)", "a step is 0"),
        ("y = Clip(x, x)", "."),
        ("y = elsewhere.Neg(x)", "elsewhere.Neg"),
        ('k = Constant<value_string = "s">() y = Add(x, k)', r"an operand is string\[\], but"),
    ],
)
def test_bad_nodes(body: str, problem: str) -> None:
    fails(parse(f"net (float[2, 4] x) => (float[k, m] y) {{ {body} }}"), problem)


def test_dead_nodes_do_not_matter() -> None:
    load_onnx(parse("net (float[2] x) => (float[2] y) { y = Neg(x) z = Unheard(x) q = Neg(nowhere) }"))


@pytest.mark.parametrize("passed", ["x", "x, x, x"])
def test_loops_that_pass_what_their_body_does_not_take(passed: str) -> None:
    model = parse(
        f"""net (float[2, 4] x, int64 n, bool c) => (float[2, 4] y) {{
          y = Loop(n, c, {passed}) <body = b (int64 i, bool go, float[2, 4] v, float[2, 4] w)
            => (bool on, float[2, 4] r, float[2, 4] s) {{ on = Identity(go) r = Neg(v) s = Neg(w) }}>
        }}"""
    )
    count = passed.count("x")
    fails(model, rf"node 'Loop:y' .Loop., opset 17: the body 'b' has 4 inputs where the loop passes {2 + count}")


def test_numbers_that_no_extent_can_have() -> None:
    """Divisors count as well: with a small extent the quotient is 0, and would look harmless."""
    sizes = "int64[3] s = {4294967296, 4294967296, -1}"
    text = f"net (float[n] x) => (float[a, b, c] y) <{sizes}> {{ y = Reshape(x, s) }}"
    fails(parse(text), "'Reshape:y' makes .*, which no memory holds")


def test_missing_outputs() -> None:
    model = parse(
        "net (float[1, 2, 4] x, float[2] s) => (float[1, 2, 4] y, float[2] m)"
        " { y, m, v = BatchNormalization(x, s, s, s, s) }"
    )
    fails(model, "output 1 .'m'. of BatchNormalization is not supported")
    del model.graph.output[1]
    load_onnx(model)


def test_header() -> None:
    model = small()
    del model.opset_import[:]
    fails(model, "does not say which opset")
    model.opset_import.append(helper.make_opsetid("", 17))
    model.opset_import.append(helper.make_opsetid("ai.onnx", 16))
    fails(model, "two opsets, 17 and 16")
    model = small()
    model.opset_import[0].version = 1000
    fails(model, "opset 1000, opsets 1 to")
    model = small()
    model.ir_version = 1000
    fails(model, "IR version 1000, the newest known is")
    model = small()
    del model.graph.output[:]
    fails(model, "no outputs")
    model.ClearField("graph")
    fails(model, "no graph")
    model = small()
    model.graph.output.append(model.graph.output[0])
    fails(model, "two outputs are named 'y'")
    model = small()
    model.graph.input.append(model.graph.input[0])
    fails(model, "two inputs are named 'x'")
    model = small()
    model.graph.initializer.append(model.graph.initializer[0])
    fails(model, "two initialisers are named 'w'")
    model = small()
    model.graph.input[0].type.ClearField("tensor_type")
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    fails(model, "input 'x' is a sequence")


def test_unknown_domain_is_listed_even_without_an_import() -> None:
    error = fails(
        parse("net (float[2] x) => (float[2] y) { y = com.microsoft.FusedThing(x) }"), "com.microsoft.FusedThing"
    )
    assert isinstance(error, UnsupportedError) and error.operators[0].domain == "com.microsoft"


def test_errors_say_where(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    onnx.save(parse("net (float[2] x) => (float[2] y) { [here] y = Softmax<axis = 5>(x) }"), path)
    error = fails(path, "bad.onnx: node 'here' .Softmax., opset 17: axis 5 is outside -1..0; run onnx.checker")
    assert error.file == str(path) and error.node == "'here' (Softmax)" and error.opset == 17
    assert error.remedy == "run onnx.checker on the model"
    fails(tmp_path / "absent.onnx", "there is no file .*absent.onnx")
    with pytest.raises(TypeError, match="not int"):
        load_onnx(3)  # type: ignore[arg-type]


def test_initialisers_that_are_inputs_are_constants() -> None:
    model = small()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 2]))
    graph = load_onnx(model)
    assert [i.label for i in graph.inputs] == ["x"]
    assert {n.origin for n in graph.nodes() if isinstance(n, Constant)} == {("w",), ("b",)}


def test_graphsurgeon_graphs_are_accepted() -> None:
    surgeon = pytest.importorskip("onnx_graphsurgeon")
    graph = load_onnx(surgeon.import_onnx(small()))
    assert [i.label for i in graph.inputs] == ["x"] and [n for n, _ in graph.outputs] == ["y"]


# -- bytes ------------------------------------------------------------------------------------------------------------


def big() -> bytes:
    """A model whose weight is long enough to be cut out of the message."""
    model = small()
    weight = np.arange(4 * 500, dtype=np.float32).reshape(4, 500)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(500, np.float32), "b"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 500
    return model.SerializeToString()


def test_every_truncation_is_an_error() -> None:
    data = big()
    load_onnx(data)
    for length in [*range(60), *range(60, len(data), 37), *range(len(data) - 60, len(data))]:
        try:
            load_onnx(data[:length])
        except ModelError:
            continue
        assert onnx.ModelProto.FromString(data[:length]).graph.output  # cut between two fields: another whole model


def test_damaged_bytes_never_crash() -> None:
    random_ = random.Random(0)
    for _ in range(600):
        data = bytearray(big())
        for _ in range(random_.choice((1, 3, 10))):
            place = random_.randrange(min(len(data), random_.choice((200, len(data)))))
            data[place] = random_.randrange(256)
        with contextlib.suppress(ModelError):
            load_onnx(bytes(data))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"hello, world, this is no model", "not a well-formed ONNX model"),
        (b"\x3a\xff\xff\xff\xff\x7f" + b"x" * 20, "34359738367 bytes where 20 are left"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than ten bytes"),
        (b"\x08", "ends inside a number"),
        (b"\x3b", "wire type 3"),
        (b"\x00\x00", "field number 0"),
        (b"\x0d\x01", "ends inside a number"),
        (b"\x08\x07", "no graph"),
        (b"\x3a\x04\x12\x02\xff\xfe", "no opset|no outputs|UTF-8|does not say"),
    ],
)
def test_bytes_that_are_no_model(data: bytes, problem: str) -> None:
    fails(data, problem)


def test_deep_nesting_is_refused() -> None:
    message = b"x" * 2000
    for _ in range(200):  # graph -> node -> attribute -> graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            message = tag + _varint(len(message)) + message
    fails(b"\x3a" + _varint(len(message)) + message, "nested more than 100 deep")


def test_nested_branches_capture_through_all_levels() -> None:
    text = "y0 = Neg(x)"
    for i in range(20):
        then = f"then_branch = t{i} () => (float[2] y{i}) {{ {text} }}"
        text = f"y{i + 1} = If(c) <{then}, else_branch = e{i} () => (float[2] z{i}) {{ z{i} = Exp(x) }}>"
    graph = load_onnx(parse(f"net (bool c, float[2] x) => (float[2] y20) {{ {text} }}"))
    found = evaluate_graph(graph, {"c": np.array(True), "x": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(found["y20"], [-1, -2])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_names_that_are_not_text() -> None:
    data = small().SerializeToString().replace(b"MatMul", b"Mat\xff\xfel")
    fails(data, "op_type b'Mat.*' is not UTF-8 text")


# -- what an artifact cannot hold, and models that are larger than they look ------------------------------------------


@pytest.mark.parametrize("place", ["input", "output"])
def test_long_names_and_many_axes(place: str) -> None:
    names = {"input": "x", "output": "y"} | {place: "v" * 4097}
    text = "net (float[{0}] {input}) => (float[{0}] {output}) {{ {output} = Neg({input}) }}"
    fails(parse(text.format("2", **names)), "'vvv.*4097 characters; at most 4096")
    load_onnx(parse(text.format("2", **{key: name[:4096] for key, name in names.items()})))
    load_onnx(parse(text.format(", ".join("1" * 64), input="x", output="y")))
    fails(parse(text.format(", ".join("1" * 65), input="x", output="y")), "'x' has 65 axes; .* at most 64")
    fails(parse(text.format("n" * 257, input="x", output="y")), "name of 257 characters; at most 256")


def test_functions_that_multiply() -> None:
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17, "d" : 1]> net (float[n] x) => (float[n] y) {}')
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    for level in range(31):
        inner = [("a", "t"), ("t", "b")] if level else [("a", "b")]
        nodes = [
            helper.make_node(f"F{level - 1}", [a], [b], domain="d") if level else helper.make_node("Neg", [a], [b])
            for a, b in inner
        ]
        model.functions.append(helper.make_function("d", f"F{level}", ["a"], ["b"], nodes, imports))
    model.graph.node.append(helper.make_node("F30", ["x"], ["y"], domain="d"))
    fails(model, "stand for 3221225470 nodes")
    model.graph.node[0].op_type = "F6"
    assert sum(1 for _ in load_onnx(model).nodes()) == 64 + 1


def test_the_remedy_of_a_list_begins_a_line() -> None:
    error = fails(parse("net (float[2] x) => (float[2] y) { y = Frobnicate(x) }"), "Frobnicate")
    assert str(error).splitlines()[-1].startswith("export the model")
