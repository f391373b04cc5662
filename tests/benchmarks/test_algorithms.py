"""Layers with and without an algorithm: the ways compute the same, and each algorithm has its layer."""

from __future__ import annotations

from typing import get_args

import numpy as np
from benchmarks.algorithms import (
    TRIALS,
    Result,
    Trial,
    Ways,
    attention,
    conv,
    inverted,
    lowered_without,
    lstm,
    matmul,
    measured,
    random,
    scheduled,
    table,
)

from ingot.compiler import compile, default_pipeline, driver
from ingot.compiler.lower import convolution
from ingot.compiler.lower.machine import AVX512
from ingot.compiler.lower.samples import by_samples
from ingot.compiler.lower.schedules import Algorithm
from ingot.compiler.ops.control import Loop


def results(ways: Ways) -> list[np.ndarray]:
    """What the ways make of the same inputs."""
    found: list[np.ndarray] = []
    for artifact in ways.values():
        with artifact.session(threads=1) as session:
            (y,) = session.run({info.name: random(*map(int, info.shape)) for info in session.inputs}).values()
            found.append(y)
    return found


def test_every_algorithm_has_a_layer() -> None:
    assert {trial.algorithm for trial in TRIALS} >= set(get_args(Algorithm))
    assert len({trial.algorithm for trial in TRIALS}) == len(TRIALS)


def test_schedules() -> None:
    ways = scheduled(conv(9, 16, 24), "winograd2")
    assert next(iter(ways)) == "winograd2" and set(ways) == {"direct", "winograd2", "winograd4"}
    for name, artifact in ways.items():
        with artifact.session(threads=1) as session:
            launches = session.profile({"x": random(1, 9, 9, 16)}, runs=1).launches
        assert any(each.kernel.startswith("winograd_") for each in launches) == (name != "direct")
    first, *others = results(ways)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)
    assert set(scheduled(matmul(64, 256, 256), "strassen")) == {"direct", "strassen"}


def test_lowering_without() -> None:
    graph = conv(6, 24, 24, group=24)
    with_it = compile(graph, target="native", cache=False)
    without = lowered_without(graph, convolution, "is_depthwise", lambda node, w: False)
    assert next(iter(with_it.code.values())) != next(iter(without.code.values()))
    one, other = results({"a": with_it, "b": without})
    np.testing.assert_allclose(one, other, atol=1e-6)
    graph = conv(6, 32, 256, 1, 2)
    apart = lowered_without(graph, convolution, "DENSE_COLUMNS", 1 << 62)
    one, other = results({"a": compile(graph, target="native"), "b": apart})
    np.testing.assert_array_equal(one, other)


def test_samples_and_the_whole_batch() -> None:
    graph = inverted(8, 28, 16, 144, 2)
    assert any(isinstance(node, Loop) for node in by_samples(default_pipeline().run(graph), AVX512).nodes())
    whole = lowered_without(graph, driver, "by_samples", lambda graph, machine: graph)
    one, other = results({"a": compile(graph, target="native", cache=False), "b": whole})
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_attention_and_its_parts() -> None:
    graph = attention(2, 9, 8)
    parts = compile(graph, target="native", pipeline=default_pipeline().without("recognise"))
    whole, other = results({"a": compile(graph, target="native"), "b": parts})
    np.testing.assert_allclose(whole, other, atol=1e-6)
    x = random(2, 9, 8).astype(np.float64)
    weights = np.exp(x @ x.transpose(0, 2, 1) * 8**-0.5)
    np.testing.assert_allclose(whole, weights / weights.sum(-1, keepdims=True) @ x, atol=1e-6)


def test_the_layer_and_its_steps() -> None:
    steps, width = 5, 12
    ways = {str(kind): compile(lstm(steps, width, as_operator=kind), target="native") for kind in (True, False)}
    x, w = random(steps, 1, width).astype(np.float64), random(4 * width, width).astype(np.float64)
    h = c = np.zeros((1, width))
    for have in range(steps):
        i, o, f, g = np.split(x[have] @ w.T + h @ w.T, 4, axis=1)
        i, o, f = (1 / (1 + np.exp(-gate)) for gate in (i, o, f))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        for y in results(ways):
            np.testing.assert_allclose(y.reshape(steps, width)[have], h[0], atol=1e-5)


def test_results_and_their_table() -> None:
    graph = matmul(4, 8, 8)
    ways = {"one": compile(graph, target="native"), "two": compile(graph, target="native")}
    result = measured(Trial("matmul", "4 x 8 x 8", lambda: ways), rounds=2)
    assert list(result.seconds) == ["one", "two"] and min(result.seconds.values()) > 0 and result.gain > 0
    trial = Trial("a", "layer", dict)
    *_, line = table([Result(trial, {"a": 1e-6, "b": 2e-6, "c": 3.5e-6}, 2.0)]).splitlines()
    assert line == "| a | layer | 1.0 | b 2.0, c 3.5 | 2.00 |"
