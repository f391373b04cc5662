"""The thread team alone: who runs which chunk where processors are scarce."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.objects import new_module, object_code
from ingot.compiler.targets.cpu.team import EXPORTS, REGION, emit_team
from ingot.compiler.targets.cpu.team_memory import SIZE
from ingot.compiler.targets.elf import link
from ingot.runtime.image import Image

LIBC = ctypes.CDLL(None, use_errno=True)
CHUNK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
PATIENCE = 30  # seconds; other processes may have the processors meanwhile

needs_two_processors = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)


class Region:
    """One worker beside the calling thread."""

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
        assert self._thread.native_id is not None
        self.worker: int = self._thread.native_id

    def run(self, chunks: int, by_leader: Callable[[], None], by_worker: Callable[[], None]) -> list[str]:
        """Who ran each of the chunks; each has a function for what it does."""
        leader = threading.get_ident()
        ran: list[list[str]] = [[] for _ in range(chunks)]

        @CHUNK
        def chunk(arguments: int, number: int) -> None:
            mine = threading.get_ident() == leader
            ran[number].append("leader" if mine else "worker")
            (by_leader if mine else by_worker)()

        self._region(self._address, ctypes.cast(chunk, ctypes.c_void_p), None, chunks)
        assert all(len(who) == 1 for who in ran), "each chunk is run once"
        return [who for (who,) in ran]

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
    before = os.sched_getaffinity(0)
    made = Region(image)
    yield made
    made.close()
    os.sched_setaffinity(0, before)


def short() -> None:
    time.sleep(0.001)


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline


@needs_two_processors
def test_both_work(region: Region) -> None:
    here, there, *_ = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {here})
    os.sched_setaffinity(region.worker, {there})
    until(lambda: {"leader", "worker"} == set(region.run(16, short, short)))


@needs_two_processors
def test_a_worker_on_the_leaders_processor_makes_way(region: Region) -> None:
    here, there, *_ = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {here})
    os.sched_setaffinity(region.worker, {here})
    until(lambda: {"leader"} == set(region.run(4, short, short)))
    time.sleep(0.01)  # asleep for good unless it looks again
    assert {"leader"} == set(region.run(4, short, short))
    os.sched_setaffinity(region.worker, {there})
    until(lambda: "worker" in region.run(16, short, short))


def test_stopping_does_not_wait_for_a_rest(image: Image) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        for _ in range(20):
            made = Region(image)  # its worker inherits the one processor
            made.run(4, short, short)
            made.close()
    finally:
        os.sched_setaffinity(0, before)


@needs_two_processors
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the leader has no clock")
def test_the_leader_fetches_a_worker_that_holds_it_up(region: Region) -> None:
    """A worker that needs a hundred times as long has lost its processor: it gets that of the leader."""
    everywhere = os.sched_getaffinity(region.worker)
    here = min(everywhere)
    os.sched_setaffinity(0, {here})
    seen: list[set[int]] = []

    def held_up() -> None:
        time.sleep(0.2)
        seen.append(os.sched_getaffinity(0))

    until(lambda: "worker" in region.run(4, short, held_up))
    assert seen[-1] == {here}
    assert os.sched_getaffinity(region.worker) == everywhere


@needs_two_processors
def test_it_does_not_fetch_one_that_may_not_run_there(region: Region) -> None:
    here, there, *_ = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {here})
    os.sched_setaffinity(region.worker, {there})
    seen: list[set[int]] = []

    def held_up() -> None:
        time.sleep(0.05)
        seen.append(os.sched_getaffinity(0))

    until(lambda: "worker" in region.run(4, short, held_up))
    assert seen[-1] == {there}


@needs_two_processors
def test_waiting_for_a_last_chunk_is_no_reason(region: Region) -> None:
    """Chunks that take both as long are waited for, however long that is."""
    everywhere = os.sched_getaffinity(region.worker)
    here, there, *_ = everywhere
    os.sched_setaffinity(0, {here})
    seen: list[set[int]] = []

    def slow() -> None:
        time.sleep(0.1)
        seen.append(os.sched_getaffinity(0))

    os.sched_setaffinity(region.worker, {here, there})
    until(lambda: "worker" in region.run(2, lambda: time.sleep(0.06), slow))
    assert seen[-1] == {here, there}
