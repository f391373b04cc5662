"""AWQ: "Activation-aware Weight Quantization for LLM Compression and Acceleration" (Lin et al. 2023).

Input channels with large activations get larger weights, which are rounded with a smaller relative error, and smaller
activations. How much larger is the power of their mean magnitude, between 0 and 1, that makes the product's error
smallest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.quantize.channels import inputs_divided
from ingot.compiler.passes.quantize.groups import Array, WeightForm, nearest, output_error
from ingot.compiler.passes.quantize.products import by_activations, chosen
from ingot.compiler.passes.quantize.statistics import Statistics

POWERS = tuple(i / 20 for i in range(20))
COLUMNS = 128  # of a weight on which powers are tried, at least, where there are as many


def scaled_by_activations(
    graph: Graph,
    statistics: Mapping[str, Statistics],
    form: WeightForm,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> tuple[Graph, dict[str, Statistics]]:
    """`graph` with the input channels of its matrix products scaled for weights of the form `form`, and the statistics
    of its products from then on. What it computes stays the same but for rounding.

    The scales go into what computes the activations (a norm, a product) where these have no other readers; elsewhere
    one Mul for all products that read the same activations undoes them.
    """
    products = chosen(graph, only, exclude).items()
    found = {name: each for name, each in products if isinstance(each.node, MatMul) and name in statistics}
    changed = dict(statistics)
    for names in by_activations(found).values():
        weights = np.concatenate([found[name].matrices()[0] for name in names], axis=1)
        own = statistics[names[0]]
        factor = channel_factors(weights, own.mean_magnitude[0], own.moment[0], form)
        if (factor == 1).all():
            continue
        graph = inputs_divided(graph, names, factor)
        shared = own.divided(factor)
        changed |= dict.fromkeys(names, shared)
    return graph, changed


def channel_factors(w: Array, magnitude: Array, moment: Array, form: WeightForm) -> Array:
    """The factors [K] for the rows of w [K, N] that make the error of ``x @ w`` smallest, of activations with the mean
    magnitudes `magnitude` [K] and the second moment `moment` [K, K]; all 1 where none is better."""
    stride = max(1, w.shape[1] // COLUMNS)
    part = np.ascontiguousarray(w[:, ::stride])
    moment = moment.astype(w.dtype)
    best, least = np.ones(len(w)), np.inf
    for power in POWERS:
        factor = powers_of(magnitude, power)
        column = factor[:, None].astype(w.dtype)
        importance = np.diagonal(moment) / column[:, 0] ** 2
        error = output_error(nearest(part * column, form, importance).values() / column - part, moment)
        if error < least:
            best, least = factor, error
    return best


def powers_of(magnitude: Array, power: float) -> Array:
    """``magnitude ** power``, scaled so that the largest and the smallest are as far from 1; channels without
    activations count as the smallest of the others."""
    seen = magnitude > 0
    if not seen.any():
        return np.ones(len(magnitude))
    factor = np.maximum(magnitude, magnitude[seen].min()) ** power
    return factor / np.sqrt(factor.max() * factor.min())
