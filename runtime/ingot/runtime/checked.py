"""The word that a checked build leaves in the status: which check found something, and where.

Bits 0 to 19 are the number of the fault, as always; bit 20 is set by checks alone; bits 21 to 63 are the element that
was asked for, signed, counted from the beginning of its storage.
"""

from __future__ import annotations

from typing import Final

NUMBER_BITS: Final = 20
FOUND: Final = 1 << NUMBER_BITS
PLACE_SHIFT: Final = NUMBER_BITS + 1
PLACE_LIMIT: Final = 1 << (62 - PLACE_SHIFT)
"""Elements further away than this are given as this."""


def found_by_check(status: int) -> tuple[int, int] | None:
    """(number of the fault, element) where `status` is the word of a check, else None."""
    if status & FOUND and (status < 0 or status >= FOUND):
        return status & (FOUND - 1), status >> PLACE_SHIFT
    return None
