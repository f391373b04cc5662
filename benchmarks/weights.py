"""Weights alone in few bits, by every method: what they take, and what becomes of a task's metric.

    python -m benchmarks.weights [--methods nearest,hqq,gptq,awq]

The model is MiniLM on sentence similarity (Spearman's rank correlation with what people say, see `benchmarks.tasks`).
Its activations are calibrated on other text: the sentences of this project's documentation.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import models_folder
from benchmarks.tasks import Outputs, Runner, harness
from ingot.compiler import compile
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.groups import WeightForm
from ingot.compiler.passes.quantize.weight_only import (
    METHODS,
    WITH_DATA,
    Method,
    StoredWeight,
    mixed_forms,
    weight_only,
)
from ingot.compiler.quantization.activations import activation_statistics
from ingot.compiler.quantization.schemes import core

Array = NDArray[Any]
NAME = "minilm_l6_v2_fp16w"
DOCS = Path(__file__).resolve().parents[1] / "docs"
SENTENCES = 128  # for calibration
FORMS = (
    WeightForm(8, 128),
    WeightForm(4, 32),
    WeightForm(4, 32, False, "f16"),
    WeightForm(4, 128, False),
    WeightForm(3, 32, False),
)


@dataclass(frozen=True)
class Row:
    """What one way to store the weights comes to: bytes in parts of f32's, the metric, the mean squared distance of
    sentence vectors (of length 1) from the f32 model's, and the seconds that rounding took."""

    what: str
    part: float
    metric: float
    distance: float
    seconds: float


def sentences() -> Iterator[str]:
    """Sentences of the documentation, of at least five words."""
    for path in sorted(DOCS.glob("*.md")):
        prose = re.sub(r"```.*?```|\|.*?\n|[#`*_]", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for sentence in re.split(r"(?<=[.:])\s+", prose):
            if len(sentence.split()) >= 5:
                yield " ".join(sentence.split())


def samples(count: int) -> list[dict[str, Array]]:
    """Inputs of the model for sentences from all over the documentation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(models_folder() / "_src/minilm/tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    every = list(sentences())
    chosen = every[:: max(1, len(every) // count)][:count]
    found: list[dict[str, Array]] = []
    for sentence in chosen:
        ids = np.array([tokenizer.encode(sentence).ids[:128]], np.int64)
        found.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    return found


def session_of(graph: Graph) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """What computes the outputs of `graph` by name."""
    session = compile(graph, target="native").session(threads=1)
    known = {info.name for info in session.inputs}
    return lambda feed: session.run({name: np.asarray(x) for name, x in feed.items() if name in known})


def scored(graph: Graph) -> tuple[float, Array]:
    """The metric, and the vector of each sentence [sentences, width]."""
    run = session_of(graph)
    vectors: list[Array] = []

    def runner(name: str) -> Runner:
        def outputs(feed: dict[str, Any]) -> Outputs:
            found = list(run(feed).values())
            mean = found[0][0].mean(0)
            vectors.append(mean / np.linalg.norm(mean))
            return found

        return outputs

    return float(harness().TASKS[NAME]("dev", runner)["spearman"]), np.stack(vectors)


def measured(methods: Sequence[Method]) -> Iterator[Row]:
    """A row for the model as it is, and one for each form and method."""
    graph = core(load_onnx(models_folder() / NAME / "model.onnx"))
    metric, vectors = scored(graph)
    yield Row("f32", 1.0, metric, 0.0, 0.0)
    statistics = activation_statistics(graph, samples(SENTENCES), threads=1)

    def row(what: str, make: Callable[[], tuple[Graph, tuple[StoredWeight, ...]]]) -> Row:
        started = time.process_time()
        made, stored = make()
        seconds = time.process_time() - started
        metric, found = scored(made)
        part = sum(each.after for each in stored) / sum(4 * int(np.prod(each.shape)) for each in stored)
        return Row(what, part, metric, float(np.square(found - vectors).sum(1).mean()), seconds)

    for form in FORMS:
        for method in methods:
            given = statistics if method in WITH_DATA else None
            yield row(f"{shown(form)}, {method}", partial(weight_only, graph, form, method=method, statistics=given))
    forms = [WeightForm(bits, 32, False, "f16") for bits in (2, 3, 4, 8)]
    for ratio in (0.11, 0.145, 0.2):
        chosen = mixed_forms(graph, forms, ratio, statistics=statistics)
        make = partial(weight_only, graph, method="gptq", statistics=statistics, forms=chosen)
        yield row(f"2 to 8 bits by layer, {ratio:.3g} of f32, gptq", make)


def shown(form: WeightForm) -> str:
    """A form as text."""
    kind = "symmetric" if form.symmetric else "affine"
    return f"int{form.bits}, groups of {form.group}, {kind}, {form.scale} scales"


def table(methods: Sequence[Method] = METHODS) -> str:
    """The Markdown table."""
    lines = ["| weights | bytes / f32 | Spearman | drop | distance² | seconds |", "|---|---|---|---|---|---|"]
    first = 0.0
    for row in measured(methods):
        first = first or row.metric
        drop = f"{1 - row.metric / first:+.2%}" if lines[2:] else ""
        lines.append(
            f"| {row.what} | {row.part:.3f} | {row.metric:.4f} | {drop} | {row.distance:.2e} | {row.seconds:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    names = parser.parse_args(arguments).methods.split(",")
    print(table([method for method in METHODS if method in names]))


if __name__ == "__main__":
    main()
