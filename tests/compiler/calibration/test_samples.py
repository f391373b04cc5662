"""Samples out of files, folders, images and Python, and what is said of those that do not fit."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.compiler.calibration.networks import Array, whole

from ingot.compiler.calibration import CalibrationError, CalibrationWarning, Sample, read_samples
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.graph import Graph, Input
from ingot.compiler.ir.types import TensorType
from ingot.compiler.processing.errors import ProcessingError
from ingot.runtime.dtypes import DType, bf16, f32, i64, u8


def graph_of(**inputs: tuple[DType, tuple[Any, ...]]) -> Graph:
    made = tuple(Input(name, TensorType(dtype, shape)) for name, (dtype, shape) in inputs.items())
    return Graph(made, tuple((f"{x.label} again", x) for x in made), ranges={"n": (1, 8)})


ONE = graph_of(x=(f32, (2, 3)))
OPEN = graph_of(x=(f32, (symbol("n"), 3)))
TWO = graph_of(tokens=(i64, (symbol("n"), 4)), mask=(f32, (symbol("n"), 4)))
PICTURE = graph_of(image=(f32, (1, 3, 4, 6)))


def arrays(samples: Iterator[Sample]) -> list[dict[str, Any]]:
    return [{name: array.tolist() for name, array in sample.arrays.items()} for sample in samples]


def two(count: int) -> dict[str, Array]:
    return {"tokens": np.arange(count * 4).reshape(count, 4), "mask": whole((count, 4), count)}


def test_files(tmp_path: Path) -> None:
    x = whole((2, 3), 1)
    np.save(tmp_path / "one.npy", x)
    assert arrays(read_samples(tmp_path / "one.npy", ONE)) == [{"x": x.tolist()}]
    np.savez(tmp_path / "two.npz", tokens=two(3)["tokens"], mask=two(3)["mask"])
    (sample,) = read_samples(str(tmp_path / "two.npz"), TWO)
    assert sample.name == str(tmp_path / "two.npz") and list(sample.arrays) == ["tokens", "mask"]
    np.testing.assert_array_equal(sample.arrays["mask"], two(3)["mask"])


def test_a_folder_in_the_order_of_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for number, name in enumerate(("b/1.npy", "a.npy", "c.npy", ".hidden.npy")):
        np.save(tmp_path / name, np.full((2, 3), number, np.float32))
    (tmp_path / "notes.txt").write_text("not a sample")
    found = list(read_samples(tmp_path, ONE))
    assert [Path(sample.name).name for sample in found] == ["a.npy", "1.npy", "c.npy"]
    assert [sample.arrays["x"][0, 0] for sample in found] == [1, 0, 2]
    assert len(list(read_samples(tmp_path, ONE, limit=2))) == 2


@pytest.mark.parametrize(
    ("shape", "count"),
    [((2, 3), 1), ((8, 3), 4), ((5, 2, 3), 5), ((1, 2, 3), 1)],
    ids=["one", "after each other", "stacked", "a stack of one"],
)
def test_arrays_of_several_samples(shape: tuple[int, ...], count: int) -> None:
    x = whole(shape, 3)
    found = list(read_samples({"x": x}, ONE))
    assert [sample.arrays["x"].shape for sample in found] == [(2, 3)] * count
    np.testing.assert_array_equal(np.concatenate([s.arrays["x"] for s in found]), x.reshape(-1, 3))


def test_open_dims_take_what_comes_as_one_sample() -> None:
    assert [s.arrays["x"].shape for s in read_samples([whole((n, 3), n) for n in (1, 8)], OPEN)] == [(1, 3), (8, 3)]
    assert len(list(read_samples(whole((4, 8, 3), 1), OPEN))) == 4


def generated() -> Iterator[Array]:
    yield from (whole((2, 3), seed) for seed in range(3))


def test_functions_and_iterators() -> None:
    wanted = [{"x": each.tolist()} for each in generated()]
    for source in (generated, generated(), list(generated()), f"{__name__}:generated", [f"{__name__}:generated"]):
        assert arrays(read_samples(source, ONE)) == wanted
    assert next(read_samples(generated, ONE)).name == "sample 1"
    assert arrays(read_samples(({"x": x} for x in generated()), ONE)) == wanted
    assert arrays(read_samples([Sample("mine", {"x": x}) for x in generated()], ONE)) == wanted


def test_halves_of_which_numpy_has_no_name(tmp_path: Path) -> None:
    graph = graph_of(x=(bf16, (4,)))
    x = np.array([1, 2, -0.5, 3], np.float32).astype(bf16.to_numpy())
    np.save(tmp_path / "x.npy", x.view("V2"))
    (sample,) = read_samples(tmp_path / "x.npy", graph)
    np.testing.assert_array_equal(sample.arrays["x"].astype(np.float32), x.astype(np.float32))


@pytest.mark.parametrize(
    ("graph", "source", "message"),
    [
        (ONE, {"y": whole((2, 3), 1)}, "there is no input 'y'"),
        (ONE, {"x": whole((2, 4), 1)}, r"input 'x' of shape \[2, 4\] .* has 4 on axis 1, but 3 is needed"),
        (ONE, {"x": whole((3, 3), 1)}, "has 3 on axis 0, but 2 is needed"),
        (ONE, whole((2, 3), 1).astype(np.float64), "has dtype float64, the model needs float32"),
        (OPEN, whole((9, 3), 1), "n must be in 1 to 8"),
        (TWO, {**two(2), "mask": whole((3, 4), 1)}, "axis 0 of input 'tokens' has n = 2"),
        (TWO, {"tokens": two(2)["tokens"]}, "no value is given for 'mask'"),
        (TWO, whole((2, 4), 1), "is one array, the model has the inputs 'tokens', 'mask'"),
        (ONE, np.array([[1, 2, np.inf]] * 2, np.float32), r"holds an infinity, the first such value at \[0, 2\]"),
        (ONE, [whole((2, 3), 1), np.full((2, 3), np.nan, np.float32)], r"sample 2: input 'x' holds NaN"),
        (ONE, [], "gives no samples"),
        (ONE, [3], "sample 1 is of type int: give a file"),
        (ONE, 3, "is of type int"),
        (ONE, "nowhere", "no such file or folder"),
        (ONE, "no.such.module:f", "no such function: No module named 'no'"),
        (ONE, f"{__name__}:ONE", "is a Graph, not a function"),
    ],
)
def test_what_does_not_fit_is_named(graph: Graph, source: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        list(read_samples(source, graph))


def test_different_numbers_of_samples_are_refused() -> None:
    graph = graph_of(a=(f32, (1, 2)), b=(f32, (1, 3)))
    with pytest.raises(CalibrationError, match=r"different numbers of samples: a \[4, 2\], b \[5, 3\]"):
        list(read_samples({"a": whole((4, 2), 1), "b": whole((5, 3), 1)}, graph))


def test_files_that_are_no_samples(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00")
    for name, message in (
        ("empty", "holds no samples: files that end in .npy"),
        ("text.npy", "text.npy is not an array file"),
        ("objects.npy", "holds Python objects"),
        ("odd.npz", "odd.npz is not an array file"),
    ):
        with pytest.raises(CalibrationError, match=message):
            list(read_samples(tmp_path / name, ONE))
    np.savez(tmp_path / "more.npz", x=whole((2, 3), 1), z=whole((2, 3), 1))
    with pytest.raises(CalibrationError, match="it holds z, the model's inputs are x"):
        list(read_samples(tmp_path / "more.npz", ONE))


def draw(path: Path, shape: tuple[int, ...], seed: int) -> Array:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image.fromarray(pixels).save(path)
    return pixels


def test_images_through_the_models_steps(tmp_path: Path) -> None:
    pixels = [draw(tmp_path / f"{number}.png", (4, 6, 3), number) for number in range(3)]
    found = list(read_samples(tmp_path, PICTURE, preprocess={"image": "image:signed"}))
    assert [Path(sample.name).name for sample in found] == ["0.png", "1.png", "2.png"]
    for sample, drawn in zip(found, pixels, strict=True):
        wanted = (drawn / 127.5 - 1).transpose(2, 0, 1)[None]
        np.testing.assert_allclose(sample.arrays["image"], wanted, atol=1e-6)


def test_images_for_a_model_that_takes_them_as_they_are(tmp_path: Path) -> None:
    pixels = draw(tmp_path / "1.png", (5, 7), 1)
    graph = graph_of(image=(u8, (1, symbol("h"), symbol("w"), 1)))
    (sample,) = read_samples(tmp_path, graph)
    np.testing.assert_array_equal(sample.arrays["image"][0, :, :, 0], pixels)


def test_images_of_other_sizes_are_cut_or_stretched(tmp_path: Path) -> None:
    draw(tmp_path / "1.png", (8, 24, 3), 1)
    image = pytest.importorskip("PIL.Image")
    with image.open(tmp_path / "1.png") as opened:
        cut = np.asarray(opened.resize((12, 4), image.Resampling.BILINEAR))[:, 3:9]
        stretched = np.asarray(opened.resize((6, 4), image.Resampling.BILINEAR))
    for fit, wanted in (("crop", cut), ("stretch", stretched)):
        (sample,) = read_samples(tmp_path, PICTURE, preprocess={"image": "image:raw"}, fit=fit)  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(sample.arrays["image"], wanted.transpose(2, 0, 1)[None])
    with pytest.raises(CalibrationError, match="there are crop, stretch"):
        read_samples(tmp_path, PICTURE, preprocess={"image": "image"}, fit="pad")  # pyright: ignore[reportArgumentType]


def test_models_that_take_several_images_at_a_time(tmp_path: Path) -> None:
    pixels = [draw(tmp_path / f"{number}.png", (2, 2, 3), number) for number in range(5)]
    graph = graph_of(image=(u8, (2, 2, 2, 3)))
    with pytest.warns(CalibrationWarning, match="1 of 5 images are left out: the model takes 2 at a time"):
        found = list(read_samples(tmp_path, graph))
    np.testing.assert_array_equal(np.concatenate([s.arrays["image"] for s in found]), np.stack(pixels[:4]))


def test_images_that_do_not_fit_are_named(tmp_path: Path) -> None:
    draw(tmp_path / "1.png", (4, 6, 3), 1)
    with pytest.raises(CalibrationError, match=r"1.png is an image, but the model takes image f32\[1, 3, 4, 6\]"):
        list(read_samples(tmp_path, PICTURE))
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match=r"1.png cannot be decoded"):
        list(read_samples(tmp_path, PICTURE, preprocess={"image": "image"}))
    np.save(tmp_path / "2.npy", np.zeros(3))
    with pytest.raises(CalibrationError, match=r"holds arrays \(2.npy\) and images \(1.png\)"):
        list(read_samples(tmp_path, PICTURE))
    with pytest.raises(ProcessingError, match="the model has no input 'x'; it has image"):
        read_samples(tmp_path, PICTURE, preprocess={"x": "image"})


def test_steps_before_arrays_and_inputs_without_steps() -> None:
    graph = graph_of(x=(f32, (2, 3)), other=(i64, (1,)))
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    (sample,) = read_samples({"x": x, "other": np.array([4])}, graph, preprocess={"x": "cast:u8"})
    assert sample.arrays["x"].dtype == np.float32
    np.testing.assert_array_equal(sample.arrays["x"], x)
    np.testing.assert_array_equal(sample.arrays["other"], [4])


def test_files_that_claim_more_than_there_is_memory_for(tmp_path: Path) -> None:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 999), }\n"
    (tmp_path / "large.npy").write_bytes(np.lib.format.magic(1, 0) + len(head).to_bytes(2, "little") + head)
    with pytest.raises(CalibrationError, match=r"large\.npy says that it holds more than there is memory for"):
        list(read_samples(tmp_path / "large.npy", ONE))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file of this system can be opened but not read")
def test_files_that_cannot_be_read_are_named() -> None:
    with pytest.raises(CalibrationError, match=r"/proc/self/mem cannot be read: "):
        list(read_samples("/proc/self/mem", ONE))
