"""Activations whose channels differ wildly in size: found on samples, divided before the model is quantised."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np

from ingot.compiler.calibration import Calibration, Extremes, Moments, Observer, Sample
from ingot.compiler.ir.graph import Graph, Node
from ingot.compiler.passes.quantize.balance import Channels, balance
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.products import by_activations, products
from ingot.compiler.passes.quantize.weights import WeightOptions


def balanced(
    graph: Graph,
    layers: Collection[Layer],
    samples: Iterable[Sample],
    options: WeightOptions,
    progress: Callable[[str], None],
) -> tuple[Graph, dict[str, float]]:
    """`graph` with the operands of those layers divided, channel by channel, that one grid serves badly, and how many
    decibels of noise each is expected to save (see `passes.quantize.balance`). Raises what calibration raises."""
    chosen: set[Node] = {layer.node for layer in layers}
    found = {
        name: each
        for name, each in products(graph).items()
        if each.node in chosen and isinstance(each.x.shape[each.in_axis], int) and each.channels[0] > 1
    }
    readers = by_activations(found)
    if not readers:
        return graph, {}
    axes = {names[0]: found[names[0]].in_axis for names in readers.values()}
    observers: dict[str, list[Observer]] = {name: [Extremes(axis), Moments(axis)] for name, axis in axes.items()}
    calibration = Calibration(graph, {name: found[name].x for name in axes}, observers)
    calibration.update(samples, progress=progress)
    channels: dict[str, Channels] = {}
    for names in readers.values():
        name = names[0]
        extremes = calibration.state(name, Extremes(axes[name]))
        if extremes["low"].shape[0]:
            mean, variance = calibration.moments(name, axes[name])
            low, high = extremes["low"].min(0), extremes["high"].max(0)
            seen = Channels(low.astype(np.float64), high.astype(np.float64), np.square(mean) + variance)
            channels |= dict.fromkeys(names, seen)
    return balance(graph, channels, options, only=list(channels))
