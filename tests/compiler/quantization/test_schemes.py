"""Whole models through `quantize`: every scheme, the report, files, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.compiler.networks import dense_network, model_of
from tests.compiler.passes.quantize.layered import samples as layered_samples
from tests.compiler.passes.quantize.test_balance import block
from tests.compiler.passes.quantize.test_static import byte_products, decibels, runtime

from ingot.compiler import ExportError, QuantisationError, export_onnx, load_onnx, quantize
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.quantization import Scheme
from ingot.runtime import Session


def network() -> onnx.ModelProto:
    """Three convolutions, of which the second is neither the first nor the last."""
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
        c1 = Conv (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
        r2 = Relu (c2)
        y = Conv (r2, w3) }"""
    weights = {"w1": (8, 4, 1, 1), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (4, 8, 1, 1)}
    return model_of(text, weights, np.random.default_rng(0))


def samples_of(count: int = 4) -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    return [{"x": random.standard_normal((1, 4, 6, 6)).astype(np.float32)} for _ in range(count)]


def test_int8_as_onnx_and_as_artifact(tmp_path: Path) -> None:
    proto, samples = network(), samples_of()
    told: list[str] = []
    done = quantize(proto, iter(samples), progress=told.append)
    assert told and byte_products(done.graph) == 1
    done.save(tmp_path / "q.onnx")
    done.save(tmp_path / "q.ingot")
    exported = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(exported, full_check=True)
    have = evaluate_graph(done.graph, samples[0])["y"]
    np.testing.assert_array_equal(evaluate_graph(load_onnx(exported), samples[0])["y"], have)
    with Session(tmp_path / "q.ingot") as session:
        np.testing.assert_allclose(session.run(samples[0])["y"], have, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(runtime(exported, samples[0])[0], have, rtol=1e-2, atol=1e-2)

    report, before = done.report, load_onnx(proto)
    assert [layer.weights.split(",")[0] for layer in report.layers] == ["as they are", "i8", "as they are"]
    assert report.samples == 4 and report.bytes_after < report.bytes_before
    both = [np.stack([evaluate_graph(g, sample)["y"] for sample in samples]) for g in (before, done.graph)]
    assert report.outputs["y"] == pytest.approx(decibels(*both), abs=0.5) and report.outputs["y"] > 30
    inner = report.layers[1]
    assert inner.low == 0 and inner.high is not None and inner.snr is not None and 30 < inner.snr < 60
    assert inner.clipped is not None and 0 <= inner.clipped < 0.05
    assert inner.bytes_before == 8 * 8 * 9 * 4 and inner.bytes_after == 8 * 8 * 9 + 8 * 5
    assert report.layers[0].snr == math.inf  # nothing before it is quantised
    lines = report.text().splitlines()
    assert lines[0].split()[:3] == ["layer", "operator", "weights"] and len(lines) > 5
    report.save(tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["layers"][1]["snr"] == pytest.approx(inner.snr) and record["layers"][0]["snr"] is None


@pytest.mark.parametrize(
    ("shape", "text", "weights"),
    [
        ((1, 4, 6, 6), "float[1, 8, 6, 6] y) { y = Conv (x, w) }", {"w": (8, 4, 1, 1)}),
        ((1, 2, 3, 16), "float[1, 2, 3, 8] y) { m = MatMul (x, w)\n y = Add (b, m) }", {"w": (16, 8), "b": (8,)}),
        ((3, 16), "float[3, 8] y) { y = Gemm (x, w, b) }", {"w": (16, 8), "b": (1, 8)}),
    ],
)
def test_biases_make_up_for_rounded_weights(shape: tuple[int, ...], text: str, weights: dict[str, Any]) -> None:
    """Operands that are far from 0 meet weights that are rounded coarsely: the mean of the result moves."""
    random = np.random.default_rng(3)
    samples = [{"x": random.uniform(3, 4, shape).astype(np.float32)} for _ in range(4)]
    proto = model_of(f"g (float[{', '.join(map(str, shape))}] x) => ({text}", weights, random)
    want = np.stack([evaluate_graph(load_onnx(proto), sample)["y"] for sample in samples])
    channels = 2 if "Conv" in text else want.ndim - 1
    over = tuple(axis for axis in range(want.ndim) if axis != channels)

    def moved(correct: bool) -> float:
        done = quantize(
            proto, samples, ends=True, weight_bits=4, correct_biases=correct, least_snr=None, measure=False
        )
        have = np.stack([evaluate_graph(done.graph, sample)["y"] for sample in samples])
        return float(np.abs((have - want).mean(over)).max())

    assert moved(True) < 0.01 < 0.1 < moved(False)


def test_where_8_bits_are_too_few() -> None:
    """Channels are divided, and layers that lose too much by themselves stay in floats, where a bound asks for it."""
    random = np.random.default_rng(4)
    graph = block(random, "depthwise")
    proto, samples = export_onnx(graph), layered_samples(graph, 4, random)
    plain = quantize(proto, samples, least_snr=None).report
    assert not plain.notes and plain.outputs["y"] < 40
    bound = plain.outputs["y"] + 3
    divided = quantize(proto, iter(samples), least_snr=bound)
    assert divided.report.outputs["y"] > bound and divided.plan is None
    assert [note.split(",")[0] for note in divided.report.notes] == [
        "channels of the operands of 2 layers were divided"
    ]
    kept = quantize(proto, samples, least_snr=bound, balance=False).report
    (note,) = kept.notes
    left = [layer.name for layer in kept.layers if layer.weights == "as they are"]
    assert left and note.startswith(f"{len(left)} layers stay in floats") and all(f"{name} (" in note for name in left)
    assert kept.outputs["y"] > plain.outputs["y"]
    with pytest.raises(QuantisationError, match="no layer is left for 8 bits"):
        quantize(proto, samples, least_snr=200, balance=False)


def test_all_layers_and_those_by_name() -> None:
    whole = quantize(network(), samples_of(2), ends=True, measure=False)
    assert byte_products(whole.graph) == 3 and whole.report.outputs == {}
    some = quantize(network(), samples_of(2), only=("c*",), exclude=("c2",), ends=True, measure=False)
    assert byte_products(some.graph) == 1


def test_dynamic() -> None:
    proto, feeds = dense_network(np.random.default_rng(0))
    done = quantize(proto, feeds, scheme="int8-dynamic")
    assert byte_products(done.graph) == 2
    assert all(layer.snr is not None and layer.snr > 30 for layer in done.report.layers)
    assert quantize(proto, scheme="int8-dynamic").report.samples == 0


def test_weights_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    text = "g (float[n, 80] x) => (float[n, 70] y) { m = MatMul (x, w1)\n r = Relu (m)\n y = MatMul (r, w2) }"
    proto = model_of(text, {"w1": (80, 64), "w2": (64, 70)}, random)
    feeds = {"x": random.standard_normal((90, 80)).astype(np.float32)}
    want = evaluate_graph(load_onnx(proto), feeds)["y"]
    found: dict[str, float] = {}
    ways: list[tuple[Scheme, Any]] = [("int8-weights", None), ("int4-weights", None), ("int4-weights", feeds)]
    made = [quantize(proto, data, scheme=scheme, measure=False) for scheme, data in ways]
    for done in made:
        assert all(layer.bytes_after < 0.3 * layer.bytes_before for layer in done.report.layers)
        found[done.report.layers[0].weights] = decibels(want, evaluate_graph(done.graph, feeds)["y"])
    eight, nearest, gptq = found.values()
    assert eight > 35 and 15 < nearest < gptq
    made[-1].save(tmp_path / "w.onnx")
    np.testing.assert_allclose(runtime(onnx.load(tmp_path / "w.onnx"), feeds)[0], want, atol=0.5)
    left = quantize(proto, scheme="int4-weights", exclude=("y",), measure=False).report.layers
    assert [layer.bytes_after < layer.bytes_before for layer in left] == [True, False]
    with pytest.raises(QuantisationError, match="awq needs samples"):
        quantize(proto, scheme="int4-weights", rounding="awq")


@pytest.mark.parametrize("scheme", ["fp16", "bf16"])
def test_halves(scheme: Scheme, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    text = "g (float[n, 80] x) => (float[n, 70] y) { y = MatMul (x, w) }"
    proto = model_of(text, {"w": (80, 70)}, random)
    feeds = {"x": random.standard_normal((3, 80)).astype(np.float32)}
    done = quantize(proto, feeds, scheme=scheme)
    done.save(tmp_path / "h.onnx")
    exported = onnx.load(tmp_path / "h.onnx")
    onnx.checker.check_model(exported, full_check=True)
    assert (tmp_path / "h.onnx").stat().st_size < 80 * 70 * 2 + 1000
    want = evaluate_graph(load_onnx(proto), feeds)["y"]
    np.testing.assert_allclose(runtime(exported, feeds)[0], want, rtol=0.05, atol=0.02)
    done.save(tmp_path / "h.ingot")
    with Session(tmp_path / "h.ingot") as session:
        np.testing.assert_allclose(session.run(feeds)["y"], want, rtol=0.05, atol=0.02)
    assert (tmp_path / "h.ingot").stat().st_size < 80 * 70 * 4 + 40000


def test_lossless() -> None:
    proto, feeds = dense_network(np.random.default_rng(0))
    for each in proto.graph.initializer:
        if each.name == "w1":
            data = np.rint(numpy_helper.to_array(each) * 50).astype(np.float32) * np.float32(0.02)
            each.CopyFrom(numpy_helper.from_array(data, "w1"))
    done = quantize(proto, feeds, scheme="lossless")
    np.testing.assert_array_equal(evaluate_graph(done.graph, feeds)["y"], evaluate_graph(load_onnx(proto), feeds)["y"])
    assert [layer.weights.split(",")[0] for layer in done.report.layers] == ["i8", "as they are"]
    assert done.report.notes == ("the weights of 1 of 1 layers lie on a grid as they are: stored exactly",)


def test_quantised_parts_stay_and_whole_models_are_refused() -> None:
    half = quantize(network(), samples_of(2), measure=False)
    again = quantize(export_onnx(half.graph), samples_of(2), ends=True, measure=False)
    assert byte_products(again.graph) == 3
    with pytest.raises(QuantisationError, match="quantised throughout: compile it as it is"):
        quantize(export_onnx(again.graph), samples_of(2), ends=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "int8 needs samples"),
        ({"scheme": "int9"}, "no scheme 'int9': take int8"),
        ({"scheme": "fp16", "everywhere": True}, "everywhere is for int8: fp16 has no use for it"),
        ({"scheme": "int8-dynamic", "activations": "i8"}, "activations is for int8: int8-dynamic has no use for it"),
        ({"scheme": "int8-dynamic", "method": "minmax"}, "method is for int8:"),
        ({"scheme": "bf16", "exclude": ["c1"]}, "exclude is for int8, .*: bf16 has no use for it"),
        ({"scheme": "lossless", "weight_bits": 4}, "weight_bits is for int8, int8-dynamic:"),
        ({"data": [], "rounding": "gptq"}, "rounding is for int8-weights, int4-weights: int8 has no use for it"),
        ({"data": [], "grain": "tensor"}, "grain is for int8-dynamic:"),
        ({"data": [], "activations": "f32"}, "there is no activations 'f32': take u8, i8, u16, i16"),
        ({"scheme": "int8-dynamic", "grain": "row"}, "there is no grain 'row': take token, tensor"),
        ({"scheme": "int8-dynamic", "samples": 3}, "samples says how data is read, and there is none"),
        ({"data": [], "only": ("nothing",)}, "no layer that can be quantised is called 'nothing'"),
        ({"data": [], "only": "nothing"}, "no layer that can be quantised is called 'nothing'"),
        ({"scheme": "int8-dynamic"}, "convolutions alone, and int8-dynamic is for products"),
        ({"scheme": "int4-weights", "ends": True}, "convolutions alone, and int4-weights is for products"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantisationError, match=message):
        quantize(network(), options.pop("data", None), **options)


def test_models_without_layers() -> None:
    proto = model_of("g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }", {}, np.random.default_rng(0))
    with pytest.raises(QuantisationError, match="nothing to quantise"):
        quantize(proto, {"x": np.ones((2, 4), np.float32)})
    text = "g (float[n, 4] x) => (float[n, 4] y) { y = MatMul (x, w) }"
    single = model_of(text, {"w": (4, 4)}, np.random.default_rng(0))
    with pytest.raises(QuantisationError, match="all 1 layers are first or last ones"):
        quantize(single, {"x": np.ones((2, 4), np.float32)})
    with pytest.raises(QuantisationError, match="says no format"):
        quantize(single, {"x": np.ones((2, 4), np.float32)}, ends=True, measure=False).save("q.txt")
    assert not [n for n in load_onnx(single).nodes() if isinstance(n, Quantize | Dequantize)]


def test_groups_that_no_weights_have() -> None:
    text = "g (float[n, 32] x) => (float[n, 4] y) { y = MatMul (x, w) }"
    proto = model_of(text, {"w": (32, 4)}, np.random.default_rng(0))
    with pytest.raises(QuantisationError, match="groups of 8 rows: 16 to 1024 are supported"):
        quantize(proto, scheme="int4-weights", group=8)


def test_samples_without_elements() -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { y = MatMul (x, w) }"
    proto = model_of(text, {"w": (4, 4)}, np.random.default_rng(0))
    with pytest.raises(QuantisationError, match="all samples are empty at x: give some that are not"):
        quantize(proto, {"x": np.ones((0, 4), np.float32)}, ends=True)


def test_opsets_without_narrow_elements() -> None:
    text = "g (float[n, 32] x) => (float[n, 4] y) { y = MatMul (x, w) }"
    proto = model_of(text, {"w": (32, 4)}, np.random.default_rng(0))
    narrow = quantize(proto, scheme="int4-weights").graph
    assert export_onnx(narrow, opset=21).opset_import[0].version == 21
    with pytest.raises(ExportError, match="ONNX has i4 from opset 21 on, 20 was asked for"):
        export_onnx(narrow, opset=20)


def test_reports_keep_hostile_names_on_their_lines() -> None:
    proto = network()
    for node in proto.graph.node:
        node.name = f"{node.output[0]}\n\x1b[2J\u202e"
    done = quantize(proto, samples_of(1), ends=True)
    assert done.report.layers[0].name == "c1\n\x1b[2J\u202e"
    text = done.report.text()
    assert r"c1\n\x1b[2J\u202e  conv " in text and "\x1b" not in text


def test_a_value_that_an_operator_reads_twice_is_rounded_once() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y, float[1, 4, 6, 6] z) {
        c1 = Conv (x, w1)
        r1 = Relu (c1)
        s1 = Mul (r1, r1)
        y = Conv (r1, w2)
        z = Conv (s1, w2) }"""
    proto = model_of(text, {"w1": (8, 4, 1, 1), "w2": (4, 8, 1, 1)}, np.random.default_rng(0))
    done = quantize(proto, samples_of(), ends=True)
    assert done.report.outputs["z"] > 25
