"""The native threads of a session.

Workers are made by pthread_create with the compiled worker function as start routine: they never run Python and never
need its lock. The protocol by which they get work belongs to the compiled code; here is only their life. They are made
at the first run that has work for them, and stopped and joined before the code they run is unmapped.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

from ingot.runtime.errors import RuntimeFault
from ingot.runtime.memory import Arena

STACK_BYTES: Final = 1 << 20
"""Stack of a worker. Kernels put less than 256 KiB on it; what is never touched takes no memory."""
_ATTRIBUTE_BYTES: Final = 128  # sizeof(pthread_attr_t) is 56 on x86-64 and 64 on AArch64
_NAME: Final = b"ingot-worker"  # what debuggers and `top -H` show
# Signals for the process are for Python's threads; those that an instruction causes must reach the thread at fault.
_BLOCKED: Final = signal.valid_signals() - {
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP,
}  # fmt: skip


class TeamFunctions(NamedTuple):
    """Addresses of the compiled code's thread functions:

    ``i64 ingot_team_size(void)``, ``void ingot_team_init(void *team, i64 workers, void *syscall)``,
    ``void *ingot_worker(void *team)`` and ``void ingot_stop(void *team)``.
    """

    size: int
    init: int
    worker: int
    stop: int


class Team:
    """Running workers and the memory they share with whoever leads them."""

    def __init__(self, functions: TeamFunctions, workers: int) -> None:
        """Start `workers` threads. Raises RuntimeFault, with none left running, if the system refuses one."""
        self._stop = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions.stop)
        size = ctypes.CFUNCTYPE(ctypes.c_int64)(functions.size)()
        self._memory = Arena(size)
        self.address: ctypes.c_void_p = ctypes.c_void_p(self._memory.address)
        initialise = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(functions.init)
        initialise(self.address, workers, ctypes.cast(_libc().syscall, ctypes.c_void_p))
        self._threads: list[int] = []
        try:
            with _signals_blocked(), _attributes() as attributes:
                for _ in range(workers):
                    self._threads.append(_create(attributes, functions.worker, self.address))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the workers and wait for their end. Nobody may be leading them. The memory stays until dropped."""
        threads, self._threads = self._threads, []
        if threads:
            self._stop(self.address)
        for thread in threads:
            _libc().pthread_join(ctypes.c_ulong(thread), None)


class Threads:
    """One team for all callers of a session, made when first needed, led by one caller at a time.

    A child of fork has none of the threads: its owner must call `forget` there.
    """

    def __init__(self, functions: TeamFunctions, count: int) -> None:
        """`count` includes the caller, so there are `count` - 1 workers."""
        self.count: int = count
        self._functions = functions
        self._busy = threading.Lock()
        self._team: Team | None = None
        self._closed = count <= 1

    def lead(self) -> ctypes.c_void_p | None:
        """The team's address, to be given back with `release`; None when there are no workers or another caller leads
        them now. Raises RuntimeFault if the workers cannot be started."""
        if self._closed or not self._busy.acquire(False):
            return None
        if self._team is None:
            if self._closed:
                self._busy.release()
                return None
            try:
                self._team = Team(self._functions, self.count - 1)
            except BaseException:
                self._busy.release()
                raise
        return self._team.address

    def release(self) -> None:
        """The run that led the team has ended."""
        self._busy.release()

    def close(self) -> None:
        """Stop and join the workers, after the run that leads them. Later callers are on their own."""
        self._closed = True
        with self._busy:
            team, self._team = self._team, None
            if team is not None:
                team.close()

    def forget(self) -> None:
        """Drop the team of a parent process without waiting for threads that this process has not got."""
        self._team = None
        self._busy = threading.Lock()


class _Forgetful(Protocol):
    def forget(self) -> None: ...


_tracked: Final[weakref.WeakSet[_Forgetful]] = weakref.WeakSet()


def forget_after_fork(each: _Forgetful) -> None:
    """From now on call ``each.forget()`` in every child of fork, for as long as `each` lives."""
    _tracked.add(each)


def _forget_all() -> None:
    for each in list(_tracked):
        each.forget()


os.register_at_fork(after_in_child=_forget_all)


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.pthread_join.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
    libc.pthread_create.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    libc.pthread_attr_setstacksize.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.pthread_attr_init.argtypes = libc.pthread_attr_destroy.argtypes = (ctypes.c_void_p,)
    libc.pthread_setname_np.argtypes = (ctypes.c_ulong, ctypes.c_char_p)
    return libc


@contextmanager
def _attributes() -> Generator[Any]:
    attributes = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
    if _libc().pthread_attr_init(attributes) or _libc().pthread_attr_setstacksize(attributes, STACK_BYTES):
        raise RuntimeFault("the system's thread library does not accept a stack of 1 MiB")
    try:
        yield attributes
    finally:
        _libc().pthread_attr_destroy(attributes)


@contextmanager
def _signals_blocked() -> Generator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)  # new threads inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _create(attributes: Any, start: int, argument: ctypes.c_void_p) -> int:
    thread = ctypes.c_ulong()
    number = _libc().pthread_create(ctypes.byref(thread), attributes, start, argument)
    if number:
        raise RuntimeFault(
            f"the system starts no further thread: {os.strerror(number)}; use fewer with Session(..., threads=n)"
        )
    _libc().pthread_setname_np(thread, _NAME)
    return thread.value
