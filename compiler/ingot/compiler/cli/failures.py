"""What may go wrong on purpose, in one line each; everything else is a defect of Ingot and keeps its traceback."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "google": "compiler",  # google.protobuf, which onnx brings along
        "llvmlite": "compiler",
        "ml_dtypes": "compiler",
        "numba": "custom",
        "onnx": "compiler",
        "onnx_graphsurgeon": "compiler",
        "onnxruntime": "bench",
        "openvino": "bench",
        "sklearn": "dev",
    }
)
"""The extra of Ingot that installs a package."""

INTERRUPTED = 130  # 128 + SIGINT


class CommandError(Exception):
    """What was asked for cannot be done; the message says why and what to do."""


def explain(error: BaseException) -> str | None:
    """The line for an error that is expected: one that Ingot's own classes describe, a missing file, a missing extra.
    None for all others."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(package)
        return f"{package} is not installed: pip install 'ingot[{extra}]'" if extra else None
    if type(error).__name__ == "DefectError":  # by name, because its module needs more than numpy
        return None
    if any(cls.__module__.partition(".")[0] == "ingot" for cls in type(error).__mro__):
        return one_line(str(error))
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return one_line(f"{error.filename}: {reason}" if error.filename is not None else reason)
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return None


_CONTROLS = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPED = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    """`text` with escapes for what terminals obey: names in models are somebody else's. Newlines and tabs stay."""
    return text.translate(_ESCAPED)


def one_line(text: str) -> str:
    """`text` on one line: its lines joined by semicolons where no punctuation stands there already."""
    joined = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if joined and not joined.endswith((":", ";", ",")) and not line.startswith((";", ",")):
            joined += "; "
        elif joined and not line.startswith((";", ",")):
            joined += " "
        joined += line
    return joined
