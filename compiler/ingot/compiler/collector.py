"""Python's garbage collector while a model is compiled.

Graphs, kernels and their code are very many objects that live for a while and die by reference counts or in a few
large cycles. With the collector's usual thresholds a small model takes several looks at everything that the process
has, in vain.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

_RARELY = (50_000, 20, 100)
"""Objects made, less those gone, between two looks at the young ones: some 10 MiB; of those, and of the next, how many
until the older ones are looked at."""


@contextmanager
def rarely_collected() -> Generator[None]:
    """Raise the collector's thresholds, those of the whole process, until the end.

    Thresholds that are as high already, a collector that is off, and thresholds that somebody else sets meanwhile stay
    as they are: where threads compile at the same time, the first to end gives back what was.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < _RARELY[0]:
        yield
        return
    gc.set_threshold(*_RARELY)
    raised = gc.get_threshold()  # Python 3.14 tells 0 for the third, whatever was set
    try:
        yield
    finally:
        if gc.get_threshold() == raised:
            gc.set_threshold(*before)
