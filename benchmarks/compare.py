"""Latency of Ingot beside ONNX Runtime and OpenVINO.

    python -m benchmarks.compare [--threads 1,2] [--groups demo,real,zoo] [--models digits]

All engines get the same inputs, precision (f32) and number of threads; rounds are interleaved. The error is the largest
absolute difference from ONNX Runtime over the largest absolute output. An engine that refuses a model is said to.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import GROUPS, Case, cases, missing
from ingot.compiler import compile
from ingot.compiler.bench import engines
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import PEERS, Engine, MissingEngineError
from ingot.compiler.bench.interleave import Timing, interleave
from ingot.compiler.frontend.errors import ModelError


def measure(
    case: Case, artifact: Path, threads: int, peers: Sequence[str], *, rounds: int, bound: bool
) -> dict[str, Any]:
    """One row of the table: seconds per run and error per engine."""
    inputs = dict(case.inputs())
    ready: dict[str, Engine] = {"ingot": engines.ingot(artifact, threads)}
    refused: dict[str, str] = {}
    for name in peers:
        try:
            ready[name] = PEERS[name](case.path, threads)
            ready[name].run(inputs)
        except MissingEngineError:
            raise
        except Exception as error:  # whatever a peer raises for a model that it does not take
            ready.pop(name, None)
            refused[name] = str(error).strip().splitlines()[0]
    # Copied: an engine may give views of memory that its next run overwrites.
    outputs = {name: {k: np.array(v) for k, v in engine.run(inputs).items()} for name, engine in ready.items()}
    want = outputs.get("onnxruntime", outputs["ingot"])
    calls: dict[str, Callable[[], object]] = {name: partial(engine.run, inputs) for name, engine in ready.items()}
    if bound:
        for name, engine in ready.items():
            if engine.bound is not None:
                calls[f"{name} (bound)"] = engine.bound(inputs)
    times = interleave(calls, rounds=rounds)
    for engine in ready.values():
        engine.close()
    return {
        "model": case.name,
        "threads": threads,
        "milliseconds": {name: t.median * 1e3 for name, t in times.items()},
        "best_milliseconds": {name: t.best * 1e3 for name, t in times.items()},
        "speedup": speedups(times),
        "error": {name: relative_error(have, want) for name, have in outputs.items()},
        "versions": {engine.name: engine.version for engine in ready.values()},
        "refused": refused,
    }


def measured(
    case: Case, target: str, threads: Sequence[int], peers: Sequence[str], *, rounds: int = 15, bound: bool = False
) -> Iterator[dict[str, Any]]:
    """The rows of a model, one for each number of threads; a model that Ingot refuses has one that says so."""
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
        artifact = Path(folder) / "model.ingot"
        try:
            compile(case.path, target=target).save(artifact)
        except ModelError as error:
            yield {"model": case.name, "refused": {"ingot": str(error).strip().splitlines()[0]}}
            return
        for count in threads:
            yield measure(case, artifact, count, peers, rounds=rounds, bound=bound)


def speedups(times: dict[str, Timing]) -> dict[str, float]:
    """How many times faster Ingot is than each peer (median over rounds)."""
    return {name: t.over(times["ingot"]) for name, t in times.items() if not name.startswith("ingot")}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | threads | Ingot ms | ONNX Runtime ms | OpenVINO ms | × ONNX Runtime | × OpenVINO | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "ingot" in row["refused"]:
            lines.append(f"| {row['model']} | – | refused: {row['refused']['ingot']} | – | – | – | – | – |")
            continue
        ms, speed = row["milliseconds"], row["speedup"]

        def cell(values: dict[str, float], key: str, form: str) -> str:
            return form.format(values[key]) if key in values else "–"

        lines.append(
            f"| {row['model']} | {row['threads']} | {cell(ms, 'ingot', '{:.3f}')} "
            f"| {cell(ms, 'onnxruntime', '{:.3f}')} | {cell(ms, 'openvino', '{:.3f}')} "
            f"| {cell(speed, 'onnxruntime', '{:.2f}')} | {cell(speed, 'openvino', '{:.2f}')} "
            f"| {row['error']['ingot']:.1e} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", help="thread counts, comma separated")
    parser.add_argument("--groups", default=",".join(GROUPS), help="demo, real, zoo; comma separated; default all")
    parser.add_argument("--models", default="", help="names (substrings) of models, comma separated; default all")
    parser.add_argument("--engines", default=",".join(PEERS), help="what Ingot is compared with, comma separated")
    parser.add_argument("--target", default="native", help="what Ingot compiles for")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bound", action="store_true", help="time calls on fixed buffers too")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.models.split(",") if name]
    rows: list[dict[str, Any]] = []
    for case in cases(*options.groups.split(",")):
        if wanted and not any(name in case.name for name in wanted):
            continue
        peers = [name for name in options.engines.split(",") if name]
        threads = [int(t) for t in options.threads.split(",")]
        for row in measured(case, options.target, threads, peers, rounds=options.rounds, bound=options.bound):
            rows.append(row)
            print(table(rows).splitlines()[-1], flush=True)
    if absent := missing():
        print(f"\nnot there: {', '.join(absent)}")
    print(f"\n{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
