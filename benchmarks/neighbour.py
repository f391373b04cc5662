"""Two threads where another process takes one of the two processors: they should not be slower than one thread alone.

For each engine one thread alone, two threads alone and two threads beside a process that computes without end on the
first of their processors, in turns; what is alone has the machine to itself as far as this program is concerned.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.entrants import TITLES, Entrant, enter, race
from benchmarks.models import Case
from benchmarks.peers.client import ROOT
from benchmarks.peers.worker import one_line
from benchmarks.placement import processors
from ingot.compiler import compile
from ingot.compiler.bench.interleave import Sampler
from ingot.compiler.frontend.errors import ModelError

_BUSY = """
import os, sys
from benchmarks.peers.worker import end_with_parent
end_with_parent()
os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
while True: pass
"""


class Neighbour:
    """A process that computes without end on `processor`, but only within `busy`."""

    def __init__(self, processor: int) -> None:
        command = (sys.executable, "-c", _BUSY, str(processor))
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=ROOT)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it is where it should be
        self._process.send_signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """Let it compute."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def beside(self, sample: Sampler) -> Sampler:
        """The same runs while it computes."""

        def on(count: int) -> Sequence[float]:
            with self.busy():
                return sample(count)

        return on

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def measured(case: Case, target: str, names: Sequence[str], *, rounds: int, limit: float) -> Iterator[dict[str, Any]]:
    """The row of a model; one that Ingot refuses has one that says so. Raises RuntimeError where there are no two
    processors."""
    if len(os.sched_getaffinity(0)) < 2:
        raise RuntimeError("two threads beside a neighbour need two processors; this process may use one")
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as made:
        folder = Path(made)
        artifact = folder / "model.ingot"
        try:
            compile(case.path, target=target).save(artifact)
        except ModelError as error:
            yield {"model": case.name, "milliseconds": {}, "refused": {"ingot": one_line(error)}}
            return
        yield measure(case, artifact, names, folder, rounds=rounds, limit=limit)


def measure(
    case: Case, artifact: Path, names: Sequence[str], folder: Path, *, rounds: int, limit: float
) -> dict[str, Any]:
    """The row of a model that Ingot has compiled: milliseconds of ``one``, ``two`` and ``beside`` by engine, and the
    gain of the last over the first."""
    taken, free = processors(2)
    neighbour = Neighbour(taken)
    refused: dict[str, str] = {}
    ready: list[Entrant] = []
    samplers: dict[str, Sampler] = {}
    try:
        for name in ("ingot", *names):
            try:
                one = enter(name, case, artifact, 1, (free,), folder / name, limit=limit)
                ready.append(one)
                two = enter(name, case, artifact, 2, (taken, free), folder / name, limit=limit)
                ready.append(two)
            except Exception as error:  # whatever a peer raises for a model that it does not take
                if name == "ingot":
                    raise
                refused[name] = one_line(error)
                continue
            samplers |= {f"{name} one": one.sample, f"{name} two": two.sample}
            samplers[f"{name} beside"] = neighbour.beside(two.sample)
        times, lost = race(samplers, rounds)
    finally:
        neighbour.close()
        for entrant in ready:
            entrant.close()
    refused |= {key.partition(" ")[0]: why for key, why in lost.items()}
    there = [name for name in ("ingot", *names) if name not in refused]
    kinds = ("one", "two", "beside")
    return {
        "model": case.name,
        "milliseconds": {name: {kind: times[f"{name} {kind}"].median * 1e3 for kind in kinds} for name in there},
        "gain": {name: times[f"{name} one"].over(times[f"{name} beside"]) for name in there},
        "refused": refused,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a model and engine, as a Markdown table; a gain below 1 is a loss."""
    lines = [
        "| model | engine | one thread ms | two threads ms | two, one processor taken ms | gain over one thread |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, title in TITLES.items():
            if name in row["refused"]:
                escaped = row["refused"][name].replace("|", "\\|")
                lines.append(f"| {row['model']} | {title} | – | – | – | {escaped} |")
            elif name in row["milliseconds"]:
                ms = row["milliseconds"][name]
                cells = " | ".join(f"{ms[kind]:.3f}" for kind in ("one", "two", "beside"))
                lines.append(f"| {row['model']} | {title} | {cells} | {row['gain'][name]:.2f} |")
    return "\n".join(lines)
