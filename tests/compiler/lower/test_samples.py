"""Loops over the samples of a batch: what goes into one, what does not, and that results are those of whole batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler import compile, default_pipeline
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import AVX2, Machine
from ingot.compiler.lower.samples import by_samples
from ingot.compiler.ops.control import Loop
from ingot.compiler.ops.linear import AveragePool, Conv, MatMul, MaxPool
from ingot.compiler.ops.movement import Concat, Gather, Pad, Reshape, Slice, Split, Transpose
from ingot.compiler.ops.pointwise import Add, Mul, Relu, Sigmoid
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean
from ingot.compiler.ops.resample import Resample
from ingot.runtime.dtypes import f32

Floats = NDArray[np.float32]
BATCH = symbol("batch")
SMALL = Machine(l2=32 << 10, l3=32 << 10, memory_rate=0.01)
"""A machine whose caches hold one of the tests' images but not three, and whose memory is slow."""


def random(*shape: int, seed: int = 0) -> Floats:
    made = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return made / np.float32(np.sqrt(max(1, np.prod(shape[1:]))))


def image(count: Dim, size: int = 16, channels: int = 4) -> Input:
    return Input("x", TensorType(f32, (count, size, size, channels)))


def conv(x: Value, out: int, taps: int = 3, stride: int = 1, group: int = 1) -> Conv:
    inner = int(x.shape[-1]) // group
    w, bias = constant(random(out, inner, taps, taps, seed=out)), constant(random(out))
    return Conv(x, w, bias, (stride, stride), (taps // 2,) * 4, (1, 1), group, True)


def graph(x: Input, *results: Value) -> Graph:
    return Graph((x,), tuple((f"y{i}", y) for i, y in enumerate(results)))


def plain(x: Value) -> Value:
    return Relu(conv(Relu(conv(x, 8)), 8))


def mixed(x: Value) -> Value:
    """Most of what a network for images is made of."""
    a = Relu(conv(x, 8, 1))
    a = Relu(conv(a, 8, 3, 1, 8))  # depthwise
    gate = Sigmoid(conv(ReduceMean(a, (1, 2), True), 8, 1))
    a = Add(conv(Mul(a, gate), 4, 1), x)
    left, right = Split(a, 3, (1, 3)).results()
    a = Concat((Relu(right), left), 3)
    a = MaxPool(Pad(a, (0, 1, 1, 0, 0, 1, 1, 0), "constant", None), (3, 3), (1, 1), (0,) * 4, (1, 1), False, True)
    indices, weights = constant(np.array([[0], [0], [3], [2]])), constant(np.full((4, 1), 0.5, np.float32))
    a = Resample(a, indices, weights, 1)
    a = AveragePool(a, (2, 2), (2, 2), (0,) * 4, (1, 1), False, False, True)
    return Slice(a, (0, 0, 1, 0), (x.shape[0], 2, 3, 4), (1, 1, 2, 1))


def matrices(x: Value) -> Value:
    """Products of matrices of the samples by each other and by weights."""
    a = Reshape(x, (x.shape[0], 64, 16))
    b = MatMul(a, Transpose(a, (0, 2, 1)))
    return MatMul(ReduceMax(b, (1,), False), constant(random(64, 6)))


def loops(made: Graph) -> list[Loop]:
    return [node for node in made.nodes() if isinstance(node, Loop)]


def looped(made: Graph, machine: Machine = SMALL) -> Graph:
    return by_samples(default_pipeline().run(made), machine)


def close(found: Floats, wanted: NDArray[Any]) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=3e-5 * max(1e-9, float(np.abs(wanted).max(initial=0))), rtol=0)


NETWORKS: Mapping[str, Callable[[Value], Value]] = {"plain": plain, "mixed": mixed, "matrices": matrices}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fixed", [False, True])
def test_results_are_those_of_the_whole_batch(network: str, fixed: bool) -> None:
    x = image(3 if fixed else BATCH)
    before = graph(x, NETWORKS[network](x))
    after = looped(before)
    assert loops(after)
    program = lower(after, AVX2)
    verify_program(program)
    with compile(by_samples(before, SMALL), target="x86-64-v3").session(threads=2) as session:
        for count in (3,) if fixed else (0, 1, 3):
            given = {"x": random(count, 16, 16, 4)}
            wanted = evaluate_graph(before, given)["y0"]
            close(evaluate_graph(after, given)["y0"], wanted)
            close(run_program(program, given)["y0"], wanted)
            close(session.run(given)["y0"], wanted)


def test_early_layers_with_large_images_are_looped_and_late_ones_with_large_weights_are_not() -> None:
    for count in (8, BATCH):
        x = image(count, 112, 16)
        early = Relu(conv(Relu(conv(x, 32)), 32))
        small = MaxPool(early, (28, 28), (28, 28), (0,) * 4, (1, 1), False, True)
        late = Relu(conv(small, 1024))
        for _ in range(2):
            late = Relu(conv(late, 1024, 1))
        (loop,) = loops(looped(graph(x, late), AVX2))
        inside = [n for node in loop.body.nodes() for n in getattr(node, "body", loop.body).nodes()]
        assert max(node.shape[-1] for node in inside if isinstance(node, Conv)) == 32


def test_what_fits_a_cache_with_all_samples_is_not_looped() -> None:
    x = image(8)
    assert not loops(looped(graph(x, plain(x)), AVX2))


def flat(x: Value) -> Value:
    return Reshape(x, (3, 2048))


def few(x: Value) -> Value:
    return MatMul(flat(x), constant(random(2048, 3)))


MIXING: Mapping[str, Callable[[Value], Value]] = {
    "the mean of all": lambda x: Add(x, ReduceMean(x, (0,), True)),
    "another order": lambda x: Gather(x, constant(np.array([2, 0, 1])), 0),
    "from the last to the first": lambda x: Slice(x, (2, 0, 0, 0), (3, 16, 16, 8), (-1, 1, 1, 1)),
    "half samples": lambda x: Reshape(x, (6, 128, 8)),
    "weights of its own": lambda x: Mul(x, constant(random(3, 16, 16, 8))),
    "one by the other": lambda x: MatMul(flat(x), Transpose(flat(x), (1, 0))),
    "by itself": lambda x: MatMul(few(x), few(x)),
    "by all of them": lambda x: Relu(MatMul(few(x), flat(x))),
    "a sample more": lambda x: Pad(x, (1, 0, 0, 0, 0, 0, 0, 0), "constant", None),
    "one after the other": lambda x: Concat((x, x), 0),
    "as if they were channels": lambda x: Add(x, Reshape(ReduceMean(flat(x), (1,), False), (3, 1, 1, 1))),
}


@pytest.mark.parametrize("kind", MIXING)
def test_what_mixes_samples_stays_whole(kind: str) -> None:
    x = image(3)
    y = MIXING[kind](plain(plain(x)))
    before = graph(x, Relu(Mul(y, y)))
    after, given = looped(before), {"x": random(3, 16, 16, 4)}
    assert loops(after)
    wanted = evaluate_graph(before, given)["y0"]
    close(evaluate_graph(after, given)["y0"], wanted)
    close(run_program(lower(after, AVX2), given)["y0"], wanted)


def test_a_sample_that_is_not_finite_leaves_the_others_alone() -> None:
    x = image(BATCH)
    given = random(3, 16, 16, 4)
    given[1, 2, 3, 2] = np.nan
    made = looped(graph(x, plain(x)))
    with compile(made, target="x86-64-v3").session(threads=1) as session:
        found = session.run({"x": given})["y0"]
        alone = [session.run({"x": given[i : i + 1]})["y0"] for i in range(3)]
    assert np.isnan(found[1]).any() and np.isfinite(found[[0, 2]]).all()
    np.testing.assert_array_equal(found, np.concatenate(alone))


def test_values_that_are_read_elsewhere_leave_the_loop() -> None:
    x = image(BATCH)
    inside = plain(plain(x))
    before = graph(x, inside, plain(plain(inside)), Gather(inside, constant(np.array([0])), 0))
    after, given = looped(before), {"x": random(2, 16, 16, 4)}
    (loop,) = loops(after)
    assert len(loop.scans) == 2
    wanted, found = evaluate_graph(before, given), run_program(lower(after, AVX2), given)
    for name, each in wanted.items():
        close(found[name], each)


def test_one_sample_needs_no_loop() -> None:
    x = image(1)
    assert not loops(looped(graph(x, plain(x))))
    x = image(BATCH)
    assert not loops(looped(replace(graph(x, plain(x)), ranges={"batch": (1, 1)})))
    assert loops(looped(replace(graph(x, plain(x)), ranges={"batch": (1, 5)})))
