"""Sizes, steps and axes of signal and image operators that are inputs of the model: native code against numpy, onnx's
reference and the same model with constants; values that make no sense end the run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ingot.compiler.onnx_backend import Prepared, prepare
from ingot.runtime import RuntimeFault

RNG = np.random.default_rng(3)


def whole(*values: int) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.int64)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def node(
    op: str,
    given: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    order: Sequence[str] | None = None,
    *,
    opset: int = 20,
    symbolic: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node, `given` its inputs and `constants` initialisers; `order` names its operands."""
    known = constants or {}
    declared = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(x.dtype),
            [f"{name}{a}" if symbolic and d > 2 else d for a, d in enumerate(x.shape)],
        )
        for name, x in given.items()
    ]
    names = list(order or (*given, *known))
    operands = [name if name in given or name in known else "" for name in names]
    made = helper.make_node(op, operands, ["y"], **attributes)
    weights = [numpy_helper.from_array(x, name) for name, x in known.items()]
    graph = helper.make_graph([made], "g", declared, [onnx.ValueInfoProto(name="y")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def fails(ready: Prepared, given: Mapping[str, np.ndarray]) -> None:
    with pytest.raises(RuntimeFault):
        ready.run(given)


# -- spectra ----------------------------------------------------------------------------------------------------------


def spectrum(x: np.ndarray, axis: int, points: int | None, inverse: bool, half: bool) -> np.ndarray:
    """DFT by numpy in double precision; `axis` counts those of x, the last of which holds real and imaginary parts."""
    signal = x[..., 0] + 1j * (x[..., 1] if x.shape[-1] == 2 else 0)
    axis %= x.ndim
    if inverse and half:
        return np.fft.irfft(signal, points, axis)[..., None]
    found = (np.fft.ifft if inverse else np.fft.fft)(signal, points, axis)
    if half:
        found = np.take(found, range(found.shape[axis] // 2 + 1), axis)
    return np.stack((found.real, found.imag), -1)


@pytest.mark.parametrize(("parts", "inverse", "half"), [(1, False, True), (2, True, True)])
def test_transforms_along_a_computed_axis(parts: int, inverse: bool, half: bool) -> None:
    x = real(2, 5, 3, parts)
    options: dict[str, Any] = {"inverse": int(inverse), "onesided": int(half)}
    ready = prepare(node("DFT", {"x": x, "axis": whole(0)}, order=("x", "", "axis"), **options))
    for axis in (0, 1, 2, -2, -3, -4):
        (found,) = ready.run({"x": x, "axis": whole(axis)})
        assert_allclose(found, spectrum(x, axis, None, inverse, half), atol=2e-5)
    for axis in (3, -1, 4, -5):
        fails(ready, {"x": x, "axis": whole(axis)})


@pytest.mark.parametrize(("parts", "inverse", "half"), [(1, False, False), (2, True, False), (2, True, True)])
def test_transforms_of_computed_lengths(parts: int, inverse: bool, half: bool) -> None:
    x = real(2, 5, 3, parts)
    given = {"x": x, "points": whole(4), "axis": whole(0)}
    ready = prepare(node("DFT", given, inverse=int(inverse), onesided=int(half)))
    for axis, points in itertools.product((0, 1, -2), (1, 4, 5, 9)):
        (found,) = ready.run({"x": x, "points": whole(points), "axis": whole(axis)})
        assert_allclose(found, spectrum(x, axis, points, inverse, half), atol=2e-5)
    fails(ready, {**given, "points": whole(-1)})


def test_transforms_of_symbolic_extents() -> None:
    ready = prepare(node("DFT", {"x": real(2, 5, 3, 1)}, {"axis": whole(1)}, ("x", "", "axis"), symbolic=True))
    for extent in (1, 6, 17):
        x = real(2, extent, 4, 1)
        assert_allclose(ready.run([x])[0], spectrum(x, 1, None, False, False), atol=5e-5)


def frames(x: np.ndarray, step: int, window: np.ndarray, half: bool) -> np.ndarray:
    length = len(window)
    count = (x.shape[1] - length) // step + 1
    cut = np.stack([x[:, i * step : i * step + length] * window[:, None] for i in range(count)], 1)
    return spectrum(cut, 2, None, False, half)


@pytest.mark.parametrize(("parts", "half", "windowed"), [(1, True, True), (2, False, False)])
def test_short_time_transforms(parts: int, half: bool, windowed: bool) -> None:
    x = real(2, 20, parts)

    def given(step: int, length: int) -> dict[str, np.ndarray]:
        window = {"window": real(length)} if windowed else {}
        return {"x": x, "step": whole(step), **window, "length": whole(length)}

    order = ("x", "step", "window", "length")
    ready = prepare(node("STFT", given(3, 6), order=order, symbolic=True, onesided=int(half)))
    for step, length in ((1, 6), (3, 5), (7, 20), (20, 1)):
        run = given(step, length)
        want = frames(x, step, run.get("window", np.ones(length)), half)
        assert_allclose(ready.run(run)[0], want, atol=3e-5)
    for step, length in ((0, 6), (-1, 6), (1, 0), (1, 21)):
        fails(ready, given(step, length))


MEL = ("bands", "length", "rate", "low", "high")


def mel(bands: int, length: int, rate: int, low: float, high: float) -> dict[str, np.ndarray]:
    numbers = (np.array(v, np.int32) for v in (bands, length, rate))
    return dict(zip(MEL, (*numbers, np.array(low, np.float32), np.array(high, np.float32)), strict=True))


def test_mel_weights() -> None:
    model = node("MelWeightMatrix", mel(8, 16, 8192, 0, 4096))
    ready, reference = prepare(model), ReferenceEvaluator(model)
    cases = [(8, 16, 8192, 0, 4096), (40, 400, 16000, 20, 8000), (0, 16, 8192, 0, 4000), (3, 8, 8192, 4000, 100)]
    for case in cases:
        (want,) = reference.run(None, mel(*case))
        assert_allclose(ready.run(mel(*case))[0], np.asarray(want), atol=1e-6)
    for case in ((4, 16, 8192, 100, 9000), (4, 16, 8192, -100, 4000), (5, 16, 0, 0, 400), (-1, 16, 8192, 0, 4000)):
        fails(ready, mel(*case))


# -- images -----------------------------------------------------------------------------------------------------------


def added(x: np.ndarray, image: Any, block: Any, strides: Any, dilations: Any, pads: Any) -> np.ndarray:
    """Col2Im as its definition says."""
    n = len(image)
    padded = [image[i] + pads[i] + pads[n + i] for i in range(n)]
    counts = [(padded[i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(n)]
    columns = x.reshape(len(x), x.shape[1] // int(np.prod(block)), *block, *counts)
    found = np.zeros((*columns.shape[:2], *padded))
    for tap in np.ndindex(*block):
        for place in np.ndindex(*counts):
            where = tuple(place[i] * strides[i] + tap[i] * dilations[i] for i in range(n))
            found[(..., *where)] += columns[(slice(None), slice(None), *tap, *place)]
    return found[(..., *(slice(pads[i], pads[i] + image[i]) for i in range(n)))]


@pytest.mark.parametrize(
    ("strides", "dilations", "pads"), [((1,), (2,), (0, 1)), ((2, 1), (1, 2), (0, 1, 1, 0))]
)
def test_columns_to_an_image(strides: tuple[int, ...], dilations: tuple[int, ...], pads: tuple[int, ...]) -> None:
    n = len(strides)
    options: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads}
    first = {"x": real(1, 3, 3), "image": np.ones(n, np.int64), "block": np.ones(n, np.int64)}
    model = node("Col2Im", first, symbolic=True, **options)
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.Clear()
    ready = prepare(model)
    for image, block, batch, channels in (((5, 4), (2, 3), 2, 3), ((3, 5), (1, 2), 1, 1), ((4, 4), (2, 2), 0, 2)):
        image, block = image[:n], block[:n]
        counts = [
            (image[i] + pads[i] + pads[n + i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(n)
        ]
        x = real(batch, channels * int(np.prod(block)), int(np.prod(counts)))
        given = {"x": x, "image": np.array(image), "block": np.array(block)}
        assert_allclose(ready.run(given)[0], added(x, image, block, *options.values()), atol=1e-5)
    blocks = np.full(n, 2)
    fails(ready, {"x": real(1, 2**n, 5), "image": np.full(n, 5), "block": np.zeros(n, np.int64)})
    fails(ready, {"x": real(1, 2**n, 5), "image": np.full(n, 5), "block": np.full(n, 40)})
    fails(ready, {"x": real(1, 2**n, 999), "image": np.full(n, 5), "block": blocks})
    fails(ready, {"x": real(1, 2**n + 1, 1), "image": np.full(n, 2), "block": blocks})


IMAGE = real(1, 2, 7, 10)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(
    ("name", "values"),
    [("scales", ((0.5, 0.5), (1.3, 0.37), (0.2, 2.0), (0.05, 1.0))), ("sizes", ((3, 4), (14, 5), (1, 1), (7, 0)))],
)
def test_antialiasing(mode: str, name: str, values: tuple[tuple[float, ...], ...]) -> None:
    """By scales and sizes that are computed, and as if they were constants."""
    kind = np.float32 if name == "scales" else np.int64
    options: dict[str, Any] = {"mode": mode, "antialias": 1, "axes": [2, 3]}
    order = ("x", "roi", "scales", "sizes")[: 3 if name == "scales" else 4]
    ready = prepare(node("Resize", {"x": IMAGE, name: np.array(values[0], kind)}, order=order, **options))
    for value in values:
        given = np.array(value, kind)
        (found,) = ready.run({"x": IMAGE, name: given})
        constant = node("Resize", {"x": IMAGE}, {name: given}, order, **options)
        (known,) = prepare(constant, target="interpreter").run([IMAGE])
        assert found.shape == known.shape
        assert_allclose(found, known, atol=2e-5)
    if name == "scales":
        for wrong in ((0.0, 1.0), (-1.0, 1.0), (np.nan, 1.0)):
            fails(ready, {"x": IMAGE, name: np.array(wrong, kind)})


def test_a_scale_of_a_symbolic_dim_that_is_no_simple_fraction() -> None:
    scales = np.array([1, 1, 2.3, 0.37], np.float32)
    model = node("Resize", {"x": IMAGE}, {"scales": scales}, ("x", "", "scales"), symbolic=True, mode="linear")
    ready = prepare(model)
    for x in (IMAGE, IMAGE[:, :, :3], IMAGE[:, :, :0]):
        fixed = node("Resize", {"x": x}, {"scales": scales}, ("x", "", "scales"), mode="linear")
        assert_allclose(ready.run([x])[0], prepare(fixed, target="interpreter").run([x])[0], atol=1e-5)


# -- lists ------------------------------------------------------------------------------------------------------------


def test_negative_pads() -> None:
    x = real(3, 4)
    ready = prepare(node("Pad", {"x": x, "pads": whole(0, 0, 0, 0)}))
    for pads in ((0, -1, 0, 0), (-1, -1, -1, -1), (-3, 0, 0, 0), (-2, 1, 2, -1), (1, 1, 1, 1)):
        cut = x[max(-pads[0], 0) : 3 + min(pads[2], 0), max(-pads[1], 0) : 4 + min(pads[3], 0)]
        widths = [(max(pads[i], 0), max(pads[2 + i], 0)) for i in range(2)]
        assert_array_equal(ready.run([x, whole(*pads)])[0], np.pad(cut, widths))
    fails(ready, {"x": x, "pads": whole(-2, 0, -2, 0)})


def test_lists_whose_length_follows_from_the_rank() -> None:
    """A declared length that is symbolic: it must be the number of axes."""
    x = real(3, 4)
    for op, values, want in (("Tile", whole(2, 1), np.tile(x, (2, 1))), ("Pad", whole(0, 0, 1, 0), None)):
        model = node(op, {"x": x, "list": values})
        model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "count"
        expected = np.pad(x, ((0, 1), (0, 0))) if want is None else want
        assert_array_equal(prepare(model).run([x, values])[0], expected)


def test_depth_that_is_symbolic() -> None:
    """The number of channels is found to be a multiple of the block, and checked."""
    model = node("DepthToSpace", {"x": real(1, 8, 3, 3)}, symbolic=True, blocksize=2)
    ready, reference = prepare(model), ReferenceEvaluator(model)
    x = real(1, 4, 5, 3)
    (want,) = reference.run(None, {"x": x})
    assert_array_equal(ready.run([x])[0], np.asarray(want))
    with pytest.raises(ValueError, match="multiple of 4"):
        ready.run([real(1, 6, 3, 3)])


def test_one_axis_is_repeated() -> None:
    """Tile as it was before opset 6."""
    x = real(2, 3)
    ready = prepare(node("Tile", {"x": x, "times": np.array(2, np.float32), "axis": np.array(0, np.float32)}, opset=1))
    for axis in (0, 1):
        given = {"x": x, "times": np.array(2, np.float32), "axis": np.array(axis, np.float32)}
        assert_array_equal(ready.run(given)[0], np.concatenate((x, x), axis))
