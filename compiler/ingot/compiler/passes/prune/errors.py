"""What pruning refuses."""

from __future__ import annotations


class PruningError(ValueError):
    """A model, layer or option that cannot be pruned as asked; the message says why and what to do."""
