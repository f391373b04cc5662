"""Where the random numbers of a session begin.

The code of a model with random operators holds two words for each table that it is called with: the key of all its
numbers, and the number of the run, which the code raises itself. Numbers are a function of the two (and of the place in
the model and the tensor), so tables of one session that run at the same time must begin far from each other.
"""

from __future__ import annotations

import itertools
import os
from typing import Any, Final

import numpy as np

from ingot.runtime.errors import InputError

RUNS: Final = 1 << 40
"""Runs that a table can be used for before its numbers become those of another."""


class Entropy:
    """The key of a session and the streams that its tables draw from. `seed` is 0 to 2**64 - 1; None takes the key from
    the system. Raises InputError for another seed."""

    def __init__(self, seed: Any = None) -> None:
        if seed is not None and (type(seed) not in (int, np.int64, np.uint64, np.int32) or not 0 <= seed < 2**64):
            raise InputError(f"seed is {str(seed)[:80]}; a whole number of 0 to 2**64 - 1 is needed")
        self._seed: int | None = None if seed is None else int(seed)
        self._key = _system_key() if self._seed is None else self._seed
        self._streams = itertools.count()

    def stream(self) -> tuple[int, int]:
        """The key and the number of the first run for a new table; each stream is given once."""
        return self._key, next(self._streams) * RUNS % 2**64

    def renew(self) -> bool:
        """Take a new key, if no seed was given, as a child of fork must; whether there is one."""
        if self._seed is None:
            self._key = _system_key()
        return self._seed is None


def _system_key() -> int:
    return int.from_bytes(os.urandom(8), "little")
