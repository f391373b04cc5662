"""Examples of what the host computes, and Python's answers."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from tests.compiler.ops.example import Example

from ingot.compiler.ir.graph import Array
from ingot.compiler.ops import host
from ingot.runtime import dtypes


def texts(*items: str) -> Array:
    return np.array(items, object)


def bitmap(pixels: Array) -> Array:
    """An uncompressed BMP of 24 bits of pixels [height, width, 3]: rows from the bottom up, multiples of 4 bytes."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, -(-width * 3 // 4) * 4), np.uint8)
    rows[:, : width * 3] = pixels[::-1, :, ::-1].reshape(height, -1)
    head = struct.pack("<2sIHHI", b"BM", 54 + rows.size, 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.size, 0, 0, 0, 0)
    return np.frombuffer(head + info + rows.tobytes(), np.uint8).copy()


PIXELS = np.random.default_rng(4).integers(0, 256, (3, 5, 3), np.uint8)
WORDS = texts("b", "", "a b", "é", "a b", "B,a")
NUMERALS = texts("1", "-2.5", " 1e2 ", "0")
STOPS = ("é", "b")

HOST = [
    Example("string_concat", host.StringConcat, (WORDS.reshape(2, 3), texts("!", "é", ""))),
    Example("string_parts", lambda x: host.StringParts(x, ",", -1), (WORDS,)),
    Example("string_split", lambda x: host.StringSplit(x, "", -1, 2), (WORDS,)),
    Example("string_kept", lambda x: host.StringKept(x, STOPS, False), (WORDS,)),
    Example("string_normalize", lambda x: host.StringNormalize(x, STOPS, True, "UPPER", 4), (WORDS,)),
    Example("string_rank", host.StringRank, (WORDS.reshape(3, 2),)),
    Example("string_nothing", host.StringRank, (WORDS[:0],)),
    Example("regex_full_match", lambda x: host.RegexFullMatch(x, "[a-z]( [a-z])?"), (WORDS,)),
    Example("string_to_number_f32", lambda x: host.StringToNumber(x, dtypes.f32), (NUMERALS,)),
    Example("string_to_number_i8", lambda x: host.StringToNumber(x, dtypes.i8), (NUMERALS,)),
    Example("string_to_number_bool", lambda x: host.StringToNumber(x, dtypes.boolean), (NUMERALS,)),
    Example("number_to_string_i64", host.NumberToString, (np.array([[3, -(2**62)]]),)),
    Example("number_to_string_f64", host.NumberToString, (np.array([0.1, -np.inf, 1e21]),)),
    Example("image_size", host.ImageSize, (bitmap(PIXELS),)),
    Example("image_decode", lambda x: host.ImageDecode(x, "BGR", 3, 5), (bitmap(PIXELS),)),
    Example("image_nothing", lambda x: host.ImageDecode(x, "Grayscale", 0, 0), (bitmap(PIXELS)[:9],)),
]

HOST_ANSWERS: dict[str, Callable[..., Any]] = {
    "string_concat": lambda a, b: a + b,
    "string_parts": lambda x: np.array([len(t.split(",")) for t in x]),
    "string_split": lambda x: np.array([[*t.split(), "", ""][:2] for t in x], object),
    "string_kept": lambda x: np.array(4),
    "string_normalize": lambda x: texts("", "A B", "A B", "B,A"),
    "string_rank": lambda x: np.unique(x, return_inverse=True)[1].reshape(x.shape),
    "string_nothing": lambda x: np.zeros(0, np.int64),
    "regex_full_match": lambda x: np.array([re.fullmatch("[a-z]( [a-z])?", t) is not None for t in x]),
    "string_to_number_f32": lambda x: np.array([1, -2.5, 100, 0], np.float32),
    "string_to_number_i8": lambda x: np.array([1, -2, 100, 0], np.int8),
    "string_to_number_bool": lambda x: np.array([True, True, True, False]),
    "number_to_string_i64": lambda x: x.astype(str).astype(object),
    "number_to_string_f64": lambda x: texts("0.1", "-INF", "1000000000000000000000"),
    "image_size": lambda x: np.array([3, 5]),
    "image_decode": lambda x: PIXELS[:, :, ::-1],
    "image_nothing": lambda x: np.zeros((0, 0, 1), np.uint8),
}
