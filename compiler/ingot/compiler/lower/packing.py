"""Weight packing at compile time: matrices in panels, as `ir.templates` describes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_panels(matrices: NDArray[Any], width: int) -> NDArray[Any]:
    """[..., K, N] -> flat [..., ceil(N / width), K, width], zero past column N."""
    *batch, depth, columns = matrices.shape
    panels = -(-columns // width)
    packed = np.zeros((*batch, panels, depth, width), matrices.dtype)
    for p in range(panels):
        part = matrices[..., p * width : (p + 1) * width]
        packed[..., p, :, : part.shape[-1]] = part
    return packed.reshape(-1)


def pack_conv(w: NDArray[Any], group: int, width: int) -> NDArray[Any]:
    """[O, I/g, *kernel] -> flat [g, panel, *kernel, I/g, width] panels of the implicit GEMM."""
    out, inner, *kernel = w.shape
    grouped = w.reshape(group, out // group, inner, *kernel)
    spatial = tuple(range(3, 3 + len(kernel)))
    matrix = grouped.transpose(0, *spatial, 2, 1).reshape(group, int(np.prod(kernel)) * inner, out // group)
    return pack_panels(matrix, width)


def pack_depthwise(w: NDArray[Any]) -> NDArray[Any]:
    """[C, 1, *kernel] -> flat [*kernel, C]."""
    return np.ascontiguousarray(np.moveaxis(w[:, 0], 0, -1)).reshape(-1)
