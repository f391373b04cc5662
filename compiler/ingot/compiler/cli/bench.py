"""``ingot bench``: the latency of a model beside that of other runtimes, whoever wins."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ingot.compiler.bench import engines
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import PEERS, Engine, MissingEngineError
from ingot.compiler.bench.interleave import interleave
from ingot.compiler.cli.artifacts import (
    Arrays,
    concrete_shapes,
    is_artifact,
    random_arrays,
    read_arrays,
    read_artifact,
)
from ingot.compiler.cli.console import Console, Progress, seconds_text, table
from ingot.compiler.cli.failures import CommandError, one_line
from ingot.compiler.cli.profile import require_code
from ingot.compiler.cli.run import rounds_type, threads_type
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.runtime.cpu import processor_name
from ingot.runtime.inputs import describe

HELP = "time a model or an artifact, beside other runtimes"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="an .onnx file, which is compiled first, or an .ingot file")
    parser.add_argument(
        "--against",
        type=_peers,
        metavar="NAMES",
        help=f"other runtimes, comma separated: {', '.join(PEERS)}, or none (default: those that are installed)",
    )
    parser.add_argument(
        "--model", dest="peer_model", type=Path, metavar="M.onnx", help="the model of an artifact, for the others"
    )
    parser.add_argument("--threads", type=_thread_counts, default=None, metavar="1,2", help="default: 1 and all cores")
    parser.add_argument("--target", default="native", help="what an .onnx is compiled for (default: this machine)")
    parser.add_argument("--input", action="append", default=[], metavar="FILE", help="as for ingot run (random)")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="DIMS", help=f"dims of random inputs: {SHAPE_HELP}"
    )
    parser.add_argument("--rounds", type=rounds_type, default=15, metavar="N", help="rounds to interleave (15)")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Compile where needed, time, compare."""
    path: Path = options.model
    if not path.is_file():
        raise CommandError(f"{path}: there is no such file" if not path.exists() else f"{path}: not a file")
    given = is_artifact(path)
    model: Path | None = options.peer_model if given else path
    wanted: tuple[str, ...] = options.against if options.against is not None else tuple(PEERS)
    if given and model is None:
        if options.against:
            raise CommandError(f"{path} is an artifact: the other runtimes need its model, give it with --model")
        wanted = ()
    missing: list[str] = []
    for name in wanted:
        try:
            engines.require(name)
        except MissingEngineError as error:
            if options.against is not None:
                raise
            missing.append(str(error))
    peers = {name: PEERS[name] for name in wanted if not any(line.startswith(f"{name} ") for line in missing)}

    progress = console.progress()
    with tempfile.TemporaryDirectory(prefix="ingot-bench-") as folder:
        artifact, compile_seconds = path, None
        try:
            if not given:
                artifact = Path(folder) / "model.ingot"
                compile_seconds = _compile(path, artifact, options.target, progress)
            manifest, _ = read_artifact(artifact)
            arrays = read_arrays(options.input, describe(manifest.inputs))
            arrays = random_arrays(manifest, concrete_shapes(manifest, options.shape), 0) | arrays
            results: list[dict[str, Any]] = []
            for threads in options.threads or sorted({1, len(os.sched_getaffinity(0))}):
                ready: dict[str, Engine] = {"ingot": engines.ingot(artifact, threads)}
                try:
                    for name, open_engine in peers.items():
                        progress(f"{threads} thread(s): preparing {name}")
                        try:
                            ready[name] = open_engine(model or path, threads)
                        except Exception as error:  # whatever another runtime raises
                            missing.append(f"{name} cannot load the model: {one_line(str(error))}")
                    results += measure(ready, arrays, threads, options.rounds, progress, missing)
                finally:
                    for engine in ready.values():
                        engine.close()
        finally:
            progress.close()
        record: dict[str, Any] = {
            "model": path,
            "target": manifest.target,
            "compile_seconds": compile_seconds,
            "inputs": {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()},
            "machine": _machine(),
            "rounds": options.rounds,
            "results": results,
            "missing": list(dict.fromkeys(missing)),
        }
    console.result(record, _lines(record))
    return 0


def measure(
    ready: Mapping[str, Engine], arrays: Arrays, threads: int, rounds: int, progress: Progress, failed: list[str]
) -> list[dict[str, Any]]:
    """One record an engine: seconds a run, ratio to Ingot, error against it. Engines that fail are told in `failed`."""
    outputs: dict[str, Arrays] = {}
    for name, engine in ready.items():
        try:
            # Copied: an engine may give views of memory that its next run overwrites.
            outputs[name] = {key: np.array(value) for key, value in engine.run(arrays).items()}
        except Exception as error:
            if name == "ingot":
                raise
            failed.append(f"{name} cannot run the model: {one_line(str(error))}")
    progress(f"{threads} thread(s): timing {', '.join(outputs)}")
    times = interleave({name: partial(ready[name].run, arrays) for name in outputs}, rounds=rounds)
    return [
        {
            "threads": threads,
            "engine": name,
            "version": ready[name].version,
            "median_seconds": times[name].median,
            "best_seconds": times[name].best,
            "times_ingot": 1.0 if name == "ingot" else times[name].over(times["ingot"]),
            "error": None if name == "ingot" else relative_error(outputs["ingot"], outputs[name]),
        }
        for name in outputs
    ]


def _compile(model: Path, artifact: Path, target: str, progress: Progress) -> float:
    from ingot.compiler import compile

    require_code(target)
    progress(f"compiling {model}")
    started = progress.seconds
    compile(model, target=target, progress=progress).save(artifact)
    return progress.seconds - started


def _machine() -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    inputs = ", ".join(f"{name} {each['dtype']}{each['shape']}" for name, each in record["inputs"].items())
    compiled = f", compiled in {record['compile_seconds']:.1f} s" if record["compile_seconds"] is not None else ""
    yield f"{record['model']} for {record['target']}{compiled}; {inputs}"
    machine = record["machine"]
    yield f"{machine['processor']}, {machine['cpus']} CPUs; medians of {record['rounds']} interleaved rounds"
    yield ""
    rows = [("threads", "engine", "version", "median", "best", "ingot is", "difference")]
    for each in record["results"]:
        rows.append(
            (
                str(each["threads"]),
                each["engine"],
                each["version"],
                seconds_text(each["median_seconds"]),
                seconds_text(each["best_seconds"]),
                "" if each["engine"] == "ingot" else verdict(each["times_ingot"]),
                "" if each["error"] is None else f"{each['error']:.1e}",
            )
        )
    yield from table(rows, right=(0, 3, 4, 5, 6))
    for line in record["missing"]:
        yield ""
        yield f"left out: {line}"


def verdict(ratio: float) -> str:
    """How Ingot compares to an engine that takes `ratio` times as long: a loss is told like a win."""
    times = max(ratio, 1 / ratio)
    return f"{times:.{2 if times < 100 else 0}f} × {'faster' if ratio >= 1 else 'slower'}"


def _peers(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in PEERS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: there are {', '.join(PEERS)}, and none")
    return tuple(dict.fromkeys(names))


def _thread_counts(text: str) -> Sequence[int]:
    return tuple(dict.fromkeys(threads_type(part) for part in text.split(",")))
