"""Strings and encoded images as ONNX: valid, equal in onnxruntime where it has the operator, loaded again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tests.compiler.frontend.test_export import run

from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import ExportError, export_onnx
from ingot.compiler.ir.graph import Array
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.passes.default import default_pipeline

pytest.importorskip("onnxruntime")

SPLIT = """main (string[n] x) => (parts, counts) { parts, counts = StringSplit<delimiter = ",", maxsplit = 2>(x) }"""
CONCAT = """main (string[n] x) => (y, same, place) <string[1] tail = {"ö!"}> {
    long = Concat<axis = 0>(x, tail)  y = StringConcat(long, tail)  same = Equal(x, tail)
    a, place, c, d = Unique(x)
}"""
NORMALISED = """main (string[n] x) => (y) {
    y = StringNormalizer<stopwords = ["a", "B"], is_case_sensitive = 0, case_change_action = "UPPER">(x)
}"""
MATCH = """main (string[n] x) => (y) { y = RegexFullMatch<pattern = "[a-c]+|.,.*">(x) }"""
CHOSEN = """main (string[n] x, bool which) => (y) {
    y = If(which) <
        then_branch = one () => (string[p] a) { s = Constant<value = string[1] {"end"}>()  a = Concat<axis = 0>(x, s) },
        else_branch = two () => (string[q] b) { b = Identity(x) }
    >
}"""
NUMBERS = """main (int64[n] x) => (y) { text = Cast<to = 8>(x)  back = Cast<to = 1>(text)  y = Cast<to = 7>(back) }"""

TEXTS = np.array(["a,b,c,d", "abc", "", "B", "ä,é", "abc"], object)


def model_of(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]>\n{text}')


@pytest.mark.parametrize("text", [SPLIT, CONCAT, MATCH, CHOSEN, NUMBERS])
def test_text(text: str) -> None:
    feed: dict[str, Array] = {"x": np.array([3, -70, 2**20]) if text is NUMBERS else TEXTS}
    if text is SPLIT:
        feed["x"] = TEXTS[TEXTS != ""]  # in which onnxruntime finds no part, the standard's reference one
    if text is CHOSEN:
        feed["which"] = np.array(True)
    model = model_of(text)
    wanted = run(model, feed)
    graph = load_onnx(model)
    for stage in (graph, default_pipeline().run(graph)):
        exported = export_onnx(stage)
        onnx.checker.check_model(exported, full_check=True)
        for found in (run(exported, feed), evaluate_graph(load_onnx(exported), feed)):
            for name, want in wanted.items():
                np.testing.assert_array_equal(found[name], want, strict=True)


def test_normalised_text() -> None:
    """onnxruntime wants a locale that not every system has."""
    graph = load_onnx(model_of(NORMALISED))
    for stage in (graph, default_pipeline().run(graph)):
        exported = export_onnx(stage)
        onnx.checker.check_model(exported, full_check=True)
        for x in (TEXTS, TEXTS[3:4]):
            found, wanted = (evaluate_graph(g, {"x": x})["y"] for g in (load_onnx(exported), graph))
            np.testing.assert_array_equal(found, wanted, strict=True)


def test_operators_that_an_opset_lacks() -> None:
    for text, op_type in ((SPLIT, "StringSplit"), (CONCAT, "StringConcat"), (MATCH, "RegexFullMatch")):
        with pytest.raises(ExportError, match=f"opset 19 has no {op_type}"):
            export_onnx(load_onnx(model_of(text)), opset=19)


def test_images() -> None:
    """onnxruntime has no ImageDecoder."""
    image = pytest.importorskip("PIL.Image")
    import io

    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 3), np.uint8)
    image.fromarray(pixels).save(data, "png")
    text = """main (uint8[n] x) => (y) { y = ImageDecoder<pixel_format = "RGB">(x) }"""
    exported = export_onnx(load_onnx(model_of(text)))
    onnx.checker.check_model(exported, full_check=True)
    again = load_onnx(exported)
    found = evaluate_graph(again, {"x": np.frombuffer(data.getvalue(), np.uint8)})
    np.testing.assert_array_equal(found["y"], pixels)
