"""Latency of Ingot beside other engines.

    python -m benchmarks.compare [--threads 1,2] [--groups demo,real,zoo] [--models digits] [--engines openvino,tract]
    python -m benchmarks.compare --neighbour [--models minilm]

ONNX Runtime and OpenVINO gate; they run in this process. DeepSparse, ncnn, tract, PyTorch Inductor and IREE run each in
an environment and a process of its own (`python -m benchmarks.peers install`). All engines get the same inputs,
precision (f32), number of threads, and their best settings; runs go from numpy arrays to numpy arrays,
rounds are interleaved, medians are shown. Beside a time stands the error: the largest absolute difference from the
model in double precision (onnx.reference; ONNX Runtime where that is too dear) over the largest absolute output. An
engine without a figure has a note that says why.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import neighbour
from benchmarks.comparison import table
from benchmarks.entrants import TITLES, Entrant, enter, race
from benchmarks.models import GROUPS, Case, cases, further, missing
from benchmarks.peers.worker import one_line
from benchmarks.placement import processors
from benchmarks.precise import expected
from ingot.compiler import compile
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import Arrays
from ingot.compiler.bench.interleave import Timing
from ingot.compiler.frontend.errors import ModelError
from ingot.runtime import InputError, Session


@dataclass(frozen=True)
class Subject:
    """A model that Ingot has compiled, its work in MFLOP, what its outputs should be, and why these are not of double
    precision, if they are not."""

    case: Case
    artifact: Path
    mflop: float
    want: Arrays
    imprecise: str


def subject(case: Case, target: str, folder: Path) -> Subject:
    """Compile a model; raises ModelError for one that Ingot refuses."""
    artifact = folder / "model.ingot"
    compile(case.path, target=target).save(artifact)
    mflop = work(artifact, case)
    return Subject(case, artifact, mflop, *expected(case, mflop))


def work(artifact: Path, case: Case) -> float:
    """MFLOP of a run, two for each multiply-add; what depends on data does not count."""
    session = Session(artifact, threads=1)
    try:
        launches = session.profile(dict(case.inputs()), runs=1).launches
    finally:
        session.close()
    return sum(each.calls * each.flops for each in launches if each.flops is not None) / 1e6


def measure(
    given: Subject, threads: int, names: Sequence[str], folder: Path, *, rounds: int, bound: bool, limit: float
) -> dict[str, Any]:
    """One row: milliseconds, speedups and errors by engine. With `bound`, calls on fixed buffers are engines of their
    own, called ``ingot (bound)`` and so on."""
    case, cpus = given.case, processors(threads)
    ready: dict[str, Entrant] = {}
    refused: dict[str, str] = {}
    try:
        for name in ("ingot", *names):
            try:
                ready[name] = enter(name, case, given.artifact, threads, cpus, folder / name, limit=limit)
            except Exception as error:  # whatever a peer raises for a model that it does not take
                if name == "ingot":
                    raise
                refused[name] = one_line(error)
        samplers = {name: entrant.sample for name, entrant in ready.items()}
        for name, entrant in ready.items() if bound or case.bound else ():
            if entrant.bound is not None:
                try:
                    samplers[f"{name} (bound)"] = entrant.bound()
                except InputError as error:  # an output whose shape is known only after a run
                    refused[f"{name} (bound)"] = one_line(error)
        times, lost = race(samplers, rounds)
    finally:
        for entrant in ready.values():
            entrant.close()
    return {
        "model": case.name,
        "kind": case.kind,
        "quantised": case.quantised,
        "mflop": given.mflop,
        "tokens": case.tokens,
        "threads": threads,
        "milliseconds": {name: t.median * 1e3 for name, t in times.items()},
        "best_milliseconds": {name: t.best * 1e3 for name, t in times.items()},
        "speedup": speedups(times),
        "error": {name: relative_error(e.outputs, given.want) for name, e in ready.items()},
        "imprecise": given.imprecise,
        "versions": {name: e.version for name, e in ready.items()},
        "refused": refused | lost,
    }


def measured(
    case: Case,
    target: str,
    threads: Sequence[int],
    names: Sequence[str],
    *,
    rounds: int = 15,
    bound: bool = False,
    limit: float = 900,
) -> Iterator[dict[str, Any]]:
    """The rows of a model, one for each number of threads; a model that Ingot refuses has one that says so."""
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as made:
        folder = Path(made)
        try:
            given = subject(case, target, folder)
        except ModelError as error:
            yield {"model": case.name, "milliseconds": {}, "refused": {"ingot": one_line(error)}}
            return
        for count in threads:
            yield measure(given, count, names, folder, rounds=rounds, bound=bound, limit=limit)


def speedups(times: Mapping[str, Timing]) -> dict[str, float]:
    """How many times faster Ingot is than each peer (median over rounds); calls on fixed buffers among each other."""
    ours = {name: "ingot (bound)" if name.endswith(" (bound)") else "ingot" for name in times}
    return {name: t.over(times[ours[name]]) for name, t in times.items() if name != ours[name] and ours[name] in times}


def chosen(groups: Sequence[Any], wanted: Sequence[str]) -> tuple[Case, ...]:
    """The models of the groups, with all inputs, whose names have one of the `wanted` in them, if there are any."""
    found = (*cases(*groups), *further(*groups))
    return tuple(case for case in found if not wanted or any(name in case.name for name in wanted))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="thread counts, comma separated")
    parser.add_argument("--groups", default=",".join(GROUPS), help="demo, real, zoo; comma separated; default all")
    parser.add_argument("--models", default="", help="names (substrings) of models, comma separated; default all")
    peers = [name for name in TITLES if name != "ingot"]
    parser.add_argument("--engines", default=",".join(peers), help="what Ingot is compared with; default all")
    parser.add_argument("--target", default="native", help="what Ingot compiles for")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=900, help="seconds that a peer may take for an answer (900)")
    parser.add_argument("--bound", action="store_true", help="time calls on fixed buffers of all models")
    parser.add_argument("--neighbour", action="store_true", help="two threads while another process takes a processor")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    names = [name for name in options.engines.split(",") if name]
    if unknown := [name for name in names if name not in peers]:
        parser.error(f"there is no engine {', '.join(unknown)}; there are {', '.join(peers)}")
    threads = [int(count) for count in options.threads.split(",")]
    shown = neighbour.table if options.neighbour else partial(table, names=names)
    rows: list[dict[str, Any]] = []
    for case in chosen(options.groups.split(","), [name for name in options.models.split(",") if name]):
        if options.neighbour:
            made = neighbour.measured(case, options.target, names, rounds=options.rounds, limit=options.limit)
        else:
            made = measured(
                case, options.target, threads, names, rounds=options.rounds, bound=options.bound, limit=options.limit
            )
        for row in made:
            rows.append(row)
            print("\n".join(shown([row]).splitlines()[2:]), flush=True)
    if absent := missing():
        print(f"\nnot there: {', '.join(absent)}")
    print(f"\n{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print(shown(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
