"""Host functions on encoded images: ONNX ImageDecoder, by Pillow.

Pillow is imported when an image is first decoded; whoever runs such models installs the extra ``image``.
"""

from __future__ import annotations

import io
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import HostError

Array = NDArray[Any]

MAX_PIXELS: Final = 1 << 27
"""Pixels of the largest image that is decoded: a short file may claim any size."""
FORMATS: Final = ("BMP", "JPEG", "JPEG2000", "TIFF", "PNG", "WEBP", "PPM")
"""What is decoded, by Pillow's names: PPM stands for all portable formats."""
CHANNELS: Final = {"RGB": 3, "BGR": 3, "Grayscale": 1}
"""Pixel formats with the number of their channels."""


def _decoded(data: Array, mode: str | None) -> Array | None:
    """The pixels in Pillow's `mode` (None: no pixels, but the file is decoded all the same) [height, width, ...]; None
    for what cannot be decoded. Raises HostError for an image of too many pixels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise HostError("the model decodes images, which needs Pillow: pip install 'ingot[image]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are looked at here
            with Image.open(io.BytesIO(data.tobytes()), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise HostError(f"an image of {width} by {height} pixels is too large, {MAX_PIXELS} are the most")
                if mode is None:
                    image.load()
                    return np.empty((height, width, 0), np.uint8)
                return np.asarray(image.convert(mode), np.uint8)
    except Image.DecompressionBombError as error:
        raise HostError(f"an image is too large: {error}") from None
    except HostError:
        raise
    except Exception:  # decoders raise anything for damaged data, of which the specification makes no error
        return None


def size(data: Array) -> Array:
    """Height and width of an encoded image [2], i64; 0 and 0 for what cannot be decoded. Raises HostError for an image
    of more than MAX_PIXELS."""
    found = _decoded(data, None)
    return np.array((0, 0) if found is None else found.shape[:2], np.int64)


def decode(data: Array, pixel_format: str, shape: tuple[int, ...]) -> Array:
    """The pixels of an encoded image as `pixel_format` [height, width, channels], u8. `shape` is what `size` said."""
    if not shape[0]:
        return np.empty(shape, np.uint8)
    found = _decoded(data, "L" if pixel_format == "Grayscale" else "RGB")
    if found is None:
        raise HostError("an image that was decoded once cannot be decoded again")
    if pixel_format == "BGR":
        found = found[:, :, ::-1]
    if found.shape[:2] != shape[:2]:
        raise HostError(f"an image is {found.shape[0]} by {found.shape[1]} where {shape[0]} by {shape[1]} is expected")
    return np.ascontiguousarray(found).reshape(shape)
