"""Examples of requantisation by multipliers and shifts, and TOSA 1.0's definition of it in Python's integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.compiler.ops.example import Example

from ingot.compiler.ir.graph import Array, Constant, Node, Value, constant
from ingot.compiler.ops.rescale import Rescale, Rounding
from ingot.runtime import dtypes
from ingot.runtime.dtypes import DType


def apply_scale(value: int, multiplier: int, shift: int, double: bool) -> int:
    """``apply_scale_32`` and ``apply_scale_16`` of the TOSA specification 1.0, section 1.10."""
    assert multiplier >= 0 and 2 <= shift <= 62
    rounding = 1 << (shift - 1)
    if double and shift > 31:
        rounding += 1 << 30 if value >= 0 else -(1 << 30)
    return (value * multiplier + rounding) >> shift


def tosa(node: Rescale, x: Array) -> Array:
    """RESCALE element by element; all other operands are constants."""
    shape = node.type.static_shape()

    def spread(value: Value | None) -> list[int]:
        data = np.zeros((), int) if value is None else value.data if isinstance(value, Constant) else x
        return np.broadcast_to(data, shape).reshape(-1).tolist()

    columns = [spread(v) for v in (node.x, node.multiplier, node.shift, node.input_zero, node.output_zero)]
    limits = np.iinfo(node.to.to_numpy())
    found: list[int] = []
    for x, multiplier, shift, first, last in zip(*columns, strict=True):
        result = apply_scale(x - first, multiplier, shift, node.rounding == "double") + last
        found.append(min(max(result, int(limits.min)), int(limits.max)))
    return np.array(found, node.to.to_numpy()).reshape(shape)


def whole_range(seed: int, dtype: str, *shape: int) -> Array:
    """Integers from the whole range of a type, of all sizes, and its ends; of i64 those of 48 bits."""
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype)
    low, high = (-(2**47), 2**47 - 1) if dtype == "int64" else (int(limits.min), int(limits.max))
    found = rng.integers(low, high, shape, np.int64, endpoint=True) >> rng.integers(0, 25, shape)
    flat, special = found.reshape(-1), [low, high, 0, 1, -1 if low else 1]
    flat[:: max(1, flat.size // 30)] = np.resize(special, flat[:: max(1, flat.size // 30)].size)
    return np.clip(found, low, high).astype(dtype)


def parameters(seed: int, shifts: tuple[int, int], bits: int, *shape: int) -> tuple[Value, Value]:
    """Multipliers of `bits` bits and shifts."""
    rng = np.random.default_rng(seed)
    multiplier = rng.integers(2 ** (bits - 2), 2 ** (bits - 1), shape)
    shift = rng.integers(*shifts, shape, endpoint=True)
    return constant(multiplier.astype(np.int32 if bits == 32 else np.int16)), constant(shift.astype(np.int32))


def _example(
    name: str,
    source: str,
    to: DType,
    shifts: tuple[int, int],
    shape: tuple[int, ...] = (),
    zeros: tuple[int | None, int | None] = (None, None),
    rounding: Rounding = "single",
) -> Example:
    bits = 16 if source == "int64" else 32
    multiplier, shift = parameters(len(name), shifts, bits, *shape)
    own = dtypes.from_numpy(np.dtype(source))

    def build(x: Value) -> Node:
        first, last = (None if z is None else constant(z, t) for z, t in zip(zeros, (own, to), strict=True))
        return Rescale(x, multiplier, shift, first, last, to, rounding)

    return Example(f"rescale_{name}", build, (whole_range(len(name), source, 3, 5, 19),))


def _examples() -> tuple[Example, ...]:
    u8, i8, i16, u16, i32 = dtypes.u8, dtypes.i8, dtypes.i16, dtypes.u16, dtypes.i32
    rows: list[Any] = [
        ("sums", "int32", u8, (38, 52), (19,), (None, 117)),
        ("sums_signed_twice", "int32", i8, (33, 62), (19,), (None, -5), "double"),
        ("one_for_all", "int32", i8, (40, 40), (), (None, 3)),
        ("one_for_all_twice", "int32", i16, (36, 36), (), (None, None), "double"),
        ("rows", "int32", u16, (33, 40), (5, 1), (None, 32768)),
        ("short_shifts", "int32", i8, (2, 34), (19,), (None, -128)),
        ("short_shifts_twice", "int32", i32, (2, 34), (19,), (None, None), "double"),
        ("bytes", "uint8", u8, (28, 34), (19,), (130, 12)),
        ("bytes_to_sums", "int8", i32, (11, 33), (), (-7, None)),
        ("bytes_to_sums_twice", "uint8", i32, (34, 36), (), (3, None), "double"),
        ("words", "int16", u8, (33, 41), (), (1, 255)),
        ("unsigned_words", "uint16", i16, (31, 33), (), (32768, None)),
        ("long_sums", "int64", i16, (30, 46), (19,), (None, None)),
        ("long_sum_bytes", "int64", u8, (33, 60), (), (None, 9)),
    ]
    return tuple(_example(*row) for row in rows)


RESCALES = _examples()
