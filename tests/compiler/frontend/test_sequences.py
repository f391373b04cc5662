"""Sequences and optionals that are resolved while a model is imported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, UnsupportedError, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph

onnxruntime = pytest.importorskip("onnxruntime")

X = np.random.default_rng(6).standard_normal((4, 3)).astype(np.float32)
HEAD = '<ir_version: 9, opset_import: ["": 18]> main (float[4, 3] x) => '


def results(text: str) -> dict[str, np.ndarray]:
    graph = load_onnx(onnx.parser.parse_model(HEAD + text))
    return evaluate_graph(graph, {"x": X})


def check(text: str) -> None:
    """The outputs, all tensors, are those of onnxruntime; so are those of the compiled model."""
    model = onnx.parser.parse_model(HEAD + text)
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    with compile(model, jobs=1).session(threads=1) as session:
        for got in (results(text), session.run({"x": X})):
            for name, expected in zip((o.name for o in model.graph.output), want, strict=True):
                assert got[name].dtype == expected.dtype
                np.testing.assert_allclose(got[name], expected, rtol=1e-6)


def constant(**integers: int) -> str:
    return " ".join(f"{name} = Constant<value = int64 {{{value}}}>()" for name, value in integers.items())


@pytest.mark.parametrize("place", [-3, -2, -1, 0, 1, 2])
def test_elements_by_position(place: int) -> None:
    check(f"""(float[4, 3] y, int64 n) {{
        a = Neg(x) b = Abs(x) {constant(p=place)}
        s = SequenceConstruct(x, a, b) y = SequenceAt(s, p) n = SequenceLength(s)
    }}""")


@pytest.mark.parametrize("place", [-2, -1, 0, 1, 2, None])
def test_insertion(place: int | None) -> None:
    at = "" if place is None else ", p"
    check(f"""(float[12, 3] y) {{
        a = Neg(x) b = Abs(x) {constant(p=place or 0)}
        s = SequenceConstruct(x, a) t = SequenceInsert(s, b{at}) y = ConcatFromSequence<axis = 0>(t)
    }}""")


@pytest.mark.parametrize("place", [-3, 0, 1, 2, None])
def test_removal(place: int | None) -> None:
    at = "" if place is None else ", p"
    check(f"""(float[2, 4, 3] y) {{
        a = Neg(x) b = Abs(x) {constant(p=place or 0)}
        s = SequenceConstruct(x, a, b) t = SequenceErase(s{at}) y = ConcatFromSequence<axis = 0, new_axis = 1>(t)
    }}""")


@pytest.mark.parametrize("axis", [-3, -1, 0, 1, 2])
def test_stacking(axis: int) -> None:
    shape = [4, 3]
    shape.insert(axis % 3, 2)
    check(f"""(float{shape} y) {{
        a = Neg(x) s = SequenceConstruct(x, a) y = ConcatFromSequence<axis = {axis}, new_axis = 1>(s)
    }}""")


@pytest.mark.parametrize(
    ("split", "attributes", "shape"),
    [
        ("", "axis = 0", [1, 3]),
        ("", "axis = 1, keepdims = 0", [4]),
        (", three", "axis = 0", [1, 3]),
        (", sizes", "axis = 0", [3, 3]),
        (", sizes", "axis = -2, keepdims = 0", [3, 3]),
    ],
)
def test_splitting(split: str, attributes: str, shape: list[int]) -> None:
    check(f"""(float{shape} y, int64 n) {{
        {constant(last=-1, three=3)} sizes = Constant<value_ints = [1, 3]>()
        s = SplitToSequence<{attributes}>(x{split}) y = SequenceAt(s, last) n = SequenceLength(s)
    }}""")


def test_a_list_that_grows_in_a_loop() -> None:
    """As PyTorch exports ``parts.append(..)``."""
    check("""(float[3, 4, 3] y) {
        n = Constant<value = int64 {3}>() t = Constant<value = bool {1}>() empty = SequenceEmpty()
        last, parts = Loop(n, t, x, empty) <body = step (int64 i, bool c, float[4, 3] v, seq(float) s)
            => (bool k, float[4, 3] w, seq(float) r) { k = Identity(c) w = Add(v, x) r = SequenceInsert(s, w) }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(parts)
    }""")


def test_a_loop_over_a_sequence_may_end_early() -> None:
    check("""(int64 y) {
        n = Constant<value = int64 {9}>() t = Constant<value = bool {1}>() empty = SequenceEmpty()
        two = Constant<value = int64 {2}>()
        parts = Loop(n, t, empty) <body = step (int64 i, bool c, seq(float) s)
            => (bool k, seq(float) r) { k = Less(i, two) r = SequenceInsert(s, x) }>
        y = SequenceLength(parts)
    }""")


def test_a_body_for_each_element() -> None:
    """Another sequence goes along, a tensor is the same for all."""
    check("""(float[2, 4, 3] y) {
        a = Neg(x) s = SequenceConstruct(x, a) t = SequenceConstruct(a, a)
        r = SequenceMap(s, t, x) <body = b (float[4, 3] p, float[4, 3] q, float[4, 3] e) => (float[4, 3] z) {
            d = Mul(p, q) z = Add(d, e)
        }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(r)
    }""")


def test_outputs_are_listed() -> None:
    got = results("(seq(float) y) { a = Neg(x) y = SequenceConstruct(x, a) }")
    assert list(got) == ["y[0]", "y[1]"]
    np.testing.assert_array_equal(got["y[1]"], -X)


def test_optionals() -> None:
    assert results("(bool y) { o = Optional(x) y = OptionalHasElement(o) }")["y"]
    assert results("(bool y) { y = OptionalHasElement(x) }")["y"]
    assert not results("(bool y) { y = OptionalHasElement() }")["y"]
    np.testing.assert_array_equal(results("(float[4, 3] y) { o = Optional(x) y = OptionalGetElement(o) }")["y"], X)
    got = results("""(float[4, 3] y) {
        s = SequenceConstruct(x) o = Optional(s) t = OptionalGetElement(o) p = Constant<value = int64 {0}>()
        y = SequenceAt(t, p)
    }""")
    np.testing.assert_array_equal(got["y"], X)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(float[4, 3] y) { s = SequenceConstruct(x) y = Neg(s) }", "is a sequence of 1: a tensor is needed"),
        ("(int64 y) { y = SequenceLength(x) }", "input 0 is no sequence"),
        ("(float[4, 3] y) { s = SequenceEmpty() y = ConcatFromSequence<axis = 0>(s) }", "of an empty sequence"),
        ("(seq(float) y) { s = SequenceEmpty() y = SequenceErase(s) }", "of an empty sequence"),
        (
            """(seq(float) y) {
                s = SequenceConstruct(x) p = Constant<value = int64 {-2}>() y = SequenceInsert(s, x, p)
            }""",
            "outside -1..1 of a sequence of 1",
        ),
        ("(seq(float) y) { y = SequenceEmpty() }", "all outputs of the model are empty"),
        ("(float[4, 3] y) { o = Optional<type = float[4, 3]>() y = OptionalGetElement(o) }", "empty optional"),
        ("(seq(float) y) { i = Cast<to = 7>(x) y = SequenceConstruct(x, i) }", "have different types"),
        (
            "(float[4, 3] y) { s = SequenceConstruct(x) p = Constant<value = int64 {1}>() y = SequenceAt(s, p) }",
            "outside -1..0 of a sequence of 1",
        ),
        (
            """(float[4, 3] y) {
                row = ReduceSum<keepdims = 0>(x) s = SequenceConstruct(x, row)
                a = ArgMax<axis = 0, keepdims = 0>(x) p = ReduceMax<keepdims = 0>(a) y = SequenceAt(s, p)
            }""",
            "different numbers of axes",
        ),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        results(text)


def test_sequences_as_inputs_are_refused() -> None:
    text = '<ir_version: 9, opset_import: ["": 18]> main (seq(float) s) => (int64 y) { y = SequenceLength(s) }'
    with pytest.raises(UnsupportedError, match="inputs must be dense tensors"):
        load_onnx(onnx.parser.parse_model(text))
