"""What is wrong with a custom operator."""

from __future__ import annotations


class CustomOpError(ValueError):
    """A custom operator cannot be defined, used or compiled as it stands. The message names it and says what to do."""
