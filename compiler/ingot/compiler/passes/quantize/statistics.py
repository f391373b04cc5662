"""What calibration tells of the activations that a product multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.quantize.products import Array, Product, products

Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]

WAITING = 1 << 20  # elements of rows whose moment is computed at once


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of the rows that a product's matrices [groups, K, N] multiply, each [groups, K]: the mean, the mean magnitude and
    the largest magnitude; `moment` [groups, K, K] is the mean of ``outer(row, row)``; `count` says of how many rows."""

    count: int
    mean: Array
    mean_magnitude: Array
    largest: Array
    moment: Array

    @staticmethod
    def of(rows: Array) -> Statistics:
        """Those of rows [groups, rows, K], in f64."""
        wide = rows.astype(np.float64)
        count = rows.shape[1]
        size = np.abs(wide)
        least = max(count, 1)
        return Statistics(
            count,
            wide.sum(1) / least,
            size.sum(1) / least,
            size.max(1, initial=0),
            np.matmul(wide.transpose(0, 2, 1), wide) / least,
        )

    def merged(self, other: Statistics) -> Statistics:
        """Those of the rows of both."""
        count = self.count + other.count
        mine, theirs = (each.count / max(count, 1) for each in (self, other))
        return Statistics(
            count,
            mine * self.mean + theirs * other.mean,
            mine * self.mean_magnitude + theirs * other.mean_magnitude,
            np.maximum(self.largest, other.largest),
            mine * self.moment + theirs * other.moment,
        )

    def divided(self, factor: Array) -> Statistics:
        """Those of the rows with each of their K elements divided by a positive factor."""
        return replace(
            self,
            mean=self.mean / factor,
            mean_magnitude=self.mean_magnitude / factor,
            largest=self.largest / factor,
            moment=self.moment / factor[:, None] / factor,
        )


def observed(
    graph: Graph,
    samples: Iterable[Mapping[str, Array]],
    names: Iterable[str] | None = None,
    compiled: Callable[[Graph], Runner] | None = None,
) -> dict[str, Statistics]:
    """The statistics of the products called `names` (None: all) by name over samples, which are inputs by label.

    `compiled` makes something that computes a graph's outputs; by default the interpreter does. Products that read the
    same activations in the same way share one object.
    """
    wanted = _wanted(graph, names)
    values = dict.fromkeys(product.x for product in wanted.values())
    labels = {value: f"activations of product {i}" for i, value in enumerate(values)}
    taps = tuple((label, value) for value, label in labels.items())
    run = (compiled or _interpreted)(replace(graph, outputs=(*graph.outputs, *taps)))
    keys = {name: _key(product) for name, product in wanted.items()}
    first = {key: name for name, key in reversed(keys.items())}
    found: dict[object, Statistics] = {}
    waiting: dict[object, list[Array]] = {}  # rows that are put together: moments are large

    def settle(key: object) -> None:
        new = Statistics.of(np.concatenate(waiting.pop(key), axis=1))
        found[key] = found[key].merged(new) if key in found else new

    for sample in samples:
        outputs = run(sample)
        for key, name in first.items():
            product = wanted[name]
            waiting.setdefault(key, []).append(product.rows(outputs[labels[product.x]]))
            if sum(rows.size for rows in waiting[key]) >= WAITING:
                settle(key)
    for key in list(waiting):
        settle(key)
    return {name: found[key] for name, key in keys.items() if key in found}


def _wanted(graph: Graph, names: Iterable[str] | None) -> dict[str, Product]:
    found = products(graph)
    return found if names is None else {name: found[name] for name in names}


def _key(product: Product) -> object:
    """Equal for products that read the same rows."""
    node = product.node
    if isinstance(node, MatMul):
        return (id(product.x),)
    return (id(product.x), node.kernel, node.strides, node.pads, node.dilations, node.group, node.channels_last)


@dataclass(frozen=True, eq=False)
class OutputStatistics:
    """The mean and the standard deviation of each output channel of a product, [channels]."""

    mean: Array
    deviation: Array


def outputs_observed(
    graph: Graph,
    samples: Iterable[Mapping[str, Array]],
    names: Iterable[str] | None = None,
    compiled: Callable[[Graph], Runner] | None = None,
) -> dict[str, OutputStatistics]:
    """The statistics of what the products called `names` (None: all) compute, biases included, over samples.

    `compiled` makes something that computes a graph's outputs; by default the interpreter does.
    """
    wanted = _wanted(graph, names)
    labels = {name: f"result of product {i}" for i, name in enumerate(wanted)}
    taps = tuple((labels[name], product.result(graph)) for name, product in wanted.items())
    run = (compiled or _interpreted)(replace(graph, outputs=(*graph.outputs, *taps)))
    sums = {name: np.zeros((3, product.channels[1])) for name, product in wanted.items()}
    for sample in samples:
        outputs = run(sample)
        for name, product in wanted.items():
            data = np.moveaxis(outputs[labels[name]].astype(np.float64), product.out_axis, -1)
            rows = data.reshape(-1, data.shape[-1])
            sums[name] += np.stack([np.full(rows.shape[1], len(rows)), rows.sum(0), np.square(rows).sum(0)])
    found: dict[str, OutputStatistics] = {}
    for name, (count, total, squares) in sums.items():
        mean = total / np.maximum(count, 1)
        found[name] = OutputStatistics(mean, np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0)))
    return found


def _interpreted(graph: Graph) -> Runner:
    return lambda sample: evaluate_graph(graph, sample)
