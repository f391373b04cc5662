"""Which values static quantisation puts on grids, for networks of every form."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiler.networks import image_network, model_of, transformer_layer

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.layers import Selection, layers_of
from ingot.compiler.passes.quantize.points import placed, points
from ingot.compiler.quantization.schemes import core

ALL = Selection(ends=True)


def graph_of(text: str, weights: dict[str, tuple[int, ...]]) -> Graph:
    return core(load_onnx(model_of(text, weights, np.random.default_rng(0)), watch=True))


def groups(graph: Graph, selection: Selection = ALL, everywhere: bool = False) -> list[set[str]]:
    """The names of the values that share each grid."""
    place = placed(graph, selection.among(layers_of(graph)), everywhere=everywhere)
    return [{place.names[v] for v in group.sources} for group in place.groups]


def test_image_network() -> None:
    proto, _ = image_network(np.random.default_rng(0))
    graph = core(load_onnx(proto, watch=True))
    assert [(layer.is_first, layer.is_last) for layer in layers_of(graph)] == [
        (True, False), (False, False), (False, False), (False, False), (False, True),
    ]  # fmt: skip
    assert set(points(graph)) == {"r1", "r2"}
    # The average lies behind a grid: it is an operand of the product alone.
    assert set(points(graph, ALL)) > {"x", "r1", "r2"}


def test_residual_sum_reads_bytes_and_the_product_before_it_stays_in_registers() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
        a = Conv (x, w1)  r = Relu (a)  b = Conv (r, w2)  s = Add (b, r)  t = Relu (s)  y = Conv (t, w3) }"""
    graph = graph_of(text.replace("  ", "\n"), {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1), "w3": (4, 4, 1, 1)})
    assert groups(graph) == [{"x"}, {"r"}, {"t"}]
    assert groups(graph, everywhere=True) == [{"x"}, {"r"}, {"b"}, {"t"}]
    assert groups(graph, Selection()) == [{"r"}]  # the first and the last layer stay


def test_of_two_products_in_one_sum_one_is_stored() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
        r = Relu (x)
        a = Conv (r, w1)
        b = Conv (r, w2)
        s = Add (a, b)
        y = Conv (s, w3) }"""
    graph = graph_of(text, {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1), "w3": (4, 4, 1, 1)})
    found = groups(graph)
    assert {"r"} in found and {"s"} in found and len(found) == 3
    assert [g for g in found if g in ({"a"}, {"b"})]


def test_activations_that_need_their_operand_whole_are_not_quantised_before() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
        a = Conv (x, w1)
        e = Softplus (a)
        t = Tanh (e)
        m = Mul (a, t)
        y = Conv (m, w2) }"""
    graph = graph_of(text, {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1)})
    assert groups(graph) == [{"x"}, {"m"}]


def test_parts_of_a_concatenation_have_one_grid_and_movement_keeps_it() -> None:
    text = """g (float[1, 4, 6, 6] x) => (float[1, 4, 3, 3] y) <int64[4] order = {1, 8, 6, 6}> {
        a = Conv (x, w1)
        b = Conv (x, w2)
        k = Concat <axis = 1> (a, b)
        t = Transpose <perm = [0, 1, 3, 2]> (k)
        u = Reshape (t, order)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (u)
        y = Conv (p, w3) }"""
    graph = graph_of(text, {"w1": (4, 4, 1, 1), "w2": (4, 4, 1, 1), "w3": (4, 8, 1, 1)})
    assert groups(graph) == [{"x"}, {"a", "b"}]


def test_norms_keep_their_floats() -> None:
    proto, _ = transformer_layer(np.random.default_rng(0))
    graph = core(load_onnx(proto, watch=True))
    place = placed(graph, layers_of(graph))
    norms = {node for node in graph.nodes() if node.name == "layer_norm"}
    assert norms and not norms & set(place.read)
    assert len(place.layers) == 6 and all(layer.x in place.of for layer in place.layers)


def test_names_and_patterns() -> None:
    proto, _ = image_network(np.random.default_rng(0))
    for each in proto.graph.node:
        if each.op_type == "Conv":
            each.name = "block/" + each.output[0]
    layers = layers_of(core(load_onnx(proto, watch=True)))
    chosen = Selection(only=("block/*",), exclude=("*c3",)).among(layers)
    assert [layer.name for layer in chosen] == ["block/c2", "block/c4"]
    assert [layer.name for layer in Selection(only=("block/c1",)).among(layers)] == ["block/c1"]  # although the first
    assert "c2" in layers[1].names
    with pytest.raises(QuantisationError, match="'block/c9'; there are 'block/c"):
        Selection(exclude=("block/c9",)).among(layers)


def test_nothing_to_place() -> None:
    text = "g (float[n, 4] x, float[4, 4] w) => (float[n, 4] y) { y = MatMul (x, w) }"
    assert layers_of(graph_of(text, {})) == () and points(graph_of(text, {})) == {}
