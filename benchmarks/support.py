"""What works, as a table: ``python -m benchmarks.support``.

Every model of `benchmarks.models` is checked against ONNX Runtime at one and two threads, after a save and a load, at
its symbolic dims' several values; operators are counted from the importer's table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import Case, cases
from ingot.compiler import compile
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import onnxruntime
from ingot.compiler.frontend.operators import TABLE
from ingot.runtime import Session


def variants(case: Case) -> list[dict[str, Any]]:
    """The case's input, and where its leading dim is symbolic a batch of three; sequences of odd length."""
    base = dict(case.inputs())
    found = [base]
    if case.batched:
        found.append({name: np.concatenate([array] * 3) for name, array in base.items()})
    if "input_ids" in base:
        found.append({name: np.ascontiguousarray(array[:, :7]) for name, array in base.items()})
    return found


def agreement(case: Case) -> tuple[int, float]:
    """How many runs were compared, and the largest error over the output's scale."""
    worst, count = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ingot"
        compile(case.path).save(path)
        peer = onnxruntime(case.path, 1)
        for threads in (1, 2):
            with Session(path, threads=threads) as session:
                for inputs in variants(case):
                    worst = max(worst, relative_error(session.run(inputs), peer.run(inputs)))
                    count += 1
    return count, worst


def table() -> str:
    """The Markdown table."""
    lines = ["| what | state |", "|---|---|"]
    for case in cases():
        count, worst = agreement(case)
        verdict = "agrees with ONNX Runtime" if worst <= 1e-4 else "DISAGREES with ONNX Runtime"
        lines.append(f"| {case.name} | {verdict}: {count} runs, largest error {worst:.0e} of the output's scale |")
    lines.append(
        f"| ONNX operators imported | {len(TABLE.names())}, and those that ONNX defines by a function of these |"
    )
    lines.append("| targets | x86-64-v3 (AVX2), x86-64-v4 (AVX-512), native: executed; aarch64: code is generated |")
    lines.append("| dynamic shapes | symbolic batch, sequence, height, width; sizes that depend on data are refused |")
    lines.append("| control flow | If and Loop, nested, natively; carried shapes must not change |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    print(table())


if __name__ == "__main__":
    main()
