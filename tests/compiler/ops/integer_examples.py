"""Examples of products of u8 by constant i8, whose sums are i32: odd depths, ends of the ranges, all kernels."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from tests.compiler.ops.example import Example, flags, whole

from ingot.compiler.ir.graph import Array, Node, Value, constant
from ingot.compiler.ops import linear


def _bytes(name: str, *shape: int, dtype: str) -> Array:
    """Integers from the whole range of an 8-bit type, its ends among them more often."""
    limits = np.iinfo(dtype)
    found = np.random.default_rng(zlib.crc32(name.encode())).integers(limits.min, limits.max + 1, shape, dtype)
    ends = flags(name, *shape)
    return np.where(ends, np.where(found > 0, limits.max, limits.min), found).astype(dtype)


def _byte_product(tag: str, shape: tuple[int, ...]) -> Callable[[Value], Node]:
    """A product with constant i8 weights."""
    return lambda a: linear.MatMul(a, constant(_bytes("b" + tag, *shape, dtype="int8")))


def _byte_conv(
    tag: str,
    shape: tuple[int, ...],
    bias: bool,
    attributes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int],
    last: bool,
) -> Callable[[Value], Node]:
    """A convolution with constant i8 filters and an i32 bias."""
    w = constant(_bytes("w" + tag, *shape, dtype="int8"))
    shift = constant(whole("s" + tag, shape[0], dtype="int32") * 1000) if bias else None
    return lambda x: linear.Conv(x, w, shift, *attributes, last)


def _examples() -> list[Example]:
    made: list[Example] = []
    for tag, a, b in (
        ("plain", (5, 8), (8, 16)),
        ("odd", (13, 37), (37, 19)),
        ("row", (1, 64), (64, 48)),
        ("column", (7, 9), (9, 1)),
        ("batched", (2, 3, 5, 12), (12, 20)),
        ("deep", (30, 515), (515, 33)),
        ("one", (1, 1), (1, 1)),
        ("empty_rows", (0, 4), (4, 3)),
        ("empty_depth", (3, 0), (0, 4)),
    ):
        made.append(Example(f"mat_mul_bytes_{tag}", _byte_product(tag, b), (_bytes("a" + tag, *a, dtype="uint8"),)))
    for tag, x, w, bias, strides, pads, dilations, group in (
        ("1x1", (2, 16, 6, 7), (24, 16, 1, 1), True, (1, 1), (0, 0, 0, 0), (1, 1), 1),
        ("1x1_odd", (1, 5, 6, 7), (9, 5, 1, 1), False, (1, 1), (0, 0, 0, 0), (1, 1), 1),
        ("first", (1, 3, 9, 11), (8, 3, 3, 3), True, (2, 2), (1, 1, 1, 1), (1, 1), 1),
        ("3x3", (1, 16, 9, 8), (20, 16, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ("dilated", (1, 6, 11, 11), (4, 6, 3, 3), False, (1, 1), (2, 2, 2, 2), (2, 2), 1),
        ("grouped", (1, 8, 7, 7), (6, 4, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 2),
        ("grouped_odd", (1, 6, 7, 7), (9, 2, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 3),
        ("depthwise", (2, 19, 8, 9), (19, 1, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 19),
        ("depthwise_stride", (1, 16, 13, 13), (16, 1, 5, 5), False, (2, 2), (2, 2, 2, 2), (1, 1), 16),
        ("1d", (2, 5, 19), (4, 5, 4), True, (1,), (1, 2), (1,), 1),
        ("no_images", (0, 3, 5, 5), (4, 3, 3, 3), True, (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ):
        given = _bytes("x" + tag, *x, dtype="uint8")
        options = (strides, pads, dilations, group)
        made.append(Example(f"conv_bytes_{tag}", _byte_conv(tag, w, bias, options, False), (given,)))
        given = np.ascontiguousarray(np.moveaxis(given, 1, -1))
        made.append(Example(f"conv_bytes_{tag}_last", _byte_conv(tag, w, bias, options, True), (given,)))
    return made


INTEGERS = tuple(_examples())
