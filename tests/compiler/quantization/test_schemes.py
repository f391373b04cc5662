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
from tests.compiler.networks import dense_network, image_network, model_of, transformer_layer
from tests.compiler.passes.quantize.test_static import byte_products, decibels, runtime

from ingot.compiler import QuantisationError, load_onnx, quantize
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.runtime import Session


def image_samples(count: int = 4) -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    return [{"x": random.standard_normal((2, 3, 12, 12)).astype(np.float32)} for _ in range(count)]


def test_int8_as_onnx_and_as_artifact(tmp_path: Path) -> None:
    proto, _ = image_network(np.random.default_rng(0))
    samples = image_samples()
    told: list[str] = []
    done = quantize(proto, iter(samples), progress=told.append)
    assert told and byte_products(done.graph) == 3  # the first and the last layer stay
    done.save(tmp_path / "q.onnx")
    done.save(tmp_path / "q.ingot")
    exported = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(exported, full_check=True)
    want = evaluate_graph(load_onnx(proto), samples[0])["y"]
    have = evaluate_graph(done.graph, samples[0])["y"]
    np.testing.assert_array_equal(evaluate_graph(load_onnx(exported), samples[0])["y"], have)
    with Session(tmp_path / "q.ingot") as session:
        np.testing.assert_allclose(session.run(samples[0])["y"], have, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(runtime(exported, samples[0])[0], have, rtol=1e-2, atol=1e-2)
    assert decibels(want, have) > 25

    report = done.report
    assert [layer.weights.split(",")[0] for layer in report.layers] == ["as they are", "i8", "i8", "i8", "as they are"]
    assert report.samples == 4 and report.bytes_after < report.bytes_before
    assert report.outputs["y"] == pytest.approx(decibels(want, have), abs=6)
    inner = report.layers[1]
    assert inner.low == 0 and inner.high is not None and inner.snr is not None and 15 < inner.snr < 60
    assert inner.clipped is not None and 0 <= inner.clipped < 0.05
    assert inner.bytes_before == 8 * 8 * 9 * 4 and inner.bytes_after == 8 * 8 * 9 + 8 * 5
    assert report.layers[0].snr == math.inf  # nothing before it is quantised
    lines = report.text().splitlines()
    assert lines[0].split()[:3] == ["layer", "operator", "weights"] and len(lines) > 7
    report.save(tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["layers"][1]["snr"] == pytest.approx(inner.snr) and record["layers"][0]["snr"] is None


def test_all_layers_and_those_by_name() -> None:
    proto, _ = image_network(np.random.default_rng(0))
    samples = image_samples(2)
    whole = quantize(proto, samples, ends=True, measure=False)
    assert byte_products(whole.graph) == 5 and whole.report.outputs == {}
    some = quantize(proto, samples, only=("c2", "c3"), exclude=("c3",), measure=False)
    assert byte_products(some.graph) == 1


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_methods(method: str) -> None:
    proto, _ = image_network(np.random.default_rng(0))
    done = quantize(proto, image_samples(2), method=method, ends=True)
    assert done.report.outputs["y"] > 15


def test_dynamic() -> None:
    proto, feeds = transformer_layer(np.random.default_rng(0))
    done = quantize(proto, feeds, scheme="int8-dynamic")
    assert byte_products(done.graph) == 6
    assert all(layer.snr is not None and layer.snr > 25 for layer in done.report.layers)
    assert quantize(proto, scheme="int8-dynamic").report.samples == 0


@pytest.mark.parametrize("scheme", ["fp16", "bf16"])
def test_halves(scheme: str, tmp_path: Path) -> None:
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
    proto, _ = image_network(np.random.default_rng(0))
    samples = image_samples(2)
    half = quantize(proto, samples, only=("c2",), measure=False)
    from ingot.compiler import export_onnx

    again = quantize(export_onnx(half.graph), samples, ends=True, measure=False)
    assert byte_products(again.graph) == 5
    whole = quantize(proto, samples, ends=True, measure=False)
    with pytest.raises(QuantisationError, match="quantised throughout: compile it as it is"):
        quantize(export_onnx(whole.graph), samples, ends=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "int8 needs samples"),
        ({"scheme": "int9"}, "no scheme 'int9': take int8"),
        ({"scheme": "fp16", "everywhere": True}, "everywhere is for the scheme int8"),
        ({"scheme": "int8-dynamic", "activations": "i8"}, "activations i8 is for the scheme int8"),
        ({"data": [], "only": ("nothing",)}, "no layer that can be quantised is called 'nothing'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    proto, _ = image_network(np.random.default_rng(0))
    with pytest.raises(QuantisationError, match=message):
        quantize(proto, options.pop("data", None), **options)


def test_models_without_layers() -> None:
    proto = model_of("g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }", {}, np.random.default_rng(0))
    with pytest.raises(QuantisationError, match="nothing to quantise"):
        quantize(proto, {"x": np.ones((2, 4), np.float32)})
    single = model_of("g (float[n, 4] x) => (float[n, 4] y) { y = MatMul (x, w) }", {"w": (4, 4)}, np.random.default_rng(0))
    with pytest.raises(QuantisationError, match="all 1 layers are first or last ones"):
        quantize(single, {"x": np.ones((2, 4), np.float32)})
    with pytest.raises(QuantisationError, match="says no format"):
        quantize(single, {"x": np.ones((2, 4), np.float32)}, ends=True, measure=False).save("q.txt")
    assert not [n for n in load_onnx(single).nodes() if isinstance(n, Quantize | Dequantize)]
