"""Host functions between strings and numbers: ONNX Cast from and to strings.

A numeral is plain ("3.14", "1000") or scientific ("1e-5"), or "INF" and "NaN" in any case with an optional sign. A
number is written in plain decimal with the fewest digits that read back to it; "INF", "-INF" and "NaN" are special; a
bool is 1 or 0.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import HostError
from ingot.runtime.host.text import objects

Array = NDArray[Any]

_NUMERAL: Final = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|nan)", re.IGNORECASE)
_WHOLE: Final = re.compile(r"[+-]?[0-9]+")
_LONGEST: Final = 4096  # characters of a numeral: reading a whole number takes time that grows with their square


def parse(x: Array, dtype: np.dtype[Any]) -> Array:
    """The numbers that strings stand for, read as f64; a fraction is dropped for integers, any number but 0 is true.
    White space around a numeral does not count. Raises HostError for a string that is no numeral or does not fit the
    type."""
    texts: list[str] = x.reshape(-1).tolist()
    result = np.empty(len(texts), dtype)
    for index, text in enumerate(texts):
        numeral = text.strip()
        if len(numeral) > _LONGEST or not _NUMERAL.fullmatch(numeral):
            raise HostError(f"the string {text[:80]!r} is no number")
        try:
            with np.errstate(over="ignore"):
                result[index] = _value(numeral, dtype)
        except (OverflowError, ValueError):
            raise HostError(f"the number {text[:80]!r} does not fit {dtype}") from None
    return result.reshape(x.shape)


def _value(numeral: str, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return float(numeral)
    if dtype.kind == "b":
        return float(numeral) != 0
    return int(numeral) if _WHOLE.fullmatch(numeral) else int(float(numeral))


def show(x: Array) -> Array:
    """Numbers as strings."""
    if x.dtype.kind == "f":
        return objects((_float(value) for value in x.reshape(-1)), x.shape)
    return objects((str(int(value)) for value in x.reshape(-1).tolist()), x.shape)


def _float(value: Any) -> str:
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "INF" if value > 0 else "-INF"
    return np.format_float_positional(value, unique=True, trim="-")
