"""Static quantisation: what the graph computes beside its floats, what ONNX Runtime makes of it, and what is computed
in integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests.compiler.networks import dense_network, image_network, model_of, transformer_layer

from ingot.compiler import compile, export_onnx, load_onnx
from ingot.compiler.ir.graph import Graph, operands_of
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Clip, Relu
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.passes.integers import INTEGERS
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.grid import Range
from ingot.compiler.passes.quantize.layers import Selection, layers_of
from ingot.compiler.passes.quantize.points import placed
from ingot.compiler.passes.quantize.static import Static, StaticOptions, quantise_static
from ingot.compiler.passes.quantize.weights import WeightOptions
from ingot.compiler.quantization.schemes import core
from ingot.compiler.rewrite import rewrite
from ingot.runtime.dtypes import f32, i8, i32, u8

Arrays = Mapping[str, NDArray[Any]]
Network = Callable[[np.random.Generator], tuple[onnx.ModelProto, Arrays]]


def observed(graph: Graph, points: Mapping[str, Any], feeds: Arrays) -> dict[str, Range]:
    """The ranges of the points on one sample."""
    names = list(points)
    tapped = Graph(graph.inputs, tuple((f"t{i}", points[name]) for i, name in enumerate(names)), ranges=graph.ranges)
    found = evaluate_graph(tapped, feeds)
    return {name: Range(float(found[f"t{i}"].min()), float(found[f"t{i}"].max())) for i, name in enumerate(names)}


def quantised(
    graph: Graph,
    feeds: Arrays,
    options: StaticOptions | None = None,
    *,
    everywhere: bool = False,
    selection: Selection | None = None,
) -> Static:
    layers = (selection or Selection(ends=True)).among(layers_of(graph))
    place = placed(graph, layers, everywhere=everywhere)
    return quantise_static(graph, place, observed(graph, place.points, feeds), options)


def loaded(proto: onnx.ModelProto) -> Graph:
    return core(load_onnx(proto, watch=True))


def decibels(want: NDArray[Any], have: NDArray[Any]) -> float:
    return 10 * np.log10(np.square(want).sum() / max(np.square(have.astype(np.float64) - want).sum(), 1e-30))


def runtime(proto: onnx.ModelProto, feeds: Arrays) -> list[NDArray[Any]]:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)


def byte_products(graph: Graph) -> int:
    """How many products and convolutions there are, all of which must be of u8 by i8."""
    found = [n for n in rewrite(graph, INTEGERS).nodes() if isinstance(n, MatMul | Conv)]
    assert {(operands_of(n)[0].dtype, operands_of(n)[1].dtype) for n in found} <= {(u8, i8), (f32, f32)}
    return sum(n.dtype == i32 for n in found)


NETWORKS: dict[str, tuple[Network, int]] = {
    "image": (image_network, 5), "dense": (dense_network, 2), "transformer": (transformer_layer, 6),
}  # fmt: skip
OPTIONS = {
    "default": (StaticOptions(), False),
    "everywhere": (StaticOptions(), True),
    "symmetric": (StaticOptions(symmetric=True), False),
    "i8": (StaticOptions("i8"), False),
    "7 bits a layer": (StaticOptions(weights=WeightOptions(7, per_channel=False)), False),
    "clipped": (StaticOptions(weights=WeightOptions(clip=True)), False),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("option", OPTIONS)
def test_networks(name: str, option: str) -> None:
    network, count = NETWORKS[name]
    proto, feeds = network(np.random.default_rng(1))
    graph = loaded(proto)
    options, everywhere = OPTIONS[option]
    static = quantised(graph, feeds, options, everywhere=everywhere)
    want = evaluate_graph(graph, feeds)["y"]
    have = evaluate_graph(static.graph, feeds)["y"]
    assert decibels(want, have) > (18 if option.startswith("7") else 24)
    assert not np.array_equal(want, have)
    assert byte_products(static.graph) >= count  # averages of bytes may be products, too

    exported = export_onnx(dataclasses.replace(static.graph, watched={}))
    onnx.checker.check_model(exported, full_check=True)
    kinds = [n.op_type for n in exported.graph.node]
    assert kinds.count("DequantizeLinear") > count and "QuantizeLinear" in kinds
    np.testing.assert_allclose(runtime(exported, feeds)[0], have, rtol=1e-4, atol=step(static))

    again = load_onnx(exported)
    np.testing.assert_array_equal(evaluate_graph(again, feeds)["y"], have)
    assert byte_products(again) == byte_products(static.graph)


def step(static: Static) -> float:
    """What a rounding that falls on the other side may come to in the outputs."""
    return 4 * max(float(grid.scale) for grid in static.grids)


@pytest.mark.parametrize("name", ["image", "dense"])
def test_compiled(name: str) -> None:
    proto, feeds = NETWORKS[name][0](np.random.default_rng(1))
    static = quantised(loaded(proto), feeds)
    have = evaluate_graph(static.graph, feeds)["y"]
    with compile(dataclasses.replace(static.graph, watched={})).session(threads=1) as session:
        found = session.run(dict(feeds))["y"]
    assert decibels(have, found) > 35


CONVOLUTIONS = {
    "plain": ("Conv (x, w, b)", (4, 6, 3, 3), 4),
    "strided": ("Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b)", (5, 6, 3, 3), 5),
    "depthwise": ("Conv <group = 6, pads = [1, 1, 1, 1]> (x, w, b)", (6, 1, 3, 3), 6),
    "grouped": ("Conv <group = 2> (x, w, b)", (4, 3, 2, 2), 4),
    "transposed": ("ConvTranspose <strides = [2, 2]> (x, w, b)", (6, 4, 2, 2), 4),
    "transposed in groups": ("ConvTranspose <group = 2> (x, w, b)", (6, 2, 2, 2), 4),
}


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_convolutions_against_products_of_rounded_operands(form: str) -> None:
    """The quantised result is that of the layer on operands that were rounded to their grids, in f64."""
    node, shape, out = CONVOLUTIONS[form]
    random = np.random.default_rng(3)
    text = f"g (float[2, 6, 7, 5] x) => (float[n, c, h, k] y) {{ y = {node} }}"
    proto = model_of(text, {"w": shape, "b": (out,)}, random)
    feeds = {"x": random.uniform(-1, 2, (2, 6, 7, 5)).astype(np.float32)}
    graph = loaded(proto)
    static = quantised(graph, feeds)
    (layer,), (grid,) = static.weights, static.grids
    weights = static.weights[layer].grid
    assert (weights.scale.size == out) is (form != "transposed in groups")
    data = layer.weights()
    rounded = {
        "x": grid.dequantised(grid.quantised(feeds["x"])), "w": weights.dequantised(weights.quantised(data)),
    }  # fmt: skip
    bias = next(i for i in proto.graph.initializer if i.name == "b")
    for each in proto.graph.initializer:
        if each.name == "w":
            each.CopyFrom(onnx.numpy_helper.from_array(rounded["w"], "w"))
    want = evaluate_graph(load_onnx(proto), {"x": rounded["x"]})["y"]
    have = evaluate_graph(static.graph, feeds)["y"]
    unit = float(grid.scale) * float(weights.scale.max())  # of the bias, which is rounded too
    assert bias and np.abs(have - want).max() <= unit
    assert np.abs(rounded["w"] - data).max() <= float(weights.scale.max()) / 2 * (1 + 1e-6)


def test_relu_and_clip_that_the_grid_implies_go() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) <float low = {0.0}, float high = {6.0}> {
        a = Conv (x, w1)
        r = Relu (a)
        b = Conv (r, w2)
        c = Clip (b, low, high)
        y = Conv (c, w3) }"""
    random = np.random.default_rng(0)
    graph = loaded(model_of(text, {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1), "w3": (4, 4, 1, 1)}, random))
    feeds = {"x": random.standard_normal((1, 4, 6, 6)).astype(np.float32)}
    static = quantised(graph, feeds)
    assert not [n for n in static.graph.nodes() if isinstance(n, Relu | Clip)]
    even = quantised(graph, feeds, StaticOptions(symmetric=True))
    assert len([n for n in even.graph.nodes() if isinstance(n, Relu | Clip)]) == 2
    for each in (static, even):
        assert decibels(evaluate_graph(graph, feeds)["y"], evaluate_graph(each.graph, feeds)["y"]) > 24


def test_movement_moves_bytes() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 5, 5] y) <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}> {
        a = Conv (x, w1)
        k = Concat <axis = 1> (a, c)
        t = Transpose <perm = [0, 1, 3, 2]> (k)
        q = Pad (t, pads)
        p = MaxPool <kernel_shape = [2, 2]> (q)
        y = Conv <kernel_shape = [3, 3]> (p, w2) }"""
    random = np.random.default_rng(0)
    graph = loaded(model_of(text, {"w1": (4, 4, 1, 1), "c": (1, 2, 6, 6), "w2": (4, 6, 3, 3)}, random))
    feeds = {"x": random.standard_normal((1, 4, 6, 6)).astype(np.float32)}
    static = quantised(graph, feeds)
    moved = [n for n in static.graph.nodes() if n.name in ("concat", "transpose", "pad", "max_pool")]
    assert len(moved) == 4 and {n.dtype for n in moved} == {u8}
    assert len(static.grids) == 2
    have = evaluate_graph(static.graph, feeds)["y"]
    assert decibels(evaluate_graph(graph, feeds)["y"], have) > 24
    again = load_onnx(export_onnx(dataclasses.replace(static.graph, watched={})))
    np.testing.assert_array_equal(evaluate_graph(again, feeds)["y"], have)


def test_what_is_quantised_already_is_kept() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y)
    <float s = {0.05}, uint8 z = {128}, float t = {0.01}, int8 n = {0},
     int8[4, 4, 1, 1] w2 = {1, -2, 3, -4, 5, 6, -7, 8, 9, 10, -11, 12, 13, 14, -15, 127}> {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        a = Conv (d, w1)
        r = Relu (a)
        u = DequantizeLinear (w2, t, n)
        y = Conv (r, u) }"""
    random = np.random.default_rng(0)
    graph = loaded(model_of(text, {"w1": (4, 4, 1, 1)}, random))
    (layer,) = layers_of(graph)
    place = placed(graph, [layer])
    assert isinstance(layer.x, Dequantize) and place.points == {} and place.read == {}
    static = quantise_static(graph, place, {})
    assert len([n for n in static.graph.nodes() if isinstance(n, Quantize)]) == 1
    assert byte_products(static.graph) == 1


def test_a_bias_that_does_not_fit_stays() -> None:
    text = "g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) { y = Conv (x, w, b) }"
    random = np.random.default_rng(0)
    proto = model_of(text, {"w": (4, 4, 1, 1), "b": (4,)}, random)
    for each in proto.graph.initializer:
        if each.name == "b":
            each.CopyFrom(onnx.numpy_helper.from_array(np.array([1e9, 1, 2, 3], np.float32), "b"))
    feeds = {"x": random.standard_normal((1, 4, 6, 6)).astype(np.float32)}
    graph = loaded(proto)
    static = quantised(graph, feeds)
    assert not [n for n in static.graph.nodes() if n.dtype == i32]
    np.testing.assert_allclose(
        evaluate_graph(static.graph, feeds)["y"], evaluate_graph(graph, feeds)["y"], rtol=0.05, atol=0.2
    )


def test_shapes() -> None:
    text = """g (float[n, 4, h, w] x) => (float[n, 4, h, w] y) {
        a = Conv (x, w1)
        r = Relu (a)
        y = Conv (r, w2) }"""
    random = np.random.default_rng(0)
    graph = loaded(model_of(text, {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1)}, random))
    static = quantised(graph, {"x": random.standard_normal((2, 4, 6, 6)).astype(np.float32)})
    with compile(dataclasses.replace(static.graph, watched={})).session(threads=1) as session:
        for shape in ((0, 4, 6, 6), (1, 4, 1, 1), (3, 4, 5, 7)):
            feeds = {"x": random.standard_normal(shape).astype(np.float32)}
            found = session.run(feeds)["y"]
            np.testing.assert_allclose(found, evaluate_graph(static.graph, feeds)["y"], rtol=1e-5, atol=1e-5)


def test_errors() -> None:
    proto, _ = dense_network(np.random.default_rng(0))
    graph = loaded(proto)
    place = placed(graph, layers_of(graph))
    with pytest.raises(QuantisationError, match=r"no ranges of .*: calibrate 2 points"):
        quantise_static(graph, place, {})
    ranges = dict.fromkeys(place.points, Range(-1.0, 1.0))
    for each in proto.graph.initializer:
        if each.name == "w1":
            each.CopyFrom(onnx.numpy_helper.from_array(np.full((16, 32), np.nan, np.float32), "w1"))
    graph = loaded(proto)
    with pytest.raises(QuantisationError, match=r"weights of .* have NaN or infinities"):
        quantise_static(graph, placed(graph, layers_of(graph)), ranges)
