"""Cross-layer equalisation: "Data-Free Quantization Through Weight Equalization and Bias Correction" (Nagel et al.
2019).

Between two products with nothing but a Relu and the like between them a channel may be scaled down in the first one's
weights and up in the second one's. The factor that makes their ranges equal lets one grid serve all channels.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ingot.compiler.ir.graph import Constant, Graph, Value
from ingot.compiler.ops.composite import LeakyRelu
from ingot.compiler.ops.linear import AveragePool, MaxPool
from ingot.compiler.ops.pointwise import Add, Clip, Relu
from ingot.compiler.passes.quantize.channels import inputs_divided
from ingot.compiler.passes.quantize.products import Product, chosen, products

SWEEPS = 20
SETTLED = 1e-3  # of factors: when all are as near to 1 nothing changes any more


def equalise(
    graph: Graph,
    *,
    through_clip: bool = False,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
    sweeps: int = SWEEPS,
) -> Graph:
    """`graph` with the weights of products (convolutions, depthwise ones too) that follow each other scaled so that the
    ranges of what makes a channel and of what reads it are equal. It computes the same but for rounding.

    A Clip between them, such as ReLU6, gets bounds of its own for each channel with `through_clip`, which is exact too
    but no longer part of a grid's range; else products on its two sides are left as they are.
    """
    names = chosen(graph, only, exclude)
    for _ in range(sweeps):
        furthest = 0.0
        for name in names:
            found = products(graph)
            source = _source(found[name].x, found, through_clip)
            if source is None or source.name not in names:
                continue
            # Channels that nothing makes or nothing reads have no range to be equalised.
            made, read = (r.astype(np.float64) for r in (source.largest_outputs(), found[name].largest_inputs()))
            usable = (made > 0) & (read > 0)
            factor = np.sqrt(np.divide(made, read, out=np.ones_like(made), where=usable))
            new = inputs_divided(graph, [name], factor, fold_only=True)
            if new is not graph:
                graph = new
                furthest = max(furthest, float(np.abs(np.log(factor)).max(initial=0)))
        if furthest < SETTLED:
            break
    return graph


def _source(value: Value, found: dict[str, Product], through_clip: bool) -> Product | None:
    """The product whose channels `value` has, scaled alike by what lies between."""
    by_node: dict[Value, Product] = {product.node: product for product in found.values()}
    while value not in by_node:
        match value:
            case Relu(x=x) | LeakyRelu(x=x) | MaxPool(x=x) | AveragePool(x=x) | Add(a=x, b=Constant()):
                value = x
            case Add(a=Constant(), b=x):
                value = x
            case Clip(x=x) if through_clip:
                value = x
            case _:
                return None
    return by_node[value]
