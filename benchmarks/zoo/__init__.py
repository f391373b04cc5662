"""Models that people export today, with random weights: built by committed scripts, nothing is downloaded.

    python -m benchmarks.zoo list
    python -m benchmarks.zoo export --tiny

Exported files lie in a cache folder: ``INGOT_ZOO``, else ``~/.cache/ingot/zoo``. Exporting needs torch and onnxscript,
reading what was exported needs neither.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.zoo.catalogue import MODELS, find
from benchmarks.zoo.specification import VARIANTS, Model, Variant

__all__ = ["MODELS", "VARIANTS", "Model", "NotExportedError", "Variant", "folder", "inputs", "load", "record"]


class NotExportedError(FileNotFoundError):
    """The model is in the zoo but its file is not in the cache folder; says how to make it."""


def folder() -> Path:
    """Where exported models lie."""
    return Path(os.environ.get("INGOT_ZOO") or Path.home() / ".cache/ingot/zoo")


def place(name: str, variant: Variant, exporter: str) -> Path:
    """The file of one export, whether or not it is there."""
    return folder() / name / f"{variant}-{exporter}.onnx"


def load(name: str, variant: Variant = "tiny", exporter: str | None = None) -> Path:
    """The exported file; without `exporter` that of the first that the model lists (`torchscript-13` for the tiny one).

    Raises ValueError for a name, variant or exporter that does not exist and NotExportedError if the file is not there.
    """
    model = find(name)
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}; there are {', '.join(VARIANTS)}")
    known = model.exported_by(variant)
    if exporter is not None and exporter not in known:
        raise ValueError(f"{name} ({variant}) has no export by {exporter!r}; it has {', '.join(known)}")
    path = place(name, variant, exporter or known[0])
    if not path.is_file():
        tiny = " --tiny" if variant == "tiny" else " --full"
        raise NotExportedError(f"{path} is not there: run `python -m benchmarks.zoo export{tiny} {name}`")
    return path


def record(name: str, variant: Variant = "tiny", exporter: str | None = None) -> dict[str, Any]:
    """What was written beside an exported file: opset, exporter, versions, inputs, operators. Raises as `load` does."""
    return json.loads(load(name, variant, exporter).with_suffix(".json").read_text())


def inputs(name: str, variant: Variant = "tiny", **dims: int) -> dict[str, NDArray[Any]]:
    """Seeded inputs by name; `dims` gives symbols other extents than their defaults (``batch=4, sequence=77``)."""
    return find(name).arrays(variant, dims)
