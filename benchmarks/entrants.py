"""Engines made ready for a comparison, in this process or in one of their own, all behind the same calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.models import Case
from benchmarks.peers.catalogue import PEERS as APART
from benchmarks.peers.client import PeerError, Worker
from benchmarks.static import static
from ingot.compiler.bench import engines
from ingot.compiler.bench.engines import PEERS as GATING
from ingot.compiler.bench.engines import Arrays
from ingot.compiler.bench.interleave import Sampler, Timing, interleave_samplers, timed

TITLES: Mapping[str, str] = {
    "ingot": "Ingot",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    **{name: peer.title for name, peer in APART.items()},
}
"""All that can be compared, by name."""


@dataclass(frozen=True)
class Entrant:
    """An engine with a model and its inputs: runs are made through `sample`; `bound` gives what makes those on fixed
    buffers."""

    version: str
    outputs: Arrays
    sample: Sampler
    bound: Callable[[], Sampler] | None
    close: Callable[[], None]


def enter(
    name: str, case: Case, artifact: Path, threads: int, cpus: Sequence[int], folder: Path, *, limit: float = 900
) -> Entrant:
    """Make an engine ready; those of processes of their own run on `cpus`. `folder` keeps what such a peer makes of the
    model, for its next time with it; `limit` is how many seconds it may take for an answer. One that does not take the
    model is given it without what only computes shapes (`static`). Raises what the engine raises."""
    inputs = dict(case.inputs())
    if name in APART:
        try:
            return _apart(name, case.path, case, threads, cpus, folder / "whole", limit)
        except PeerError as error:
            try:
                model = static(case, folder.parent / "static")
                return _apart(name, model, case, threads, cpus, folder / "static", limit)
            except Exception:  # the first reason is the one that counts
                raise error from None
    # Not pinned: OpenVINO takes the processors that it finds first for all that there ever are.
    engine = engines.ingot(artifact, threads) if name == "ingot" else GATING[name](case.path, threads)
    # Copied: an engine may give views of memory that its next run overwrites.
    outputs = {key: np.array(value) for key, value in engine.run(inputs).items()}
    bind = engine.bound
    bound = (lambda: timed(bind(inputs))) if bind is not None else None
    return Entrant(engine.version, outputs, timed(partial(engine.run, inputs)), bound, engine.close)


def _apart(
    name: str, model: Path, case: Case, threads: int, cpus: Sequence[int], folder: Path, limit: float
) -> Entrant:
    worker = Worker(APART[name], cpus, limit=limit)
    try:
        worker.load(model, case.inputs(), threads, folder)
        return Entrant(worker.version, worker.outputs(), worker.run, None, worker.close)
    except BaseException:
        worker.close()
        raise


class _LostError(Exception):
    """An engine stopped working while it was timed."""


def race(samplers: Mapping[str, Sampler], rounds: int) -> tuple[dict[str, Timing], dict[str, str]]:
    """Timings of all that run to the end, and why the others do not: they are left out and the rest timed again."""
    running, lost = dict(samplers), dict[str, str]()

    def watched(name: str, sample: Sampler) -> Sampler:
        def checked(count: int) -> Sequence[float]:
            try:
                return sample(count)
            except PeerError as error:
                raise _LostError(name, str(error)) from error

        return checked

    while True:
        try:
            return interleave_samplers({n: watched(n, s) for n, s in running.items()}, rounds=rounds), lost
        except _LostError as error:
            name, reason = error.args
            del running[name]
            lost[name] = reason
