"""How two arrays that should be equal differ: by how much, and where most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest difference of two arrays. `absolute` is in the arrays' unit, `relative` is a share of `scale`, the
    largest finite magnitude that was wanted (1 where all are 0). `index` says where, `want` and `have` are the two
    elements there. NaN or an infinity at one side only is an infinite difference, and so is another shape, which
    `detail` tells. `differing` counts the elements that are not equal."""

    absolute: float
    relative: float
    scale: float
    index: tuple[int, ...] = ()
    want: float = math.nan
    have: float = math.nan
    differing: int = 0
    detail: str = ""


def deviation(want: NDArray[Any], have: NDArray[Any]) -> Deviation:
    """How `have` deviates from `want`, compared in float64; dtypes need not be equal, shapes must."""
    if want.shape != have.shape:
        return Deviation(math.inf, math.inf, 1.0, detail=f"shape {list(have.shape)} instead of {list(want.shape)}")
    if want.dtype.hasobject and np.array_equal(want, have):
        return Deviation(0.0, 0.0, 1.0)
    if not all(a.dtype.kind in "fiub" or a.dtype.name in ("bfloat16", "bool") for a in (want, have)):
        return Deviation(math.inf, math.inf, 1.0, detail=f"{have.dtype} and {want.dtype} are not numbers")
    if want.size == 0:
        return Deviation(0.0, 0.0, 1.0)
    a, b = want.astype(np.float64), have.astype(np.float64)
    with np.errstate(all="ignore"):
        difference = np.abs(a - b)
    # Equal infinities differ by NaN, as NaN from NaN does; all other NaNs are on one side only.
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0.0, np.where(np.isfinite(difference), difference, math.inf))
    finite = np.abs(a[np.isfinite(a)])
    scale = float(finite.max(initial=0.0)) or 1.0
    place = np.unravel_index(int(difference.argmax()), difference.shape)
    absolute = float(difference[place])
    return Deviation(
        absolute=absolute,
        relative=absolute / scale,
        scale=scale,
        index=tuple(int(i) for i in place),
        want=float(a[place]),
        have=float(b[place]),
        differing=int((~same).sum()),
    )
