"""Operands of integer products as MatMulInteger and ConvInteger take them: bytes and their zero points."""

from __future__ import annotations

import math

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Value, constant
from ingot.compiler.ops.pointwise import Cast, Sub
from ingot.runtime.dtypes import DType, i8, i32, u8

BYTES = (u8, i8)


def bytes_less_zero(value: Value) -> tuple[Value, Value | None] | None:
    """(x, zero) for an i32 `value` that is x - zero, with x of u8 or i8 elements and a zero point for all, of the same
    type; None for others."""
    match value:
        case Sub(Cast(x, to), zero) if to == i32 and x.dtype in BYTES and x.type.shape == value.type.shape:
            found = _zero(zero, x.dtype)
            return None if found is None else (x, found)
        case Cast(x, to) if to == i32 and x.dtype in BYTES:
            return x, None
        case Constant(data=data) if value.dtype == i32 and data.size:
            return _constant(data)
        case _:
            return None


def _zero(value: Value, dtype: DType) -> Value | None:
    match value:
        case _ if math.prod(value.shape) != 1:
            return None
        case Cast(x) if x.dtype == dtype and x.rank <= 1:
            return x
        case Constant(data=data) if _holds(dtype, int(data.min()), int(data.max())):
            return constant(data.reshape(()).astype(dtype.to_numpy()))
        case _:
            return None


def _constant(data: Array) -> tuple[Value, Value | None] | None:
    low, high = int(data.min()), int(data.max())
    for dtype in (i8, u8):
        if _holds(dtype, low, high):
            return constant(data.astype(dtype.to_numpy())), None
    if not _holds(u8, -low, high - low):
        return None
    return constant((data - low).astype(np.uint8)), constant(-low, u8)


def _holds(dtype: DType, low: int, high: int) -> bool:
    limits = np.iinfo(dtype.to_numpy())
    return limits.min <= min(low, high) and max(low, high) <= limits.max
