"""Many damaged files, one after the other, and what came of them."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np

from benchmarks.mutations.damage import damaged_bytes, damaged_message, structure
from benchmarks.mutations.models import sources
from benchmarks.mutations.trials import SECONDS, examine_artifact, examine_model
from ingot.compiler.api import compile
from ingot.compiler.debug.failure import Failure, message_shape
from ingot.compiler.debug.sandbox import Sandbox
from ingot.compiler.debug.trial import Trial
from ingot.compiler.frontend.onnx import load_onnx
from ingot.compiler.ir.graph import Array
from ingot.compiler.validate import make_probes
from ingot.runtime import Session


def mutants(kind: str, seed: int, count: int, workspace: Path) -> Iterator[tuple[str, bytes, dict[str, Array] | None]]:
    """`count` damaged files from `seed` on: a name, the bytes, and for artifacts what the trial needs beside them."""
    models = sources()
    names = list(models)
    places = {name: structure(data) for name, data in models.items()}
    kept: dict[str, tuple[bytes, dict[str, Array]]] = {}
    for number in range(seed, seed + count):
        name = names[number % len(names)]
        draw = random.Random(number)
        if kind == "model":
            data = models[name]
            changed = (
                damaged_bytes(data, draw, places[name]) if draw.random() < 0.5 else damaged_message(data, draw)
            )
            yield name, changed, None
            continue
        if name not in kept:
            kept[name] = _original(models[name], workspace)
        data, extra = kept[name]
        changed = damaged_bytes(data, draw, range(len(data)))
        yield name, models[name], {**extra, "artifact": np.frombuffer(changed, np.uint8)}


def _original(model: bytes, workspace: Path) -> tuple[bytes, dict[str, Array]]:
    graph = load_onnx(model)
    compile(graph, jobs=1).save(path := workspace / "original.ingot")
    inputs = make_probes(graph)[1]
    with Session(path, threads=1) as session:
        outputs = session.run(inputs)
    extra = {**{f"i{k}": v for k, v in inputs.items()}, **{f"o{k}": v for k, v in outputs.items()}}
    return path.read_bytes(), extra


def campaign(kind: str, seed: int, count: int, minutes: float, failures: Path | None) -> Counter[str]:
    """Try `count` mutants; how often each outcome came, "fine" for what is no failure."""
    counts: Counter[str] = Counter()
    known: set[str] = set()
    trial = Trial(check=examine_model if kind == "model" else examine_artifact)
    deadline = monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="ingot-mutations-") as folder, Sandbox(SECONDS) as sandbox:
        for number, (name, data, extra) in enumerate(mutants(kind, seed, count, Path(folder)), seed):
            if monotonic() > deadline:
                break
            failure = sandbox.attempt(trial, data, extra)
            counts["fine" if failure is None else failure.error or failure.kind] += 1
            if failure is None:
                continue
            shape = f"{failure.error} {message_shape(failure.message)}"
            if shape not in known:
                known.add(shape)
                print(f"{kind} {number} ({name}): {_short(failure)}", flush=True)
                if failures is not None:
                    failures.mkdir(parents=True, exist_ok=True)
                    file = failures / f"{kind}-{number}-{name}"
                    if extra is None:
                        file.with_suffix(".onnx").write_bytes(data)
                    else:
                        file.with_suffix(".ingot").write_bytes(extra["artifact"].tobytes())
    return counts


def _short(failure: Failure) -> str:
    text = str(failure)
    return text if len(text) < 600 else f"{text[:600]} ..."
