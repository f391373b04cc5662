"""What the methods for weights want to know of activations, observed while the model's compiled code runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from ingot.compiler.calibration import Calibration, Magnitude, Moments, SecondMoment
from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.statistics import Statistics


def activation_statistics(
    graph: Graph,
    samples: Any,
    names: Collection[str] | None = None,
    *,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Statistics]:
    """The statistics of what the matrix products of `graph` called `names` (None: all, see `products`) multiply their
    weights by, over samples as `Calibration.update` takes them, `limit` of them at most.

    Products of the same activations share one object. Raises QuantisationError for a name that no matrix product has,
    and what calibration raises.
    """
    found = {name: each for name, each in products(graph).items() if isinstance(each.node, MatMul)}
    if unknown := [name for name in names or () if name not in found]:
        raise QuantisationError(f"no matrix product with a constant weight is called {unknown[0]!r}")
    wanted = {name: each for name, each in found.items() if names is None or name in names}
    if not wanted:
        return {}
    first: dict[Value, str] = {}
    for name, product in wanted.items():
        first.setdefault(product.x, name)
    points = {name: value for value, name in first.items()}
    calibration = Calibration(graph, points, (Magnitude(-1), Moments(-1), SecondMoment(-1)), threads=threads)
    calibration.update(samples, limit=limit, progress=progress)
    known = {name: _statistics(calibration, name) for name in points}
    return {name: known[first[product.x]] for name, product in wanted.items()}


def _statistics(calibration: Calibration, name: str) -> Statistics:
    largest, magnitude = calibration.magnitudes(name, -1)
    mean, _ = calibration.moments(name, -1)
    product, count = calibration.second_moment(name, -1)
    moment = product / np.float64(max(count, 1))
    return Statistics(count, mean[None], magnitude[None], largest[None], moment[None])
