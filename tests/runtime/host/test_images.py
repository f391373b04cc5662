"""Images that are decoded, and those that cannot be."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from ingot.runtime.errors import HostError
from ingot.runtime.host import images

Image = pytest.importorskip("PIL.Image")

PIXELS = np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)


def encoded(format: str, pixels: np.ndarray = PIXELS, **options: object) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.parametrize("format", ["BMP", "PNG", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_formats_without_loss(format: str) -> None:
    data = encoded(format, PIXELS, **({"lossless": True} if format == "WEBP" else {}))
    assert images.size(data).tolist() == [5, 7]
    np.testing.assert_array_equal(images.decode(data, "RGB", (5, 7, 3)), PIXELS)
    np.testing.assert_array_equal(images.decode(data, "BGR", (5, 7, 3)), PIXELS[:, :, ::-1])
    gray = images.decode(data, "Grayscale", (5, 7, 1))
    # ITU-R 601-2 luma, as JPEG has it
    wanted = PIXELS.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert gray.shape == (5, 7, 1) and np.abs(gray[:, :, 0] - wanted).max() <= 1


def test_jpeg_and_gray_images() -> None:
    smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8) * 4
    data = encoded("JPEG", smooth, quality=95)
    assert images.size(data).tolist() == [16, 24]
    found = images.decode(data, "RGB", (16, 24, 3)).astype(int)
    assert np.abs(found - smooth[:, :, None]).max() <= 4
    with_alpha = np.dstack((PIXELS, np.full((5, 7), 255, np.uint8)))
    np.testing.assert_array_equal(images.decode(encoded("PNG", with_alpha), "RGB", (5, 7, 3)), PIXELS)


def damaged() -> Iterator[tuple[str, np.ndarray]]:
    png = encoded("PNG")
    yield "nothing", png[:0]
    yield "noise", np.random.default_rng(1).integers(0, 256, 300, np.uint8)
    yield "cut off", png[: len(png) // 2]
    changed = png.copy()
    changed[40:60] ^= 0xFF
    yield "changed", changed
    yield "another format", encoded("GIF")


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in damaged()])
def test_what_cannot_be_decoded_has_no_pixels(data: np.ndarray) -> None:
    assert images.size(data).tolist() == [0, 0]
    assert images.decode(data, "RGB", (0, 0, 3)).shape == (0, 0, 3)


@pytest.mark.parametrize("side", [12_000, 2**31 - 1])
def test_a_short_file_that_claims_a_large_size(side: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(HostError, match="too large"):
        images.size(np.frombuffer(file, np.uint8))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(HostError):
        images.decode(encoded("PNG"), "RGB", (4, 7, 3))
    with pytest.raises(HostError, match="cannot be decoded again"):
        images.decode(encoded("PNG")[:30], "RGB", (5, 7, 3))


@contextmanager
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "PIL", None)
        yield


def test_pillow_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("PNG")
    with without_pillow(monkeypatch), pytest.raises(HostError, match=r"ingot\[image\]"):
        images.size(data)
