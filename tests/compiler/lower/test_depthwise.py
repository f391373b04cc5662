"""Convolutions with a filter for each channel: along one axis and two, large windows, lines in parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.compiler.lower.test_winograd import graph_of, random, reference

from ingot.compiler import compile
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.templates import Depthwise
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.linear import Conv
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import u8

MACHINE = find_target("cpu").machine


def template(program: Program) -> Depthwise:
    (found,) = [b for launch in program.launches() if isinstance(b := launch.kernel.body, Depthwise)]
    return found


# Extents, channels, taps, pads, strides, dilations.
FORMS = [
    ((1,), 9, (3,), (1, 1), (1,), (1,)),
    ((2,), 1, (2,), (0, 0), (1,), (1,)),
    ((61,), 17, (5,), (2, 2), (1,), (1,)),
    ((120,), 24, (31,), (15, 15), (1,), (1,)),
    ((57,), 8, (4,), (3, 0), (2,), (1,)),
    ((300,), 16, (3,), (4, 4), (1,), (4,)),
    ((70,), 10, (300,), (150, 149), (1,), (1,)),
    ((5, 4), 12, (17, 16), (8, 8, 8, 7), (1, 1), (1, 1)),
    ((9, 20), 8, (3, 101), (1, 50, 1, 50), (2, 1), (1, 1)),
    ((20, 3), 8, (129, 2), (64, 0, 64, 1), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_against_f64(form: tuple[Any, ...]) -> None:
    spatial, channels, taps, pads, strides, dilations = form
    options: dict[str, Any] = {"taps": taps, "strides": strides, "dilations": dilations, "group": channels}
    graph = graph_of(spatial, channels, channels, pads, **options)
    x = random(5, 2, *spatial, channels)
    want = reference(graph, x)
    program = lower(graph, MACHINE)
    verify_program(program)
    assert template(program).taps
    with compile(graph, cache=False, jobs=1).session(threads=2) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], want, atol=1e-5 * float(np.abs(want).max() + 1))


def test_a_line_is_shared_out() -> None:
    def parts(length: int) -> int:
        graph = graph_of((length,), 64, 64, (7, 7), 1, taps=(15,), strides=(1,), group=64)
        x = random(4, 1, length, 64)
        program = lower(graph, MACHINE)
        np.testing.assert_allclose(run_program(program, {"x": x})["y"], reference(graph, x), atol=1e-4)
        (_, *parts) = template(program).rows
        return sum(int(axis.extent) for axis in parts)  # type: ignore[arg-type]

    assert [parts(length) for length in (55, 56, 62, 113, 200)] == [0, 2, 2, 0, 5]


def test_symbolic_length() -> None:
    options: dict[str, Any] = {"taps": (9,), "strides": (1,), "group": 20}
    with compile(graph_of((symbol("length"),), 20, 20, (4, 4), **options), jobs=1).session(threads=2) as session:
        for length in (1, 8, 131):
            x = random(6, 2, length, 20)
            want = reference(graph_of((length,), 20, 20, (4, 4), **options), x)
            np.testing.assert_allclose(session.run({"x": x})["y"], want, atol=1e-4)


def test_nan_reaches_what_it_touches_and_nothing_else() -> None:
    graph = graph_of((400,), 8, 8, (150, 149), 1, taps=(300,), strides=(1,), group=8)
    x = random(8, 1, 400, 8)
    x[0, 200, 3] = np.nan
    with compile(graph, jobs=1).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_array_equal(np.isnan(have), np.isnan(reference(graph, x)))


@pytest.mark.parametrize("taps", [3, 8, 260])
def test_bytes_along_one_axis(taps: int) -> None:
    rng = np.random.default_rng(taps)
    x = Input("x", TensorType(u8, (2, 50, 12)))
    w, bias = rng.integers(-128, 128, (12, 1, taps)).astype(np.int8), np.arange(12).astype(np.int32)
    pads = (taps // 2, taps - 1 - taps // 2)
    graph = Graph((x,), (("y", Conv(x, constant(w), constant(bias), (1,), pads, (1,), 12, True)),))
    data = rng.integers(0, 256, (2, 50, 12)).astype(np.uint8)
    with compile(graph, jobs=1).session(threads=1) as session:
        np.testing.assert_array_equal(session.run({"x": data})["y"], evaluate_graph(graph, {"x": data})["y"])
