"""A quantised model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ingot.compiler.frontend.export import save_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.quantization.plan import Plan
from ingot.compiler.quantization.report import Report

if TYPE_CHECKING:
    from ingot.compiler.api import Options
    from ingot.compiler.artifact import Artifact


@dataclass(frozen=True)
class Quantized:
    """The graph of a quantised model, with `Quantize` and `Dequantize` around what is computed on integers, and the
    report on it. `keeps_halves`: weights are stored as halves. `plan` does the same again; None where the scheme is not
    one of single layers."""

    graph: Graph
    report: Report
    keeps_halves: bool = False
    plan: Plan | None = None

    def compile(self, target: str = "cpu", **options: Unpack[Options]) -> Artifact:
        """The artifact of the model: arguments and errors as of `ingot.compiler.compile`."""
        from ingot.compiler.api import compile

        if self.keeps_halves:
            options.setdefault("weights", "keep")
        return compile(self.graph, target=target, **options)

    def save(self, path: str | Path, **options: Any) -> None:
        """Write an ONNX model (``.onnx``; options as of `save_onnx`) or an artifact (``.ingot``; options as of
        `compile`). Raises QuantisationError for other names, and what these raise."""
        match Path(path).suffix:
            case ".onnx":
                save_onnx(dataclasses.replace(self.graph, watched={}), path, **options)
            case ".ingot":
                self.compile(**options).save(path)
            case suffix:
                raise QuantisationError(f"{path}: {suffix or 'no suffix'} says no format: write .onnx or .ingot")
