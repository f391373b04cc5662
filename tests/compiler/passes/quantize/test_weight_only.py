"""Weight-only quantisation: what it computes, what it takes, how it is spelt, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from tests.compiler.passes.quantize.layered import Array, encoder, language, samples

from ingot.compiler import compile
from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import export_onnx, save_onnx
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import show_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.ops.quantised import Dequantize
from ingot.compiler.passes.default import REGISTRY
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.groups import WeightForm
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.statistics import observed
from ingot.compiler.passes.quantize.weight_only import METHODS, Method, WeightOnly, mixed_forms, weight_only
from ingot.compiler.pipeline import Pipeline
from ingot.compiler.quantization.schemes import core
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import DType, bf16, f16, f32, f64

FORMS = [
    WeightForm(4, 32), WeightForm(4, 16, False), WeightForm(3, 32, False), WeightForm(8, 64), WeightForm(8, 0, False),
    WeightForm(4, 0), WeightForm(4, 0, False), WeightForm(4, 48), WeightForm(4, 32, True, "f16"),
    WeightForm(2, 16), WeightForm(2, 16, False),
]  # fmt: skip


def spelt(form: WeightForm) -> str:
    return f"{form.bits}-{form.group}-{'symmetric' if form.symmetric else 'affine'}-{form.scale}"


def agree(found: Any, expected: Array) -> None:
    """Up to the order in which f32 products are summed."""
    assert np.allclose(found[0], expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize("form", FORMS, ids=spelt)
def test_exported_weights_are_read_back_as_they_were(form: WeightForm, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    graph = encoder(random, width=64 if form.group > 32 else 32)
    (sample,) = samples(graph, 1, random)
    made, _ = weight_only(graph, form)
    expected = evaluate_graph(made, sample)["y"]
    opset = 25 if form.bits == 2 else 21
    save_onnx(made, tmp_path / "q.onnx", opset=opset)
    model = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    dequantise = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(dequantise) == 6
    if form.group:
        assert {a.i for node in dequantise for a in node.attribute if a.name == "block_size"} == {form.group}
    agree(ReferenceEvaluator(model).run(None, sample), expected)
    again = load_onnx(tmp_path / "q.onnx")
    agree([evaluate_graph(again, sample)["y"]], expected)
    assert products(again).keys() == products(made).keys()
    for one, other in zip(products(made).values(), products(again).values(), strict=True):
        assert isinstance(other.w, Dequantize) and np.array_equal(one.weight(), other.weight())
    if form.bits != 2:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # activations stay f32
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        agree(session.run(None, sample), expected)


@pytest.mark.parametrize("form", [WeightForm(4, 32, False), WeightForm(4, 16), WeightForm(4, 0, False)], ids=spelt)
@pytest.mark.parametrize("width", [16, 64])
def test_simplified_models_keep_large_weights_in_blocks(form: WeightForm, width: int) -> None:
    random = np.random.default_rng(14)
    graph = encoder(random, width=width)
    made, _ = weight_only(graph, form)
    again = load_onnx(export_onnx(core(load_onnx(export_onnx(made)))))
    (sample,) = samples(graph, 1, random)
    agree([evaluate_graph(again, sample)["y"]], evaluate_graph(made, sample)["y"])
    kept = [p.w for p in products(again).values() if isinstance(p.w, Dequantize)]
    assert len(kept) == (6 if width == 64 else 0)


@pytest.mark.parametrize("form", FORMS, ids=spelt)
def test_the_spelling_is_that_of_the_import(form: WeightForm) -> None:
    made, _ = weight_only(encoder(np.random.default_rng(1), width=32), form)
    again = load_onnx(export_onnx(made, opset=25))
    for one, other in zip(products(made).values(), products(again).values(), strict=True):
        chains = [
            [type(node).__name__ for node in Graph((), (("w", each.w),)).nodes()] for each in (one, other)
        ]
        assert sorted(chains[0]) == sorted(chains[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", [WeightForm(8, 32), WeightForm(4, 16, False)], ids=spelt)
def test_every_method_keeps_what_is_computed(form: WeightForm, method: Method) -> None:
    random = np.random.default_rng(2)
    graph = encoder(random, width=32, residual=True)
    *given, sample = samples(graph, 9, random)
    made, stored = weight_only(graph, form, method=method, statistics=observed(graph, given))
    expected, found = (evaluate_graph(each, sample)["y"] for each in (graph, made))
    bound = 3e-4 if form.bits == 8 else 0.07
    assert np.square(found - expected).sum() < bound * np.square(expected).sum()
    assert {each.name for each in stored} == {"q", "k", "v", "out", "up", "down"}
    assert all(each.error < bound and each.form == form for each in stored)
    assert all(isinstance(p.w, Dequantize) for p in products(made).values())


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_with_data_are_nearer_than_rounding_to_nearest(method: Method) -> None:
    random = np.random.default_rng(3)
    graph = encoder(random, width=32)
    given = samples(graph, 24, random)
    statistics = observed(graph, given[:16])

    def error(method: Method) -> float:
        made, _ = weight_only(graph, WeightForm(3, 32), method=method, statistics=statistics)
        return sum(
            float(np.square(evaluate_graph(made, x)["y"] - evaluate_graph(graph, x)["y"]).sum()) for x in given[16:]
        )

    assert error(method) < 0.9 * error("nearest")


def test_compiled() -> None:
    random = np.random.default_rng(4)
    graph = encoder(random)
    (sample,) = samples(graph, 1, random)
    made, _ = weight_only(graph, WeightForm(4, 32, False))
    expected = evaluate_graph(made, sample)["y"]
    agree([compile(made).session(threads=1).run(sample)["y"]], expected)


def test_bytes_in_the_file(tmp_path: Path) -> None:
    graph = encoder(np.random.default_rng(5), width=128)
    for form, part in ((WeightForm(4, 32), 0.16), (WeightForm(8, 128), 0.27), (WeightForm(4, 32, False, "f16"), 0.16)):
        made, stored = weight_only(graph, form)
        before, after = sum(each.before for each in stored), sum(each.after for each in stored)
        assert before == 4 * 8 * 128 * 128 and after <= part * before
        save_onnx(made, tmp_path / "q.onnx")
        overhead = 16_000  # biases, norms and nodes
        assert (tmp_path / "q.onnx").stat().st_size <= after + overhead


@pytest.mark.parametrize("tables", [False, True])
def test_tables_and_weights_that_are_shared(tables: bool) -> None:
    random = np.random.default_rng(6)
    graph = language(random)
    ids = {"ids": random.integers(0, 50, (2, 5))}
    made, stored = weight_only(graph, WeightForm(8, 16), tables=tables)
    names = ["mix", "vocabulary", *(["embed"] if tables else [])]
    assert [each.name for each in stored] == names
    expected, found = (evaluate_graph(each, ids)["y"] for each in (graph, made))
    assert np.allclose(found, expected, atol=0.05 * np.abs(expected).max())
    model = export_onnx(made)
    onnx.checker.check_model(model, full_check=True)
    agree(ReferenceEvaluator(model).run(None, ids), found)
    assert np.array_equal(evaluate_graph(load_onnx(model), ids)["y"], found)


def test_layers_that_are_left_out() -> None:
    graph = encoder(np.random.default_rng(7))
    made, stored = weight_only(graph, WeightForm(), exclude=("q", "down"), forms={"up": WeightForm(8, 64)})
    assert [each.name for each in stored] == ["k", "v", "out", "up"]
    assert products(made)["q"].w is products(graph)["q"].w
    assert {each.name: each.form.bits for each in stored} == {"k": 4, "v": 4, "out": 4, "up": 8}
    made, stored = weight_only(graph, WeightForm(), only=("q",))
    assert [each.name for each in stored] == ["q"]


def test_once_is_enough() -> None:
    made, _ = weight_only(encoder(np.random.default_rng(8)))
    again, stored = weight_only(made)
    assert again is made and stored == ()


def test_the_pass() -> None:
    graph = encoder(np.random.default_rng(9))
    item = WeightOnly(bits=8, group=64, method="hqq", exclude=("q",))
    expected, _ = weight_only(graph, WeightForm(8, 64), method="hqq", exclude=("q",))
    assert show_graph(item(graph)) == show_graph(expected)
    reference = "ingot.compiler.passes.quantize.weight_only:WeightOnly"
    (parsed,) = Pipeline.parse(f"{reference}{{bits=8,group=64,method=hqq,exclude=(q)}}", REGISTRY)
    assert show_graph(parsed(graph)) == show_graph(expected)


def test_weights_that_are_stored_as_halves() -> None:
    graph = encoder(np.random.default_rng(13), width=32)
    halves: dict[Value, Value] = {}
    for product in products(graph).values():
        halves[product.node] = product.with_operands(product.x, Cast(constant(product.weight(), f16), f32))
    made, stored = weight_only(rebuild(graph, halves), WeightForm(8, 16))
    assert len(stored) == 6
    expected, _ = weight_only(graph, WeightForm(8, 16))
    for one, other in zip(products(made).values(), products(expected).values(), strict=True):
        assert np.allclose(one.weight(), other.weight(), atol=1e-2)


@pytest.mark.parametrize("dtype", [f16, bf16, f64], ids=str)
def test_products_of_other_floats(dtype: DType) -> None:
    random = np.random.default_rng(15)
    x = Input("x", TensorType(dtype, (3, 64)))
    w = constant(random.standard_normal((64, 8)), dtype)
    graph = Graph((x,), (("y", MatMul(x, w, origin=("fc",))),))
    made, (stored,) = weight_only(graph, WeightForm(8, 16))
    assert stored.before == 64 * 8 * dtype.bytes
    sample = {"x": random.standard_normal((3, 64)).astype(dtype.to_numpy())}
    expected, found = (evaluate_graph(each, sample)["y"].astype(np.float64) for each in (graph, made))
    assert np.square(found - expected).sum() < (2e-4 if dtype != bf16 else 1e-3) * np.square(expected).sum()
    if dtype == f16:
        model = export_onnx(made)
        onnx.checker.check_model(model, full_check=True)
        again = load_onnx(model)
        assert np.array_equal(evaluate_graph(again, sample)["y"], evaluate_graph(made, sample)["y"])


def test_forms_for_a_budget() -> None:
    random = np.random.default_rng(10)
    graph = encoder(random, width=32)
    statistics = observed(graph, samples(graph, 8, random))
    forms = [WeightForm(bits, 32) for bits in (2, 4, 8)]
    whole = {name: 4 * product.weight().size for name, product in products(graph).items()}
    for ratio in (0.12, 0.16, 0.2, 0.3):
        found = mixed_forms(graph, forms, ratio, statistics=statistics)
        stored = weight_only(graph, forms=found)[1]
        assert sum(each.after for each in stored) <= ratio * sum(whole.values())
    assert {form.bits for form in found.values()} == {8}
    with pytest.raises(QuantisationError, match="bytes at least"):
        mixed_forms(graph, forms, 0.01)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_statistics_that_are_missing_or_of_something_else(method: Method) -> None:
    random = np.random.default_rng(11)
    graph = encoder(random)
    with pytest.raises(QuantisationError, match=f"{method} needs statistics of q"):
        weight_only(graph, method=method)
    found = observed(graph, samples(graph, 1, random))
    with pytest.raises(QuantisationError, match="those of another product"):
        weight_only(graph, method=method, statistics={**found, "up": found["down"]})


def test_what_is_refused() -> None:
    graph = encoder(np.random.default_rng(12))
    with pytest.raises(QuantisationError, match="called 'quer'"):
        weight_only(graph, exclude=("quer",))
    with pytest.raises(QuantisationError, match="by 'adaround': take nearest, gptq, awq, hqq"):
        weight_only(graph, method="adaround")  # pyright: ignore[reportArgumentType]
    product = products(graph)["k"]
    weight = product.weight().copy()
    weight[3, 4] = np.inf
    broken = rebuild(graph, {product.node: product.with_operands(product.x, weight)})
    with pytest.raises(QuantisationError, match="the weights of k have NaN or infinities"):
        weight_only(broken)
