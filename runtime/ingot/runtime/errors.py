"""Every error the runtime raises on purpose.

All derive from `IngotError`, so one `except` clause catches them; each message names what is wrong and what to do.
"""

from __future__ import annotations


class IngotError(Exception):
    """Root of all errors raised by Ingot."""


class ArtifactError(IngotError):
    """An artifact, or a part of one, is damaged, malformed or not of the accepted shape."""


class UnsupportedCpuError(ArtifactError):
    """The artifact holds no machine code that this processor can run."""


class InputError(IngotError, ValueError):
    """A value handed in by the caller has the wrong name, dtype, shape or content."""


class RuntimeFault(IngotError):  # noqa: N818  (a fault while running, told apart from RuntimeError)
    """The compiled code or the system below it failed while a model was loaded or run."""


class HostError(IngotError, ValueError):
    """A step that the host computes was given something that it cannot work with: a string that is no number, an image
    that is damaged. Sessions raise it as the cause of a RuntimeFault."""
