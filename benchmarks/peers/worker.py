"""A process that runs one peer: ``python -m benchmarks.peers.worker NAME CPU,CPU...``, in the peer's environment.

Requests come as lines of JSON on standard input, each is answered by one line on standard output. Arrays go through
.npz files. What the peer itself prints goes to standard error.

    {"call": "load", "model": FILE, "inputs": FILE, "threads": N, "folder": FOLDER} -> {"version": V, "seconds": S}
    {"call": "run", "count": K}                                                     -> {"seconds": [S, ...]}
    {"call": "outputs", "file": FILE}                                               -> {"outputs": N}

Anything may be answered by ``{"error": REASON}``, one line. Inputs are fixed when the model is loaded; a run goes from
numpy arrays to numpy arrays. The outputs of a file are called 0, 1, ... in the model's order. The end of standard input
ends the process.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.peers.jobs import Call, Job

_PR_SET_PDEATHSIG = 1
LOCAL = ("ingot", "onnxruntime", "openvino")
"""What `benchmarks.peers.engines.local` runs, from this environment."""


class Worker:
    """The peer and the model that it has loaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.call: Call | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a request is answered by; whatever the peer raises is passed on."""
        match request:
            case {"call": "load", "model": model, "inputs": inputs, "threads": threads, "folder": folder}:
                return self.load(Path(model), Path(inputs), int(threads), Path(folder))
            case {"call": "run", "count": count} if self.call is not None:
                return {"seconds": timed(self.call, int(count))}
            case {"call": "outputs", "file": file} if self.call is not None:
                outputs = self.call()
                np.savez(file, *(np.asarray(value) for value in outputs))
                return {"outputs": len(outputs)}
            case {"call": "run" | "outputs"}:
                raise ValueError("no model is loaded")
            case _:
                raise ValueError(f"not a request: {json.dumps(request)}")

    def load(self, model: Path, inputs: Path, threads: int, folder: Path) -> dict[str, Any]:
        """Make a model ready in place of the one before."""
        self.call = None
        with np.load(inputs) as data:
            arrays = {key: data[key] for key in data.files}
        started = time.perf_counter()
        job = Job(model, arrays, threads, folder)
        local = self.name in LOCAL
        module = importlib.import_module(f"benchmarks.peers.engines.{'local' if local else f'{self.name}_peer'}")
        self.call = module.prepare(self.name, job) if local else module.prepare(job)
        seconds = time.perf_counter() - started
        return {"version": module.version(self.name) if local else module.version(), "seconds": seconds}


def timed(call: Call, count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def one_line(error: BaseException) -> str:
    """What an error says, in a line: the first that says something, and the next where that announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    announced = len(lines) > 1 and lines[0].endswith(":")
    return (" ".join(lines[: 1 + announced]) or type(error).__name__)[:300]


def serve(name: str, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more."""
    worker = Worker(name)
    for line in requests:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # whatever the peer raises is its answer
            answer = {"error": one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def end_with_parent() -> None:
    """Be killed when the process that started this one ends, however it ends: a stopped one would stay (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Command line."""
    end_with_parent()
    name, cpus = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    # Native libraries print where they like: the answers get a descriptor of their own, all else goes to the errors.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        serve(name, sys.stdin, answers)


if __name__ == "__main__":
    main()
