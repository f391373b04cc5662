"""Channels-last layout: convolutions and pools are turned around, the transposes sink until they meet and cancel."""

from __future__ import annotations

import dataclasses

from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.linear import AveragePool, Conv, MaxPool
from ingot.compiler.ops.movement import Pad, Transpose
from ingot.compiler.passes import sink
from ingot.compiler.passes.constants import is_splat
from ingot.compiler.rewrite import Patch, Rule


def to_channels_last(node: Conv | MaxPool | AveragePool, graph: Graph) -> Patch | None:
    """conv(x) -> transpose(conv(transpose(x), channels_last))"""
    if node.channels_last:
        return None
    rank = node.rank
    x = Transpose(node.x, (0, *range(2, rank), 1))
    turned = dataclasses.replace(node, x=x, channels_last=True)
    return {node: Transpose(turned, (0, rank - 1, *range(1, rank - 1)))}


def fold_padding(node: Conv, graph: Graph) -> Patch | None:
    """conv(pad(x, zeros along the spatial axes), pads) -> conv(x, more pads)"""
    match node.x:
        case Pad(x, pads, "constant", value) if value is None or is_splat(value, 0):
            pass
        case _:
            return None
    rank = x.rank
    spatial = range(1, rank - 1) if node.channels_last else range(2, rank)
    amounts = [pads[side + a] for side in (0, rank) for a in spatial]
    more = [p for p in amounts if isinstance(p, int) and p >= 0]
    if len(more) < len(amounts) or any(p != 0 for i, p in enumerate(pads) if i % rank not in spatial):
        return None
    return {node: dataclasses.replace(node, x=x, pads=tuple(a + b for a, b in zip(node.pads, more, strict=True)))}


LAYOUT: tuple[Rule, ...] = (fold_padding, to_channels_last, *sink.RULES)
