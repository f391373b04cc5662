"""The thread team alone: who runs which chunk when a worker is held up."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.objects import new_module, object_code
from ingot.compiler.targets.cpu.team import EXPORTS, REGION, SIZE, emit_team
from ingot.compiler.targets.elf import link
from ingot.runtime.image import Image

LIBC = ctypes.CDLL(None, use_errno=True)
CHUNK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


class Region:
    """One worker beside the calling thread; `run` returns who ran each chunk."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._memory = np.zeros(SIZE + 64, np.uint8)
        self._address = self._memory.ctypes.data + 63 & ~63
        init = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(image.symbol("ingot_team_init"))
        init(self._address, 1, ctypes.cast(LIBC.syscall, ctypes.c_void_p))
        worker = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(image.symbol("ingot_worker"))
        self._thread = threading.Thread(target=worker, args=(self._address,))
        self._thread.start()
        types = (None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        self._region = ctypes.CFUNCTYPE(*types)(image.symbol(REGION))

    def run(self, chunks: int, leader: float, worker: float) -> list[bool]:
        """Whether the leader ran each of the chunks, which take it and the worker so many seconds."""
        mine = threading.get_ident()
        by_leader: list[bool] = [False] * chunks

        @CHUNK
        def chunk(arguments: int, number: int) -> None:
            by_leader[number] = threading.get_ident() == mine
            time.sleep(leader if by_leader[number] else worker)

        self._region(self._address, ctypes.cast(chunk, ctypes.c_void_p), None, chunks)
        return by_leader

    def close(self) -> None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._image.symbol("ingot_stop"))(self._address)
        self._thread.join()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    level = features.host_level()
    module = new_module("team", level)
    emit_team(module, level)
    with Image.from_bytes(link([object_code(module, level)], soname="team", exports=(*EXPORTS, REGION))) as made:
        yield made


@pytest.fixture
def region(image: Image) -> Iterator[Region]:
    made = Region(image)
    yield made
    made.close()


def test_both_work(region: Region) -> None:
    assert {True, False} == set(region.run(8, 0.01, 0.01))


def test_the_leader_works_alone_after_waiting_out_of_proportion(region: Region) -> None:
    """A worker that needs a hundred times as long has lost its processor: four times the wait nobody waits for it."""
    assert not all(region.run(4, 0.002, 0.2))
    begun = time.monotonic()
    assert all(region.run(4, 0.002, 0.2))
    assert time.monotonic() - begun < 0.15, "the break was over before it was tested"


def test_it_asks_for_help_again(region: Region) -> None:
    region.run(4, 0.002, 0.05)
    deadline = time.monotonic() + 20
    while all(region.run(8, 0.005, 0.005)):
        assert time.monotonic() < deadline


def test_waiting_for_a_last_chunk_is_no_reason(region: Region) -> None:
    """Chunks that take both as long are waited for, however long that is."""
    for _ in range(4):
        assert {True, False} == set(region.run(2, 0.03, 0.05))
