"""Which layers have which scheme, so that the whole keeps within a bound on what it loses.

Steps from one scheme of a layer to a cheaper one are taken in the order of what they lose for what they bring (the
energy of the error of each alone, which adds up where errors are independent). How many of them the bound allows is
found by bisection, each time with the error of the whole model, since errors do not just add up; where the next step is
too much it is left out and the others are looked through again.

Times of single layers do not add up either: a layer in integers between layers in floats pays for the change of type.
So there are several mixtures that keep the bound, of which the whole decides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ingot.compiler.passes.quantize.allocation import Option, frontier
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.tables import Part
from ingot.compiler.quantization.plan import LayerPlan, Plan
from ingot.compiler.quantization.sensitivity import Judge, Score, Sensitivity, Table

TURNS = 4  # times that a step which is too much is left out
FASTER = 0.97  # of the time that f32 takes: what is nearer to it is noise
CLEARLY = 0.8  # of it: what is nearer to it may be lost to a change of type
INTEGERS = ("int8", "int8-dynamic")
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


@dataclass(frozen=True)
class Step:
    """One layer from a scheme to a cheaper one: what it loses for what it brings."""

    layer: Part
    plan: LayerPlan
    price: float


class Search:
    """Mixtures that a bound allows."""

    def __init__(
        self,
        every: Sequence[Part],
        table: Table,
        judge: Judge,
        bound: Bound,
        *,
        is_latency: bool,
        progress: Callable[[str], None],
    ) -> None:
        self.every, self.bound, self.judge, self.tell = every, bound, judge, progress
        self.is_latency = is_latency
        self.rows: dict[str, list[Sensitivity]] = {layer.name: [] for layer in every}
        for row in table.rows:
            self.rows[row.layer].append(row)
        self._gained: set[str] = set()  # the layers of the first mixture

    def mixtures(self) -> Iterator[list[Step]]:
        """Steps in the order in which they are taken, one mixture after the other, none twice: each of the cheaper
        schemes that the bound allows; for latency also with those layers in integers that are no faster,
        and without those that are hardly faster."""
        first = self._extended([], sorted((s for layer in self.every for s in self._of(layer)), key=_price))
        self._gained = {step.layer.name for step in first}
        made = [first]
        if self.is_latency and first:
            made.append(self._extended(first, sorted(self._others(first), key=_price)))
            plans = self.plans(first)
            clear = {layer for layer, plan in plans.items() if self._is_clear(layer, plan)}
            made.append([step for step in first if step.layer in clear])
        seen: list[Mapping[Part, LayerPlan]] = [{}]
        for steps in made:
            if (plans := self.plans(steps)) not in seen:
                seen.append(plans)
                yield steps

    @staticmethod
    def plans(taken: Sequence[Step]) -> dict[Part, LayerPlan]:
        """What the layers have after these steps."""
        return {step.layer: step.plan for step in taken}

    def plan(self, plans: Mapping[Part, LayerPlan]) -> Plan:
        """The plan, with a reason for each layer."""
        return Plan(
            {
                layer.name: dataclasses.replace(plans.get(layer, F32), reason=self._reason(layer, plans.get(layer)))
                for layer in self.every
            }
        )

    def is_cheaper(self, row: Sensitivity) -> bool:
        """Whether a scheme of a layer brings anything."""
        return self._cost(row) < self._before(row) * (FASTER if self.is_latency else 1)

    def _extended(self, taken: Sequence[Step], left: list[Step]) -> list[Step]:
        """The steps taken and as many of those left, in their order, as the bound allows."""
        taken = list(taken)
        for _ in range(TURNS):
            count = self._most(taken, left)
            taken += left[:count]
            if count == len(left):
                break
            stopped = left[count].layer
            left = [step for step in left[count + 1 :] if step.layer is not stopped]
        return taken

    def _most(self, taken: Sequence[Step], left: Sequence[Step]) -> int:
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

    def _of(self, layer: Part) -> list[Step]:
        """The steps of a layer to schemes that are cheaper."""
        rows = [row for row in self.rows[layer.name] if self.is_cheaper(row) and math.isfinite(row.error)]
        if not rows:
            return []
        options = [Option(row.plan, self._cost(row), row.error**2) for row in rows]
        options.append(Option(F32, self._before(rows[0]), 0.0))
        line = frontier(options)[::-1]
        lossless = [] if line[0].form == F32 else [Step(layer, line[0].form, 0.0)]
        return lossless + [
            Step(layer, then.form, (then.error - now.error) / (now.cost - then.cost)) for now, then in pairwise(line)
        ]

    def _others(self, taken: Sequence[Step]) -> Iterator[Step]:
        """Steps to integers of the layers that are not changed and no faster in them."""
        plans = self.plans(taken)
        for layer in self.every:
            rows = [row for row in self.rows[layer.name] if row.plan.scheme in INTEGERS and math.isfinite(row.error)]
            if rows and layer not in plans and not any(map(self.is_cheaper, self.rows[layer.name])):
                best = min(rows, key=self._cost)
                yield Step(layer, best.plan, best.error**2)

    def _is_clear(self, layer: Part, plan: LayerPlan) -> bool:
        row = self._row(layer, plan)
        return self._cost(row) < self._before(row) * CLEARLY

    def _row(self, layer: Part, plan: LayerPlan) -> Sensitivity:
        return next(row for row in self.rows[layer.name] if row.plan == plan)

    def _cost(self, row: Sensitivity) -> float:
        cost = row.seconds if self.is_latency else row.bytes
        return math.nan if cost is None else cost

    def _before(self, row: Sensitivity) -> float:
        cost = row.seconds_before if self.is_latency else row.bytes_before
        return math.nan if cost is None else cost

    def _reason(self, layer: Part, plan: LayerPlan | None) -> str:
        rows = self.rows[layer.name]
        if not rows:
            return "not measured"
        if plan is not None:
            row = self._row(layer, plan)
            also = "" if self.is_cheaper(row) else ", yet the whole is faster with it"
            return f"{self._difference(row)}{also}, error {row.error:.1e} alone"
        best = min(rows, key=self._cost)
        if not any(map(self.is_cheaper, rows)):
            return f"no scheme is {'faster' if self.is_latency else 'smaller'}: {self._difference(best)}"
        if layer.name in self._gained:
            return f"the whole is faster without: {self._difference(best)}"
        return f"loses too much for what it brings: {self._difference(best)}, error {best.error:.1e} alone"

    def _difference(self, row: Sensitivity) -> str:
        if self.is_latency:
            return f"{row.plan.scheme} takes {self._cost(row) * 1e6:.1f} µs, f32 {self._before(row) * 1e6:.1f} µs"
        return f"{row.plan.scheme} takes {row.bytes} bytes, f32 {row.bytes_before}"


def _price(step: Step) -> float:
    return step.price
