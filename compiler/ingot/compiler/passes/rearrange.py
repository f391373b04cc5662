"""Identities of data movement: operators that move nothing, or that one operator does in one step. All exact."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Graph, Result, Value, operands_of, with_operands
from ingot.compiler.ops.movement import Concat, Expand, Gather, Pad, Reshape, Slice, Split, Transpose
from ingot.compiler.ops.pointwise import Cast, Pointwise
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import i64


def merge_reshapes(node: Reshape, graph: Graph) -> Patch | None:
    """reshape(x, x's shape) -> x; reshape(reshape(x)) -> reshape(x)"""
    if node.x.type == node.type:
        return {node: node.x}
    return {node: Reshape(node.x.x, node.shape)} if isinstance(node.x, Reshape) else None


def unwrap_reshapes(node: Reshape, graph: Graph) -> Patch | None:
    """reshape(f(reshape(x), c)) -> f(x, c) for pointwise f and c of one element, where the shape is x's again"""
    inner = node.x
    if not isinstance(inner, Pointwise) or graph.uses().get(inner, 0) > 1:
        return None
    reshaped = [v for v in operands_of(inner) if isinstance(v, Reshape)]
    others = [v for v in operands_of(inner) if not isinstance(v, Reshape)]
    if len(set(reshaped)) != 1 or any(v.rank for v in others):
        return None
    source = reshaped[0].x
    if source.type.shape != node.shape or reshaped[0].type.shape != inner.type.shape:
        return None
    new = with_operands(inner, {reshaped[0]: source})
    return {node: new} if new.type == node.type else None


def merge_transposes(node: Transpose, graph: Graph) -> Patch | None:
    """transpose(x, 0 1 2 ..) -> x; transpose(transpose(x, p), q) -> transpose(x, p[q])"""
    if node.perm == tuple(range(len(node.perm))):
        return {node: node.x}
    if isinstance(node.x, Transpose):
        return {node: Transpose(node.x.x, tuple(node.x.perm[p] for p in node.perm))}
    return None


def transpose_to_reshape(node: Transpose, graph: Graph) -> Patch | None:
    """transpose(x) -> reshape(x) where only axes of extent 1 change place"""
    kept = [p for p in node.perm if node.x.shape[p] != 1]
    return {node: Reshape(node.x, node.type.shape)} if kept == sorted(kept) else None


def merge_expands(node: Expand, graph: Graph) -> Patch | None:
    """expand(x, x's shape) -> x; expand(expand(x)) -> expand(x)"""
    if node.x.type == node.type:
        return {node: node.x}
    return {node: Expand(node.x.x, node.shape)} if isinstance(node.x, Expand) else None


def broadcast_implicitly(node: Pointwise, graph: Graph) -> Patch | None:
    """f(expand(x), y) -> f(x, y) for pointwise f, where y alone gives the result its shape"""
    for operand in operands_of(node):
        if isinstance(operand, Expand) and len(operands_of(node)) > 1:
            new = with_operands(node, {operand: operand.x})
            if new.type == node.type:
                return {node: new}
    return None


def _whole(node: Slice) -> bool:
    return node.sizes == node.x.type.shape and all(s == 1 for s in node.steps)


def merge_slices(node: Slice, graph: Graph) -> Patch | None:
    """slice(x, all of it) -> x; slice(slice(x)) -> slice(x)"""
    if _whole(node):
        return {node: node.x}
    match node.x:
        case Slice(x, starts, _, steps):
            new_starts = tuple(s + t * p for s, t, p in zip(starts, node.starts, steps, strict=True))
            new_steps = tuple(a * b for a, b in zip(steps, node.steps, strict=True))
            return {node: Slice(x, new_starts, node.sizes, new_steps)}
        case _:
            return None


def slice_of_concat(node: Slice, graph: Graph) -> Patch | None:
    """slice(concat(.., x, ..)) -> slice(x) where the slice lies within one part"""
    if not isinstance(node.x, Concat):
        return None
    axis = node.x.axis
    start, size, step = node.starts[axis], node.sizes[axis], node.steps[axis]
    if not isinstance(start, int) or not isinstance(size, int) or size == 0:
        return None
    low, high = min(start, start + (size - 1) * step), max(start, start + (size - 1) * step)
    place = 0
    for part in node.x.parts:
        extent = part.shape[axis]
        if not isinstance(extent, int):
            return None
        if place <= low and high < place + extent:
            starts = tuple(s - place if i == axis else s for i, s in enumerate(node.starts))
            new = Slice(part, starts, node.sizes, node.steps)
            return {node: new} if new.type == node.type else None
        place += extent
    return None


def flatten_concat(node: Concat, graph: Graph) -> Patch | None:
    """concat(x) -> x; concat(concat(a, b), c) -> concat(a, b, c); parts without elements are left out"""
    parts: list[Value] = []
    for part in node.parts:
        nested = isinstance(part, Concat) and part.axis == node.axis and graph.uses().get(part, 0) == 1
        parts.extend(part.parts if isinstance(part, Concat) and nested else (part,))
    filled = [p for p in parts if p.shape[node.axis] != 0] or parts[:1]
    if len(filled) == len(node.parts) > 1:
        return None
    new = filled[0] if len(filled) == 1 else Concat(tuple(filled), node.axis)
    return {node: new} if new.type == node.type else None


def concat_of_split(node: Concat, graph: Graph) -> Patch | None:
    """concat(split(x)) -> x along one axis"""
    first = node.parts[0]
    if not (isinstance(first, Result) and isinstance(first.node, Split) and first.node.axis == node.axis):
        return None
    return {node: first.node.x} if node.parts == first.node.results() and first.node.x.type == node.type else None


def split_once(node: Split, graph: Graph) -> Patch | None:
    """split(x) into one part -> x; results that nobody uses and slices would do better stay"""
    return {node: node.x} if len(node.sizes) == 1 and node.x.type == node.types[0] else None


def pad_nothing(node: Pad, graph: Graph) -> Patch | None:
    """pad(x, 0) -> x"""
    return {node: node.x} if all(p == 0 for p in node.pads) and node.x.type == node.type else None


def gather_to_slice(node: Gather, graph: Graph) -> Patch | None:
    """gather(x, constant indices of rank 0 or 1 with a constant step) -> slice(x), reshaped for rank 0"""
    if not isinstance(node.indices, Constant) or node.indices.rank > 1 or node.indices.data.size == 0:
        return None
    extent: Dim = node.data.shape[node.axis]
    indices = np.atleast_1d(node.indices.data.astype(np.int64)).tolist()
    if isinstance(extent, int):
        if any(not -extent <= i < extent for i in indices):
            return None
        indices = [i % extent for i in indices]
    steps = {b - a for a, b in pairwise(indices)}
    mixed = min(indices) < 0 <= max(indices)
    if len(steps) > 1 or steps == {0} or mixed:
        return None
    start: Dim = indices[0] if indices[0] >= 0 else extent + indices[0]
    rank, axis = node.data.rank, node.axis
    starts: list[Dim] = [0] * rank
    sizes: list[Dim] = list(node.data.shape)
    strides = [1] * rank
    starts[axis], sizes[axis], strides[axis] = start, len(indices), steps.pop() if steps else 1
    part = Slice(node.data, tuple(starts), tuple(sizes), tuple(strides))
    return {node: part if part.type == node.type else Reshape(part, node.type.shape)}


def gather_before_cast(node: Gather, graph: Graph) -> Patch | None:
    """gather(cast(c), i) -> cast(gather(c, i)) for constants c: the table keeps its narrow type"""
    match node.data:
        case Cast(Constant() as table, to) if table.dtype != i64 and table.dtype.bits <= to.bits:
            return {node: Cast(Gather(table, node.indices, node.axis), to)}
        case _:
            return None


RULES: tuple[Rule, ...] = (
    merge_reshapes,
    unwrap_reshapes,
    merge_transposes,
    transpose_to_reshape,
    merge_expands,
    broadcast_implicitly,
    merge_slices,
    slice_of_concat,
    flatten_concat,
    concat_of_split,
    split_once,
    pad_nothing,
    gather_before_cast,
    gather_to_slice,
)
