"""Outlier channels kept in higher precision: "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale"
(Dettmers et al. 2022).

A few channels of activations may be so large that a grid over them leaves the others no resolution. Their part of the
product is computed as one of its own, which is not quantised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from ingot.compiler.ir.graph import Graph, Value, constant
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.pointwise import Add
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.products import Array, chosen
from ingot.compiler.passes.quantize.statistics import Statistics
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import i64

SUFFIX = "/outliers"
"""What the origin of the product of the outlier channels ends in: its name, by which it is left out."""


def split_outliers(
    graph: Graph,
    statistics: Mapping[str, Statistics],
    *,
    ratio: float = 6.0,
    share: float = 0.1,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> tuple[Graph, tuple[str, ...]]:
    """`graph` with each matrix product that has outlier channels as the sum of two, and the origins of those of the
    outliers, which are not to be quantised. What it computes stays the same but for rounding.

    Channels are outliers whose largest magnitude is more than `ratio` times the median of all channels', at most the
    `share` of the channels that has the largest. Raises QuantisationError for a ratio or share out of range.
    """
    if not ratio > 1 or not 0 < share < 1:
        raise QuantisationError(f"a ratio of {ratio} and a share of {share}: take ones above 1 and between 0 and 1")
    apart: list[str] = []
    mapping: dict[Value, Value] = {}
    for name, product in chosen(graph, only, exclude).items():
        if not isinstance(product.node, MatMul) or name not in statistics:
            continue
        found = outlier_channels(statistics[name].largest[0], ratio, share)
        if not len(found):
            continue
        weight, last = product.weight(), product.x.rank - 1
        others = np.setdiff1d(np.arange(len(weight)), found)
        origin = (f"{name}{SUFFIX}",)
        parts = [
            dataclasses.replace(
                product.with_operands(Gather(product.x, constant(rows, i64), last), np.ascontiguousarray(weight[rows])),
                origin=who,
            )
            for rows, who in ((others, product.node.origin), (found, origin))
        ]
        mapping[product.node] = Add(*parts, origin=product.node.origin)
        apart += origin
    return rebuild(graph, mapping), tuple(apart)


def outlier_channels(largest: Array, ratio: float, share: float) -> Array:
    """The channels whose entry of `largest` [channels] is more than `ratio` times the median, in order, the `share` of
    all that has the largest at most."""
    most = int(share * len(largest))
    order = np.argsort(-largest, kind="stable")[:most]
    return np.sort(order[largest[order] > ratio * np.median(largest)])
