"""States of calibrations in files: numpy's .npz without Python objects, tied to what they were observed on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.array_files import ArrayFileError, load_arrays, write_arrays
from ingot.compiler.calibration.errors import CalibrationError
from ingot.compiler.calibration.observers import Observer, State
from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.ir.text.graph import show_graph

FORMAT = 1
HEAD = "calibration"  # the array with the format, and how many samples were seen
DIGEST = "digest"


def model_digest(graph: Graph, points: Mapping[str, Value], observers: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 over the graph as text, in which weights stand by their content, with the points as outputs, and the
    observers' names; in hexadecimal."""
    text = show_graph(replace(graph, outputs=(*graph.outputs, *points.items()), watched={}))
    return hashlib.sha256(json.dumps([text, list(points), observers]).encode()).hexdigest()


def write_states(path: Path, digest: str, samples: int, states: Sequence[State]) -> None:
    """Write the states after so many samples of the model with this digest."""
    arrays: dict[str, NDArray[Any]] = {
        HEAD: np.array([FORMAT, samples], np.int64),
        DIGEST: np.frombuffer(bytes.fromhex(digest), np.uint8),
    }
    for number, state in enumerate(states):
        arrays |= {f"{number}.{field}": array for field, array in state.items()}
    write_arrays(path, arrays)


def read_states(path: Path, digest: str, wanted: Sequence[tuple[Observer, int]]) -> tuple[int, list[State]]:
    """How many samples were seen, and the state of each observer with its number of channels; no states where there
    were no samples. Raises CalibrationError for a file of another model, and for one that is damaged."""
    try:
        arrays = load_arrays(path)
    except (ArrayFileError, OSError) as error:
        raise CalibrationError(str(error)) from error
    if not isinstance(arrays, dict) or HEAD not in arrays or DIGEST not in arrays:
        raise CalibrationError(f"{path} is no state of a calibration")
    head = arrays[HEAD]
    if head.dtype != np.int64 or head.shape != (2,) or head[0] != FORMAT or head[1] < 0:
        raise CalibrationError(f"{path} is damaged, or was written by another version: calibrate again")
    if arrays[DIGEST].tobytes().hex() != digest:
        raise CalibrationError(
            f"{path} belongs to another model, or to other values or observers of it: calibrate this one from the start"
        )
    if not head[1]:
        return 0, []
    states: list[State] = []
    for number, (observer, channels) in enumerate(wanted):
        state: State = {}
        for field, (dtype, shape) in observer.forms(channels).items():
            array = arrays.get(f"{number}.{field}")
            if array is None or array.dtype != dtype or not _fits(array.shape, shape):
                raise CalibrationError(f"{path} is damaged: {field} of {observer} number {number} is not what it was")
            state[field] = array
        if not observer.is_possible(state):
            raise CalibrationError(f"{path} is damaged: {observer} number {number} holds what no values lead to")
        states.append(state)
    return int(head[1]), states


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (None, d) for d, w in zip(shape, wanted, strict=True))
