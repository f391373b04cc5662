"""How long layers take where they are, and whole models, compiled for this machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from numpy.typing import NDArray

from ingot.compiler.api import compile
from ingot.compiler.artifact import Artifact
from ingot.compiler.bench.interleave import interleave
from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.tables import Part
from ingot.compiler.quantization.mixture import Mixture, Seen, finished
from ingot.compiler.quantization.plan import LayerPlan, is_possible

Arrays = Mapping[str, NDArray[Any]]
ROUNDS, FEWEST_ROUNDS = 7, 3
FEWEST, MOST = 5, 50  # runs that are profiled


class Timer(Protocol):
    """Says how long things take, in seconds."""

    def layers(self, layer: Layer, plans: Sequence[LayerPlan]) -> Sequence[float]:
        """One layer, under each plan; NaN where that is not known."""
        ...

    def models(self, artifacts: Sequence[Artifact]) -> Sequence[float]:
        """Whole models, compiled for this machine."""
        ...


class Native:
    """Measures on this machine, with `threads`, on one sample of the model `graph`, each artifact for about `seconds`.

    The time of a layer is that of the kernels that compute it, in the model with all layers that can be under the same
    plan: where its neighbours are in integers as well, and what one hands on to the next is."""

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        sample: Arrays,
        mixture: Mixture,
        seen: Seen,
        *,
        threads: int | None = 1,
        seconds: float = 2.0,
    ) -> None:
        self.graph, self.every, self.sample, self.mixture, self.seen = graph, tuple(layers), sample, mixture, seen
        self.threads, self.seconds = threads, seconds
        self._known: dict[LayerPlan, Mapping[str, float]] = {}

    def layers(self, layer: Layer, plans: Sequence[LayerPlan]) -> Sequence[float]:
        """See `Timer`."""
        return [self._profiled(dataclasses.replace(plan, reason="")).get(layer.name, math.nan) for plan in plans]

    def models(self, artifacts: Sequence[Artifact]) -> Sequence[float]:
        """See `Timer`."""
        with ExitStack() as stack:
            calls: dict[str, Any] = {}
            longest = 0.0
            for number, artifact in enumerate(artifacts):
                session = stack.enter_context(artifact.session(threads=self.threads))
                calls[str(number)] = partial(session.run, self.sample)
                longest = max(longest, _seconds(session.run, self.sample))
            turn = len(calls) * max(3 * longest, 0.02)  # a round has three runs of each at least
            rounds = max(FEWEST_ROUNDS, min(ROUNDS, int(len(calls) * self.seconds / turn)))
            found = interleave(calls, rounds=rounds, seconds=0.02, warm_up=0.02)
        return [found[name].best for name in calls]  # what else the machine does only adds

    def _profiled(self, plan: LayerPlan) -> Mapping[str, float]:
        """The seconds of each layer by name, with this plan for all that it is possible for."""
        if plan not in self._known:
            self._known[plan] = self._measured(plan)
        return self._known[plan]

    def _measured(self, plan: LayerPlan) -> dict[str, float]:
        chosen: dict[Part, LayerPlan] = {layer: plan for layer in self.every if is_possible(layer, plan.scheme)}
        try:
            made = finished(self.mixture.made(self.graph, self.every, chosen, self.seen), chosen)
        except QuantisationError:  # the plan is none for the weights of one of them
            return {}
        artifact = compile(dataclasses.replace(made.after, watched={}), target="native", weights="keep")
        with artifact.session(threads=self.threads) as session:
            runs = int(self.seconds / max(_seconds(session.run, self.sample), 1e-9))
            launches = session.profile(self.sample, runs=max(FEWEST, min(MOST, runs))).launches
        owners: dict[str, list[str]] = {}
        for layer in self.every:
            for name in layer.names:
                owners.setdefault(name, []).append(layer.name)
        found: dict[str, float] = {}
        for launch in launches:
            mine = {owner for name in launch.origin for owner in owners.get(name, ())}
            for owner in mine:
                found[owner] = found.get(owner, 0.0) + launch.best / len(mine)
        return found


def _seconds(call: Any, arrays: Arrays) -> float:
    """Of one call after another."""
    call(arrays)
    started = perf_counter()
    call(arrays)
    return perf_counter() - started
