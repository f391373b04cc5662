"""What a scheme for each layer gives beside one scheme everywhere: the task's metric, bytes of constants, and latency.

    python -m benchmarks.mixed [names...]

Data are parted as in `benchmarks.quantization`: ranges, sensitivities and errors of outputs are of every third sample,
the metric is of the others. YOLOX-nano is bound by its metric, on those others. Latencies are of one thread, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import models_folder
from benchmarks.quantization import TRIALS, Arrays, Trial, halves, measured, noisy, recorded
from benchmarks.tasks import Outputs, Runner
from ingot.compiler import Artifact, compile, load_onnx, quantize
from ingot.compiler.bench.interleave import interleave
from ingot.compiler.ir.graph import Constant
from ingot.compiler.quantization import Bound, Choice, choose
from ingot.compiler.quantization.schemes import core
from ingot.runtime import Session

BOUNDS: Mapping[str, Bound] = {
    "resnet20_cifar10": Bound(error=0.05),
    "mobilenet_v2_224_fp32, off the grid": Bound(error=0.05),
    "yolox_nano": Bound(drop=0.01),
    "minilm_l6_v2_fp16w": Bound(error=0.05),
}


def rows(trial: Trial, calibration: Path, evaluation: Path) -> Iterator[tuple[str, ...]]:
    """One row each for f32, all layers in one scheme, and mixtures for latency and for size; in place of a mixture a
    note where none keeps the bound or is faster."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = models_folder() / trial.model / "model.onnx"
        path = noisy(path, folder) if trial.is_noisy else path
        feeds, bound = recorded(trial.model, calibration), BOUNDS[trial.name]
        judged: dict[str, Any] = {}
        if bound.drop is not None:
            judged = {"held_out": recorded(trial.model, evaluation), "metric": _metric(trial, evaluation)}
        scheme = "int8" if trial.is_static else "int8-dynamic"
        whole = quantize(path, feeds, scheme=scheme, ends=True, measure=False)
        full = _bytes_in_f32(path)
        made: dict[str, tuple[Artifact, int]] = {
            "f32": (compile(path, target="native"), full),
            f"{scheme}, all layers": (whole.compile(target="native"), whole.report.bytes_after),
        }
        notes: list[tuple[str, ...]] = []
        for objective in ("latency", "size"):
            choice = choose(path, feeds, bound=bound, objective=objective, measure=False, **judged)
            if not choice.is_met or choice.quantized is None:
                notes.append((trial.name, f"mixed for {objective}: {choice.notes[-1]}", "", "", ""))
                continue
            compiled = choice.quantized.compile(target="native")
            made[f"mixed for {objective}: {_counts(choice)}"] = compiled, choice.quantized.report.bytes_after
        sessions = {name: stack.enter_context(artifact.session(threads=1)) for name, (artifact, _) in made.items()}
        known = {info.name for info in next(iter(sessions.values())).inputs}
        one = {name: array for name, array in feeds[0].items() if name in known}
        times = interleave({name: partial(session.run, one) for name, session in sessions.items()})
        for name, session in sessions.items():
            metric = measured(trial.model, evaluation, lambda _, s=session: _runner(s, known))[trial.metric]
            yield (
                trial.name,
                name,
                f"{metric:.4f}",
                f"{made[name][1] / full:.3f}",
                f"{times[name].median * 1e3:.3f} ms",
            )
        yield from notes


def _counts(choice: Choice) -> str:
    """How many layers have each scheme."""
    schemes = [each.scheme for each in choice.plan.layers.values()]
    return ", ".join(f"{schemes.count(scheme)} {scheme}" for scheme in dict.fromkeys(sorted(schemes)))


def _bytes_in_f32(path: Path) -> int:
    """The bytes of the model's constants with all floats in f32."""
    constants = [node for node in core(load_onnx(path)).nodes() if isinstance(node, Constant)]
    return sum(4 * node.data.size if node.dtype.is_float else node.data.nbytes for node in constants)


def _metric(trial: Trial, root: Path) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    """The task's metric of outputs for all samples in `root`."""

    def metric(outputs: Sequence[Mapping[str, Any]]) -> float:
        left = iter(outputs)

        def runner(_: str) -> Runner:
            return lambda feed: list(next(left).values())

        return float(measured(trial.model, root, runner)[trial.metric])

    return metric


def _runner(session: Session, known: set[str]) -> Callable[[Arrays], Outputs]:
    return lambda feed: list(session.run({k: np.asarray(v) for k, v in feed.items() if k in known}).values())


def table(names: Sequence[str] = ()) -> str:
    """The Markdown table of the trials with one of `names` in theirs (default: all that have a bound)."""
    lines = ["| model | layers | metric | bytes / f32 | latency |", "|---|---|---|---|---|"]
    with halves() as (calibration, evaluation):
        for trial in TRIALS:
            if trial.name in BOUNDS and (not names or any(name in trial.name for name in names)):
                for row in rows(trial, calibration, evaluation):
                    lines.append(f"| {' | '.join(row)} |")
                    print(lines[-1], flush=True)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="texts in names of trials (default: all)")
    print(table(parser.parse_args(arguments).names))


if __name__ == "__main__":
    main()
