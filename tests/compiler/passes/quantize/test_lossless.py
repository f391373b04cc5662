"""Grids that floats lie on, and weights stored on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.compiler.networks import image_network
from tests.compiler.passes.quantize.test_static import loaded

from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.passes.quantize.grids import exact_grid, step_of
from ingot.compiler.passes.quantize.layers import layers_of
from ingot.compiler.passes.quantize.lossless import store_exactly
from ingot.runtime.dtypes import i8


@given(
    st.lists(st.integers(-127, 127), min_size=1, max_size=300),
    st.floats(2.0**-20, 1024.0, width=32, allow_subnormal=False),
)
def test_multiples_of_a_step_are_found(numbers: list[int], step: float) -> None:
    data = np.array(numbers, np.float32) * np.float32(step)
    grid = exact_grid(data, None)
    assert grid is not None and grid.dtype == i8 and not grid.zero_point.any()
    np.testing.assert_array_equal(grid.dequantised(grid.quantised(data)), data)


def test_zero_points_make_room() -> None:
    data = np.arange(-20, 231, dtype=np.float32) * np.float32(0.013)
    grid = exact_grid(data, None)
    assert grid is not None and grid.zero_point != 0
    np.testing.assert_array_equal(grid.dequantised(grid.quantised(data)), data)
    assert exact_grid(np.append(data, np.float32(-26 * 0.013)), None) is None


def test_channels_have_grids_of_their_own() -> None:
    random = np.random.default_rng(0)
    numbers = random.integers(-127, 128, (6, 3, 3, 3)).astype(np.float32)
    data = numbers * random.uniform(0.001, 1, (6, 1, 1, 1)).astype(np.float32)
    grid = exact_grid(data, 0)
    assert grid is not None and grid.scale.shape == (6, 1, 1, 1)
    np.testing.assert_array_equal(grid.dequantised(grid.quantised(data)), data)
    assert exact_grid(data, None) is None
    moved = data.copy()
    moved[2, 1, 0, 0] = np.nextafter(moved[2, 1, 0, 0], np.float32(9))
    assert exact_grid(moved, 0) is None


@pytest.mark.parametrize("size", [8, 50, 300, 5000])
def test_other_floats_lie_on_none(size: int) -> None:
    assert step_of(np.random.default_rng(size).standard_normal(size).astype(np.float32)) is None


@pytest.mark.parametrize("data", [[], [0.0], [-0.0, 0.0], [1.5], [-1e-30, 0.0], [3e38, -3e38]])
def test_edges(data: list[float]) -> None:
    array = np.array(data, np.float32)
    grid = exact_grid(array, None)
    assert grid is not None
    np.testing.assert_array_equal(grid.dequantised(grid.quantised(array)), array)


def test_every_value_of_the_model_stays() -> None:
    proto, feeds = image_network(np.random.default_rng(0))
    for each in proto.graph.initializer:
        if each.name in ("w2", "w3"):
            from onnx import numpy_helper

            data = numpy_helper.to_array(each)
            data = np.rint(data * 100).clip(-127, 127).astype(np.float32) * np.float32(0.01)
            each.CopyFrom(numpy_helper.from_array(data, each.name))
    graph = loaded(proto)
    after, stored = store_exactly(graph, layers_of(graph))
    assert [layer.name for layer in stored] and len(stored) == 2
    np.testing.assert_array_equal(evaluate_graph(after, feeds)["y"], evaluate_graph(graph, feeds)["y"])
