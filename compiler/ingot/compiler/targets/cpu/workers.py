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
from collections.abc import Callable, Sequence
from typing import IO, Any

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import compile_kernel

_LENGTH = struct.Struct("<Q")


class WorkerError(RuntimeError):
    """A compiling process ended before it answered."""


def compile_in_processes(kernels: Sequence[Kernel], level: Level, jobs: int, done: Callable[[], None]) -> list[bytes]:
    """The objects of `kernels` in order, compiled by `jobs` processes; `done` is called after each, one call at a time.

    Raises IrError for a malformed kernel, WorkerError when a process dies.
    """
    objects: dict[int, bytes] = {}
    failures: list[Exception] = []
    waiting = list(range(len(kernels)))[::-1]
    lock = threading.Lock()

    def next_kernel() -> int | None:
        with lock:
            return waiting.pop() if waiting and not failures else None

    def feed() -> None:
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
            while (index := next_kernel()) is not None:
                try:
                    _send(requests, (kernels[index], level))
                    answer = _receive(process.stdout)
                except OSError:
                    answer = None
                with lock:
                    if isinstance(answer, bytes):
                        objects[index] = answer
                        done()
                        continue
                    if not isinstance(answer, IrError):
                        name = kernels[index].name
                        answer = WorkerError(f"the process compiling kernel {name} ended with an error (see above)")
                    failures.append(answer)

    threads = [threading.Thread(target=feed, daemon=True) for _ in range(min(jobs, len(kernels)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [objects[index] for index in range(len(kernels))]


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer (kernel, level) with the object, or with the IrError it raised, until the requests end."""
    while (request := _receive(requests)) is not None:
        kernel, level = request
        try:
            _send(answers, compile_kernel(kernel, level))
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
