"""What a quantisation did to each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.compiler.compressed import LayersReport, columns, decibels, printable


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
class Report(LayersReport):
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
        lines = columns(rows, left=3)
        lines.append("")
        share = f" ({self.bytes_after / self.bytes_before:.1%})" if self.bytes_before else ""
        lines.append(f"{self.scheme}: constants {self.bytes_before} -> {self.bytes_after} bytes{share}")
        for name, snr in self.outputs.items():
            lines.append(f"output {printable(name)}: SNR {decibels(snr)} dB, {self.samples} samples")
        lines += map(printable, self.notes)
        return "\n".join(lines) + "\n"


def _row(layer: LayerReport) -> tuple[str, ...]:
    ends = ("" if end is None else f"{end:.4g}" for end in (layer.low, layer.high))
    clipped = "" if layer.clipped is None else f"{layer.clipped:.2%}"
    snr = "" if layer.snr is None else decibels(layer.snr)
    sizes = f"{layer.bytes_before}", f"{layer.bytes_after}"
    return (printable(layer.name), layer.operator, layer.weights, *ends, clipped, snr, *sizes)
