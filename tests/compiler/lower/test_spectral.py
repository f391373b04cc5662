"""Long filters by Fourier transforms: the transforms, odd sizes and borders, groups, the error, and who asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.compiler.lower.test_winograd import graph_of, kernels, random, reference

from ingot.compiler import compile
from ingot.compiler.ir.dims import Dim, symbol
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, constant
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower import spectral
from ingot.compiler.lower.lowering import lower
from ingot.compiler.lower.spectral import Spectrum
from ingot.compiler.lower.weight_forms import WeightForms
from ingot.compiler.ops.linear import Conv
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32

MACHINE = find_target("cpu").machine


def line(length: Dim, inner: int, out: int, taps: int, pads: tuple[int, int], batch: Dim = 2, **options: Any) -> Graph:
    """`graph_of` along one axis."""
    strides: tuple[int, ...] = options.pop("strides", (1,))
    return graph_of((length,), inner, out, pads, batch, taps=(taps,), strides=strides, **options)


def is_transformed(program: Program) -> bool:
    return any(name.startswith("spectral_data") for name in kernels(program))


@pytest.mark.parametrize(("inputs", "taps"), [(16, 8), (16, 16), (48, 17), (64, 1), (112, 30)])
def test_transforms_are_those_of_a_correlation(inputs: int, taps: int) -> None:
    spectrum = Spectrum(inputs, inputs - taps + 1, taps)
    w, x = random(1, 3, 2, taps), random(2, 2, inputs).astype(np.float64)
    filters = spectrum.filters(w, 1).astype(np.float64)[:, 0].reshape(inputs // 2, 2, 2, 2, 3)
    parts = (spectrum.data @ x.T).reshape(inputs // 2, 2, 2)  # frequency, re and im, channel
    products = np.einsum("frc,frcso->fso", parts, filters).reshape(inputs, 3)
    want = np.zeros((spectrum.size, 3))
    for out, channel in np.ndindex(3, 2):
        want[:, out] += np.correlate(x[channel], w[out, channel].astype(np.float64), "valid")
    np.testing.assert_allclose(spectrum.output @ products, want, atol=1e-5)


# Length, channels in and out of all groups, taps, pads, groups, images.
FORMS = [
    (1, 8, 8, 8, (4, 3), 1, 1),
    (19, 12, 20, 9, (0, 0), 1, 2),
    (40, 16, 16, 16, (8, 7), 1, 1),
    (57, 8, 9, 11, (5, 0), 1, 3),
    (64, 32, 32, 31, (0, 30), 2, 2),
    (100, 24, 48, 64, (32, 31), 3, 1),
    (130, 9, 8, 101, (50, 50), 1, 1),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_against_f64(form: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "LEAST_GAIN", 1e9)  # whatever the cost model thinks of small sizes
    length, inner, out, taps, pads, group, images = form
    graph = line(length, inner, out, taps, pads, images, group=group)
    x = random(5, images, length, inner)
    want = reference(graph, x)
    program = lower(graph, MACHINE)
    verify_program(program)
    assert is_transformed(program)
    with compile(graph, cache=False, jobs=1).session(threads=2) as session:
        have = session.run({"x": x})["y"]
    np.testing.assert_allclose(have, want, atol=5e-6 * float(np.abs(want).max()))


def test_the_interpreted_program_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "LEAST_GAIN", 1e9)
    graph = line(23, 8, 8, 9, (4, 4), group=1)
    x = random(6, 2, 23, 8)
    np.testing.assert_allclose(run_program(lower(graph, MACHINE), {"x": x})["y"], reference(graph, x), atol=1e-4)


def test_symbolic_length_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "LEAST_GAIN", 1e9)
    graph = line(symbol("length"), 64, 64, 15, (7, 7), symbol("batch"))
    program = lower(graph, MACHINE)
    verify_program(program)
    assert is_transformed(program)
    with compile(graph, cache=False, jobs=1).session(threads=2) as session:
        for images, length in enumerate((1, 15, 16, 17, 100)):
            x = random(7, images, length, 64)
            want = reference(line(length, 64, 64, 15, (7, 7), images), x)
            np.testing.assert_allclose(session.run({"x": x})["y"], want, atol=1e-4)


def test_where_it_is_not_used() -> None:
    graph = line(500, 64, 64, 32, (16, 15))
    assert is_transformed(lower(graph, MACHINE))
    assert not is_transformed(lower(graph, MACHINE, reorder=False))
    assert not is_transformed(lower(graph, MACHINE, forms=WeightForms("small")))
    for other in (
        line(500, 64, 64, 32, (16, 15), strides=(2,)),
        line(500, 64, 64, 32, (16, 15), dilations=(2,)),
        line(500, 64, 64, 32, (16, 15), group=64),
        line(500, 64, 64, 7, (3, 3)),
        line(20, 64, 64, 2048, (1024, 1024)),
    ):
        assert not is_transformed(lower(other, MACHINE))
    x, w = Input("x", TensorType(f32, (1, 500, 64))), Input("w", TensorType(f32, (64, 64, 32)))
    computed = Graph((x, w), (("y", Conv(x, w, None, (1,), (0, 0), (1,), 1, True)),))
    assert not is_transformed(lower(computed, MACHINE))
    filters = constant(random(1, 64, 64, 32))
    first = Input("x", TensorType(f32, (1, 64, 500)))
    channels_first = Conv(first, filters, None, (1,), (0, 0), (1,), 1, False)
    assert not is_transformed(lower(Graph((first,), (("y", channels_first),)), MACHINE))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_reach_every_output_they_touch(value: float) -> None:
    graph = line(400, 32, 32, 16, (8, 7), 1)
    x = random(8, 1, 400, 32)
    x[0, 200, 3] = value
    with compile(graph).session(threads=1) as session:
        have = session.run({"x": x})["y"]
    want = reference(graph, x)
    assert not np.isfinite(have[~np.isfinite(want)]).any()
    near = np.isfinite(have)
    assert near[0, :100].all() and near[0, 300:].all()  # the other stretches
    np.testing.assert_allclose(have[near], want[near], atol=1e-4)
