"""Made-up activations as they are behind norms: correlated, some channels much larger than the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rows(count: int, channels: int, random: np.random.Generator, *, outliers: int = 2) -> Array:
    """[count, channels], f64, with a mean."""
    mixing = random.standard_normal((channels, channels)) / np.sqrt(channels)
    x = random.standard_normal((count, channels)) @ mixing + 0.3 * random.standard_normal(channels)
    x[:, random.permutation(channels)[:outliers]] *= 20
    return x
