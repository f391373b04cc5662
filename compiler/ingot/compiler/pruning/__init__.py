"""Pruning of whole models: `prune` takes an ONNX model and data, and gives a graph with a report."""

from __future__ import annotations

from ingot.compiler.pruning.prune import prune
from ingot.compiler.pruning.report import PrunedLayer, PruningReport
from ingot.compiler.pruning.result import Pruned

__all__ = ["Pruned", "PrunedLayer", "PruningReport", "prune"]
