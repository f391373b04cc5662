"""A scheme for each layer, so that the whole keeps within a bound on what it loses: mixed precision.

Steps from one scheme of a layer to a cheaper one are taken in the order of what they lose for what they bring (the
energy of the error of each alone, which adds up where errors are independent). How many of them the bound allows is
found by bisection, each time with the error of the whole model, since errors do not just add up; where the next step is
too much it is left out and the others are looked through again. What comes out is compiled and judged as it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ops.custom import CustomOp
from ingot.compiler.passes.quantize.allocation import Option, frontier
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.layers import Layer, layers_of
from ingot.compiler.quantization.emulation import Emulation
from ingot.compiler.quantization.mixture import Mixture, finished, seen_ranges, seen_statistics
from ingot.compiler.quantization.plan import PLANNED, WEIGHTS, LayerPlan, Plan, is_possible
from ingot.compiler.quantization.reporting import reported
from ingot.compiler.quantization.result import Quantized
from ingot.compiler.quantization.schemes import COMPARED, Samples, core
from ingot.compiler.quantization.sensitivity import Judge, Metric, Score, Sensitivity, Table, sensitivities
from ingot.compiler.quantization.timing import Native, Timer

Objective: TypeAlias = Literal["latency", "size"]
Arrays = Mapping[str, NDArray[Any]]
HELD_OUT = 64  # samples at most that are judged on, where none are given for it
THIRD = 3
TURNS = 4  # times that a step which is too much is left out
FASTER = 0.97  # of the time that f32 takes: what is nearer to it is noise
F32 = LayerPlan("f32")


@dataclass(frozen=True)
class Bound:
    """What may be lost: `error` of the outputs (see `Score`), or `drop`, the part of a task's metric."""

    error: float | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        if (self.error is None) == (self.drop is None):
            raise QuantisationError("one bound is needed: the largest error of outputs, or drop of a metric")
        value = self.error if self.drop is None else self.drop
        if value is None or not 0 < value < math.inf:
            raise QuantisationError(f"{value} is no bound: take a number above 0")

    def holds(self, score: Score, before: Score) -> bool:
        """Whether a model of this score keeps it; `before` is that of the model as it was."""
        if self.error is not None:
            return score.error <= self.error
        assert self.drop is not None and score.metric is not None and before.metric is not None
        return before.metric - score.metric <= self.drop * abs(before.metric)

    def text(self, score: Score, before: Score) -> str:
        """How a score keeps the bound, in words."""
        if self.error is not None:
            return f"error {score.error:.2e}, {self.error:.2e} allowed"
        return f"metric {score.metric:.4f} of {before.metric:.4f}, a drop of {self.drop:.2%} allowed"


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
    calibrated on. `objective`: "latency", the time that layers take by themselves on this machine with `threads`,
    measured for about `seconds` each, and the whole at the end; or "size", bytes of weights. `metric`: of the outputs
    for all held-out samples; a drop needs it. `schemes`: those to choose from beside f32 (default: int8 and
    int8-dynamic; for size also weights alone in 8 and 4 bits, and fp16). `limit`: seconds after which the layers that
    are still to come stay as they are. `timer`: another way to measure.

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
    every = layers_of(graph)
    if not every:
        raise QuantisationError("the model has no layer of f32 with constant weights: there is nothing to choose")
    calibrated = list(Samples(graph, data, preprocess, samples).read())
    if held_out is None:
        judged, calibrated = calibrated[THIRD - 1 :: THIRD][:HELD_OUT], _without_thirds(calibrated)
        if not judged:
            raise QuantisationError("three samples are needed at least, of which one is held out: give more data")
    else:
        judged = list(Samples(graph, held_out, preprocess, None).read())
    arrays = [sample.arrays for sample in judged]

    candidates = {layer: [LayerPlan(s) for s in wanted if is_possible(layer, s)] for layer in every}
    static = dict.fromkeys((layer for layer in every if "int8" in wanted), LayerPlan("int8"))
    placement = mixture.placement(graph, static)
    seen = seen_ranges(graph, placement, lambda: calibrated, method, correct_biases=correct_biases, progress=tell)
    matrices = [layer for layer, plans in candidates.items() if any(plan.scheme in WEIGHTS for plan in plans)]
    if matrices:
        statistics = seen_statistics(graph, matrices, lambda: calibrated, tell)
        seen = dataclasses.replace(seen, statistics=statistics)
    tell("compiling the model with its weights as inputs")
    emulation = Emulation(graph, every, mixture, seen)
    try:
        judge = Judge(emulation, arrays, metric)
        if timer is None and objective == "latency":
            timer = Native(graph, arrays[0], mixture, threads=threads, seconds=seconds)
        layer_timer = timer if objective == "latency" else None
        table = sensitivities(
            judge, candidates, timer=layer_timer, progress=tell, is_over=lambda: monotonic() - started > limit
        )
        search = _Search(every, table, objective, bound, judge, tell)
        taken = search.steps()
        quantised, score = None, judge.before
        while taken:
            plans = search.plans(taken)
            tell(f"compiling the model with {len(plans)} layers changed")
            made = finished(mixture.made(graph, every, plans, seen), plans)
            halves = any(plan.scheme in ("fp16", "bf16") for plan in plans.values())
            quantised = Quantized(
                dataclasses.replace(made.after, watched={}),
                reported("mixed", made, arrays[:COMPARED] if measure else [], tell),
                halves,
                search.plan(plans),
            )
            score = judge.score(_outputs(quantised, arrays))
            if bound.holds(score, judge.before):
                break
            taken = taken[: min(len(taken) - 1, len(taken) * 9 // 10)]
        else:
            quantised, score = None, judge.before
        times = None
        if quantised is not None and timer is not None:
            tell("timing the whole")
            first, second = timer.models([dataclasses.replace(graph, watched={}), quantised.graph])
            times = first, second
        return _told(search, quantised, table, score, times, objective, bound)
    finally:
        emulation.close()


@dataclass(frozen=True)
class _Step:
    """One layer from a scheme to a cheaper one: what it loses for what it brings."""

    layer: Layer
    plan: LayerPlan
    price: float


class _Search:
    """The steps that a bound allows."""

    def __init__(
        self,
        every: Sequence[Layer],
        table: Table,
        objective: Objective,
        bound: Bound,
        judge: Judge,
        tell: Callable[[str], None],
    ) -> None:
        self.every, self.bound, self.judge, self.tell = every, bound, judge, tell
        self.is_latency = objective == "latency"
        self.rows: dict[str, list[Sensitivity]] = {layer.name: [] for layer in every}
        for row in table.rows:
            self.rows[row.layer].append(row)

    def steps(self) -> list[_Step]:
        """Those that are taken, in order."""
        left = sorted((step for layer in self.every for step in self._of(layer)), key=lambda step: step.price)
        taken: list[_Step] = []
        for _ in range(TURNS):
            count = self._most(taken, left)
            taken += left[:count]
            if count == len(left):
                break
            stopped = left[count].layer
            left = [step for step in left[count + 1 :] if step.layer is not stopped]
        return taken

    def _most(self, taken: Sequence[_Step], left: Sequence[_Step]) -> int:
        """How many of the steps left the bound allows after those taken, by bisection."""
        low, high = 0, len(left) + 1  # low is allowed, high is not
        trial = len(left)  # all of them, which is often right
        while high - low > 1:
            self.tell(f"judging the model with {len(taken) + trial} changes")
            score = self.judge.emulated(self.plans([*taken, *left[:trial]]))
            if self.bound.holds(score, self.judge.before):
                low = trial
            else:
                high = trial
            trial = (low + high) // 2
        return low

    @staticmethod
    def plans(taken: Sequence[_Step]) -> dict[Layer, LayerPlan]:
        """What the layers have after these steps."""
        return {step.layer: step.plan for step in taken}

    def plan(self, plans: Mapping[Layer, LayerPlan]) -> Plan:
        """The plan, with a reason for each layer."""
        return Plan(
            {
                layer.name: dataclasses.replace(plans.get(layer, F32), reason=self._reason(layer, plans.get(layer)))
                for layer in self.every
            }
        )

    def _cost(self, row: Sensitivity) -> float:
        cost = row.seconds if self.is_latency else row.bytes
        return math.nan if cost is None else cost

    def _before(self, row: Sensitivity) -> float:
        cost = row.seconds_before if self.is_latency else row.bytes_before
        return math.nan if cost is None else cost

    def is_cheaper(self, row: Sensitivity) -> bool:
        return self._cost(row) < self._before(row) * (FASTER if self.is_latency else 1)

    def _of(self, layer: Layer) -> list[_Step]:
        rows = [row for row in self.rows[layer.name] if self.is_cheaper(row) and math.isfinite(row.error)]
        if not rows:
            return []
        options = [Option(row.plan, self._cost(row), row.error**2) for row in rows]
        options.append(Option(F32, self._before(rows[0]), 0.0))
        line = frontier(options)[::-1]
        lossless = [] if line[0].form == F32 else [_Step(layer, line[0].form, 0.0)]
        return lossless + [
            _Step(layer, then.form, (then.error - now.error) / (now.cost - then.cost)) for now, then in pairwise(line)
        ]

    def _reason(self, layer: Layer, plan: LayerPlan | None) -> str:
        rows = self.rows[layer.name]
        if not rows:
            return "not measured"
        if plan is not None:
            row = next(row for row in rows if row.plan == plan)
            return f"{self._difference(row)}, error {row.error:.1e} alone"
        best = min(rows, key=self._cost)
        if not any(map(self.is_cheaper, rows)):
            return f"no scheme is {'faster' if self.is_latency else 'smaller'}: {self._difference(best)}"
        return f"loses too much for what it brings: {self._difference(best)}, error {best.error:.1e} alone"

    def _difference(self, row: Sensitivity) -> str:
        if self.is_latency:
            return f"{row.plan.scheme} takes {self._cost(row) * 1e6:.1f} µs, f32 {self._before(row) * 1e6:.1f} µs"
        return f"{row.plan.scheme} takes {row.bytes} bytes, f32 {row.bytes_before}"


def _told(
    search: _Search,
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
            notes.append("the whole is not faster than in f32, though layers by themselves are: keep it in f32")
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


def _outputs(quantised: Quantized, samples: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    with quantised.compile(target="native").session() as session:
        return [{name: np.array(data) for name, data in session.run(sample).items()} for sample in samples]
