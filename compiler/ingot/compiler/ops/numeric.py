"""Numpy functions behind the reference semantics of operators."""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.ir.graph import Array
from ingot.runtime.dtypes import DType, boolean


def erf(x: Array) -> Array:
    """The error function of f64 data, as precise as the C library's."""
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))`` without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def cast(x: Array, to: DType) -> Array:
    """`x` converted as ONNX Cast does."""
    if to == boolean:
        return x != np.zeros((), x.dtype)
    with np.errstate(all="ignore"):
        if x.dtype.name == "bfloat16":
            x = x.astype(np.float32)
        if x.dtype.kind == "f" and to.is_integer and to.bits < 64:
            return x.astype(np.int64).astype(to.to_numpy())
        if to.name == "bf16" and x.dtype.kind in "iu":
            return x.astype(np.float32).astype(to.to_numpy())
        return x.astype(to.to_numpy(), copy=False)
