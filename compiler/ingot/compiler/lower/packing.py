"""Weight packing at compile time: matrices in panels, as `ir.templates` describes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_panels(matrices: NDArray[Any], width: int, dot: int = 1) -> NDArray[Any]:
    """[..., K, N] -> flat [..., ceil(N / width), K / dot, width, dot], zero past column N; K is a multiple of `dot`."""
    *batch, depth, columns = matrices.shape
    panels = -(-columns // width)
    packed = np.zeros((*batch, panels, depth // dot, width, dot), matrices.dtype)
    groups = np.swapaxes(matrices.reshape(*batch, depth // dot, dot, columns), -1, -2)
    for p in range(panels):
        part = groups[..., p * width : (p + 1) * width, :]
        packed[..., p, :, : part.shape[-2], :] = part
    return packed.reshape(-1)


def pack_conv(w: NDArray[Any], group: int, width: int, dot: int = 1) -> NDArray[Any]:
    """[O, I/g, *kernel] -> flat [g, panel, *kernel, I/g, width] panels of the implicit GEMM, `dot` rows together."""
    out, inner, *kernel = w.shape
    grouped = w.reshape(group, out // group, inner, *kernel)
    spatial = tuple(range(3, 3 + len(kernel)))
    matrix = grouped.transpose(0, *spatial, 2, 1).reshape(group, int(np.prod(kernel)) * inner, out // group)
    return pack_panels(matrix, width, dot)


def pack_depthwise(w: NDArray[Any], dot: int = 1) -> NDArray[Any]:
    """[C, 1, *kernel] -> flat [*kernel, C]; with `dot` taps of the first axis together, filled up with zeros,
    [ceil(kernel[0] / dot), *kernel[1:], C, dot]."""
    if dot == 1:
        return np.ascontiguousarray(np.moveaxis(w[:, 0], 0, -1)).reshape(-1)
    channels, _, height, *others = w.shape
    filled = np.pad(w[:, 0], [(0, 0), (0, -height % dot), *((0, 0) for _ in others)])
    split = filled.reshape(channels, -1, dot, *others)
    return np.ascontiguousarray(np.moveaxis(split, (0, 2), (-2, -1))).reshape(-1)
