"""What works, as tables: ``python -m benchmarks.support [--groups demo,real,zoo] [--models digits]``.

Every model of `benchmarks.models` is compiled, saved, loaded and compared with ONNX Runtime at one and two threads, for
its usual inputs and for other values of its symbolic dims. Quantised models are held against ONNX Runtime without
optimisations, which computes in floats between the quantisation steps; with them its 8-bit products saturate where a
processor lacks VNNI. They may differ by one step of the output.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import GROUPS, Case, cases
from ingot.compiler import compile
from ingot.compiler.bench.agreement import relative_error
from ingot.compiler.bench.engines import onnxruntime
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.operators import TABLE
from ingot.compiler.targets.cpu.features import names
from ingot.runtime import Session, UnsupportedCpuError

BOUND = 1e-4  # of the output's scale
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """How a model came out: how many runs were compared, the largest error over the output's scale and what it may be
    at most; or why there was none."""

    model: str
    runs: int = 0
    error: float = 0.0
    bound: float = BOUND
    refused: str = ""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.refused:
            return f"refused: {self.refused}"
        return "agrees" if self.error <= self.bound else "DISAGREES"


def agreement(case: Case) -> Agreement:
    """Compile, save, load, run and compare."""
    worst, count, bound = 0.0, 0, BOUND
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ingot"
        try:
            compile(case.path).save(path)
        except ModelError as error:
            return Agreement(case.name, refused=str(error).strip().splitlines()[0])
        peer = onnxruntime(case.path, 1, optimise=not case.quantised)
        for make in (case.inputs, *case.others.values()):
            inputs = make()
            want = peer.run(inputs)
            if case.quantised:
                bound = _step(want) * 1.001
            for threads in (1, 2):
                with Session(path, threads=threads) as session:
                    worst = max(worst, relative_error(session.run(inputs), want))
                    count += 1
    return Agreement(case.name, count, worst, bound)


def _step(outputs: Arrays) -> float:
    """The step of the grid that the outputs lie on, over their scale."""
    (found,) = (np.unique(x.astype(np.float64)) for x in outputs.values())
    return float(np.diff(found).min() / np.abs(found).max())


def agreement_table(chosen: Iterable[Case]) -> str:
    """A row a model."""
    lines = ["| model | verdict | runs compared | largest error / output scale |", "|---|---|---|---|"]
    for case in chosen:
        found = agreement(case)
        figures = "– | –" if found.refused else f"{found.runs} | {found.error:.0e}"
        lines.append(f"| {found.model} | {found.verdict} | {figures} |")
    return "\n".join(lines)


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
    """Targets and operators."""
    (demo,) = cases("demo")
    lines = ["| what | state |", "|---|---|"]
    lines.extend(f"| target {target} | {execution(target, demo)} |" for target in names())
    operators = len(TABLE.names())
    lines.append(f"| ONNX operators imported | {operators}, and those that ONNX defines by functions of these |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", default=",".join(GROUPS), help="demo, real, zoo; comma separated; default all")
    parser.add_argument("--models", default="", help="names (substrings) of models, comma separated; default all")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.models.split(",") if name]
    chosen = [c for c in cases(*options.groups.split(",")) if not wanted or any(name in c.name for name in wanted)]
    print(agreement_table(chosen))
    if not wanted:
        print(table())


if __name__ == "__main__":
    main()
