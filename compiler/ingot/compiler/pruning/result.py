"""A pruned model."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.compiler.compressed import Compressed
from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.pruning.report import PruningReport


@dataclass(frozen=True)
class Pruned(Compressed[PruningReport]):
    """The graph of a pruned model, with zeros in its weights, and the report on it."""

    error = PruningError
