"""Trials in a process of their own: compiled code that crashes or never ends is a result, not the end.

The process runs this module (see targets/cpu/workers.py for why not `multiprocessing`) and lives until a trial kills
it. A message is its length in 8 bytes and a pickle; functions in it, passes and checks, go by their names, so the
process gets this one's module search path.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import subprocess
import sys
from time import monotonic
from types import TracebackType
from typing import IO, Any

from ingot.compiler.debug.failure import Failure
from ingot.compiler.debug.trial import Arrays, Source, Trial, attempt

_LENGTH = struct.Struct("<Q")


class SandboxError(RuntimeError):
    """The process of the trials cannot be used; the message says why."""


class Sandbox:
    """`attempt` in another process, at most `seconds` each. Use it as a context manager."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            assert process.stdin is not None and process.stdout is not None
            for stream in (process.stdin, process.stdout):
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
            process.wait()

    def attempt(self, trial: Trial, model: Source, data: Arrays | None = None) -> Failure | None:
        """See `trial.attempt`; "crash" and "hang" are among the failures here. Raises SandboxError where the process
        cannot be told what to do, because a pass or check cannot be imported there."""
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None
        try:
            request = pickle.dumps((trial, model, data))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise SandboxError(f"a pass or check has no name that it can be imported by: {error}") from error
        try:
            _send(process.stdin, request)
            answer = _receive(process.stdout, self.seconds)
        except TimeoutError:
            self.close()
            return Failure("hang", "", f"not done after {self.seconds:g} s")
        except (BrokenPipeError, EOFError):
            process.wait()
            code = process.returncode
            self.close()
            died = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            return Failure("crash", died, f"the process died of {died}")
        if isinstance(answer, SandboxError):
            raise answer
        return answer


def _start() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        process_group=0,  # an interrupt from the keyboard reaches the caller alone
    )


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes], seconds: float) -> Any:
    """The next message of an unbuffered pipe. Raises EOFError at its end, TimeoutError."""
    deadline = monotonic() + seconds

    def read(count: int) -> bytes:
        pieces: list[bytes] = []
        while count:
            if not select.select([stream], [], [], max(deadline - monotonic(), 0.0))[0]:
                raise TimeoutError
            piece = os.read(stream.fileno(), min(count, 2**20))
            if not piece:
                raise EOFError
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    return pickle.loads(read(_LENGTH.unpack(read(_LENGTH.size))[0]))


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer each (trial, model, data) with its failure or None until the requests end."""
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        request = requests.read(_LENGTH.unpack(head)[0])
        answer: Failure | SandboxError | None
        try:
            trial, model, data = pickle.loads(request)
        except Exception as error:
            answer = SandboxError(f"a pass or check cannot be imported in another process: {error}")
        else:
            answer = attempt(trial, model, data)
        _send(answers, pickle.dumps(answer))


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what passes and libraries print is no answer
    try:
        serve(sys.stdin.buffer, channel)
    except BrokenPipeError:
        os._exit(1)
