"""Compile time, artifact size, start-up and memory, beside ONNX Runtime and OpenVINO.

    python -m benchmarks.footprint [--models digits]

Every figure comes from a fresh process: seconds from the interpreter's start to the first output (imports included),
milliseconds from the libraries being imported to a session that is ready, the first run beside the best of later ones,
and the peak resident memory of that process. Compile figures are those of a process that compiles with two jobs, once
with an empty kernel cache and once with what that has left there; the peak is the larger of this process's and that of
the ones it started.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import Case, cases

_CHILD = """
import json, sys, time
started = time.perf_counter()
import numpy as np
engine, path, feed = sys.argv[1:4]
inputs = dict(np.load(feed))
if engine == "ingot":
    from ingot.runtime import Session
    begun = time.perf_counter()
    session = Session(path, threads=1)
    run = lambda: session.run(inputs)
elif engine == "onnxruntime":
    import onnxruntime as ort
    begun = time.perf_counter()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    run = lambda: session.run(None, inputs)
else:
    import openvino as ov
    begun = time.perf_counter()
    config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    request = ov.Core().compile_model(path, "CPU", config).create_infer_request()
    run = lambda: request.infer(inputs, share_inputs=True)
ready = time.perf_counter()
run()
first = time.perf_counter()
later = []
while len(later) < 3 or (len(later) < 50 and time.perf_counter() - first < 0.3):
    at = time.perf_counter()
    run()
    later.append(time.perf_counter() - at)
# Of this program alone: what getrusage says includes the process that started it.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "ready": ready - begun, "first_run": first - ready, "steady": min(later), "total": first - started,
    "first_to_steady": (first - ready) / min(later),
    "peak_mb": peak / 1024,
}))
"""

_COMPILE = """
import json, resource, sys, time
if __name__ == "__main__":
    started = time.perf_counter()
    from ingot.compiler import compile
    compile(sys.argv[1], target=sys.argv[3], jobs=2).save(sys.argv[2])
    took = time.perf_counter() - started
    # What getrusage tells of a process itself begins with its parent's peak.
    own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    use = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps({"seconds": took, "peak_mb": use / 1024}))
"""


def _child(source: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    environment = {**os.environ, "OPENVINO_TELEMETRY_ENABLED": "0", **variables}
    done = subprocess.run(
        [sys.executable, str(source), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(case: Case, target: str, runs: int = 5) -> dict[str, Any]:
    """The figures of one model: compile, sizes, and per engine the medians over `runs` fresh processes, which take
    turns."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        compiler, child, artifact, feed = (place / n for n in ("compile.py", "child.py", "model.ingot", "feed.npz"))
        compiler.write_text(_COMPILE)
        child.write_text(_CHILD)
        np.savez(feed, allow_pickle=False, **case.inputs())
        asked = (str(case.path), str(artifact), target)
        cold, again = (_child(compiler, *asked, INGOT_CACHE=str(place / "cache")) for _ in range(2))
        row: dict[str, Any] = {"model": case.name, "compile": cold["seconds"], "compile_again": again["seconds"]}
        row["compile_peak_mb"] = cold["peak_mb"]
        row["onnx_mb"], row["artifact_mb"] = case.path.stat().st_size / 1e6, artifact.stat().st_size / 1e6
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(runs):
            for engine, path in (("ingot", artifact), ("onnxruntime", case.path), ("openvino", case.path)):
                if engine in row:
                    continue
                try:
                    found.setdefault(engine, []).append(_child(child, engine, str(path), str(feed)))
                except RuntimeError as error:
                    row[engine] = {"error": str(error)}
        for engine, figures in found.items():
            row.setdefault(engine, {k: sorted(each[k] for each in figures)[len(figures) // 2] for k in figures[0]})
        return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table; cells with three figures are Ingot / ONNX Runtime / OpenVINO."""
    columns = ["model", "ONNX MB", "artifact MB", "compile s", "again s", "compile peak MB", "first output s"]
    columns += ["ready ms", "first run / steady", "peak MB"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    engines = ("ingot", "onnxruntime", "openvino")
    for row in rows:

        def across(key: str, form: str, scale: float = 1.0, row: dict[str, Any] = row) -> str:
            return " / ".join(form.format(row[e][key] * scale) if key in row[e] else "–" for e in engines)

        lines.append(
            f"| {row['model']} | {row['onnx_mb']:.2f} | {row['artifact_mb']:.2f} | {row['compile']:.1f} "
            f"| {row['compile_again']:.1f} | {row['compile_peak_mb']:.0f} | {across('total', '{:.2f}')} "
            f"| {across('ready', '{:.1f}', 1e3)} | {across('first_to_steady', '{:.2f}')} "
            f"| {across('peak_mb', '{:.0f}')} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="names (substrings) of models, comma separated; default all")
    parser.add_argument("--target", default="native")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.models.split(",") if name]
    rows = [measure(c, options.target) for c in cases() if not wanted or any(name in c.name for name in wanted)]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
