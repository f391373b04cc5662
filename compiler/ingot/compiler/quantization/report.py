"""What a quantisation did to each layer: as text for people, as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ingot.runtime.replacement import replaced


@dataclass(frozen=True)
class LayerReport:
    """One layer. `weights` says how they are stored, or why the layer stays as it is. `low` and `high` are the ends of
    its operand's grid, `clipped` is the share of values beyond them by more than half a step, `snr` the ratio of the
    squares of its result to those of what the quantisation of the model changes in it, in decibels (infinite where
    nothing changes): None where they are not known. Bytes are those of the weights with their scales."""

    name: str
    operator: str
    weights: str
    low: float | None
    high: float | None
    clipped: float | None
    snr: float | None
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Report:
    """All layers in order; `outputs` has the ratio of signal to noise of the model's outputs, in decibels, `samples` is
    the number of samples that ratios and shares are measured on. `notes` say what else there is to know."""

    scheme: str
    layers: tuple[LayerReport, ...]
    outputs: Mapping[str, float]
    samples: int
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """A table with a line for each layer, and what comes to the whole model."""
        head = ("layer", "operator", "weights", "from", "to", "clipped", "SNR dB", "bytes", "now")
        rows = [head, *(_row(layer) for layer in self.layers)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.append("")
        share = f" ({self.bytes_after / self.bytes_before:.1%})" if self.bytes_before else ""
        lines.append(f"{self.scheme}: constants {self.bytes_before} -> {self.bytes_after} bytes{share}")
        for name, snr in self.outputs.items():
            lines.append(f"output {_shown(name)}: SNR {_decibels(snr)} dB, {self.samples} samples")
        lines += map(_shown, self.notes)
        return "\n".join(lines) + "\n"

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


def _row(layer: LayerReport) -> tuple[str, ...]:
    ends = ("" if end is None else f"{end:.4g}" for end in (layer.low, layer.high))
    clipped = "" if layer.clipped is None else f"{layer.clipped:.2%}"
    snr = "" if layer.snr is None else _decibels(layer.snr)
    sizes = f"{layer.bytes_before}", f"{layer.bytes_after}"
    return (_shown(layer.name), layer.operator, layer.weights, *ends, clipped, snr, *sizes)


def _shown(name: str) -> str:
    """A name of the model on one line, with escapes for what terminals obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)


def _decibels(ratio: float) -> str:
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
