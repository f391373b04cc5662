"""How well two engines agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def relative_error(have: Mapping[str, NDArray[Any]], want: Mapping[str, NDArray[Any]]) -> float:
    """Largest |have - want| over the largest finite |want|, the worst of all outputs, which are paired in order.

    NaN and infinities must stand at the same places; otherwise, or when shapes differ, the error is infinite.
    """
    if len(have) != len(want):
        return math.inf
    return max((_error(a, b) for a, b in zip(have.values(), want.values(), strict=True)), default=0.0)


def _error(have: NDArray[Any], want: NDArray[Any]) -> float:
    if have.shape != want.shape:
        return math.inf
    if have.dtype.hasobject or want.dtype.hasobject:  # strings are equal or not
        return 0.0 if np.array_equal(have, want) else math.inf
    a, b = have.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return math.inf
    scale = float(np.max(np.abs(b[finite]), initial=0.0)) or 1.0
    return float(np.max(np.abs(a[finite] - b[finite]), initial=0.0)) / scale
