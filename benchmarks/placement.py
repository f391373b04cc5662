"""On which processors engines of other processes run: as many as they have threads."""

from __future__ import annotations

import os
from pathlib import Path


def processors(threads: int) -> tuple[int, ...]:
    """`threads` of the processors that this process may use, no two of one core as long as there are enough cores; all
    of them if there are fewer."""
    allowed = sorted(os.sched_getaffinity(0))
    first: dict[str, int] = {}
    for number in allowed:
        first.setdefault(_core(number), number)
    order = [*first.values(), *(number for number in allowed if number not in first.values())]
    return tuple(sorted(order[:threads]))


def _core(number: int) -> str:
    """Equal for processors of one core."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    return siblings.read_text().strip() if siblings.is_file() else str(number)
