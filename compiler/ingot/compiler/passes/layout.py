"""Channels-last layout: convolutions and pools are turned around, the transposes sink until they meet and cancel."""

from __future__ import annotations

import dataclasses

from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.linear import AveragePool, Conv, MaxPool
from ingot.compiler.ops.movement import Transpose
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.passes import sink
from ingot.compiler.rewrite import Patch, Rule


def to_channels_last(node: Conv | ConvTranspose | MaxPool | AveragePool, graph: Graph) -> Patch | None:
    """conv(x) -> transpose(conv(transpose(x), channels_last))"""
    if node.channels_last:
        return None
    rank = node.rank
    x = Transpose(node.x, (0, *range(2, rank), 1))
    turned = dataclasses.replace(node, x=x, channels_last=True)
    return {node: Transpose(turned, (0, rank - 1, *range(1, rank - 1)))}


LAYOUT: tuple[Rule, ...] = (to_channels_last, *sink.RULES)
