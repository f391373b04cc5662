"""Channels-last layout: convolutions and pools are turned around, the transposes sink until they meet and cancel."""

from __future__ import annotations

import dataclasses

from ingot.compiler.ir.graph import Graph, Value, operands_of, with_operands
from ingot.compiler.ops.linear import AveragePool, Conv, MaxPool
from ingot.compiler.ops.movement import Concat, Pad, Reshape, Transpose
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.passes import sink
from ingot.compiler.passes.constants import is_splat
from ingot.compiler.passes.recognise.spelling import shrink_constant
from ingot.compiler.rewrite import Patch, Rule


def to_channels_last(node: Conv | MaxPool | AveragePool, graph: Graph) -> Patch | None:
    """conv(x) -> transpose(conv(transpose(x), channels_last))"""
    if node.channels_last:
        return None
    rank = node.rank
    x = Transpose(node.x, (0, *range(2, rank), 1))
    turned = dataclasses.replace(node, x=x, channels_last=True)
    return {node: Transpose(turned, (0, rank - 1, *range(1, rank - 1)))}


def turn_the_others(node: Pointwise | Concat, graph: Graph) -> Patch | None:
    """f(transpose(a, p), b) -> transpose(f(a, transpose(b, q)), p) for images: p makes channels first, q channels last

    b is read where it lies, or copied where it would have been copied anyway. Not with one spatial axis: that transpose
    is its own inverse, and values would be turned to and fro without end.
    """
    operands, rank = operands_of(node), node.rank
    turns = [x for x in operands if isinstance(x, Transpose) and x.rank == rank]
    perm = sink.shared_perm(turns)
    if perm is None or rank < 4 or perm != (0, rank - 1, *range(1, rank - 1)):
        return None
    inverse = sink.inverse_of(perm)
    mapping: dict[Value, Value] = {}
    for x in operands:
        back = sink.turned_back(x, perm, inverse)
        full = x if x.rank == rank else Reshape(x, (*(1,) * (rank - x.rank), *x.shape))
        mapping[x] = Transpose(full, inverse) if back is None else back
    if isinstance(node, Concat):
        parts = tuple(mapping[part] for part in node.parts)
        return {node: Transpose(Concat(parts, perm[node.axis]), perm)}
    if all(x.type.shape != node.type.shape for x in turns):
        return None
    new = Transpose(with_operands(node, mapping), perm)
    return {node: new} if new.type == node.type else None


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


LAYOUT: tuple[Rule, ...] = (fold_padding, to_channels_last, *sink.RULES, turn_the_others, shrink_constant)
