"""Working memory: where each temporary lies for concrete shapes, and the mappings that hold them."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import InputError, RuntimeFault
from ingot.runtime.limits import MemoryLimit

ALIGNMENT: Final = 64
"""Bytes that the addresses of weights and temps are multiples of. Inputs and outputs are aligned to one element."""
_POPULATE_READ: Final = 22  # of madvise
_HUGE_PAGE: Final = 2 << 20
_MANY: Final = 256 << 10  # bytes: from here on clearing a huge page takes less time than the faults of small ones
_LONG: Final = 8 << 20  # bytes: up to here mapping every page takes longer than the faults that it saves


class Placement(NamedTuple):
    """Offsets in bytes, one per temporary, and the bytes that all need together."""

    offsets: tuple[int, ...]
    total: int


class Placer:
    """Gives temporaries places in one arena: each is live from a first step to a last, both included."""

    def __init__(self, lives: Sequence[tuple[int, int]] | Sequence[int]) -> None:
        """`lives` are the first and last step of each, as pairs or one after the other."""
        steps = np.array(lives, np.int64).reshape(-1, 2)
        self._lives: list[tuple[int, int]] = list(zip(*steps.T.tolist(), strict=True))

    @cached_property
    def _together(self) -> list[list[int]]:
        """For each temporary, which others are live together with it: not dependent on shapes, so found once for all
        plans."""
        found: list[list[int]] = [[] for _ in self._lives]
        live: list[int] = []
        for index in sorted(range(len(self._lives)), key=self._lives.__getitem__):
            first = self._lives[index][0]
            live = [other for other in live if self._lives[other][1] >= first]
            for other in live:
                found[other].append(index)
            found[index] += live
            live.append(index)
        return found

    def place(self, sizes: Sequence[int], *, limit: int) -> Placement:
        """Places for temporaries of `sizes` bytes; those that are live at the same step do not overlap.

        Offsets are multiples of 64 bytes. The largest is placed first, each into the smallest gap that holds it:
        "greedy by size" of Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020. The same
        arguments give the same places. Raises InputError when more than `limit` bytes are needed.
        """
        rounded = [(size + ALIGNMENT - 1) & -ALIGNMENT for size in sizes]
        offsets: list[int | None] = [None] * len(sizes)
        total = 0
        for index in sorted(range(len(sizes)), key=lambda i: (-rounded[i], i)):
            size = rounded[index]
            if not size:
                break
            taken = sorted(
                (offset, offset + rounded[other])
                for other in self._together[index]
                if (offset := offsets[other]) is not None
            )
            offsets[index] = offset = _best_gap(taken, size)
            total = max(total, offset + size)
            check_limit(total, limit)
        return Placement(tuple(offset or 0 for offset in offsets), total)


def _best_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap of `size` bytes or more between the sorted intervals; past all if there is none."""
    best, best_size, reached = None, 0, 0
    for start, end in taken:
        gap = start - reached
        if gap >= size and (best is None or gap < best_size):
            best, best_size = reached, gap
        reached = max(reached, end)
    return reached if best is None else best


def check_limit(size: int, limit: int) -> None:
    """Raises InputError when `size` bytes of working memory are more than `limit`."""
    if size > limit:
        raise InputError(
            f"a run with these shapes needs {show_bytes(size)} of working memory or more, the limit is "
            f"{show_bytes(limit)}: use a smaller batch or smaller inputs, or raise INGOT_MEMORY_LIMIT"
        )


def show_bytes(size: int) -> str:
    """A number of bytes as people read it: 1536 is ``1.5 KiB``."""
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.4g} {unit}"


def populate(data: NDArray[np.uint8]) -> None:
    """Map all pages of mapped `data` at once, which takes less time than a fault for every few of them; what is not in
    memory is read. Nothing happens to data of few MiB, to more than half of what memory this process may use, and where
    Linux cannot do it (before 5.14)."""
    if data.size < _LONG or 2 * data.size > MemoryLimit().for_size(2 * data.size):
        return
    start = data.ctypes.data & -mmap.PAGESIZE
    size = data.ctypes.data + data.size - start
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _POPULATE_READ)


class Arena:
    """Zeroed, page-aligned anonymous memory. It is unmapped once neither the arena nor a view of it is held."""

    def __init__(self, size: int) -> None:
        """Map at least `size` bytes. Raises RuntimeFault when the system refuses."""
        # Linux aligns a mapping to huge pages only if it is a whole number of them.
        unit = _HUGE_PAGE if size >= _MANY else mmap.PAGESIZE
        self.size: int = max(size + unit - 1 & -unit, unit)
        try:
            memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise RuntimeFault(f"the system gives no {show_bytes(self.size)} of memory: {error}") from error
        if unit == _HUGE_PAGE:
            with suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self.address: int = self._bytes.ctypes.data

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """A writable array over the memory that begins `offset` bytes into it; it keeps the memory mapped. Raises
        RuntimeFault for shapes without elements whose other extents numpy has no numbers for."""
        try:
            return np.ndarray(shape, dtype, self._bytes.data, offset)
        except ValueError as error:
            raise RuntimeFault(f"there is no array of shape {list(shape)}: {error}") from error

    def poison(self) -> None:
        """Fill the memory with 0xFF: NaN in every floating-point type, -1 or the largest value in the others."""
        self._bytes.fill(0xFF)
