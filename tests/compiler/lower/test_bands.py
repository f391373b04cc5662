"""Chains of launches in bands: which there are, and that results are those of whole launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler import default_pipeline
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Launch, Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.labels import Labels
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.machine import Machine
from ingot.compiler.ops.linear import AveragePool, Conv, MaxPool
from ingot.compiler.ops.movement import Concat, Transpose
from ingot.compiler.ops.pointwise import Add, Mul, Relu
from ingot.compiler.ops.reduction import ReduceMean
from ingot.compiler.targets.registry import find_target
from ingot.compiler.targets.target import Programs
from ingot.runtime.dtypes import f32

Floats = NDArray[np.float32]
SMALL = Machine(l2=32 << 10, l3=32 << 10, memory_rate=0.01)
"""A machine whose caches hold no image of the tests, and whose memory is slow."""
LARGE = replace(SMALL, l2=1 << 30, l3=1 << 30)


def random(*shape: int, seed: int = 0) -> Floats:
    made = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return made / np.float32(np.sqrt(max(1, np.prod(shape[1:]))))


def image(height: Dim, width: Dim, channels: int = 8, count: Dim = 1) -> Input:
    return Input("x", TensorType(f32, (count, height, width, channels)))


def conv(x: Value, out: int, taps: int = 1, *, stride: int = 1, group: int = 1, dilation: int = 1) -> Conv:
    inner, pad = int(x.shape[-1]) // group, taps // 2 * dilation
    w, bias = constant(random(out, inner, taps, taps, seed=out)), constant(random(out))
    return Conv(x, w, bias, (stride, stride), (pad,) * 4, (dilation, dilation), group, True)


def depthwise(x: Value, taps: int = 3, *, stride: int = 1, dilation: int = 1) -> Conv:
    channels = int(x.shape[-1])
    return conv(x, channels, taps, stride=stride, group=channels, dilation=dilation)


def graph(x: Input, *results: Value) -> Graph:
    return default_pipeline().run(Graph((x,), tuple((f"y{i}", y) for i, y in enumerate(results))))


def inverted(x: Value, taps: int, stride: int, dilation: int = 1) -> Value:
    """Expand, depthwise, project, and the input added where it fits."""
    y = conv(Relu(depthwise(Relu(conv(x, 24)), taps, stride=stride, dilation=dilation)), int(x.shape[-1]))
    return Add(y, x) if stride == 1 else y


def pooled(x: Value) -> Value:
    y = Relu(conv(x, 16, 5, stride=2))
    y = MaxPool(y, (3, 3), (2, 2), (1,) * 4, (1, 1), False, True)
    return AveragePool(Relu(conv(y, 24)), (2, 2), (1, 1), (0,) * 4, (1, 1), False, False, True)


def joined(x: Value) -> Value:
    left, right = Relu(conv(x, 12, 5)), depthwise(Relu(conv(x, 20)))
    return Relu(conv(Concat((left, right), 3), 8))


def turned(x: Value) -> Value:
    """Channels first in the end."""
    return Transpose(Relu(conv(Relu(conv(x, 16)), 12, 3)), (0, 3, 1, 2))


NETWORKS: Mapping[str, Callable[[], tuple[Input, Value]]] = {
    "depthwise 3x3": lambda: (x := image(21, 17), inverted(x, 3, 1)),
    "depthwise 3x3, stride 2": lambda: (x := image(21, 17), inverted(x, 3, 2)),
    "depthwise 5x5": lambda: (x := image(24, 13), inverted(x, 5, 1)),
    "depthwise 5x5, stride 2": lambda: (x := image(61, 13), inverted(x, 5, 2)),
    "dilated": lambda: (x := image(25, 14), inverted(x, 3, 1, 2)),
    "two blocks": lambda: (x := image(26, 15), inverted(inverted(x, 3, 1), 5, 1)),
    "pools": lambda: (x := image(63, 30, 3), pooled(x)),
    "concatenated": lambda: (x := image(20, 20), joined(x)),
    "transposed": lambda: (x := image(46, 16), turned(x)),
    "several images": lambda: (x := image(6, 13, count=5), inverted(x, 3, 1)),
    "one column": lambda: (x := image(200, 1), inverted(x, 3, 1)),
}


def launches(program: Program) -> int:
    return sum(1 for _ in program.launches())


def memory(program: Program) -> int:
    return sum(s.size for s in program.of_kind("temp") if isinstance(s.size, int))


def parts(program: Program) -> list[Launch]:
    return [launch for launch in program.launches() if "_rows" in launch.kernel.name]


@pytest.mark.parametrize("network", NETWORKS)
def test_results_are_those_of_whole_launches(network: str) -> None:
    x, y = NETWORKS[network]()
    model = graph(x, y)
    whole, cut = lower(model, LARGE), lower(model, SMALL)
    verify_program(cut)
    assert parts(cut) and not parts(whole)
    assert memory(cut) < memory(whole)
    given = {"x": random(*x.type.static_shape())}
    wanted = evaluate_graph(model, given)["y0"]
    np.testing.assert_allclose(run_program(cut, given)["y0"], wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(run_program(cut, given)["y0"], run_program(whole, given)["y0"])
    artifact = find_target("x86-64-v3").build(Programs(cut), Labels.of(model, "bands"))
    found: list[Floats] = []
    for threads in (1, 2):
        with artifact.session(threads=threads) as session:
            found.append(session.run(given)["y0"])
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[1], found[0])


def test_what_is_not_finite_goes_where_it_goes_in_whole_launches() -> None:
    x = image(21, 17)
    model = graph(x, inverted(x, 3, 1))
    given = {"x": random(1, 21, 17, 8)}
    given["x"][0, 5, 3, 1], given["x"][0, 16, 0, 0], given["x"][0, 20, 16, 7] = np.nan, np.inf, -np.inf
    found, whole = (run_program(lower(model, machine), given)["y0"] for machine in (SMALL, LARGE))
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(evaluate_graph(model, given)["y0"]))


def test_results_in_the_middle_of_a_chain_are_whole() -> None:
    x = image(21, 17)
    wide = Relu(conv(x, 24))
    model = graph(x, conv(Relu(depthwise(wide)), 8), wide)
    program = lower(model, SMALL)
    given = {"x": random(1, 21, 17, 8)}
    wanted = evaluate_graph(model, given)
    for name, found in run_program(program, given).items():
        np.testing.assert_allclose(found, wanted[name], rtol=0, atol=1e-5)


def test_several_launches_may_read_what_shrinks() -> None:
    x = image(21, 17)
    wide = Relu(conv(x, 24))
    model = graph(x, Add(conv(Relu(depthwise(wide)), 8), conv(depthwise(wide, 5), 8)))
    program = lower(model, SMALL)
    assert parts(program) and memory(program) < memory(lower(model, LARGE))
    given = {"x": random(1, 21, 17, 8)}
    np.testing.assert_allclose(
        run_program(program, given)["y0"], evaluate_graph(model, given)["y0"], rtol=0, atol=1e-5
    )


def test_what_needs_all_rows_ends_a_chain() -> None:
    x = image(21, 17)
    wide = depthwise(Relu(conv(x, 24)))
    model = graph(x, conv(Relu(Mul(wide, ReduceMean(wide, (1, 2), True))), 8))
    program = lower(model, SMALL)
    assert any(launch.kernel.name.startswith("fused_0") for launch in parts(program))
    given = {"x": random(1, 21, 17, 8)}
    wanted = evaluate_graph(model, given)["y0"]
    np.testing.assert_allclose(run_program(program, given)["y0"], wanted, rtol=0, atol=1e-5)


def test_convolutions_by_winograd_are_cut_between_rows_of_tiles() -> None:
    x = image(48, 32, 16)
    model = graph(x, Relu(conv(Relu(conv(x, 16, 3)), 16, 3)))
    program = lower(model, replace(SMALL, l2=128 << 10, l3=128 << 10, memory_rate=0.2))
    assert any("winograd" in launch.kernel.name for launch in parts(program))
    assert memory(program) < memory(lower(model, LARGE))
    given = {"x": random(1, 48, 32, 16)}
    wanted = evaluate_graph(model, given)["y0"]
    np.testing.assert_allclose(run_program(program, given)["y0"], wanted, rtol=0, atol=1e-4)
    session = find_target("x86-64-v3").build(Programs(program), Labels.of(model, "bands")).session(threads=2)
    with session:
        np.testing.assert_allclose(session.run(given)["y0"], wanted, rtol=0, atol=1e-4)


def test_small_tensors_and_unknown_extents_are_left_alone() -> None:
    for x, machine in (
        (image(21, 17), LARGE),
        (image(4, 4), SMALL),
        (image(symbol("height"), 17), SMALL),
        (image(21, 17, count=symbol("batch")), SMALL),
    ):
        assert not parts(lower(graph(x, inverted(x, 3, 1)), machine))
