"""Observers as operators: they read what is there and change nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from tests.compiler.calibration.networks import Array, pictures, rows, values, whole
from tests.compiler.networks import dense_network, image_network, transformer_layer

from ingot.compiler import compile, load_onnx
from ingot.compiler.calibration import (
    Calibration,
    CalibrationError,
    Extremes,
    Histogram,
    Magnitude,
    Moments,
    SecondMoment,
)
from ingot.compiler.calibration.observe import observe
from ingot.compiler.ir.graph import Constant, Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.text.graph import show_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.movement import Transpose
from ingot.compiler.ops.pointwise import Add, Cast, Mul, Neg, Relu, Sub
from ingot.compiler.ops.reduction import ReduceMean
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.pipeline import Pipeline
from ingot.runtime.dtypes import f16, f32, f64, i64

Network = Callable[[np.random.Generator], tuple[onnx.ModelProto, Any]]
ALL = (Extremes(), Magnitude(), Moments(), Histogram(64))


def core(model: onnx.ModelProto) -> Graph:
    """The stage at which models are quantised."""
    names = ("simplify", "recognise", "fold_norm")
    return Pipeline([item for item in default_pipeline() if item.name in names]).run(load_onnx(model))


def floats(graph: Graph) -> dict[str, Value]:
    """All values of a graph that can be observed."""
    results = [value for node in graph.nodes() if not isinstance(node, Constant) for value in node.results()]
    return {f"v{i}": value for i, value in enumerate(results) if value.dtype.is_float}


@pytest.mark.parametrize("network", [image_network, dense_network])
def test_outputs_are_the_same_to_the_last_bit(network: Network) -> None:
    """Every value of the graph is observed; in the smaller of them in every way."""
    model, inputs = network(np.random.default_rng(7))
    graph = core(model)
    points = floats(graph)
    assert len(points) >= 5
    observers = ALL if len(points) < 10 else (Extremes(), Histogram(64))
    with compile(graph, target="native", jobs=1).session(threads=1) as session:
        wanted = session.run(inputs)
    found = Calibration(graph, points, observers, threads=1).outputs(inputs)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name].view(np.uint32), array.view(np.uint32))


def normalised() -> Graph:
    """Columns of f32 [2, 6, 4] made of mean 0, scaled and shifted: one kernel, which stores nothing in between."""
    x = Input("x", TensorType(f32, (2, 6, 4)))
    centred = Sub(x, ReduceMean(x, (1,), True))
    scaled = Mul(centred, constant(np.array([0.3, 1.7, 2.9, 0.1], np.float32)))
    return Graph((x,), (("y", Relu(Add(scaled, constant(np.float32(0.7))))),))


@pytest.mark.parametrize("network", [image_network, dense_network, transformer_layer, None])
def test_the_models_kernels_are_those_that_it_has_without_observers(network: Network | None) -> None:
    graph = normalised() if network is None else core(network(np.random.default_rng(7))[0])
    points = floats(graph)
    observation = observe(graph, points, dict.fromkeys(points, ALL))
    outputs = observation.graph.outputs[-len(graph.outputs) :]
    alone = dataclasses.replace(observation.graph, inputs=graph.inputs, outputs=outputs)
    assert show_graph(alone) == show_graph(default_pipeline().run(graph))


def test_what_a_kernel_does_not_store_is_computed_again() -> None:
    graph = normalised()
    points = floats(graph)
    calibration = Calibration(graph, points, [Extremes(), Histogram(64)], threads=1)
    sample = np.random.default_rng(1).standard_normal((2, 6, 4)).astype(np.float32)
    calibration.update(sample)
    for name, value in values(graph, points, sample).items():
        found = calibration.ranges()[name]
        assert [found.low, found.high] == pytest.approx([value.min(), value.max()], rel=1e-6)
        assert calibration.histogram(name, 64)[0].sum() == value.size


@pytest.mark.parametrize("size", [(1 << 17) + 8, (1 << 17) + 1])
def test_large_values_are_counted_in_parts(size: int) -> None:
    x = Input("x", TensorType(f32, (1, size)))
    sample = np.random.default_rng(2).standard_normal((1, size)).astype(np.float32)
    counted: list[Array] = []
    for threads in (1, 2):
        calibration = Calibration(Graph((x,), (("y", Relu(x)),)), {"x": x}, [Histogram()], threads=threads)
        calibration.update(sample)
        counts, edges = calibration.histogram("x")
        np.testing.assert_array_equal(counts, np.histogram(sample, edges)[0])
        counted.append(counts)
    np.testing.assert_array_equal(counted[0], counted[1])


def test_the_graph_with_observers_means_what_it_says() -> None:
    """The interpreter's reading of the observers' operators."""
    graph, points = pictures()
    x = whole((1, 3, 6, 6), 11)
    watched = {name: (Extremes(), Extremes(1), Moments(1), SecondMoment(1)) for name in points}
    observation = observe(graph, points, watched)
    assert observation.windows is None
    found = evaluate_graph(observation.graph, {"x": x})
    for name, value in values(graph, points, x).items():
        for observer in watched[name]:
            reads = observation.reads[name, observer]
            told = {field: found[at] if isinstance(at, str) else at for field, at in reads.items()}
            match observer:
                case Extremes(None):
                    assert (told["low"], told["high"]) == (value.min(), value.max())
                case Extremes():
                    np.testing.assert_array_equal(told["low"], value.min((0, 2, 3)))
                    np.testing.assert_array_equal(told["high"], value.max((0, 2, 3)))
                case Moments():
                    np.testing.assert_allclose(told["squares"], np.square(value).sum((0, 2, 3)), rtol=1e-6)
                    assert told["count"] == 36
                case SecondMoment():
                    flat = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1])
                    np.testing.assert_allclose(told["product"], flat.T @ flat, rtol=1e-5)
    np.testing.assert_array_equal(found["y"], evaluate_graph(graph, {"x": x})["y"])


def test_what_passes_replace_is_observed_all_the_same() -> None:
    """Neither of the two negations is left when the passes are done, nor what no output needs."""
    x = Input("x", TensorType(f32, (3, 4)))
    gone = Neg(x)
    unused = Mul(x, constant(2, f32))
    graph = Graph((x,), (("y", Add(Neg(gone), constant(1, f32))),))
    calibration = Calibration(graph, {"gone": gone, "unused": unused}, [Extremes()], threads=1)
    calibration.update([whole((3, 4), 1)])
    sample = whole((3, 4), 1)
    found = calibration.ranges()
    assert (found["gone"].low, found["gone"].high) == (-sample.max(), -sample.min())
    assert (found["unused"].low, found["unused"].high) == (2 * sample.min(), 2 * sample.max())
    np.testing.assert_array_equal(calibration.outputs({"x": sample})["y"], sample + 1)


def test_channels_are_those_of_the_users_axes() -> None:
    """Of a value that is computed with its axes in another order, from either end."""
    x = Input("x", TensorType(f32, (2, 3, 4)))
    turned = Transpose(Relu(x), (2, 0, 1))
    graph = Graph((x,), (("y", Mul(turned, constant(2, f32))),))
    sample = whole((2, 3, 4), 5)
    calibration = Calibration(graph, {"turned": turned}, [Extremes(0), Magnitude(-1)], threads=1)
    calibration.update(sample)
    value = np.maximum(sample, 0).transpose(2, 0, 1)
    found = calibration.channel_ranges("turned", 0)
    assert [each.high for each in found] == value.max((1, 2)).tolist()
    largest, mean = calibration.magnitudes("turned", 2)
    np.testing.assert_array_equal(largest, value.max((0, 1)))
    np.testing.assert_allclose(mean, value.mean((0, 1)))


@pytest.mark.parametrize("dtype", [f16, f64])
def test_other_floats_are_observed_in_f32(dtype: Any) -> None:
    x = Input("x", TensorType(f32, (5, 5)))
    point = Cast(x, dtype)
    calibration = Calibration(Graph((x,), (("y", Cast(point, f32)),)), {"p": point}, ALL, threads=1)
    sample = whole((5, 5), 2)
    calibration.update(sample)
    assert (calibration.ranges()["p"].low, calibration.ranges()["p"].high) == (sample.min(), sample.max())
    counts, edges = calibration.histogram("p", 64)
    np.testing.assert_array_equal(counts, np.histogram(sample, edges)[0])


def test_one_value_under_two_names_is_read_once() -> None:
    graph, points = rows()
    both = {"a": points["hidden"], "b": points["hidden"]}
    observation = observe(graph, both, {name: (Extremes(), Histogram()) for name in both})
    assert observation.histograms == 1
    assert len(observation.graph.outputs) == 1 + 3


def test_values_that_cannot_be_observed_are_named() -> None:
    x = Input("tokens", TensorType(i64, (4,)))
    graph = Graph((x,), (("y", Cast(x, f32)),))
    with pytest.raises(CalibrationError, match="'t' is i64"):
        Calibration(graph, {"t": x}, [Extremes()])
    graph, points = rows()
    with pytest.raises(CalibrationError, match=r"axis 0 of f32\[batch, 5\] has no fixed number"):
        Calibration(graph, {"x": points["x"]}, [Extremes(0)])
    with pytest.raises(CalibrationError, match="there is no axis 2"):
        Calibration(graph, {"x": points["x"]}, [SecondMoment(2)])
    with pytest.raises(CalibrationError, match="no values to observe"):
        Calibration(graph, {})
    with pytest.raises(CalibrationError, match="different names, such as 'y'"):
        Calibration(graph, {"x": points["x"]}, {"x": [Extremes()], "y": [Extremes()]})


def test_names_of_inputs_and_outputs_may_be_anything() -> None:
    x = Input("windows", TensorType(f32, (3,)))
    y = Relu(x)
    graph = Graph((x,), (("observed 0", y),))
    calibration = Calibration(graph, {"x": x}, [Histogram()], threads=1)
    sample: Array = np.array([-1, 0, 2], np.float32)
    calibration.update(sample)
    assert calibration.histogram("x")[0].sum() == 3
    np.testing.assert_array_equal(calibration.outputs({"windows": sample})["observed 0"], [0, 0, 2])
