"""All that is not supported in a model is found in one import."""

from __future__ import annotations

import onnx
import pytest

from ingot.compiler.frontend import ModelError, UnsupportedError, load_onnx

HEADER = '<ir_version: 9, opset_import: ["" : 17, "com.example": 1]> '


def refused(text: str) -> UnsupportedError:
    with pytest.raises(UnsupportedError) as caught:
        load_onnx(onnx.parser.parse_model(HEADER + text))
    return caught.value


def test_uses_and_operators_are_listed_together() -> None:
    error = refused(
        """m (float[n, 4] x, float[3, 1, 4] q) => (float[n, 4] y, float[k] z, float[3, 1, 1, 4] w) {
            a = Frobnicate (x)  b = com.example.Twirl (a)  y = Relu (b)
            c = Cast <to = 14> (x)  z = Flatten (c)
            w = LSTM <hidden_size = 4, activations = ["Sigmoid", "Tanh", "Sin"]> (q, q, q) }"""
    )
    assert [(each.domain, each.op_type, each.is_known_domain) for each in error.operators] == [
        ("", "Frobnicate", True),
        ("com.example", "Twirl", False),
    ]
    uses = {each.node: each for each in error.uses}
    assert uses.keys() == {"Cast:c", "LSTM:w"}
    assert uses["LSTM:w"].opset == 17 and uses["LSTM:w"].types == ("f32[3, 1, 4]",) * 3
    assert "complex64" in uses["Cast:c"].reason and "'Sin'" in uses["LSTM:w"].reason
    assert error.unexamined == {"Flatten": 1, "Relu": 1}
    for words in ("'LSTM:w' (LSTM, opset 17 on f32[3, 1, 4]", "no domain 'com.example'", "write-an-operator.md"):
        assert words in str(error)


def test_a_domain_without_an_opset_import_is_said_to_lack_it() -> None:
    model = onnx.parser.parse_model(HEADER + "m (float[2] x) => (float[2] y) { y = com.other.Twirl (x) }")
    with pytest.raises(UnsupportedError, match=r"no opset import for 'com.other'"):
        load_onnx(model)


def test_declared_types_stand_in_for_results() -> None:
    """Behind an unknown operator whose result is declared, nodes are examined; nothing else is said of them."""
    text = """m (float[n, 4] x) => (float[n, 4] y) <float[n, 4] a> {
        a = com.example.Twirl (x)  b = Relu (a)  c = Cast <to = 14> (b)  y = Neg (b) }"""
    assert refused(text.replace("y = Neg (b)", "y = Add (b, c)")).uses[0].node == "Cast:c"
    assert not refused(text).uses and not refused(text).unexamined


def test_a_single_use_reads_as_before() -> None:
    error = refused("m (float[2] x) => (float[2] y) { c = Cast <to = 14> (x)  d = Neg (c)  y = Neg (d) }")
    assert str(error).startswith("node 'Cast:c' (Cast), opset 17: ") and len(error.uses) == 1
    assert error.unexamined == {"Neg": 2}


def test_bodies_of_loops_and_branches_are_examined_once() -> None:
    error = refused(
        """m (float[2] x, bool c, int64 n) => (float[2] y, float[2] z) {
            y = If (c) <then_branch = t () => (float[2] a) { k = Cast <to = 14> (x)  a = Cast <to = 1> (k) },
                        else_branch = e () => (float[2] b) { b = com.example.Twirl (x) }>
            z = Loop (n, , x) <body = o (int64 i, bool d, float[2] v) => (bool g, float[2] w) {
                g = Identity (d)  p = Cast <to = 14> (v)  w = Cast <to = 1> (p) }> }"""
    )
    assert [use.node for use in error.uses] == ["Cast:k", "Cast:p"]
    assert [each.op_type for each in error.operators] == ["Twirl"]


def test_what_is_malformed_comes_first() -> None:
    for body in ("y = Neg (nowhere)  z = com.example.Twirl (x)", "z = Cast <to = 14> (x)  y = Neg (y)"):
        with pytest.raises(ModelError) as caught:
            load_onnx(onnx.parser.parse_model(HEADER + f"m (float[2] x) => (float[2] y, float[2] z) {{ {body} }}"))
        assert str(caught.value)


def test_branches_cannot_capture_what_is_not_there() -> None:
    """An undefined name is not a branch that the shapes rule out."""
    model = onnx.parser.parse_model(
        HEADER
        + """m (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { a = Neg (nowhere) },
                        else_branch = e () => (float[2] b) { b = Neg (x) }> }"""
    )
    with pytest.raises(ModelError, match="'nowhere' is used but never defined"):
        load_onnx(model)


@pytest.mark.parametrize(
    "text",
    [
        "m (float[4611686018427387904, 4] x) => (float[a, b] y) { y = Neg (x) }",
        "m (float[n] x) => (float[m] y) <int64[1] r = {4611686018427387904}> { y = Tile (x, r) }",
        """m (float[1, 1, 4] x) => (float[a, b, c] y) <float[1, 1, 3] w = {1, 2, 3}> {
            y = Conv <pads = [4611686018427387904, 4611686018427387904]> (x, w) }""",
    ],
)
def test_sizes_beyond_64_bits(text: str) -> None:
    with pytest.raises(ModelError, match="which no memory holds"):
        load_onnx(onnx.parser.parse_model(HEADER + text))
