"""A quantised model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from ingot.compiler.compressed import Compressed
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.quantization.plan import Plan
from ingot.compiler.quantization.report import Report

if TYPE_CHECKING:
    from ingot.compiler.api import Options
    from ingot.compiler.artifact import Artifact


@dataclass(frozen=True)
class Quantized(Compressed[Report]):
    """The graph of a quantised model, with `Quantize` and `Dequantize` around what is computed on integers, and the
    report on it. `keeps_halves`: weights are stored as halves. `plan` does the same again; None where the scheme is not
    one of single layers."""

    error = QuantisationError
    keeps_halves: bool = False
    plan: Plan | None = None

    def compile(self, target: str = "cpu", **options: Unpack[Options]) -> Artifact:
        """The artifact of the model: arguments and errors as of `ingot.compiler.compile`."""
        if self.keeps_halves:
            options.setdefault("weights", "keep")
        return super().compile(target, **options)
