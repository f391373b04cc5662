"""A peer's process as seen from here: started, asked, stopped between its turns, ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import environments
from benchmarks.peers.catalogue import Peer

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 1 << 24  # bytes of an answer


class PeerError(RuntimeError):
    """The peer does not do what it was asked; the message says why, in one line."""


class Worker:
    """A process that runs `peer` on `cpus` only. It is stopped (SIGSTOP) when it is not asked anything, so that threads
    that spin after a run do not slow down whoever is next. `limit` is how many seconds an answer may take.

    Raises NotInstalledError if the peer has no environment."""

    def __init__(self, peer: Peer, cpus: Sequence[int], *, limit: float = 900) -> None:
        interpreter = environments.python(peer)
        self.peer, self.version = peer, peer.version
        self._limit = limit
        self._folder = Path(tempfile.mkdtemp(prefix=f"ingot-{peer.name}-"))
        path = os.pathsep.join((str(ROOT), *([] if peer.installs else [os.environ.get("PYTHONPATH", "")])))
        variables = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(len(cpus))}
        with (self._folder / "errors").open("wb") as errors:
            self._process = subprocess.Popen(
                (str(interpreter), "-m", "benchmarks.peers.worker", peer.name, ",".join(map(str, cpus))),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._folder,
                env={**os.environ, **variables, **peer.variables},
                start_new_session=True,
            )
        self._rest = b""

    def load(self, model: Path, inputs: Mapping[str, NDArray[Any]], threads: int, folder: Path) -> float:
        """Make the model ready; the seconds that took. `folder` keeps what the peer makes of the model."""
        folder.mkdir(parents=True, exist_ok=True)
        feed = self._folder / "inputs.npz"
        np.savez(feed, **dict[str, Any](inputs))
        asked = {"model": str(model.resolve()), "inputs": str(feed), "folder": str(folder.resolve())}
        answer = self.ask(call="load", threads=threads, **asked)
        self.version = str(answer["version"])
        return float(answer["seconds"])

    def run(self, count: int) -> list[float]:
        """Seconds of each of `count` runs."""
        return [float(seconds) for seconds in self.ask(call="run", count=count)["seconds"]]

    def outputs(self) -> dict[str, NDArray[Any]]:
        """The outputs in the model's order, called 0, 1, ..."""
        file = self._folder / "outputs.npz"
        count = int(self.ask(call="outputs", file=str(file))["outputs"])
        with np.load(file) as data:
            return {str(number): data[f"arr_{number}"] for number in range(count)}

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request; raises PeerError when there is none or when it is an error."""
        if self._process.poll() is not None:
            raise PeerError(self._end())
        self._signal(signal.SIGCONT)
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise PeerError(self._end()) from None
        answer = json.loads(self._line(time.monotonic() + self._limit))
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise PeerError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the process and everything that it started."""
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _line(self, deadline: float) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._kill()  # a late answer would be taken for that to the next request
                    raise PeerError(f"took more than {self._limit:.0f} s")
                data = os.read(pipe.fileno(), 1 << 16)
                if not data or len(self._rest) > LONGEST:
                    raise PeerError(self._end())
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _end(self) -> str:
        """How the process ended, and its last words."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its output"
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        words = (self._folder / "errors").read_text(errors="replace").strip().splitlines()
        return f"{how}: {words[-1].strip()[:300]}" if words else how

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To the process and what it started. Until it is waited for, its number is nobody else's."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def call(peer: Peer, module: str, *arguments: str, limit: float = 1800) -> str:
    """What ``python -m module`` of this checkout writes in the peer's environment, in `limit` seconds at most.

    Raises NotInstalledError where there is none, PeerError where it fails."""
    command = (str(environments.python(peer)), "-m", module, *arguments)
    variables = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **peer.variables}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False, env={**os.environ, **variables}
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"took more than {limit:.0f} s") from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        raise PeerError(words[-1].strip()[:300])
    return done.stdout
