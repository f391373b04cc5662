"""Channels of different sizes are divided: the model computes the same to the last bit, and its int8 form is nearer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.compiler.passes.quantize.layered import Array, matrix, samples, vector

from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.composite import Silu
from ingot.compiler.ops.linear import Conv, MatMul, MaxPool
from ingot.compiler.ops.movement import Concat, Reshape
from ingot.compiler.ops.pointwise import Add, Mul, Relu
from ingot.compiler.passes.quantize.balance import Channels, balance
from ingot.compiler.passes.quantize.grid import Range
from ingot.compiler.passes.quantize.layers import Selection, layers_of
from ingot.compiler.passes.quantize.points import placed, points
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.static import quantise_static
from ingot.runtime.dtypes import f32


def conv(x: Value, random: np.random.Generator, name: str, into: Array, out: Array, *, group: int = 1) -> Conv:
    """A convolution of 3x3 whose channels are of the sizes `out` where those of its operand are of the sizes `into`."""
    each = into[:, None] if group > 1 else into[None]
    w = random.standard_normal((len(out), each.shape[1], 3, 3)) / np.sqrt(9 * each.shape[1])
    w *= (out[:, None] / each)[:, :, None, None]
    bias = constant((0.1 * out * vector(random, len(out))).astype(np.float32))
    return Conv(x, constant(w.astype(np.float32)), bias, (1, 1), (1,) * 4, (1, 1), group, False, origin=(name,))


def block(random: np.random.Generator, kind: str) -> Graph:
    """A stem with channels of very different sizes, and what reads them: a convolution, one of each channel, one and a
    sum, two after a concatenation and a pool."""
    x = Input("x", TensorType(f32, (1, 3, 8, 8)))
    sizes, one = np.exp(2.5 * random.standard_normal(8)), np.ones(8)
    made = conv(x, random, "stem", np.ones(3), sizes)
    stem = Relu(made) if kind == "relu" else Silu(made)
    match kind:
        case "depthwise":
            last: Value = conv(Silu(conv(stem, random, "a", sizes, sizes, group=8)), random, "b", sizes, one)
        case "residual":
            last = conv(Add(Silu(conv(stem, random, "a", sizes, sizes)), stem), random, "b", sizes, one)
        case "joined":
            other = Silu(conv(stem, random, "a", sizes, one))
            both = Concat((stem, MaxPool(other, (3, 3), (1, 1), (1,) * 4, (1, 1), False, False)), 1)
            into = np.concatenate([sizes, one])
            last = Add(conv(both, random, "b", into, one), conv(both, random, "c", into, one))
        case _:
            last = conv(stem, random, "a", sizes, one)
    head = MatMul(Reshape(Silu(last), (1, 512)), constant(matrix(random, 512, 5)), origin=("head",))
    return Graph((x,), (("y", head),))


def seen(graph: Graph, given: list[dict[str, Array]]) -> dict[str, Channels]:
    found: dict[str, Channels] = {}
    for name, each in products(graph).items():
        tapped = replace(graph, outputs=(("x", each.x),))
        rows = np.concatenate(
            [np.moveaxis(evaluate_graph(tapped, s)["x"], each.in_axis, -1).reshape(-1, each.channels[0]) for s in given]
        ).astype(np.float64)
        found[name] = Channels(rows.min(0), rows.max(0), np.square(rows).mean(0))
    return found


def int8(graph: Graph, given: list[dict[str, Array]]) -> Graph:
    """`graph` in 8 bits but for the first and the last layer, ranges from what was seen."""
    wanted = points(graph)
    tapped = replace(graph, outputs=tuple(wanted.items()))
    values = [evaluate_graph(tapped, each) for each in given]
    ranges = {n: Range(float(min(v[n].min() for v in values)), float(max(v[n].max() for v in values))) for n in wanted}
    return quantise_static(graph, placed(graph, Selection().among(layers_of(graph))), ranges).graph


def noise(graph: Graph, other: Graph, given: list[dict[str, Array]]) -> float:
    """In decibels below the signal."""
    both = [np.stack([evaluate_graph(each, s)["y"] for s in given]).astype(np.float64) for each in (graph, other)]
    return float(10 * np.log10(np.square(both[0]).sum() / np.square(both[1] - both[0]).sum()))


@pytest.mark.parametrize(
    ("kind", "operators"), [("plain", 1), ("relu", 0), ("depthwise", 2), ("residual", 3), ("joined", 3)]
)
def test_the_model_stays_the_same_and_loses_less_in_8_bits(kind: str, operators: int) -> None:
    random = np.random.default_rng(4)
    graph = block(random, kind)
    given = samples(graph, 4, random)
    inner = [layer.name for layer in Selection().among(layers_of(graph))]
    changed, gains = balance(graph, seen(graph, given), only=inner)
    assert gains and all(gain >= 3 for gain in gains.values()) and set(gains) <= set(inner)
    for sample in given:
        np.testing.assert_array_equal(evaluate_graph(changed, sample)["y"], evaluate_graph(graph, sample)["y"])
    before, after = noise(graph, int8(graph, given), given), noise(graph, int8(changed, given), given)
    assert after > before + 6, (before, after)
    assert sum(isinstance(node, Mul) for node in changed.nodes()) == operators
    assert [layer.name for layer in layers_of(changed)] == [layer.name for layer in layers_of(graph)]
