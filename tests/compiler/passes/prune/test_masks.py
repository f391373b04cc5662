"""Zeros in the weights of graphs: what is computed with them, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ingot.compiler.ir.graph import Constant, Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.pointwise import Add, Relu
from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.masks import PruneOptions, prune_weights
from ingot.compiler.passes.prune.patterns import Array, Pattern
from ingot.compiler.passes.quantize.bias import correct_bias
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.statistics import observed
from ingot.runtime.dtypes import f32

RANDOM = np.random.default_rng(2)


def weight(*shape: int) -> Constant:
    return constant(RANDOM.standard_normal(shape).astype(np.float32) / 4)


def network() -> Graph:
    """Two convolutions, one of groups, and two products with one weight."""
    x = Input("x", TensorType(f32, (2, 4, 6, 6)))
    first = Relu(Conv(x, weight(8, 4, 3, 3), constant(np.zeros(8, np.float32)), (1, 1), (1, 1, 1, 1), (1, 1), 1, False))
    second = Conv(first, weight(6, 4, 3, 3), constant(np.zeros(6, np.float32)), (1, 1), (0, 0, 0, 0), (1, 1), 2, False)
    shared = weight(4, 4)
    third = MatMul(Relu(MatMul(second, shared)), shared)
    return Graph((x,), (("y", Add(third, constant(np.ones(4, np.float32)))),))


def samples(count: int = 3) -> list[dict[str, Array]]:
    return [{"x": RANDOM.standard_normal((2, 4, 6, 6)).astype(np.float32) + 0.3} for _ in range(count)]


def distance(graph: Graph, other: Graph, given: list[dict[str, Array]]) -> float:
    pairs = [(evaluate_graph(graph, each)["y"], evaluate_graph(other, each)["y"]) for each in given]
    return float(sum(np.square(a - b).sum() for a, b in pairs))


@pytest.mark.parametrize("criterion", ["magnitude", "channel-magnitude", "shrinkage", "wanda", "sparsegpt", "greedy"])
@pytest.mark.parametrize("text", ["unstructured", "2x1", "kernel", "2:4"])
def test_weights_have_their_zeros_and_repair_brings_the_output_nearer(criterion: str, text: str) -> None:
    graph, given = network(), samples()
    statistics = observed(graph, given)
    pattern = Pattern.parse(text)
    options = PruneOptions(criterion, pattern, repair=False)
    plain, found = prune_weights(graph, 0.5, options, statistics=statistics)
    repaired, _ = prune_weights(graph, 0.5, dataclasses.replace(options, repair=True), statistics=statistics)
    repaired = correct_bias(graph, repaired, statistics)
    assert {name for each in found for name in each.names} == set(products(graph))
    for each in found:
        zeros = [np.count_nonzero(products(plain)[name].weight() == 0) for name in each.names]
        assert set(zeros) == {each.zeros}
        assert each.zeros / each.size == pytest.approx(0.5, abs=0.06)
    assert distance(graph, repaired, given) < distance(graph, plain, given)


def test_a_shared_weight_stays_one() -> None:
    after, found = prune_weights(network(), 0.5)
    mine = [product.w for product in products(after).values() if isinstance(product.node, MatMul)]
    assert mine[0] is mine[1]
    assert [len(each.names) for each in found] == [1, 1, 2]


def test_a_rate_of_nothing_changes_nothing_and_zeros_are_kept() -> None:
    graph = network()
    same, _ = prune_weights(graph, 0.0)
    assert distance(graph, same, samples(1)) == 0
    half, _ = prune_weights(graph, 0.5)
    more, _ = prune_weights(half, 0.7)
    for name, product in products(half).items():
        assert not products(more)[name].weight()[product.weight() == 0].any()


@pytest.mark.parametrize("criterion", ["magnitude", "greedy", "sparsegpt"])
@pytest.mark.parametrize("text", ["4x1", "2:4"])
@pytest.mark.parametrize("repair", [True, False])
def test_units_that_stay_keep_their_zeros(criterion: str, text: str, repair: bool) -> None:
    half, _ = prune_weights(network(), 0.5)
    options = PruneOptions(criterion, Pattern.parse(text), repair=repair)
    more, found = prune_weights(half, 0.5, options, statistics=observed(half, samples()))
    assert all(each.zeros >= each.zeros_before for each in found)
    for name, product in products(half).items():
        assert not products(more)[name].weight()[product.weight() == 0].any()


def test_zeros_do_not_take_their_units_with_them_where_layers_compete() -> None:
    # Each 2x1 unit of the first layer has a zero, but its other weight is larger than all those of the second.
    x = Input("x", TensorType(f32, (4, 8)))
    first = np.where(np.arange(8) % 2, 10, 0) * np.ones((8, 8))
    second = np.ones((8, 8))
    layers = [constant(each.astype(np.float32)) for each in (first, second)]
    graph = Graph((x,), (("y", MatMul(Relu(MatMul(x, layers[0])), layers[1])),))
    options = PruneOptions("magnitude", Pattern.parse("2x1"), distribution="global")
    _, found = prune_weights(graph, 0.5, options)
    assert [each.zeros for each in found] == [32, 64]


@pytest.mark.parametrize("distribution", ["uniform", "erk", "global", "sensitivity"])
def test_distributions_come_to_the_rate_of_the_whole(distribution: str) -> None:
    graph = network()
    options = PruneOptions("magnitude", distribution=distribution)  # pyright: ignore[reportArgumentType]
    _, found = prune_weights(graph, 0.6, options, statistics=observed(graph, samples()))
    assert sum(e.zeros for e in found) / sum(e.size for e in found) == pytest.approx(0.6, abs=0.02)


def test_schedules_end_at_the_rate() -> None:
    graph, given = network(), samples()
    options = PruneOptions("magnitude", schedule="cubic", steps=4)
    _, found = prune_weights(graph, 0.75, options, statistics=observed(graph, given))
    assert all(each.zeros / each.size == pytest.approx(0.75, abs=0.06) for each in found)


def test_rates_of_single_layers() -> None:
    graph = network()
    name = next(iter(products(graph)))
    _, found = prune_weights(graph, {name: 0.5})
    assert [each.zeros / each.size for each in found] == [0.5, 0, 0]


def test_what_is_refused() -> None:
    graph = network()
    with pytest.raises(PruningError, match="needs samples"):
        prune_weights(graph, 0.5, PruneOptions("wanda"))
    with pytest.raises(PruningError, match="no product"):
        prune_weights(graph, 0.5, only=["nothing"])
    with pytest.raises(PruningError, match="within a layer"):
        PruneOptions("sparsegpt", distribution="global")
    x = Input("x", TensorType(f32, (2, 3)))
    broken = Graph((x,), (("y", MatMul(x, constant(np.full((3, 3), np.nan, np.float32)))),))
    with pytest.raises(PruningError, match="NaN"):
        prune_weights(broken, 0.5)
