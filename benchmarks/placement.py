"""On which processors what is measured runs: as many as it has threads, the same for all engines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
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


@contextlib.contextmanager
def pinned(chosen: Sequence[int]) -> Generator[None]:
    """This thread, and those that it starts meanwhile, run on the `chosen` processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _core(number: int) -> str:
    """Equal for processors of one core."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    return siblings.read_text().strip() if siblings.is_file() else str(number)
