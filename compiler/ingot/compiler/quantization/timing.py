"""How long layers take by themselves, and whole models, compiled for this machine and timed in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.api import compile
from ingot.compiler.artifact import Artifact
from ingot.compiler.bench.interleave import interleave
from ingot.compiler.calibration.interface import interface_of
from ingot.compiler.ir.dims import evaluate
from ingot.compiler.ir.graph import Graph, Input, Value, with_operands
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.quantised import Quantize
from ingot.compiler.passes.quantize.grid import Range
from ingot.compiler.passes.quantize.layers import Layer, layers_of
from ingot.compiler.passes.quantize.tables import Part
from ingot.compiler.quantization.mixture import Mixture, Seen, finished
from ingot.compiler.quantization.plan import WEIGHTS, LayerPlan
from ingot.compiler.rewrite import rebuild
from ingot.runtime.inputs import solve

Arrays = Mapping[str, NDArray[Any]]
ROUNDS, PROBES = 5, 4


class Timer(Protocol):
    """Says how long things take, in seconds."""

    def layers(self, layer: Layer, plans: Sequence[LayerPlan]) -> Sequence[float]:
        """One layer by itself, under each plan."""
        ...

    def models(self, artifacts: Sequence[Artifact]) -> Sequence[float]:
        """Whole models, compiled for this machine."""
        ...


class Native:
    """Measures on this machine, with `threads`, on the shapes of one sample of the model `graph`. A layer takes about
    `seconds` at most, and those that are alike are measured once."""

    def __init__(
        self, graph: Graph, sample: Arrays, mixture: Mixture, *, threads: int | None = 1, seconds: float = 2.0
    ) -> None:
        self.sample, self.mixture, self.threads, self.seconds = sample, mixture, threads, seconds
        interface = interface_of(graph)
        shapes = [np.shape(sample[each.name]) for each in interface.inputs]
        self._sizes = solve(interface, shapes)  # pyright: ignore[reportArgumentType] - it reads inputs and symbols
        self._known: dict[object, Sequence[float]] = {}

    def layers(self, layer: Layer, plans: Sequence[LayerPlan]) -> Sequence[float]:
        """See `Timer`. Operands of static int8 are bytes, as where the layer before is in int8, too."""
        try:
            shape = tuple(evaluate(dim, self._sizes) for dim in layer.x.shape)
        except KeyError:  # a size that follows from data
            return [float("nan")] * len(plans)
        key = _kind(layer), shape, tuple(dataclasses.replace(plan, reason="") for plan in plans)
        if key not in self._known:
            graphs = [self._alone(layer, shape, plan) for plan in plans]
            artifacts = [compile(graph, target="native", weights="keep") for graph in graphs]
            self._known[key] = self._timed(artifacts, [_random(graph) for graph in graphs])
        return self._known[key]

    def models(self, artifacts: Sequence[Artifact]) -> Sequence[float]:
        """See `Timer`."""
        return self._timed(artifacts, [self.sample] * len(artifacts))

    def _timed(self, artifacts: Sequence[Artifact], arrays: Sequence[Arrays]) -> list[float]:
        with ExitStack() as stack:
            calls: dict[str, Any] = {}
            longest = 0.0
            for number, (artifact, given) in enumerate(zip(artifacts, arrays, strict=True)):
                session = stack.enter_context(artifact.session(threads=self.threads))
                calls[str(number)] = partial(session.run, given)
                session.run(given)
                started = perf_counter()
                session.run(given)
                longest = max(longest, perf_counter() - started)
            turn = len(calls) * max(3 * longest, 0.02)  # a round has three runs of each at least
            rounds = min(ROUNDS, max(1, int(self.seconds / turn) - 1))
            found = interleave(calls, rounds=rounds, seconds=0.02, warm_up=min(0.05, self.seconds / PROBES))
        return [found[name].best for name in calls]  # what else the machine does only adds

    def _alone(self, layer: Layer, shape: tuple[int, ...], plan: LayerPlan) -> Graph:
        x = Input("x", TensorType(layer.x.dtype, shape))
        graph = Graph((x,), (("y", with_operands(layer.node, {layer.x: x})),))
        found = layers_of(graph)
        if plan.scheme == "f32" or not found:
            return graph
        if plan.scheme in WEIGHTS:
            plan = dataclasses.replace(plan, method="nearest")  # how they are rounded is of no account here
        chosen: dict[Part, LayerPlan] = {found[0]: plan}
        made = self.mixture.made(graph, found, chosen, Seen({x: Range(-1.0, 1.0)}))
        after = dataclasses.replace(finished(made, chosen).after, watched={})
        if plan.scheme != "int8":
            return after
        quantised = [node for node in after.nodes() if isinstance(node, Quantize) and node.x is x]
        number = Input("x", TensorType(quantised[0].dtype, shape)) if quantised else x
        mapping: dict[Value, Value] = dict.fromkeys(quantised, number)
        return dataclasses.replace(rebuild(after, mapping), inputs=(number,))


def _kind(layer: Layer) -> object:
    """What the time of a layer depends on beside the shape of its operand."""
    attributes = (
        (field.name, repr(value))
        for field in dataclasses.fields(layer.node)
        if field.name != "origin" and not isinstance(value := getattr(layer.node, field.name), Value)
    )
    return type(layer.node), tuple(attributes), layer.w.shape


def _random(graph: Graph) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {}
    for x in graph.inputs:
        shape = x.type.static_shape()
        data: NDArray[Any] = random.standard_normal(shape) if x.dtype.is_float else random.integers(0, 100, shape)
        found[x.label] = data.astype(x.dtype.to_numpy())
    return found
