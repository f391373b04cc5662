"""SmoothQuant: "Accurate and Efficient Post-Training Quantization for Large Language Models" (Xiao et al. 2022).

Channels of activations that are much larger than the others cost all of them resolution. They are divided by a part of
their size, by which the weights are multiplied, whose grids have one scale for each output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.quantize.channels import inputs_divided
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.products import by_activations, chosen
from ingot.compiler.passes.quantize.statistics import Statistics

ALPHA = 0.5


def smooth(
    graph: Graph,
    statistics: Mapping[str, Statistics],
    *,
    alpha: float = ALPHA,
    fold_only: bool = False,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> tuple[Graph, dict[str, Statistics]]:
    """`graph` with the activations of its matrix products divided by ``largest ** alpha / largest weight ** (1 -
    alpha)``, channel by channel, and their weights multiplied by it; and the statistics of its products from then on.
    What it computes stays the same but for rounding.

    The division goes into what computes the activations (a norm, a product) where these have no other readers;
    elsewhere it is one Mul for all products that read the same activations, which `fold_only` leaves out. Raises
    QuantisationError for an `alpha` outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise QuantisationError(f"alpha is {alpha}: take a number from 0 (all on the activations) to 1")
    products = chosen(graph, only, exclude).items()
    found = {name: each for name, each in products if isinstance(each.node, MatMul) and name in statistics}
    changed = dict(statistics)
    for names in by_activations(found).values():
        own = statistics[names[0]]
        weights = np.max([found[name].largest_inputs() for name in names], axis=0).astype(np.float64)
        sizes = own.largest[0]
        usable = (sizes > 0) & (weights > 0)
        factor = np.ones(len(sizes))
        factor[usable] = np.maximum(sizes[usable] ** alpha / weights[usable] ** (1 - alpha), 1e-5)
        new = inputs_divided(graph, names, factor, fold_only=fold_only)
        if new is not graph:
            graph = new
            changed |= dict.fromkeys(names, own.divided(factor))
    return graph, changed
