"""Working memory: where each temporary lies for concrete shapes, and the mappings that hold them."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.errors import InputError, RuntimeFault

ALIGNMENT: Final = 64
"""Bytes that the addresses of weights and temps are multiples of. Inputs and outputs are aligned to one element."""
_ROWS: Final = 256  # temporaries compared with all others at a time
_HUGE: Final = 4 << 20  # from here on huge pages save more misses than their clearing costs


@dataclass(frozen=True, slots=True)
class Placement:
    """Offsets in bytes, one per temporary, and the bytes that all need together."""

    offsets: tuple[int, ...]
    total: int


class Placer:
    """Gives temporaries places in one arena: each is live from a first step to a last, both included."""

    def __init__(self, lives: Sequence[tuple[int, int]] | NDArray[np.int64]) -> None:
        self._lives = np.array(lives, np.int64).reshape(-1, 2)

    @cached_property
    def _together(self) -> list[list[int]]:
        """For each temporary, which are live together with it: not dependent on shapes, so found once for all plans."""
        firsts, lasts = self._lives.T
        found: list[list[int]] = []
        for start in range(0, len(self._lives), _ROWS):
            rows = slice(start, start + _ROWS)
            overlap = (firsts <= lasts[rows, None]) & (lasts >= firsts[rows, None])
            others = np.nonzero(overlap)[1].tolist()
            ends = np.cumsum(np.count_nonzero(overlap, axis=1)).tolist()
            found += [others[first:last] for first, last in zip([0, *ends], ends, strict=False)]
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


class Arena:
    """Zeroed, page-aligned anonymous memory. It is unmapped once neither the arena nor a view of it is held."""

    def __init__(self, size: int) -> None:
        """Map at least `size` bytes. Raises RuntimeFault when the system refuses."""
        self.size: int = max(size + mmap.PAGESIZE - 1 & -mmap.PAGESIZE, mmap.PAGESIZE)
        try:
            memory = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise RuntimeFault(f"the system gives no {show_bytes(self.size)} of memory: {error}") from error
        if self.size >= _HUGE:
            with suppress(OSError):  # a kernel without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self.address: int = self._bytes.ctypes.data

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """A writable array over the memory that begins `offset` bytes into it; it keeps the memory mapped."""
        return np.ndarray(shape, dtype, self._bytes.data, offset)

    def poison(self) -> None:
        """Fill the memory with 0xFF: NaN in every floating-point type, -1 or the largest value in the others."""
        self._bytes.fill(0xFF)
