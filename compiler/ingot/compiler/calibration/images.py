"""Samples out of image files: decoded, and made to fit the pictures that are wanted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.array_files import Arrays
from ingot.compiler.calibration.errors import CalibrationError, CalibrationWarning
from ingot.compiler.calibration.interface import GraphInterface
from ingot.runtime.dtypes import f32, u8
from ingot.runtime.errors import HostError
from ingot.runtime.host import images
from ingot.runtime.manifest import Signature

PICTURES = (".bmp", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The endings of image files."""

Fit: TypeAlias = Literal["crop", "stretch"]
CHANNELS = {1: "Grayscale", 3: "RGB"}


class Pictures:
    """Reads image files for the one input of `interface` that takes pictures: u8 [N, H, W, C] or [N, C, H, W] with one
    channel or three, or f32 where a step makes of 0 to 255 what the model wants."""

    def __init__(self, interface: GraphInterface, fit: Fit, *, is_stepped: bool) -> None:
        if fit not in get_args(Fit):
            raise CalibrationError(f"images do not fit by {fit!r}; there are {', '.join(get_args(Fit))}")
        self.interface = interface
        self.fit = fit
        self.dtypes = (u8, f32) if is_stepped else (u8,)

    def read(self, files: Sequence[Path]) -> Iterator[tuple[str, Arrays]]:
        """The name and the arrays of each sample; as many images make one as the model takes at a time, one where that
        is open. Raises CalibrationError."""
        if not files:
            return
        signature, channel = self._wanted(files[0])
        first = channel == 1
        batch, *rest = signature.shape
        height, width = rest[1:] if first else rest[:2]
        count = batch if isinstance(batch, int) else 1
        channels = signature.shape[channel]
        assert isinstance(channels, int)
        if left := len(files) % max(count, 1):
            message = f"{left} of {len(files)} images are left out: the model takes {count} at a time"
            warnings.warn(message, CalibrationWarning, stacklevel=2)
        for start in range(0, len(files) - count + 1, max(count, 1)):
            chosen = files[start : start + count]
            pictures = [self._fitted(_decoded(path, CHANNELS[channels]), height, width) for path in chosen]
            if len({picture.shape for picture in pictures}) > 1:
                raise CalibrationError(f"{chosen[0]} and those behind it differ in size, and make one sample together")
            array = np.stack(pictures)
            array = array.transpose(0, 3, 1, 2) if first else array
            dtype = signature.dtype.to_numpy()
            yield str(chosen[0]), {signature.name: np.ascontiguousarray(array, dtype)}

    def _wanted(self, file: Path) -> tuple[Signature, int]:
        """The input for pictures, and its axis of channels."""
        if len(self.interface.inputs) == 1:
            (signature,) = self.interface.inputs
            axes = [a for a in (3, 1) if len(signature.shape) == 4 and signature.shape[a] in CHANNELS]
            if axes and signature.dtype in self.dtypes:
                return signature, axes[0]
        told = ", ".join(f"{i.name} {i.dtype}{list(i.shape)}" for i in self.interface.inputs)
        raise CalibrationError(
            f"{file} is an image, but the model takes {told or 'nothing'}: pictures go into one u8 input "
            "[N, H, W, C] or [N, C, H, W] with 1 or 3 channels; say how they become what the model takes with a step "
            "before the input, such as image:imagenet, or give arrays"
        )

    def _fitted(self, picture: NDArray[np.uint8], height: object, width: object) -> NDArray[np.uint8]:
        wanted = tuple(
            side if isinstance(side, int) else have for side, have in zip((height, width), picture.shape, strict=False)
        )
        if wanted == picture.shape[:2]:
            return picture
        from PIL import Image

        rows, columns = wanted
        sides = picture.shape[:2]
        if self.fit == "crop":
            scale = max(rows / sides[0], columns / sides[1])
            sides = (max(rows, round(sides[0] * scale)), max(columns, round(sides[1] * scale)))
        else:
            sides = wanted
        drawn = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
        resized = np.asarray(drawn.resize((sides[1], sides[0]), Image.Resampling.BILINEAR))
        resized = resized.reshape(*sides, picture.shape[2])
        top, left = (sides[0] - rows) // 2, (sides[1] - columns) // 2
        return resized[top : top + rows, left : left + columns]


def _decoded(path: Path, pixel_format: str) -> NDArray[np.uint8]:
    """The pixels [height, width, channels]. Raises CalibrationError."""
    try:
        data: NDArray[Any] = np.frombuffer(path.read_bytes(), np.uint8)
        height, width = images.size(data).tolist()
        if not height:
            raise CalibrationError(f"{path} cannot be decoded: it is damaged, or no image")
        return images.decode(data, pixel_format, (height, width, images.CHANNELS[pixel_format]))
    except (HostError, OSError) as error:
        raise CalibrationError(f"{path}: {error}") from error
