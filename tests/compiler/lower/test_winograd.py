"""Winograd convolutions: the transforms, odd sizes and borders, the bound on the error, and who asks for them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from ingot.compiler import compile
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower import filtering, winograd
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.schedules import Algorithm
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.pointwise import Add, Relu
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32, u8


def random(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph_of(
    spatial: tuple[Dim, ...],
    inner: int,
    out: int,
    pads: tuple[int, ...],
    batch: Dim = 2,
    *,
    taps: tuple[int, ...] = (3, 3),
    strides: tuple[int, ...] = (1, 1),
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
) -> Graph:
    """relu(conv(x) + bias) in channels-last layout; the conv reads a kernel's result, so that it gets its border."""
    x = Input("x", TensorType(f32, (batch, *spatial, inner)))
    depth = inner // group * int(np.prod(taps))
    weights = constant(random(1, out, inner // group, *taps) / np.float32(np.sqrt(depth)))
    spread = dilations or (1,) * len(taps)
    conv = Conv(Relu(x), weights, constant(random(2, out)), strides, pads, spread, group, True)
    return Graph((x,), (("y", Relu(Add(conv, conv.bias or conv))),))


def reference(graph: Graph, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same in f64, summed tap by tap."""
    conv = next(n for n in graph.nodes() if isinstance(n, Conv))
    w, bias = conv.w.data.astype(np.float64), conv.bias.data.astype(np.float64)  # type: ignore[union-attr]
    rank, total = len(conv.strides), 0.0
    borders = [(0, 0), *zip(conv.pads[:rank], conv.pads[rank:], strict=True), (0, 0)]
    padded = np.pad(np.maximum(x, 0).astype(np.float64), borders)
    results = conv.type.shape[1:-1]
    each = w.shape[0] // conv.group
    for place in itertools.product(*(range(extent) for extent in w.shape[2:])):
        starts = [i * dilation for i, dilation in zip(place, conv.dilations, strict=True)]
        walks = zip(starts, results, conv.strides, strict=True)
        seen = padded[(slice(None), *(slice(b, b + (n - 1) * s + 1, s) for b, n, s in walks))]
        parts = np.split(seen, conv.group, -1)
        tap = w[(slice(None), slice(None), *place)]
        total = total + np.concatenate([p @ tap[g * each : (g + 1) * each].T for g, p in enumerate(parts)], -1)
    return np.maximum(total + 2 * bias, 0)


def kernels(program: Program) -> list[str]:
    return [launch.kernel.name for launch in program.launches()]


def is_transformed(program: Program) -> bool:
    return any(name.startswith("winograd_data") for name in kernels(program))


def wanted(monkeypatch: pytest.MonkeyPatch, *names: Algorithm) -> None:
    """These algorithms alone, whatever the cost model thinks of small images."""
    monkeypatch.setattr(winograd, "DIRECT_RATE", 1e-9)
    monkeypatch.setattr(winograd, "SIZES", {name: winograd.SIZES[name] for name in names})


@pytest.mark.parametrize(("size", "taps", "stride"), [*itertools.product((2, 3, 4, 6), range(1, 8), (1, 2, 3))])
def test_transforms_are_exact_in_one_dimension(size: int, taps: int, stride: int) -> None:
    """A^T ((G g) * (B^T d)), phase by phase, is every `stride`-th element of the correlation of d with g."""
    found = filtering.filtering(size, taps, stride)
    if found is None:  # no points for so many products
        products = {(1 if taps == 1 else size) + len(range(p, taps, stride)) - 1 for p in range(min(taps, stride))}
        assert products - set(filtering.POINTS) - {1, size}
        return
    g, d = random(3, taps).astype(np.float64), random(4, found.reach).astype(np.float64)
    transformed, have, first = found.filters @ g, 0.0, 0
    for number, phase in enumerate(found.phases):
        count = len(phase.data)
        data = phase.data @ d[number::stride][:count]
        have = have + phase.output @ (transformed[first : first + count] * data)
        first += count
    assert first == found.points
    np.testing.assert_allclose(have, np.correlate(d, g, "valid")[::stride], rtol=1e-11, atol=1e-11)


def test_coefficients_that_are_computed_with_are_exact() -> None:
    for products, points in filtering.POINTS.items():
        for taps in range(2, products):
            phase = filtering.toom_cook(products + 1 - taps, taps, points)
            for matrix in (phase.data, phase.output):
                np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


CASES = [
    ((8, 8), 16, 32, (1, 1, 1, 1)),
    ((7, 7), 64, 64, (1, 1, 1, 1)),
    ((13, 9), 32, 24, (1, 1, 1, 1)),
    ((14, 14), 64, 40, (0, 0, 0, 0)),
    ((10, 11), 32, 32, (2, 0, 1, 2)),
    ((28, 28), 128, 128, (1, 1, 1, 1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_f64(case: tuple[Any, ...]) -> None:
    graph = graph_of(*case)
    x = random(5, 2, *case[0], case[1])
    want = reference(graph, x)
    program = lower(graph, find_target("cpu").machine)
    verify_program(program)
    assert is_transformed(program)
    with compile(graph).session(threads=2) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_allclose(have, want, atol=2e-5 * float(np.abs(want).max()))


# Spatial extents, pads, taps and strides: one axis, two and three, pads that differ, images smaller than a tile.
FORMS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
    ((1,), (1, 1), (3,), (1,)),
    ((20,), (0, 0), (3,), (1,)),
    ((17,), (2, 1), (5,), (1,)),
    ((3,), (0, 0), (3,), (1,)),
    ((19,), (3, 3), (7,), (1,)),
    ((18,), (1, 1), (3,), (2,)),
    ((13, 6), (0, 1, 0, 1), (1, 3), (1, 1)),
    ((5, 12), (1, 0, 1, 0), (3, 1), (1, 1)),
    ((4, 15), (0, 2, 0, 2), (1, 5), (1, 1)),
    ((9, 7), (0, 3, 0, 3), (1, 7), (1, 1)),
    ((11, 2), (0, 0, 6, 0), (7, 1), (1, 1)),
    ((10, 9), (2, 2, 2, 2), (5, 5), (1, 1)),
    ((1, 1), (1, 1, 1, 1), (3, 3), (1, 1)),
    ((2, 16), (1, 1, 1, 1), (3, 3), (1, 1)),
    ((9, 14), (1, 1, 1, 1), (3, 3), (2, 2)),
    ((7, 8), (1, 0, 0, 2), (3, 3), (2, 1)),
    ((6, 8), (0, 1, 0, 1), (1, 3), (2, 1)),
    ((3, 6, 5), (1, 1, 1, 1, 1, 1), (3, 3, 3), (1, 1, 1)),
    ((4, 5, 6), (0, 1, 1, 0, 1, 1), (1, 3, 3), (1, 1, 1)),
]


@pytest.mark.parametrize("name", ["winograd2", "winograd4"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form(form: tuple[Any, ...], name: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted(monkeypatch, name)
    spatial, pads, taps, strides = form
    graph = graph_of(spatial, 18, 21, pads, taps=taps, strides=strides)
    x = random(5, 2, *spatial, 18)
    want = reference(graph, x)
    program = lower(graph, find_target("cpu").machine)
    verify_program(program)
    conv = next(n for n in graph.nodes() if isinstance(n, Conv))
    assert is_transformed(program) == (name in winograd.algorithms_of(conv))
    with compile(graph, cache=False, jobs=1).session(threads=2) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_allclose(have, want, atol=2e-5 * float(np.abs(want).max()))


def test_what_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted(monkeypatch, *winograd.SIZES)
    falls_back: list[dict[str, Any]] = [{"dilations": (2, 1)}, {"group": 2}, {"taps": (1, 1)}, {"taps": (9, 9)}]
    for options in falls_back:
        graph = graph_of((12, 11), 32, 32, (1, 1, 1, 1), **options)
        program = lower(graph, find_target("cpu").machine)
        assert not is_transformed(program), options
        x = random(5, 2, 12, 11, 32)
        with compile(graph, cache=False, jobs=1).session(threads=1) as session:
            np.testing.assert_allclose(session.run({"x": x})["y"], reference(graph, x), atol=1e-4)
    assert is_transformed(lower(graph_of((12, 11), 32, 32, (1, 1, 1, 1)), find_target("cpu").machine))
    assert not is_transformed(lower(graph_of((12, 11), 32, 15, (1, 1, 1, 1)), find_target("cpu").machine))


def test_the_interpreted_program_agrees() -> None:
    for taps, pads in (((3, 3), (1, 1, 1, 1)), ((1, 7), (0, 3, 0, 3))):
        graph = graph_of((5, 6), 16, 16, pads, taps=taps)
        x = random(6, 2, 5, 6, 16)
        program = lower(graph, find_target("cpu").machine)
        np.testing.assert_allclose(run_program(program, {"x": x})["y"], reference(graph, x), atol=1e-4)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_symbolic_batch(batch: int) -> None:
    graph = graph_of((14, 14), 32, 32, (1, 1, 1, 1), symbol("batch"))
    x = random(7, batch, 14, 14, 32)
    with compile(graph).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_allclose(have, reference(graph, x), atol=1e-4)


@pytest.mark.parametrize(
    ("names", "taps", "pads", "sizes"),
    [
        (("height", "width"), (3, 3), (1, 1, 1, 1), [(1, 1), (20, 3), (7, 13), (8, 8)]),
        (("length",), (5,), (2, 1), [(2,), (3,), (16,), (19,)]),
    ],
)
def test_symbolic_extents(
    names: tuple[str, ...], taps: tuple[int, ...], pads: tuple[int, ...], sizes: list[tuple[int, ...]]
) -> None:
    options: dict[str, Any] = {"taps": taps, "strides": (1,) * len(taps)}
    graph = graph_of(tuple(map(symbol, names)), 64, 48, pads, **options)
    program = lower(graph, find_target("cpu").machine)
    verify_program(program)
    assert is_transformed(program)
    with compile(graph, jobs=1).session(threads=2) as session:
        for size in sizes:
            x = random(9, 2, *size, 64)
            want = reference(graph_of(size, 64, 48, pads, **options), x)
            np.testing.assert_allclose(session.run({"x": x})["y"], want, atol=1e-4)


@pytest.mark.parametrize(("spatial", "taps"), [((28, 28), (3, 3)), ((300,), (3,)), ((17, 17), (1, 7))])
def test_strict_numerics_sum_directly(spatial: tuple[int, ...], taps: tuple[int, ...]) -> None:
    pads = tuple(extent // 2 for extent in taps) * 2
    graph = graph_of(spatial, 128, 128, pads, taps=taps, strides=(1,) * len(taps))
    assert is_transformed(lower(graph, find_target("cpu").machine))
    assert not is_transformed(lower(graph, find_target("cpu").machine, reorder=False))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("taps", [(3, 3), (1, 7), (5, 1)])
def test_nan_and_infinity_reach_every_output_they_touch(
    value: float, taps: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted(monkeypatch, *winograd.SIZES)
    pads = tuple(extent // 2 for extent in taps)
    graph = graph_of((12, 12), 32, 32, pads * 2, 1, taps=taps)
    x = random(8, 1, 12, 12, 32)
    x[0, 5, 5, 3] = value
    with compile(graph, cache=False).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    want = reference(graph, x)
    assert not np.isfinite(have[~np.isfinite(want)]).any()
    assert np.isfinite(have).any()  # what is some tiles away is as it was
    near = np.isfinite(have)
    np.testing.assert_allclose(have[near], want[near], atol=1e-4)


BYTE_TARGETS = [
    name
    for name in ("x86-64-v3", "x86-64-v4")
    if features.level(name).arch == features.host_arch()
    and features.level(name).required <= features.level("native").required | {"cx8"}
]


def bytes_graph(height: int, width: int, w: np.ndarray[Any, Any], pads: tuple[int, ...]) -> Graph:
    """A convolution of u8 by i8 with an i32 bias."""
    x = Input("x", TensorType(u8, (2, height, width, w.shape[1])))
    bias = constant(np.arange(-7, w.shape[0] - 7).astype(np.int32) * 1001)
    conv = Conv(x, constant(w), bias, (1, 1), pads, (1, 1), 1, True)
    return Graph((x,), (("y", conv),))


@pytest.mark.parametrize("target", BYTE_TARGETS)
@pytest.mark.parametrize(("height", "width", "pads"), [(8, 8, (1, 1, 1, 1)), (5, 7, (0, 1, 2, 0))])
@pytest.mark.parametrize("weights", ["any", "largest", "smallest"])
def test_bytes_are_exact(
    height: int, width: int, pads: tuple[int, ...], weights: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "PAIRS_SHARE", 100.0)  # whatever the cost model thinks of small images
    rng = np.random.default_rng(8)
    any_ = rng.integers(-128, 128, (32, 24, 3, 3)).astype(np.int8)
    w = {"any": any_, "largest": np.full_like(any_, 127), "smallest": np.full_like(any_, -128)}[weights]
    graph = bytes_graph(height, width, w, pads)
    program = lower(graph, features.machine(features.level(target)))
    verify_program(program)
    assert is_transformed(program)
    drawn = rng.integers(0, 256, graph.inputs[0].type.static_shape()).astype(np.uint8)
    with compile(graph, target=target, jobs=1).session(threads=1) as session:
        for x in (drawn, np.full_like(drawn, 255), np.where(drawn > 127, 255, 0).astype(np.uint8)):
            np.testing.assert_array_equal(session.run({"x": x})["y"], evaluate_graph(graph, {"x": x})["y"])
    want = evaluate_graph(graph, {"x": drawn})["y"]
    np.testing.assert_array_equal(run_program(program, {"x": drawn})["y"], want)


def test_sums_that_four_times_as_large_need_more_bits_are_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "PAIRS_SHARE", 100.0)
    machine = features.machine(features.level("x86-64-v3"))
    for inner, transformed in ((1826, True), (1828, False)):  # 4 * 255 * 128 * 9 * inner about 2**31
        graph = bytes_graph(4, 4, np.full((16, inner, 3, 3), -128, np.int8), (1, 1, 1, 1))
        assert is_transformed(lower(graph, machine)) == transformed
