"""Grids of integers: every element type and form against the definition, in f64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.grid import TYPES, Grid, Range, limits
from ingot.runtime.dtypes import DType, f32, i8, i16, i32, u8, u16

ENDS = st.floats(-(2.0**99), 2.0**99, allow_nan=False, width=32)


@given(ENDS, ENDS, st.sampled_from(TYPES), st.booleans(), st.integers(4, 8))
def test_every_value_of_a_range_is_within_half_a_step(a: float, b: float, dtype: DType, even: bool, bits: int) -> None:
    low, high = min(a, b), max(a, b)
    grid = Grid.of(Range(low, high), dtype, symmetric=even, bits=bits)
    least, most = grid.limits
    assert grid.scale.dtype == np.float32 and grid.scale > 0 and least <= int(grid.zero_point) <= most
    values = np.linspace(low, high, 97).astype(np.float32)
    q = grid.quantised(values)
    assert q.dtype == dtype.to_numpy() and q.min() >= least and q.max() <= most
    back = (q.astype(np.float64) - int(grid.zero_point)) * float(grid.scale)
    # Half a step, and as much again at the end that moves when zero is put onto a point.
    assert np.abs(back - values).max() <= (0.5 if even else 1.0) * float(grid.scale) * (1 + 1e-4)
    assert grid.dequantised(grid.quantised(np.zeros(1, np.float32))).item() == 0
    if even:
        assert int(grid.zero_point) == (least + most + 1) // 2


def test_ends_of_known_grids() -> None:
    assert [limits(t, 8) for t in (u8, i8)] == [(0, 255), (-128, 127)]
    assert [limits(t, 7) for t in (u8, i8)] == [(0, 127), (-64, 63)]
    assert [limits(t, 16) for t in (u16, i16)] == [(0, 65535), (-32768, 32767)]
    positive = Grid.of(Range(0.5, 2.55))
    assert (positive.scale.item(), positive.zero_point.item()) == (np.float32(0.01), 0)
    assert Grid.of(Range(-2.55, 0.0)).zero_point == 255
    assert Grid.of(Range(-1.0, 1.27), i8, symmetric=True).scale == np.float32(0.01)
    seven = Grid.of(Range(-0.63, 0.1), i8, symmetric=True, bits=7)
    assert seven.quantised(np.array([-0.63, 0.63, 5, -5], np.float32)).tolist() == [-63, 63, 63, -64]


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-42, 3e38])
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_without_width(value: float, symmetric: bool) -> None:
    grid = Grid.of(Range(value, value), i8, symmetric=symmetric)
    back = grid.dequantised(grid.quantised(np.array([value], np.float32))).item()
    assert back == pytest.approx(value, rel=1e-6, abs=1e-38)


def test_a_grid_for_each_channel() -> None:
    low, high = np.array([[-1.0], [0.0], [-3.0]]), np.array([[1.55], [2.0], [0.0]])
    grid = Grid.spanning(low, high, u8)
    assert grid.scale.shape == grid.zero_point.shape == (3, 1)
    assert grid.zero_point.ravel().tolist() == [100, 0, 255]
    assert grid.range.low == pytest.approx(-3, rel=1e-6) and grid.range.high == pytest.approx(2, rel=1e-6)


def test_values_become_the_same_integers_as_arrays() -> None:
    x = Input("x", TensorType(f32, (1000,)))
    grid = Grid.of(Range(-1.0, 2.0))
    q = grid.quantise(x)
    graph = Graph((x,), (("q", q), ("y", grid.dequantise(q))))
    data = np.random.default_rng(0).uniform(-1.5, 2.5, 1000).astype(np.float32)
    found = evaluate_graph(graph, {"x": data})
    np.testing.assert_array_equal(found["q"], grid.quantised(data))
    np.testing.assert_array_equal(found["y"], grid.dequantised(grid.quantised(data)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range(np.nan, 1), "infinities or NaN"),
        (lambda: Range(0, np.inf), "infinities or NaN"),
        (lambda: Range(2, 1), "swap its ends"),
        (lambda: Grid.of(Range(0, 1), i32), "grids of i32"),
        (lambda: Grid.of(Range(0, 1), u8, bits=9), "no grid of 9 bits"),
        (lambda: Grid.of(Range(0, 1), u8, bits=7).quantise(Input("x", TensorType(f32, ()))), "all 8 bits"),
        (lambda: Grid.spanning(np.array([np.nan]), np.array([1.0])), "not finite"),
    ],
)
def test_errors(make: object, message: str) -> None:
    with pytest.raises(QuantisationError, match=message):
        make()  # pyright: ignore[reportCallIssue]
