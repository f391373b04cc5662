"""Plans: files that are wrong in one place, names of layers, and models that are quantised as a plan says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.compiler.networks import model_of
from tests.compiler.passes.quantize.test_static import byte_products, decibels, runtime
from tests.compiler.quantization.test_schemes import network, samples_of

from ingot.compiler import QuantisationError, load_onnx, quantize
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.quantization import LayerPlan, Plan, PlanError
from ingot.runtime import Session


def matrices() -> onnx.ModelProto:
    """Three products of matrices."""
    text = """g (float[n, 64] x) => (float[n, 64] y) {
        m1 = MatMul (x, w1)
        r1 = Relu (m1)
        m2 = MatMul (r1, w2)
        r2 = Relu (m2)
        m3 = MatMul (r2, w3)
        y = MatMul (m3, w4) }"""
    return model_of(text, dict.fromkeys(("w1", "w2", "w3", "w4"), (64, 64)), np.random.default_rng(1))


def rows(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(2)
    return [{"x": random.standard_normal((24, 64)).astype(np.float32)} for _ in range(count)]


def words() -> onnx.ModelProto:
    """A table that rows are looked up in twice, and a product."""
    text = """g (int64[n] a, int64[n] b) => (float[n, 64] y) {
        e = Gather (table, a)
        f = Gather (table, b)
        s = Add (e, f)
        y = MatMul (s, w1) }"""
    return model_of(text, {"table": (300, 64), "w1": (64, 64)}, np.random.default_rng(3))


def ids(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(4)
    return [{"a": random.integers(0, 300, 12), "b": random.integers(0, 300, 12)} for _ in range(count)]


def test_files_come_back(tmp_path: Path) -> None:
    plan = Plan(
        {
            "a": LayerPlan("int8", bits=7, reason="fast"),
            "\ud800\x1b": LayerPlan("int4-weights", group=0, method="hqq"),
            "c": LayerPlan("f32"),
        }
    )
    plan.save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json") == plan
    assert json.loads(plan.text())["layers"]["c"] == {"scheme": "f32"}


def layers(text: str) -> str:
    return f'{{"format": "ingot quantisation plan", "version": 1, "layers": {text}}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a plan is JSON"),
        ("[" * 100000, "a plan is JSON"),
        ("[]", "a plan is an object"),
        ('{"format": "other"}', "a plan is an object"),
        (layers("{}").replace("1,", "2,"), "version 2 of plans is not known"),
        (layers("{}").replace("1,", "true,"), "version True"),
        (layers("[]"), '"layers" is to be an object'),
        (layers("{}")[:-1] + ', "layer": 1}', "the plan: the key 'layer' is not known; there is 'layers'"),
        (layers('{"c": {"scheme": "f32"}, "c": {"scheme": "int8"}}'), "'c' is there twice"),
        (layers('{"c": "int8"}'), "layer 'c': an object is needed"),
        (layers('{"c": {}}'), "layer 'c', key 'scheme': None is no scheme"),
        (layers('{"c": {"scheme": []}}'), r"layer 'c', key 'scheme': \[\] is no scheme"),
        (layers('{"c": {"scheme": "int8", "bit": 7}}'), "layer 'c': the key 'bit' is not known; there is 'bits'"),
        (layers('{"c": {"scheme": "int8", "bits": 9}}'), "layer 'c', key 'bits': 9 is not a number from 2 to 8"),
        (layers('{"c": {"scheme": "int8", "bits": 7.0}}'), "key 'bits': 7.0 is not"),
        (layers('{"c": {"scheme": "int8", "group": 32}}'), "key 'group': int8 has none, it is for int8-weights"),
        (layers('{"c": {"scheme": "f32", "bits": 8}}'), "key 'bits': f32 has none"),
        (layers('{"c": {"scheme": "int4-weights", "group": -1}}'), "key 'group': -1 is not a number of rows"),
        (layers('{"c": {"scheme": "int4-weights", "method": {}}}'), "key 'method': {} is not one of nearest"),
        (layers('{"c": {"scheme": "f32", "reason": null}}'), "key 'reason': None is not text"),
    ],
)
def test_what_is_no_plan(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(PlanError, match=message) as caught:
        Plan.load(tmp_path / "p.json")
    assert str(caught.value).startswith(str(tmp_path / "p.json"))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match="UTF-8"):
        Plan.load(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"c3": LayerPlan("int8")}, "a layer 'c3', the model has no layer of that name; there are 'Conv:c1'"),
        ({"c2": LayerPlan("int8-dynamic")}, "layer 'c2', key 'scheme': int8-dynamic is for products, this is a conv"),
        ({"c2": LayerPlan("int4-weights")}, "int4-weights is for products with matrices"),
    ],
)
def test_plans_of_other_models(plan: dict[str, LayerPlan], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        quantize(network(), samples_of(1), plan=Plan(plan))


def test_other_options_and_missing_samples() -> None:
    plan = Plan({"c2": LayerPlan("int8")})
    with pytest.raises(QuantisationError, match="layer: ends does not go with it"):
        quantize(network(), samples_of(1), plan=plan, ends=True)
    with pytest.raises(QuantisationError, match="grain is for int8-dynamic: the plan has no use for it"):
        quantize(network(), samples_of(1), plan=plan, grain="tensor")
    with pytest.raises(QuantisationError, match="the plan has Conv:c2 in int8, which needs samples"):
        quantize(network(), plan=plan)
    with pytest.raises(QuantisationError, match="gptq needs samples for MatMul:m2"):
        quantize(matrices(), plan=Plan({"m2": LayerPlan("int4-weights", method="gptq")}))


def test_a_plan_does_what_its_scheme_did() -> None:
    whole = quantize(network(), samples_of(), ends=True, weight_bits=7)
    assert whole.plan is not None
    assert list(whole.plan.layers) == ["Conv:c1", "Conv:c2", "Conv:y"]
    assert set(whole.plan.layers.values()) == {LayerPlan("int8", bits=7)}
    again = quantize(network(), samples_of(), plan=whole.plan)
    for sample in samples_of():
        np.testing.assert_array_equal(
            evaluate_graph(again.graph, sample)["y"], evaluate_graph(whole.graph, sample)["y"]
        )
    assert again.report.layers == whole.report.layers
    inner = quantize(network(), samples_of(), measure=False).plan
    assert inner is not None and inner.layers["Conv:c1"] == LayerPlan("f32", reason="the first layer")
    four = quantize(matrices(), rows(2), scheme="int4-weights", measure=False)
    assert four.plan is not None and four.plan.layers["MatMul:m2"] == LayerPlan("int4-weights", 4, 32, "gptq")
    same = quantize(matrices(), rows(2), plan=four.plan, measure=False)
    one, other = (evaluate_graph(graph, rows(1)[0])["y"] for graph in (four.graph, same.graph))
    np.testing.assert_array_equal(one, other)


def test_every_scheme_in_one_model(tmp_path: Path) -> None:
    plan = Plan(
        {
            "m1": LayerPlan("int8-dynamic"),
            "m2": LayerPlan("int8", bits=7),
            "m3": LayerPlan("int4-weights", bits=3, group=16, method="hqq"),
            "y": LayerPlan("fp16"),
        }
    )
    done = quantize(matrices(), rows(4), plan=plan)
    assert [layer.weights for layer in done.report.layers] == [
        "i8, rounded, one grid a channel",
        "i7, rounded, one grid a channel",
        "3 bits, hqq, groups of 16",
        "f16, rounded",
    ]
    assert byte_products(done.graph) == 2
    sample = rows(5)[-1]
    want = evaluate_graph(load_onnx(matrices()), sample)["y"]
    have = evaluate_graph(done.graph, sample)["y"]
    assert 10 < decibels(want, have) < 40
    done.save(tmp_path / "m.onnx")
    exported = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(exported, full_check=True)
    scale = float(np.abs(want).max())
    np.testing.assert_allclose(runtime(exported, sample)[0], have, atol=0.02 * scale)
    done.save(tmp_path / "m.ingot")
    with Session(tmp_path / "m.ingot") as session:
        np.testing.assert_allclose(session.run(sample)["y"], have, atol=0.02 * scale)


@pytest.mark.parametrize(("scheme", "loss"), [("int8-weights", 0.01), ("int4-weights", 0.15), ("fp16", 1e-3)])
def test_tables(scheme: str, loss: float, tmp_path: Path) -> None:
    plan = Plan({"e": LayerPlan(scheme), "y": LayerPlan("fp16")})
    done = quantize(words(), ids(2), plan=plan)
    (product, table) = done.report.layers
    assert table.operator == "gather" and table.bytes_before == 300 * 64 * 4
    assert table.bytes_after < 0.52 * table.bytes_before and product.bytes_after == 64 * 64 * 2
    assert done.report.bytes_after < table.bytes_after + product.bytes_after + 16  # a few numbers more
    (sample,) = ids(1)
    want = evaluate_graph(load_onnx(words()), sample)["y"]
    have = evaluate_graph(done.graph, sample)["y"]
    assert 0 < np.linalg.norm(have - want) < loss * np.linalg.norm(want)
    done.save(tmp_path / "m.onnx")
    np.testing.assert_allclose(runtime(onnx.load(tmp_path / "m.onnx"), sample)[0], have, rtol=1e-3, atol=1e-4)
    with done.compile(target="native").session() as session:
        np.testing.assert_allclose(session.run(sample)["y"], have, rtol=1e-3, atol=1e-4)


def test_tables_of_a_scheme_for_all() -> None:
    whole = quantize(words(), ids(2), scheme="int4-weights", tables=True, measure=False)
    assert whole.plan is not None and list(whole.plan.layers) == ["MatMul:y", "Gather:e"]
    again = quantize(words(), ids(2), plan=whole.plan, measure=False)
    one, other = (evaluate_graph(graph, ids(1)[0])["y"] for graph in (whole.graph, again.graph))
    np.testing.assert_array_equal(one, other)
    assert again.report.bytes_after == whole.report.bytes_after < 0.17 * whole.report.bytes_before
    with pytest.raises(PlanError, match="int8 is for layers that compute, this is a gather: take int8-weights"):
        quantize(words(), ids(2), plan=Plan({"e": LayerPlan("int8")}))
    with pytest.raises(PlanError, match="layer 'e', key 'method': tables are rounded to nearest: leave gptq out"):
        quantize(words(), ids(2), plan=Plan({"e": LayerPlan("int4-weights", method="gptq")}))


def test_halves_that_do_not_fit() -> None:
    proto = matrices()
    for each in proto.graph.initializer:
        if each.name == "w2":
            each.CopyFrom(onnx.numpy_helper.from_array(np.full((64, 64), 1e6, np.float32), "w2"))
    with pytest.raises(QuantisationError, match="MatMul:m2 has weights that f16 cannot hold: take bf16"):
        quantize(proto, plan=Plan({"m2": LayerPlan("fp16")}))
    quantize(proto, plan=Plan({"m2": LayerPlan("bf16")}))
