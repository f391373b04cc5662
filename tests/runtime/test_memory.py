from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.runtime.errors import InputError, RuntimeFault
from ingot.runtime.memory import ALIGNMENT, Arena, Placement, Placer, check_limit, populate, show_bytes

NO_LIMIT = 1 << 60
spans = st.tuples(st.integers(0, 12), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def place(sizes: list[int], lives: list[tuple[int, int]], *, limit: int) -> Placement:
    return Placer(lives).place(sizes, limit=limit)


def peak(sizes: list[int], lives: list[tuple[int, int]]) -> int:
    """The most bytes live at one step: no plan can need less."""
    rounded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    return max((sum(r for r, (a, b) in zip(rounded, lives, strict=True) if a <= t <= b) for t in range(20)), default=0)


@given(st.lists(st.tuples(st.integers(0, 5000), spans), max_size=24))
def test_what_lives_together_does_not_overlap(temps: list[tuple[int, tuple[int, int]]]) -> None:
    sizes, lives = [size for size, _ in temps], [live for _, live in temps]
    placement = place(sizes, lives, limit=NO_LIMIT)
    assert placement == place(sizes, lives, limit=NO_LIMIT)
    for i, (size, (first, last)) in enumerate(temps):
        assert placement.offsets[i] % ALIGNMENT == 0
        assert placement.offsets[i] >= 0 and placement.offsets[i] + size <= placement.total
        for j in range(i):
            if size and sizes[j] and first <= lives[j][1] and lives[j][0] <= last:
                apart = (
                    placement.offsets[i] + size <= placement.offsets[j]
                    or placement.offsets[j] + sizes[j] <= placement.offsets[i]
                )
                assert apart
    assert peak(sizes, lives) <= placement.total <= sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    sizes = [1 << 20, 3 << 20, 2 << 20, 1 << 10] * 50
    lives = [(step, step + 1) for step in range(len(sizes))]
    assert place(sizes, lives, limit=NO_LIMIT).total == 5 << 20


def test_the_smallest_gap_that_fits_is_taken() -> None:
    # The first and the third are dead when the last is born: gaps of 1024 and of 896 bytes.
    sizes = [1024, 960, 896, 832, 512]
    lives = [(0, 1), (0, 9), (0, 1), (0, 9), (5, 9)]
    assert place(sizes, lives, limit=NO_LIMIT).offsets == (0, 1024, 1984, 2880, 1984)


def test_limit_is_checked_before_anything_is_mapped() -> None:
    with pytest.raises(InputError, match=r"needs 1 TiB of working memory or more, the limit is 1 MiB"):
        place([1 << 40], [(0, 1)], limit=1 << 20)
    with pytest.raises(InputError, match=r"needs 1\.5 KiB"):
        place([1024, 512], [(0, 1), (1, 2)], limit=1024)
    assert place([1024, 1024], [(0, 1), (2, 3)], limit=1024).total == 1024
    check_limit(5, 5)


def test_bytes_are_shown_for_people() -> None:
    assert [show_bytes(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 bytes", "1023 bytes", "1.5 KiB", "5 GiB"]


def test_arena_is_zeroed_and_page_aligned() -> None:
    arena = Arena(10_000)
    assert arena.address % mmap.PAGESIZE == 0 and arena.size == 3 * mmap.PAGESIZE
    whole = arena.view(0, np.dtype(np.uint8), (arena.size,))
    assert not whole.any()
    arena.poison()
    part = arena.view(64, np.dtype(np.float32), (2, 3))
    assert np.isnan(part).all() and part.ctypes.data == arena.address + 64
    part[...] = 1
    assert arena.view(64, np.dtype(np.float32), (6,)).sum() == 6
    assert arena.view(arena.size, np.dtype(np.float32), (0, 4)).size == 0


@pytest.mark.parametrize("size", [(256 << 10) - 1, 256 << 10, (2 << 20) + 1])
def test_large_arenas_are_whole_huge_pages(size: int) -> None:
    arena, unit = Arena(size), 2 << 20 if size >= 256 << 10 else mmap.PAGESIZE
    assert arena.size == -(-size // unit) * unit
    whole = arena.view(0, np.dtype(np.uint8), (arena.size,))
    assert not whole.any()
    whole[:: mmap.PAGESIZE] = 1
    assert whole.sum() == arena.size // mmap.PAGESIZE


def resident(address: int) -> int:
    """Bytes in memory of the mapping that begins at `address`."""
    for part in Path("/proc/self/smaps").read_text().split("VmFlags"):
        if f"\n{address:x}-" in part or part.startswith(f"{address:x}-"):
            return int(re.findall(r"\nRss: +(\d+) kB", part)[0]) << 10
    raise AssertionError("there is no such mapping")


@pytest.mark.skipif(tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14), reason="Linux before 5.14")
def test_pages_are_mapped_at_once(tmp_path: Path) -> None:
    path, size = tmp_path / "data", 18 << 20
    path.write_bytes(bytes(range(256)) * (size // 256))
    with path.open("rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    address = data.ctypes.data
    for few in (data[:0], data[:1], data[: 7 << 20]):
        populate(few)
    assert resident(address) == 0
    populate(data[64 : 9 << 20])
    assert 9 << 20 <= resident(address) < size
    populate(data)
    assert resident(address) == size and (data.reshape(-1, 256) == np.arange(256)).all()


def test_views_keep_the_memory() -> None:
    view = Arena(4096).view(0, np.dtype(np.int64), (512,))
    view[...] = 7
    assert view.sum() == 7 * 512


def test_memory_that_the_system_has_not_got() -> None:
    with pytest.raises(RuntimeFault, match="the system gives no"):
        Arena(1 << 60)


def test_shapes_that_numpy_has_no_numbers_for() -> None:
    arena = Arena(64)
    assert arena.view(0, np.dtype(np.float32), (2, 0, 3)).shape == (2, 0, 3)
    with pytest.raises(RuntimeFault, match=r"no array of shape \[0, 4611686018427387904, 8\]"):
        arena.view(0, np.dtype(np.float32), (0, 2**62, 8))
