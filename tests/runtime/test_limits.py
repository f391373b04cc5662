from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingot.runtime import limits
from ingot.runtime.environment import Environment, read_environment
from ingot.runtime.errors import InputError
from ingot.runtime.limits import MemoryLimit, available_cpus, available_memory

CPUS = len(os.sched_getaffinity(0))


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def test_this_machine() -> None:
    assert 1 <= available_cpus() <= CPUS
    assert 1 << 20 < available_memory() < 1 << 50


def test_affinity_is_obeyed() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", CPUS),
        ("50000 100000", 1),
        ("100001 100000", min(2, CPUS)),
        ("", CPUS),
        ("x y", CPUS),
        ("5 0", CPUS),
    ],
)
def test_quota_of_version_2(tmp_path: Path, quota: str, cpus: int) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/app/job\n", "sys/fs/cgroup/app/job/cpu.max": quota})
    assert available_cpus(root) == cpus


def test_limits_of_outer_groups_count(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../app/job\n",
        "sys/fs/cgroup/app/cpu.max": "10000 100000",
        "sys/fs/cgroup/app/memory.max": "1048576",
        "sys/fs/cgroup/app/job/memory.max": "max",
    }
    root = write(tmp_path, files)
    assert available_cpus(root) == 1 and available_memory(root) == 1 << 20


def test_limits_of_version_1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpuacct,cpu:/job\n4:memory:/job\n3:devices:/job\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "100000",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2097152",
    }
    root = write(tmp_path, files)
    assert available_cpus(root) == 1 and available_memory(root) == 2 << 20


def test_the_limit_is_found_out_when_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(limits, "available_memory", lambda: asked.append(1) or 32 << 20)
    limit = MemoryLimit()
    assert limit.for_size(1 << 20) >= 1 << 20 and not asked
    assert limit.for_size(17 << 20) == limit.for_size(1 << 60) == limit.bytes == 32 << 20 and asked == [1]
    assert MemoryLimit(1000).for_size(1) == MemoryLimit(1000).bytes == 1000


def test_environment() -> None:
    assert read_environment({}) == Environment()
    variables = {
        "INGOT_THREADS": "3", "INGOT_MEMORY_LIMIT": "2G", "INGOT_POISON": "1", "INGOT_DEBUG_DIR": "code",
        "INGOT_FASTCALL": "0", "HOME": "?",
    }  # fmt: skip
    assert read_environment(variables) == Environment(3, 2 << 30, True, "code", False)
    assert read_environment({"INGOT_THREADS": "", "INGOT_POISON": "0", "INGOT_DEBUG_DIR": ""}) == Environment()
    assert read_environment({"INGOT_MEMORY_LIMIT": "4096"}).memory_limit == 4096


@pytest.mark.parametrize(
    "variables",
    [{"INGOT_THREADS": text} for text in ("0", "-1", "two", "1.5", " 1")]
    + [{"INGOT_MEMORY_LIMIT": text} for text in ("0", "1X", "1.5G", "G")]
    + [{"INGOT_POISON": "yes"}],
)
def test_environment_values_without_meaning(variables: dict[str, str]) -> None:
    with pytest.raises(InputError, match=next(iter(variables))):
        read_environment(variables)
