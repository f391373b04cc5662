"""A scheme for each layer, so that the whole keeps within a bound on what it loses: mixed precision.

What each scheme costs and brings is measured layer by layer; of the mixtures that the bound allows (see `search`) what
comes out is compiled and judged once more as it is, and for latency timed: the fastest of them is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.api import compile
from ingot.compiler.artifact import Artifact
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.custom import CustomOp
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.layers import layers_of
from ingot.compiler.passes.quantize.tables import Part, tables_of
from ingot.compiler.quantization.emulation import Emulation
from ingot.compiler.quantization.made import Made
from ingot.compiler.quantization.mixture import Mixture, Seen, finished, seen_ranges, seen_statistics
from ingot.compiler.quantization.plan import PLANNED, WEIGHTS, LayerPlan, Plan, is_possible
from ingot.compiler.quantization.reporting import reported
from ingot.compiler.quantization.result import Quantized
from ingot.compiler.quantization.schemes import COMPARED, Samples, core
from ingot.compiler.quantization.search import Bound, Search
from ingot.compiler.quantization.sensitivity import Judge, Metric, Score, Table, sensitivities
from ingot.compiler.quantization.timing import Native, Timer

Objective: TypeAlias = Literal["latency", "size"]
Arrays = Mapping[str, NDArray[Any]]
HELD_OUT = 64  # samples at most that are judged on, where none are given for it
THIRD = 3


@dataclass(frozen=True, eq=False)
class Choice:
    """The `plan` that was found, the model `quantized` by it (None where not one layer changes), and its `score` on
    held-out samples beside that `before`; `seconds` of the model before and after, where they were measured.
    `is_met`: the bound is kept and, for latency, the model is faster; `notes` say what there is to know."""

    plan: Plan
    quantized: Quantized | None
    table: Table
    before: Score
    score: Score
    seconds: tuple[float, float] | None
    is_met: bool
    notes: tuple[str, ...]

    def text(self) -> str:
        """The table, and what was found."""
        counts: dict[str, int] = {}
        for each in self.plan.layers.values():
            counts[each.scheme] = counts.get(each.scheme, 0) + 1
        told = ", ".join(f"{count} in {scheme}" for scheme, count in counts.items())
        return f"{self.table.text()}\nlayers: {told or 'none'}\n" + "".join(f"{note}\n" for note in self.notes)


def choose(
    model: Any,
    data: Any,
    *,
    bound: Bound,
    held_out: Any = None,
    objective: Objective = "latency",
    metric: Metric | None = None,
    schemes: Sequence[str] | None = None,
    method: str = "mse",
    mixture: Mixture | None = None,
    correct_biases: bool = True,
    samples: int | None = None,
    timer: Timer | None = None,
    threads: int | None = 1,
    seconds: float = 2.0,
    limit: float = math.inf,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    custom: Iterable[CustomOp] = (),
    preprocess: Any = None,
    measure: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Choice:
    """The cheapest scheme for each layer of an ONNX model that keeps `bound`; model, data and the options that are not
    named here as of `quantize`.

    `held_out`: the samples that are judged on; by default every third of `data` (64 at most), which is not
    calibrated on. `objective`: "latency", the time that layers take on this machine with `threads` where all are in one
    scheme, measured for about `seconds` each scheme, and the whole at the end; or "size", bytes of weights. `metric`:
    of the outputs for all held-out samples; a drop needs it. `schemes`: those to choose from beside f32 (default: int8
    and int8-dynamic; for size also weights alone in 8 and 4 bits, and fp16). `limit`: seconds after which the layers
    that are still to come stay as they are. `timer`: another way to measure.

    Raises QuantisationError, and what `quantize` raises. A bound that cannot be kept is no error: see `Choice.is_met`.
    """
    tell = progress or _silent
    mixture, started = mixture or Mixture(), monotonic()
    wanted = _schemes(schemes, objective)
    if bound.drop is not None and metric is None:
        raise QuantisationError("a drop is one of a metric: give metric, or bound the error instead")
    if objective not in get_args(Objective):
        raise QuantisationError(f"there is no objective {objective!r}: take {' or '.join(get_args(Objective))}")
    if data is None:
        raise QuantisationError("mixed precision needs samples: give data")
    tell("reading the model")
    graph = core(load_onnx(model, shapes=shapes, ranges=ranges, custom=custom, watch=True))
    layers = layers_of(graph)
    if not layers:
        raise QuantisationError("the model has no layer of f32 with constant weights: there is nothing to choose")
    calibrated = list(Samples(graph, data, preprocess, samples).read())
    if held_out is None:
        judged, calibrated = calibrated[THIRD - 1 :: THIRD][:HELD_OUT], _without_thirds(calibrated)
        if not judged:
            raise QuantisationError("three samples are needed at least, of which one is held out: give more data")
    else:
        judged = list(Samples(graph, held_out, preprocess, None).read())
    arrays = [sample.arrays for sample in judged]

    every = (*layers, *(tables_of(graph) if objective == "size" else ()))
    candidates = {layer: [LayerPlan(s) for s in wanted if is_possible(layer, s)] for layer in every}
    static: dict[Part, LayerPlan] = dict.fromkeys(layers if "int8" in wanted else (), LayerPlan("int8"))
    placement = mixture.placement(graph, static)
    seen = seen_ranges(graph, placement, lambda: calibrated, method, correct_biases=correct_biases, progress=tell)
    matrices = [layer for layer in layers if any(plan.scheme in WEIGHTS for plan in candidates[layer])]
    if matrices:
        statistics = seen_statistics(graph, matrices, lambda: calibrated, tell)
        seen = dataclasses.replace(seen, statistics=statistics)
    tell("compiling the model with its weights as inputs")
    emulation = Emulation(graph, every, mixture, seen)
    try:
        judge = Judge(emulation, arrays, metric)
        if timer is None and objective == "latency":
            timer = Native(graph, layers, arrays[0], mixture, seen, threads=threads, seconds=seconds)
        layer_timer = timer if objective == "latency" else None
        table = sensitivities(
            judge, candidates, timer=layer_timer, progress=tell, is_over=lambda: monotonic() - started > limit
        )
        search = Search(every, table, judge, bound, is_latency=objective == "latency", progress=tell)
        found = list(_judged(search, graph, seen, mixture, arrays))
        times = None
        if found and timer is not None:
            tell("timing the whole")
            plain = compile(dataclasses.replace(graph, watched={}), target="native")
            first, *others = timer.models([plain, *(each.artifact for each in found)])
            best = min(range(len(found)), key=lambda i: others[i]) if objective == "latency" else 0
            found, times = [found[best]], (first, others[best])
        if not found:
            return _told(search, None, table, judge.before, None, objective, bound)
        chosen = found[0]
        report = reported("mixed", chosen.made, arrays[:COMPARED] if measure else [], tell)
        quantised = dataclasses.replace(chosen.quantized, report=report)
        return _told(search, quantised, table, chosen.score, times, objective, bound)
    finally:
        emulation.close()


def _told(
    search: Search,
    quantised: Quantized | None,
    table: Table,
    score: Score,
    times: tuple[float, float] | None,
    objective: Objective,
    bound: Bound,
) -> Choice:
    before = search.judge.before
    if quantised is None or quantised.plan is None:
        usable = [row for row in table.rows if math.isfinite(row.error)]
        if not any(search.is_cheaper(row) for row in table.rows):
            what = "faster" if objective == "latency" else "smaller"
            note = f"no layer is {what} in any of the schemes: all stay in f32"
        elif usable:
            best = min(usable, key=lambda row: row.error)
            reached = bound.text(Score(best.error, best.metric), before)
            note = f"the bound cannot be kept: the best is {best.layer} alone in {best.plan.scheme}, {reached}"
        else:
            note = "the bound cannot be kept: with any layer changed the outputs are not finite"
        return Choice(search.plan({}), None, table, before, score, None, False, (note,))
    notes = [bound.text(score, before)]
    faster = True
    if times is not None:
        faster = objective != "latency" or times[1] < times[0]
        notes.append(f"the model takes {times[1] * 1e6:.1f} µs, {times[0] * 1e6:.1f} µs in f32")
        if not faster:
            notes.append("the whole is not faster than in f32, though single layers are: keep it in f32")
    return Choice(quantised.plan, quantised, table, before, score, times, faster, tuple(notes))


def top1(labels: Any) -> Metric:
    """The part of the rows of the first output, [..., classes], whose largest is at `labels`, whole numbers in the
    order of the samples."""
    expected = np.asarray(labels).reshape(-1)
    if expected.dtype.kind not in "iu":
        raise QuantisationError(f"labels are whole numbers, not {expected.dtype}")

    def metric(outputs: Sequence[Arrays]) -> float:
        firsts = [next(iter(each.values())) for each in outputs]
        found = np.concatenate([first.reshape(-1, first.shape[-1]).argmax(-1) for first in firsts])
        if found.shape != expected.shape:
            raise QuantisationError(f"there are {len(expected)} labels for {len(found)} rows of held-out samples")
        return float((found == expected).mean())

    return metric


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""


def _schemes(given: Sequence[str] | None, objective: str) -> tuple[str, ...]:
    if given is None:
        more = () if objective == "latency" else ("int8-weights", "int4-weights", "fp16")
        return ("int8", "int8-dynamic", *more)
    for name in given:
        if name not in PLANNED or name == "f32":
            known = ", ".join(each for each in PLANNED if each != "f32")
            raise QuantisationError(f"{name!r} is no scheme to choose from: take {known}")
    return tuple(dict.fromkeys(given))


def _without_thirds(samples: list[Any]) -> list[Any]:
    return [sample for i, sample in enumerate(samples) if i % THIRD != THIRD - 1]


@dataclass(frozen=True, eq=False)
class _Judged:
    """A mixture that was compiled and keeps the bound; its report is still to be measured."""

    made: Made
    quantized: Quantized
    artifact: Artifact
    score: Score


def _judged(
    search: Search, graph: Graph, seen: Seen, mixture: Mixture, samples: Sequence[Arrays]
) -> Iterator[_Judged]:
    """The mixtures of `search`, with fewer steps where what is compiled does not keep the bound after all."""
    before = search.judge.before
    for steps in search.mixtures():
        taken = steps
        while taken:
            plans = search.plans(taken)
            search.tell(f"compiling the model with {len(plans)} layers changed")
            made = finished(mixture.made(graph, tuple(search.every), plans, seen), plans)
            halves = any(plan.scheme in ("fp16", "bf16") for plan in plans.values())
            report = reported("mixed", made, [], search.tell)
            quantised = Quantized(dataclasses.replace(made.after, watched={}), report, halves, search.plan(plans))
            artifact = quantised.compile(target="native")
            score = search.judge.score(_outputs(artifact, samples))
            if search.bound.holds(score, before):
                yield _Judged(made, quantised, artifact, score)
                break
            taken = taken[: min(len(taken) - 1, len(taken) * 9 // 10)]


def _outputs(artifact: Artifact, samples: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    with artifact.session() as session:
        return [{name: np.array(data) for name, data in session.run(sample).items()} for sample in samples]
