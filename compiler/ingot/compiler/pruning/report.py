"""What pruning did to each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingot.compiler.compressed import LayersReport, columns, decibels, printable


@dataclass(frozen=True)
class PrunedLayer:
    """One layer: the parts of its weights that were zero before and are zero now, and the part of its output's energy
    (without samples: of its weights') that is error."""

    name: str
    operator: str
    shape: tuple[int, ...]
    zeros_before: float
    zeros: float
    error: float


@dataclass(frozen=True)
class PruningReport(LayersReport):
    """All layers in order; `outputs` has the ratio of signal to noise of the model's outputs in decibels, measured on
    `samples`; `weights` counts those of all layers of the model, `removed` those that are zero in the pruned ones."""

    how: str
    layers: tuple[PrunedLayer, ...]
    outputs: Mapping[str, float]
    samples: int
    weights: int
    removed: int

    def text(self) -> str:
        """A table with a line for each layer, and what comes to the whole model."""
        head = ("layer", "operator", "weights", "zeros before", "zeros", "error")
        rows = [
            (
                printable(each.name),
                each.operator,
                "x".join(map(str, each.shape)),
                f"{each.zeros_before:.1%}",
                f"{each.zeros:.1%}",
                f"{each.error:.2e}",
            )
            for each in self.layers
        ]
        lines = columns((head, *rows), left=3)
        lines.append("")
        share = self.removed / max(self.weights, 1)
        lines.append(f"{self.how}: {self.removed} of {self.weights} weights are zero ({share:.1%})")
        for name, ratio in self.outputs.items():
            lines.append(f"output {printable(name)}: SNR {decibels(ratio)} dB, {self.samples} samples")
        return "\n".join(lines) + "\n"
