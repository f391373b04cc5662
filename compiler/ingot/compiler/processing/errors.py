"""What can be wrong with a step before or after a model."""

from __future__ import annotations


class ProcessingError(ValueError):
    """A step is unknown, ill-formed or does not fit the tensor; the message says which and what there is."""
