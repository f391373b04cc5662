"""What a worker is asked to make ready, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Call: TypeAlias = Callable[[], Sequence[NDArray[Any]]]
"""A run: from numpy arrays to numpy arrays, in the model's order."""


class RefusedError(RuntimeError):
    """The engine does not take this model; the message says why in one line."""


@dataclass(frozen=True)
class Job:
    """The ONNX file, the inputs of all runs by name, the number of threads, and a folder for what is made on the way,
    the same for all jobs of a model and a peer."""

    model: Path
    inputs: Mapping[str, NDArray[Any]]
    threads: int
    folder: Path

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an input."""
        return tuple(self.inputs[name].shape)


def contiguous(value: NDArray[Any]) -> NDArray[Any]:
    """The same array in C order; unlike `numpy.ascontiguousarray` it leaves scalars scalars."""
    return np.require(value, requirements="C")
