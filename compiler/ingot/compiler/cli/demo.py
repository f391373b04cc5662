"""``ingot demo``: the model that comes with Ingot compiled, run, checked and timed, in one command."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.bench import engines
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import Engine, MissingEngineError
from ingot.compiler.bench.interleave import interleave
from ingot.compiler.cli.bench import verdict
from ingot.compiler.cli.console import Console, bytes_text, seconds_text, table
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.run import rounds_type, threads_type
from ingot.compiler.demo import held_out, model_path

HELP = "compile, run, check and time the model that comes with Ingot"

TOLERANCE = 1e-4
"""Largest difference from the reference, relative to the largest output."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--threads", type=threads_type, default=1, metavar="N", help="threads of a run (default: 1)")
    parser.add_argument("--target", default="cpu", help="what to compile for (see ingot compile)")
    parser.add_argument("--rounds", type=rounds_type, default=7, metavar="N", help="rounds to interleave (7)")


def execute(options: argparse.Namespace, console: Console) -> int:
    """All of it. Raises CommandError when the results differ from the reference evaluator's."""
    images, labels = held_out()
    progress = console.progress()
    with tempfile.TemporaryDirectory(prefix="ingot-demo-") as folder:
        artifact = Path(folder) / "digits.ingot"
        try:
            progress(f"compiling {model_path().name}")
            from ingot.compiler import compile

            compile(model_path(), target=options.target, progress=progress).save(artifact)
            compile_seconds = progress.seconds
            ready: list[Engine] = [engines.ingot(artifact, options.threads)]
            try:
                ready.append(engines.reference(model_path(), options.threads))
                with contextlib.suppress(MissingEngineError):
                    ready.append(engines.onnxruntime(model_path(), options.threads))
                progress(f"running {len(images)} samples on {', '.join(engine.name for engine in ready)}")
                results = {engine.name: engine.run({"image": images}) for engine in ready}
                progress("timing")
                one = {"image": images[:1]}
                calls = {engine.name: partial(engine.run, one) for engine in ready}
                times = interleave(calls, rounds=options.rounds, seconds=0.05)
            finally:
                for engine in ready:
                    engine.close()
        finally:
            progress.close()
        size = artifact.stat().st_size
    error = relative_error(results["ingot"], results["onnx.reference"])
    if not error <= TOLERANCE:
        raise CommandError(
            f"the compiled model differs from onnx.reference by {error:.1e}, {TOLERANCE:.0e} is allowed; "
            "please report this with the output of ingot inspect"
        )
    predicted: NDArray[np.int64] = results["ingot"]["logits"].argmax(1)
    correct = int(np.count_nonzero(predicted == labels))
    record: dict[str, Any] = {
        "model": model_path().name,
        "target": options.target,
        "threads": options.threads,
        "compile_seconds": compile_seconds,
        "artifact_bytes": size,
        "samples": len(labels),
        "correct": correct,
        "accuracy": correct / len(labels),
        "error": error,
        "same_predictions": bool(np.array_equal(predicted, results["onnx.reference"]["logits"].argmax(1))),
        "latency": [
            {
                "engine": engine.name,
                "version": engine.version,
                "median_seconds": times[engine.name].median,
                "times_ingot": 1.0 if engine.name == "ingot" else times[engine.name].over(times["ingot"]),
            }
            for engine in ready
        ],
    }
    console.result(record, _lines(record))
    return 0


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    size, seconds = bytes_text(record["artifact_bytes"]), seconds_text(record["compile_seconds"])
    yield f"compiled   {record['model']} (handwritten digits) to {size} of native code and weights in {seconds}"
    yield f"accuracy   {record['accuracy']:.1%} ({record['correct']} of {record['samples']} held-out samples)"
    same = "the same prediction for every sample" if record["same_predictions"] else "NOT the same predictions"
    yield f"agreement  {record['error']:.1e} from onnx.reference, relative to the largest output; {same}"
    yield f"latency    one sample, {record['threads']} thread(s), medians of interleaved rounds:"
    rows: list[tuple[str, ...]] = []
    for each in record["latency"]:
        name, version = each["engine"], each["version"]
        told = "" if name == "ingot" else f"ingot is {verdict(each['times_ingot'])}"
        rows.append(("          ", f"{name} {version}", seconds_text(each["median_seconds"]), told))
    yield from table(rows, right=(2,))
    if all(each["engine"] != "onnxruntime" for each in record["latency"]):
        yield "           (pip install 'ingot[bench]' to have it in this table)"
    yield ""
    yield "Try next:"
    yield "  ingot check model.onnx                        what of your model is supported"
    yield "  ingot compile model.onnx -o model.ingot       native code in one file"
    yield "  ingot run model.ingot --random                run it; numpy is all that this needs"
    yield "  ingot bench model.onnx --against onnxruntime  an honest comparison on this machine"
