"""Channels-last layout: convolutions and pools are turned around, the transposes sink until they meet and cancel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.graph import Constant, Graph, Value, constant, operands_of, with_operands
from ingot.compiler.ops.linear import AveragePool, Conv, MaxPool
from ingot.compiler.ops.movement import Concat, Gather, Pad, Slice, Transpose
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.ops.reduction import Reduction
from ingot.compiler.ops.resample import Resample
from ingot.compiler.ops.transposed import ConvTranspose
from ingot.compiler.rewrite import Patch


def to_channels_last(node: Conv | ConvTranspose | MaxPool | AveragePool, graph: Graph) -> Patch | None:
    """conv(x) -> transpose(conv(transpose(x), channels_last))"""
    if node.channels_last:
        return None
    rank = node.rank
    x = Transpose(node.x, (0, *range(2, rank), 1))
    turned = dataclasses.replace(node, x=x, channels_last=True)
    return {node: Transpose(turned, (0, rank - 1, *range(1, rank - 1)))}


def merge_transposes(node: Transpose, graph: Graph) -> Patch | None:
    """transpose(transpose(x, p), q) -> transpose(x, p[q]); transpose(x, identity) -> x"""
    if node.perm == tuple(range(node.rank)):
        return {node: node.x}
    match node.x:
        case Transpose(x=x, perm=inner):
            return {node: Transpose(x, tuple(inner[p] for p in node.perm))}
        case _:
            return None


def sink_through_pointwise(node: Pointwise, graph: Graph) -> Patch | None:
    """f(transpose(a, p), transpose(b, p), c) -> transpose(f(a, b, c'), p) with constant c turned back"""
    operands = operands_of(node)
    perm = _shared_perm([x for x in operands if not isinstance(x, Constant)])
    if perm is None or len(perm) != node.rank:
        return None
    inverse = _inverse(perm)
    mapping: dict[Value, Value] = {}
    for x in operands:
        if isinstance(x, Transpose):
            mapping[x] = x.x
        elif isinstance(x, Constant) and x.rank > 0:
            full = x.data.reshape((1,) * (node.rank - x.rank) + x.data.shape)
            mapping[x] = constant(np.transpose(full, inverse), origin=x.origin)
    return {node: Transpose(with_operands(node, mapping), perm)}


def sink_through_reduction(node: Reduction, graph: Graph) -> Patch | None:
    """reduce(transpose(x, p), axes, keepdims) -> transpose(reduce(x, p[axes], keepdims), p)"""
    match node.x:
        case Transpose(x=x, perm=perm):
            axes = tuple(sorted(perm[a] for a in node.axes))
            turned = dataclasses.replace(node, x=x, axes=axes)
            if node.keepdims:
                return {node: Transpose(turned, perm)}
            kept = [perm[a] for a in range(len(perm)) if a not in node.axes]
            return {node: Transpose(turned, tuple(sorted(kept).index(k) for k in kept))}
        case _:
            return None


def sink_through_concat(node: Concat, graph: Graph) -> Patch | None:
    """concat(transpose(a, p), transpose(b, p), axis) -> transpose(concat(a, b, p[axis]), p)"""
    perm = _shared_perm(node.parts)
    if perm is None:
        return None
    parts = tuple(part.x for part in node.parts if isinstance(part, Transpose))
    return {node: Transpose(dataclasses.replace(node, parts=parts, axis=perm[node.axis]), perm)}


def sink_through_pad(node: Pad, graph: Graph) -> Patch | None:
    """pad(transpose(x, p), pads) -> transpose(pad(x, pads'), p)"""
    match node.x:
        case Transpose(x=x, perm=perm):
            inverse, rank = _inverse(perm), node.rank
            pads = tuple(node.pads[side * rank + inverse[a]] for side in (0, 1) for a in range(rank))
            return {node: Transpose(dataclasses.replace(node, x=x, pads=pads), perm)}
        case _:
            return None


def sink_through_slice(node: Slice, graph: Graph) -> Patch | None:
    """slice(transpose(x, p), ...) -> transpose(slice(x, ...'), p)"""
    match node.x:
        case Transpose(x=x, perm=perm):
            order = _inverse(perm)
            turned = dataclasses.replace(
                node,
                x=x,
                starts=tuple(node.starts[a] for a in order),
                sizes=tuple(node.sizes[a] for a in order),
                steps=tuple(node.steps[a] for a in order),
            )
            return {node: Transpose(turned, perm)}
        case _:
            return None


def sink_through_lookup(node: Gather | Resample, graph: Graph) -> Patch | None:
    """gather(transpose(x, p), i, axis) -> transpose(gather(x, i, p[axis]), p) for i of rank 1; the same for resample"""
    match node:
        case Gather(Transpose(x, perm), indices) if indices.rank == 1:
            return {node: Transpose(dataclasses.replace(node, data=x, axis=perm[node.axis]), perm)}
        case Resample(Transpose(x, perm)):
            return {node: Transpose(dataclasses.replace(node, x=x, axis=perm[node.axis]), perm)}
        case _:
            return None


LAYOUT = (
    to_channels_last,
    merge_transposes,
    sink_through_pointwise,
    sink_through_reduction,
    sink_through_concat,
    sink_through_pad,
    sink_through_slice,
    sink_through_lookup,
)


def _shared_perm(values: Sequence[Value]) -> tuple[int, ...] | None:
    """The permutation of `values` if they all are transposes with the same one."""
    perms = {x.perm if isinstance(x, Transpose) else None for x in values}
    return perms.pop() if len(perms) == 1 else None


def _inverse(perm: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(perm))
