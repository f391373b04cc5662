"""Memory that is obtained during a run: storages whose sizes come from data.

The code keeps what it needs for them in a block of 64-bit words, whose address is one of the words it is called with:

    allocate, release   addresses of ``void *aligned_alloc(size_t alignment, size_t size)`` and ``void free(void *)``
    budget              bytes that may still be allocated
    address, capacity, wanted   for every late storage: its memory, the bytes of that, the bytes last asked for
    value               for every bound symbol: the value that it was last bound to

The memory of a storage is kept from run to run and replaced by a larger one when it does not suffice.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import RuntimeFault

HEADER: Final = ("allocate", "release", "budget")
RECORD: Final = ("address", "capacity", "wanted")


def record_word(index: int, field: str) -> int:
    """The word of the block that holds `field` of late storage number `index`."""
    return len(HEADER) + len(RECORD) * index + RECORD.index(field)


def value_word(storages: int, index: int) -> int:
    """The word of the block that holds the value of bound symbol number `index`, after that many late storages."""
    return len(HEADER) + len(RECORD) * storages + index


class LateMemory:
    """The block of one lane, and the memory that the code hangs into it; it is freed with this object."""

    def __init__(self, storages: int, symbols: Sequence[str], limit: int) -> None:
        self._storages = storages
        self._symbols = tuple(symbols)
        self._block = np.zeros(value_word(storages, len(symbols)), np.int64)
        allocate, release = _functions()
        self._block[: len(HEADER)] = allocate, release, limit
        self.address: int = self._block.ctypes.data
        weakref.finalize(self, _free, self._block, storages).atexit = False

    def values(self) -> Mapping[str, int]:
        """The bound symbols' values."""
        first = value_word(self._storages, 0)
        return dict(zip(self._symbols, self._block[first:].tolist(), strict=True))

    def wanted(self, storage: int) -> int:
        """The bytes that late storage number `storage` was last to have."""
        return int(self._block[record_word(storage, "wanted")])

    def copy(self, storage: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """A new array of what late storage number `storage` holds. Raises RuntimeFault when it holds less."""
        result = np.empty(shape, dtype)
        if result.nbytes > self._block[record_word(storage, "capacity")]:
            raise RuntimeFault(f"an output of shape {list(shape)} is larger than what the model has written")
        if result.nbytes:
            ctypes.memmove(result.ctypes.data, int(self._block[record_word(storage, "address")]), result.nbytes)
        return result


def _free(block: NDArray[np.int64], storages: int) -> None:
    release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_functions()[1])
    for index in range(storages):
        word = record_word(index, "address")
        if block[word]:
            release(int(block[word]))
            block[word] = block[record_word(index, "capacity")] = 0


@functools.cache
def _functions() -> tuple[int, int]:
    library = ctypes.CDLL(None)
    addresses = [ctypes.cast(f, ctypes.c_void_p).value for f in (library.aligned_alloc, library.free)]
    return addresses[0] or 0, addresses[1] or 0
