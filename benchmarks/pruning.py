"""Task metrics of pruned models, by criterion and by the part of the weights that are zero.

    python -m benchmarks.pruning [names...] [--criteria greedy,wanda] [--rates 0.5,0.8] [--pattern 4x1]

One-shot, all layers but the first, the last and depthwise ones at the same rate. Every third sample of the data that
lies with the real models (see `benchmarks.tasks`) is for calibration, the others are what the metrics are of.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import models_folder
from benchmarks.quantization import halves, measured, onnx_runtime, recorded
from benchmarks.tasks import Runner
from ingot.compiler import compile, load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.prune.masks import PruneOptions, prune_weights
from ingot.compiler.passes.prune.patterns import Pattern
from ingot.compiler.passes.quantize.bias import correct_bias
from ingot.compiler.passes.quantize.statistics import Statistics, observed
from ingot.compiler.pruning.prune import chosen_products, compiled
from ingot.compiler.quantization.schemes import core

RATES = (0.5, 0.6, 0.7, 0.8, 0.9)
SAMPLES = 64


@dataclass(frozen=True)
class Trial:
    """A model and the metric that counts."""

    model: str
    metric: str


TRIALS = (
    Trial("mnist_cnn", "top1"),
    Trial("resnet20_cifar10", "top1"),
    Trial("mobilenet_v2_224_fp32", "top1"),
    Trial("minilm_l6_v2_fp16w", "spearman"),
)
WAYS = (
    ("random", False),
    ("magnitude", False),
    ("magnitude", True),
    ("channel-magnitude", True),
    ("shrinkage", True),
    ("shrinkage-literal", True),
    ("wanda", False),
    ("wanda", True),
    ("sparsegpt", True),
    ("greedy", False),
    ("greedy", True),
)
"""Criteria, each with the weights that stay made to make up for those that went, or left alone."""


def run_of(graph: Graph) -> Runner:
    """A way to run a graph by Ingot."""
    session = compile(dataclasses.replace(graph, watched={}), target="native").session(threads=1)
    known = {info.name for info in session.inputs}
    return lambda feed: list(session.run({k: np.asarray(v) for k, v in feed.items() if k in known}).values())


def pruned(
    graph: Graph,
    names: Sequence[str],
    statistics: dict[str, Statistics],
    way: tuple[str, bool],
    rate: float,
    pattern: str,
) -> Graph:
    """`graph` with so many zeros in the weights of the products called `names`."""
    criterion, repair = way
    options = PruneOptions(criterion, Pattern.parse(pattern), repair=repair)
    after, _ = prune_weights(graph, rate, options, statistics=statistics, only=names)
    return correct_bias(graph, after, statistics) if repair else after


def rows(
    trial: Trial, ways: Sequence[tuple[str, bool]], rates: Sequence[float], pattern: str, roots: tuple[Path, Path]
) -> list[dict[str, Any]]:
    """For each way the metric at each rate; the model's own first."""
    calibration, evaluation = roots
    path = models_folder() / trial.model / "model.onnx"
    graph = core(load_onnx(path))
    names = list(chosen_products(graph))
    statistics = observed(graph, recorded(trial.model, calibration)[:SAMPLES], names, compiled)

    def metric(run: Runner) -> float:
        return measured(trial.model, evaluation, lambda _: run)[trial.metric]

    found: list[dict[str, Any]] = [{"way": "as it is", "metrics": [metric(onnx_runtime(path))]}]
    for way in ways:
        made = [metric(run_of(pruned(graph, names, statistics, way, rate, pattern))) for rate in rates]
        found.append({"way": way[0] + (", repaired" if way[1] else ""), "metrics": made})
        print(trial.model, found[-1], flush=True)
    return found


def table(
    names: Sequence[str] = (),
    criteria: Sequence[str] = (),
    rates: Sequence[float] = RATES,
    pattern: str = "unstructured",
) -> str:
    """The Markdown table."""
    lines = ["| model | metric | criterion | " + " | ".join(f"{rate:.0%}" for rate in rates) + " |"]
    lines.append("|---|---|---|" + "---|" * len(rates))
    ways = [way for way in WAYS if not criteria or way[0] in criteria]
    with halves() as roots:
        for trial in TRIALS:
            if names and not any(name in trial.model for name in names):
                continue
            own, *others = rows(trial, ways, rates, pattern, roots)
            lines.append(f"| {trial.model} | {trial.metric} | as it is: {own['metrics'][0]:.4f} |" + " |" * len(rates))
            for each in others:
                cells = " | ".join(f"{value:.4f}" for value in each["metrics"])
                lines.append(f"| | | {each['way']} | {cells} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="texts in names of models (default: all)")
    parser.add_argument("--criteria", default="", help="comma separated (default: all)")
    parser.add_argument("--rates", default="", help="comma separated")
    parser.add_argument("--pattern", default="unstructured", help="as of ingot prune")
    given = parser.parse_args(arguments)
    rates = [float(each) for each in given.rates.split(",")] if given.rates else RATES
    print(table(given.names, [each for each in given.criteria.split(",") if each], rates, given.pattern))


if __name__ == "__main__":
    main()
