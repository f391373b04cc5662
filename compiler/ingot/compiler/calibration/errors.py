"""What can be wrong with a calibration."""

from __future__ import annotations


class CalibrationError(ValueError):
    """A sample does not fit the model, an observed value cannot be used, a state belongs to something else, or there is
    nothing to tell a range from; the message says which and what to do."""


class CalibrationWarning(UserWarning):
    """Ranges that cannot be trusted: what the samples show differs too much from one to the next."""
