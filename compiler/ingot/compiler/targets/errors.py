"""What a target says no to."""

from __future__ import annotations


class TargetError(ValueError):
    """There is no such target, or it cannot do what was asked. The message lists what there is."""
