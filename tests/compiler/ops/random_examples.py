"""Examples of random bits, with the published answers of the generator (Random123's known-answer tests)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.compiler.ops.example import Example

from ingot.compiler.ops.random import Entropy, RandomBits

ZERO, ONES = np.uint64(0), np.uint64(2**64 - 1)

RANDOM = [
    Example("entropy", Entropy, ()),
    Example("random_bits", lambda key, run: RandomBits(key, run, 1), (np.array(ZERO), np.array(ZERO))),
    Example("random_bits_none", lambda key, run: RandomBits(key, run, 0), (np.array(ZERO), np.array(ONES))),
]
RANDOM_ANSWERS: dict[str, Callable[..., Any]] = {
    "entropy": lambda: np.zeros(2, np.uint64),
    "random_bits": lambda key, run: [
        np.array([word], np.uint32) for word in (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ],
    "random_bits_none": lambda key, run: [np.zeros(0, np.uint32)] * 4,
}
