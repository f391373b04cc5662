"""How much of the machine this process may use: CPUs by affinity and cgroup quota, memory by cgroup and by size.

Control groups as in the kernel's cgroup-v2.rst and, for older systems, cgroup-v1/memory.rst and sched-bwc.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from math import ceil
from typing import Final

_MOST: Final = 1 << 14  # bytes of a file; the kernel gives what there is at once
_CERTAIN: Final = 16 << 20  # bytes: less than Python and numpy have taken already


def available_cpus(root: str = "/") -> int:
    """Threads that can run at the same time: the CPUs this process may be scheduled on, less where a cgroup limits the
    CPU time to the worth of fewer (rounded up). At least 1."""
    count = len(os.sched_getaffinity(0))
    for folder, version in _groups(root, "cpu"):
        if version == 2:
            quota, _, period = _read(f"{folder}/cpu.max").partition(" ")
        else:
            quota, period = _read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            count = min(count, ceil(int(quota) / int(period)))
    return max(count, 1)


def available_memory(root: str = "/") -> int:
    """Bytes of memory that this process may use in all: physical memory, or what a cgroup allows if that is less."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, version in _groups(root, "memory"):
        limit = _read(f"{folder}/memory.max" if version == 2 else f"{folder}/memory.limit_in_bytes")
        if limit.isdigit():
            size = min(size, int(limit))
    return size


class MemoryLimit:
    """The most bytes of working memory that a run may take: `asked`, else all that this process may use, which is
    found out when it first matters."""

    def __init__(self, asked: int | None = None) -> None:
        self._asked = asked

    @cached_property
    def bytes(self) -> int:
        """The limit."""
        return self._asked or available_memory()

    def for_size(self, most: int) -> int:
        """The limit for a run that needs `most` bytes at most: the least that is known to be allowed if that is
        enough."""
        return _CERTAIN if self._asked is None and most <= _CERTAIN else self.bytes


def _groups(root: str, controller: str) -> Iterator[tuple[str, int]]:
    """Folders of the control groups that limit the process by `controller`, each before those around it, with the
    cgroup version."""
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mount, version = os.path.join(root, "sys/fs/cgroup"), 2
        elif controller in controllers.split(","):
            mount, version = os.path.join(root, "sys/fs/cgroup", controller), 1
        else:
            continue
        # Inside a container the path may be that of the host; its own group is then mounted as the root.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            yield "/".join([mount, *parts[:depth]]), version


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _MOST).decode("ascii", "replace").strip()
        finally:
            os.close(descriptor)
    except OSError:
        return ""
