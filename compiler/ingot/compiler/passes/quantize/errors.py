"""What can be wrong with a quantisation."""

from __future__ import annotations


class QuantisationError(ValueError):
    """The model cannot be quantised as asked; the message says why and what to do."""
