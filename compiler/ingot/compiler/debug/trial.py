"""One try of a model: import, passes, code, a run, and the comparison with a reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from ingot.compiler.api import compile
from ingot.compiler.bench import engines
from ingot.compiler.debug.failure import Failure
from ingot.compiler.frontend.onnx import load_onnx
from ingot.compiler.ir.graph import Array, Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.pipeline import Pipeline
from ingot.compiler.request import Numerics
from ingot.compiler.validate import TOLERANCE, Difference, compare, make_probes

Reference: TypeAlias = Literal["interpreter", "onnxruntime"]
Stage: TypeAlias = Literal["compile", "accuracy"]
Source: TypeAlias = "Path | bytes"
Arrays: TypeAlias = Mapping[str, Array]
Check: TypeAlias = Callable[[Path], object]


@dataclass(frozen=True)
class Trial:
    """What is tried.

    `stage`: how far, "compile" or "accuracy" (run, too, and compare). `reference`: what results are compared with, the
    imported graph interpreted, or ONNX Runtime. `bound`: the largest difference of floats allowed, relative to the
    largest magnitude of an output (default: `validate.TOLERANCE`). `seed` makes inputs where none are given. `check`: a
    function of the user's that is asked instead: it gets the path of the model, the data beside it as .npz, or with
    `check_artifact` the path of the artifact, and returns true or raises where the failure shows. The other fields are
    those of `driver.compile`.
    """

    stage: Stage = "accuracy"
    reference: Reference = "interpreter"
    bound: float | None = None
    seed: int = 0
    check: Check | None = None
    check_artifact: bool = False
    target: str = "cpu"
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict[str, Sequence[int | str]])
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    pipeline: Pipeline | None = None
    numerics: Numerics = "default"
    stop_at: int | None = None

    def load(self, model: Source) -> Graph:
        """The imported graph. Raises ModelError."""
        return load_onnx(model, shapes=self.shapes, ranges=self.ranges)


def attempt(trial: Trial, model: Source, data: Arrays | None = None) -> Failure | None:
    """How `model` fails, None when it does not. `data` are inputs by name; without them some are made up."""
    with tempfile.TemporaryDirectory(prefix="ingot-trial-") as name:
        folder = Path(name)
        if trial.check is not None and not trial.check_artifact:
            if data is not None:
                model = written(model if isinstance(model, bytes) else model.read_bytes(), folder)
                plain = {k: v.astype(np.str_) if v.dtype.hasobject else v for k, v in data.items()}
                np.savez(folder / "model.npz", allow_pickle=False, **plain)
            return ask(trial.check, written(model, folder))
        try:
            graph = trial.load(model)
            artifact = compile(
                graph,
                target=trial.target,
                pipeline=trial.pipeline,
                numerics=trial.numerics,
                stop_at=trial.stop_at,
                jobs=1,
                cache=False,  # what is tried shall be made, and candidates are of no use later
                repro=folder,
            )
        except (Exception, SystemExit) as error:
            return Failure.raised("compile", error)
        if trial.check is not None:
            artifact.save(path := folder / "model.ingot")
            return ask(trial.check, path)
        if trial.stage == "compile":
            return None
        probes = [data] if data is not None else make_probes(graph, trial.seed)
        try:
            wanted = [expected(trial, graph, model, probe) for probe in probes]
        except Exception as error:
            return Failure.raised("reference", error)
        try:
            results: list[dict[str, Array]] = []
            for probe in probes:  # each in a first run, whose random numbers the reference has
                with artifact.session(threads=1, seed=0) as session:
                    results.append(session.run(dict(probe)))
        except Exception as error:
            return Failure.raised("run", error)
        found = (difference(want, have, trial.bound) for want, have in zip(wanted, results, strict=True))
        return next((Failure("accuracy", "", str(each), each.amount) for each in found if each), None)


def ask(check: Check, path: Path) -> Failure | None:
    """What a check of the user's says of the file at `path`."""
    try:
        answer = check(path)
    except (Exception, SystemExit) as error:
        return Failure.raised("check", error)
    return Failure("check", "", "the check says so") if answer else None


def expected(trial: Trial, graph: Graph, model: Source, data: Arrays) -> dict[str, Array]:
    """The reference's outputs by name. Raises what the reference raises."""
    with np.errstate(all="ignore"):
        if trial.reference == "interpreter":
            return evaluate_graph(graph, data)
    with tempfile.TemporaryDirectory(prefix="ingot-trial-") as folder:
        engine = engines.onnxruntime(written(model, Path(folder)), 1)
        try:
            return engine.run(data)
        finally:
            engine.close()


def difference(want: Arrays, have: Arrays, bound: float | None) -> Difference | None:
    """The first output of `have` that differs from `want` by more than `bound` (see `Trial`)."""
    tolerance: Mapping[str, float] = TOLERANCE if bound is None else dict.fromkeys(TOLERANCE, bound)
    with np.errstate(all="ignore"):
        return compare(want, have, tolerance)


def written(model: Source, folder: Path) -> Path:
    """The path of the model, written into `folder` where it is bytes."""
    if isinstance(model, Path):
        return model
    (path := folder / "model.onnx").write_bytes(model)
    return path
