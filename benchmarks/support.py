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
from ingot.compiler.targets.cpu.features import names
from ingot.runtime import Session, UnsupportedCpuError


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


def execution(target: str, case: Case) -> str:
    """Whether code for `target` runs here, and how right it is."""
    artifact = compile(case.path, target=target)
    try:
        session = artifact.session(threads=1)
    except UnsupportedCpuError:
        return f"code is generated ({case.name}), this machine cannot run it"
    with session:
        inputs = dict(case.inputs())
        error = relative_error(session.run(inputs), onnxruntime(case.path, 1).run(inputs))
    return f"executed here ({case.name}), largest error {error:.0e}"


def table() -> str:
    """The Markdown table."""
    lines = ["| what | state |", "|---|---|"]
    found = cases()
    for case in found:
        count, worst = agreement(case)
        verdict = "agrees with ONNX Runtime" if worst <= 1e-4 else "DISAGREES with ONNX Runtime"
        lines.append(f"| {case.name} | {verdict}: {count} runs, largest error {worst:.0e} of the output's scale |")
    lines.extend(f"| target {target} | {execution(target, found[0])} |" for target in names())
    operators = len(TABLE.names())
    lines.append(f"| ONNX operators imported | {operators}, and those that ONNX defines by functions of these |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    print(table())


if __name__ == "__main__":
    main()
