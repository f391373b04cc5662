"""Strings as numbers and numbers as strings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ingot.runtime.errors import HostError
from ingot.runtime.host import numerals

FLOATS = {
    "3.14": 3.14, "1000": 1000.0, "1e-5": 1e-5, "1E8": 1e8, "-.5": -0.5, "+2.": 2.0, " 7 ": 7.0, "\t-0\n": -0.0,
    "INF": math.inf, "+inf": math.inf, "-Inf": -math.inf, "NaN": math.nan, "nan": math.nan, "1e999": math.inf,
}  # fmt: skip
NO_NUMBERS = ["", " ", "a", "1,5", "0x10", "1_000", "infinity", "--1", "1e", ".", "e5", "1 2", "٣", "1" * 5000]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_floats(dtype: str) -> None:
    found = numerals.parse(np.array(list(FLOATS), object), np.dtype(dtype))
    with np.errstate(over="ignore"):
        wanted = np.array([np.dtype(dtype).type(x) for x in FLOATS.values()])
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == dtype and np.signbit(found[list(FLOATS).index("\t-0\n")])


def test_integers_and_bools() -> None:
    x = np.array([["1", "-2"], ["2.9", "1e2"]], object)
    np.testing.assert_array_equal(numerals.parse(x, np.dtype(np.int16)), [[1, -2], [2, 100]])
    np.testing.assert_array_equal(numerals.parse(x, np.dtype(np.bool_)), [[True] * 2] * 2)
    assert not numerals.parse(np.array("0.0", object), np.dtype(np.bool_))
    large = np.array([str(2**63 - 1), str(-(2**63))], object)
    np.testing.assert_array_equal(numerals.parse(large, np.dtype(np.int64)), [2**63 - 1, -(2**63)])
    for text in ("300", "-1", "inf", "nan", "1e30"):
        with pytest.raises(HostError, match="does not fit uint8"):
            numerals.parse(np.array([text], object), np.dtype(np.uint8))


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_what_is_no_number(text: str, dtype: str) -> None:
    with pytest.raises(HostError, match="is no number"):
        numerals.parse(np.array([text], object), np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_floats_read_back_to_the_same(dtype: str) -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), 500, dtype=np.uint64)
    x = bits.astype(f"u{np.dtype(dtype).itemsize}").view(dtype)
    texts = numerals.show(x)
    assert not any("e" in t for t in texts if t not in ("INF", "-INF", "NaN"))
    np.testing.assert_array_equal(numerals.parse(texts, np.dtype(dtype)), x)


def test_spelling_of_numbers() -> None:
    assert numerals.show(np.array([314.15926, 1.0, -0.0, np.inf, -np.inf, np.nan])).tolist() == [
        "314.15926", "1", "-0", "INF", "-INF", "NaN",
    ]  # fmt: skip
    assert numerals.show(np.array([[True, False]])).tolist() == [["1", "0"]]
    assert numerals.show(np.array([2**64 - 1], np.uint64)).tolist() == [str(2**64 - 1)]
    assert numerals.show(np.zeros((0, 2))).shape == (0, 2)
