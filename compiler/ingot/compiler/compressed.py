"""What compressing a model gives, whatever was done: a graph that is saved or compiled, and a report on its layers."""

from __future__ import annotations

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, Unpack

from ingot.compiler.ir.graph import Graph
from ingot.runtime.replacement import replaced

if TYPE_CHECKING:
    from ingot.compiler.api import Options
    from ingot.compiler.artifact import Artifact

R = TypeVar("R")


@dataclass(frozen=True)
class Compressed(Generic[R]):
    """A graph and the report on what it has become. `error` is what is raised for what cannot be written."""

    graph: Graph
    report: R
    error: ClassVar[type[ValueError]] = ValueError

    def compile(self, target: str = "cpu", **options: Unpack[Options]) -> Artifact:
        """The artifact of the model: arguments and errors as of `ingot.compiler.compile`."""
        from ingot.compiler.api import compile

        return compile(self.graph, target=target, **options)

    def save(self, path: str | Path, **options: Any) -> None:
        """Write an ONNX model (``.onnx``; options as of `save_onnx`) or an artifact (``.ingot``; options as of
        `compile`). Raises `error` for other names, and what these raise."""
        match Path(path).suffix:
            case ".onnx":
                from ingot.compiler.frontend.export import save_onnx

                save_onnx(dataclasses.replace(self.graph, watched={}), path, **options)
            case ".ingot":
                self.compile(**options).save(path)
            case suffix:
                raise self.error(f"{path}: {suffix or 'no suffix'} says no format: write .onnx or .ingot")


@dataclass(frozen=True)
class LayersReport(ABC):
    """A report with an entry for each layer: as text for people, as JSON for programs."""

    @abstractmethod
    def text(self) -> str:
        """A table with a line for each layer, and what comes to the whole model."""

    def json(self) -> str:
        """One object with the fields of the classes; what is infinite or unknown is null."""
        return json.dumps(self.record(), indent=1, allow_nan=False) + "\n"

    def record(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return _plain(asdict(self))

    def save(self, path: str | Path) -> None:
        """Write the text, or where the name ends in ``.json`` that. Raises OSError."""
        text = self.json() if Path(path).suffix == ".json" else self.text()
        with replaced(Path(path)) as partial:
            partial.write_text(text, encoding="utf-8")


def columns(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """The lines of a table whose first `left` columns begin, and whose others end, below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def printable(name: str) -> str:
    """A name of the model on one line, with escapes for what terminals obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)


def decibels(ratio: float) -> str:
    """A ratio of signal to noise; infinite: "exact"."""
    return "exact" if ratio == math.inf else f"{ratio:.1f}"


def _plain(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list() | tuple():
            return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value
