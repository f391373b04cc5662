"""Kernels compiled in several processes at a time.

llvmlite holds one lock around LLVM, so threads gain nothing. The processes run this module instead of using
`multiprocessing`, which would import the caller's main module again and fail in a script without a main guard.
A message is its length in 8 bytes and a pickle, over pipes between a process and its own children.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, Any, TypeAlias

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import compile_kernel, kernel_text

Order: TypeAlias = tuple[Kernel, bool]  # a kernel, and whether its code is to be optimised

KERNELS_A_CHILD = 8  # starting a process takes about as long as compiling three

_READY = "ready"
_LENGTH = struct.Struct("<Q")


class WorkerError(RuntimeError):
    """A compiling process ended before it answered."""


class _Queue:
    """Kernels that wait; if they are `shared` by processes, those expected to take longest come first. Nothing is given
    out after a failure."""

    def __init__(self, kernels: Mapping[str, Order], *, shared: bool) -> None:
        self._waiting = list(kernels.items())
        if shared:  # an expression tree is about as much to emit and to compile as it is long
            self._waiting.sort(key=lambda item: (item[1][1], len(kernel_text(item[1][0])), item[0]))
        self._lock = threading.Lock()
        self.failures: list[BaseException] = []

    def next(self) -> tuple[str, Order] | None:
        with self._lock:
            return self._waiting.pop() if self._waiting and not self.failures else None

    def report(self, done: Callable[[], None]) -> None:
        with self._lock:
            done()


def compile_kernels(kernels: Mapping[str, Order], level: Level, jobs: int, done: Callable[[str, bytes], None]) -> None:
    """Compile `kernels` with `jobs` processes, this one included; `done` is given each one's name and object, one call
    at a time. Where kernels are few, fewer processes are started: each costs some of the time that it saves. What is
    not to be optimised does not count, so little time does it take.

    Raises IrError for a malformed kernel, WorkerError when a process dies.
    """
    children = min(jobs - 1, sum(optimise for _, optimise in kernels.values()) // KERNELS_A_CHILD)
    queue = _Queue(kernels, shared=children > 0)
    threads = [threading.Thread(target=_feed, args=(queue, level, done), daemon=True) for _ in range(children)]
    for thread in threads:
        thread.start()
    try:
        while (item := queue.next()) is not None:
            name, (kernel, optimise) = item
            made = compile_kernel(kernel, level, optimise=optimise, name=name)
            queue.report(partial(done, name, made))
    except BaseException as error:
        queue.failures.insert(0, error)  # so that the children stop
        raise
    finally:
        for thread in threads:
            thread.join()
    if queue.failures:
        raise queue.failures[0]


def _feed(queue: _Queue, level: Level, done: Callable[[str, bytes], None]) -> None:
    """Let a process of its own compile kernels of the queue."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    # In a process group of their own, so that an interrupt from the keyboard reaches the caller alone.
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        process_group=0,
    )
    assert process.stdin is not None and process.stdout is not None
    with process, process.stdin as requests:
        if _receive(process.stdout) != _READY:  # what it would take before, others do sooner
            queue.failures.append(WorkerError("a process that compiles kernels ended while it started (see above)"))
        while (item := queue.next()) is not None:
            name, (kernel, optimise) = item
            try:
                _send(requests, (kernel, level, optimise))
                answer = _receive(process.stdout)
            except OSError:
                answer = None
            try:
                if isinstance(answer, bytes):
                    queue.report(partial(done, name, answer))
                elif isinstance(answer, IrError):
                    raise answer
                else:
                    raise WorkerError(f"the process compiling kernel {kernel.name} ended with an error (see above)")
            except BaseException as error:  # for the thread that waits, whatever it is
                queue.failures.append(error)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Say `_READY` to begin with; then answer (kernel, level, optimise) with the object, or with the IrError it raised,
    until the requests end."""
    _send(answers, _READY)
    while (request := _receive(requests)) is not None:
        kernel, level, optimise = request
        try:
            _send(answers, compile_kernel(kernel, level, optimise=optimise))
        except IrError as error:
            _send(answers, IrError(str(error)))


def _send(stream: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next message, None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return pickle.loads(stream.read(_LENGTH.unpack(head)[0]))


if __name__ == "__main__":
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(1)  # the caller is gone: nobody to tell, nothing to flush
