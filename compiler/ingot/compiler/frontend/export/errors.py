"""What cannot leave as ONNX."""

from __future__ import annotations


class ExportError(ValueError):
    """The graph cannot be written as ONNX. The message names the node and says what to do."""
