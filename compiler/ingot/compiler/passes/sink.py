"""Transposes and reshapes sink: past what does not care how axes are arranged, until they meet and cancel.

What is computed element by element then stands beside what produces the elements, and movement stands where lowering
can make it a view or let the producer write in the final order. Every rule is exact and moves movement downwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ingot.compiler.ir.dims import Dim, divide_exact, product
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, constant, operands_of, with_operands
from ingot.compiler.ir.types import Shape
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Concat, Gather, Pad, Reshape, Slice, Split, Transpose
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.ops.reduction import Reduction
from ingot.compiler.ops.resample import Resample
from ingot.compiler.passes.axes import carried, kept_in_order, runs
from ingot.compiler.passes.constants import users
from ingot.compiler.passes.rearrange import merge_reshapes, merge_transposes
from ingot.compiler.rewrite import Patch, Rule

READERS = 32  # pointwise readers that are followed to see where a chain leads


def split_to_slices(node: Split, graph: Graph) -> Patch | None:
    """split(x, axis) -> slice(x, axis), one a part: one spelling for what is cut"""
    start: Dim = 0
    patch: dict[Value, Value] = {}
    for result, size in zip(node.results(), node.sizes, strict=True):
        patch[result] = _part(node.x, node.axis, start, size)
        start = start + size
    return patch


def concat_of_slices(node: Concat, graph: Graph) -> Patch | None:
    """concat(slice(x), slice(x)) -> x where the slices are all of x in order"""
    end: Dim = 0
    whole: Value | None = None
    for part in node.parts:
        if not isinstance(part, Slice) or (whole is not None and part.x is not whole):
            return None
        whole, start = part.x, part.starts[node.axis]
        if any(s != 1 for s in part.steps):  # before `_part`, which a slice read backwards does not fit
            return None
        if part.type != _part(whole, node.axis, start, part.sizes[node.axis]).type:
            return None
        if start != end or any(s != 0 for a, s in enumerate(part.starts) if a != node.axis):
            return None
        end = end + part.sizes[node.axis]
    return {node: whole} if whole is not None and whole.type == node.type else None


def _part(x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Slice:
    starts = tuple(start if a == axis else 0 for a in range(x.rank))
    sizes = tuple(size if a == axis else d for a, d in enumerate(x.shape))
    return Slice(x, starts, sizes, tuple(step if a == axis else 1 for a in range(x.rank)))


# -- transposes -------------------------------------------------------------------------------------------------------


def transpose_past_pointwise(node: Pointwise, graph: Graph) -> Patch | None:
    """f(transpose(a, p), transpose(b, p), c) -> transpose(f(a, b, c'), p) with c turned back

    c may be constant, or such that turning it moves only axes of extent 1.
    """
    operands = operands_of(node)
    turns = [x for x in operands if isinstance(x, Transpose)]
    perm = shared_perm(turns)
    if perm is None or all(x.type.shape != node.type.shape or _is_outer(x.x) for x in turns):
        return None
    inverse = inverse_of(perm)
    mapping: dict[Value, Value] = {}
    for x in operands:
        turned = turned_back(x, perm, inverse)
        if turned is None:
            return None
        mapping[x] = turned
    new = Transpose(with_operands(node, mapping), perm)
    return {node: new} if new.type == node.type else None


def _is_outer(value: Value) -> bool:
    """Whether no operand is as large as the result."""
    return isinstance(value, Pointwise) and all(x.type.shape != value.type.shape for x in operands_of(value))


def turned_back(x: Value, perm: tuple[int, ...], inverse: tuple[int, ...]) -> Value | None:
    """`x`, which broadcasts to `len(perm)` axes, with its axes as they were before `perm`; None where it would copy."""
    if isinstance(x, Transpose) and x.perm == perm:
        return x.x
    if x.rank == 0:
        return x
    full = (1,) * (len(perm) - x.rank) + x.shape
    if isinstance(x, Constant):
        return constant(np.transpose(x.data.reshape((1,) * (len(perm) - x.rank) + x.data.shape), inverse))
    shape = tuple(full[p] for p in inverse)
    if not kept_in_order(inverse, full):
        return None
    return x if shape == x.shape else Reshape(x, shape)


def transpose_past_reduction(node: Reduction, graph: Graph) -> Patch | None:
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


def transpose_past_concat(node: Concat, graph: Graph) -> Patch | None:
    """concat(transpose(a, p), transpose(b, p), axis) -> transpose(concat(a, b, p[axis]), p)"""
    perm = shared_perm(node.parts)
    if perm is None:
        return None
    parts = tuple(part.x for part in node.parts if isinstance(part, Transpose))
    return {node: Transpose(dataclasses.replace(node, parts=parts, axis=perm[node.axis]), perm)}


def transpose_past_pad(node: Pad, graph: Graph) -> Patch | None:
    """pad(transpose(x, p), pads) -> transpose(pad(x, pads'), p)"""
    match node.x:
        case Transpose(x=x, perm=perm):
            inverse, rank = inverse_of(perm), node.rank
            pads = tuple(node.pads[side * rank + inverse[a]] for side in (0, 1) for a in range(rank))
            return {node: Transpose(dataclasses.replace(node, x=x, pads=pads), perm)}
        case _:
            return None


def transpose_past_slice(node: Slice, graph: Graph) -> Patch | None:
    """slice(transpose(x, p), ...) -> transpose(slice(x, ...'), p)"""
    match node.x:
        case Transpose(x=x, perm=perm):
            order = inverse_of(perm)
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


def transpose_past_lookup(node: Gather | Resample, graph: Graph) -> Patch | None:
    """gather(transpose(x, p), i, axis) -> transpose(gather(x, i, p[axis]), p) for i of rank 1; the same for resample"""
    match node:
        case Gather(Transpose(x, perm), indices) if indices.rank == 1:
            return {node: Transpose(dataclasses.replace(node, data=x, axis=perm[node.axis]), perm)}
        case Resample(Transpose(x, perm)):
            return {node: Transpose(dataclasses.replace(node, x=x, axis=perm[node.axis]), perm)}
        case _:
            return None


def transpose_past_product(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(transpose(x, p), w) -> transpose(mat_mul(x, w), p) for one matrix w where p leaves the last axis alone"""
    match node:
        case MatMul(Transpose(x, perm), w) if w.rank == 2 and perm[-1] == len(perm) - 1:
            return {node: Transpose(MatMul(x, w, node.a_bits), perm)}
        case _:
            return None


def transpose_past_reshape(node: Reshape, graph: Graph) -> Patch | None:
    """reshape(transpose(x, p)) -> transpose(reshape(x), q) where axes that are merged are neighbours in x too

    Where they are not: -> transpose(reshape(transpose(x, r)), q), r moving only what brings them together.
    """
    match node.x:
        case Transpose(x, perm):
            pass
        case _:
            return None
    found = runs(node.x.type.shape, node.shape)
    if found is None:
        return None
    placed = [([perm[a] for a in run.old], run.new) for run in found]  # axes of x, axes of the result
    ordered = sorted(placed, key=lambda item: max(item[0]))
    if not all(_are_neighbours(places, x.shape) for places, _ in placed):
        if ordered == placed:
            return None
        kept = [a for places, _ in ordered for a in places]
        x = Transpose(x, (*(a for a in range(x.rank) if a not in kept), *kept))
    full = {a for _, new in placed for a in new}
    sequence = list(range(min(full, default=node.rank)))
    for _, new in ordered:
        for a in new:  # an axis of extent 1 stays behind the axis before it
            end = next((b for b in range(a + 1, node.rank) if b in full), node.rank)
            sequence.extend(range(a, end))
    inner = Reshape(x, tuple(node.shape[a] for a in sequence))
    q = inverse_of(sequence)
    return {node: inner if q == tuple(range(node.rank)) else Transpose(inner, q)}


def _are_neighbours(places: Sequence[int], shape: Shape) -> bool:
    return all(a < b and all(shape[c] == 1 for c in range(a + 1, b)) for a, b in pairwise(places))


def reshape_past_transpose(node: Reshape, graph: Graph) -> Patch | None:
    """reshape(transpose(reshape(x), p)) -> reshape(transpose(x, q)) where the inner reshape merges axes that p moves
    together"""
    match node.x:
        case Transpose(Reshape(x) as inner, perm):
            pass
        case _:
            return None
    found = runs(x.shape, inner.shape)
    if found is None or any(len(run.new) > 1 for run in found) or not any(len(run.old) > 1 for run in found):
        return None
    of = {run.new[0]: run.old for run in found}
    ones = [a for a, d in enumerate(x.shape) if d == 1]
    order = [*ones, *(a for p in perm for a in of.get(p, ()))]
    return {node: Reshape(Transpose(x, tuple(order)), node.shape)} if len(order) == x.rank else None


# -- reshapes ---------------------------------------------------------------------------------------------------------


def reshape_past_pointwise(node: Pointwise, graph: Graph) -> Patch | None:
    """f(reshape(x), c) -> reshape(f(x, c')) for c constant, smaller than the result, or reshaped from x's shape as well

    Not where a reduction reads the result: it would be parted from what it reduces.
    """
    operands = operands_of(node)
    source = next((x for x in operands if isinstance(x, Reshape) and x.type.shape == node.type.shape), None)
    if source is None or isinstance(source.x, Constant):
        return None
    shape = source.x.type.shape
    if _leads_to_reduction(node, shape, graph):
        return None
    mapping: dict[Value, Value] = {}
    for x in operands:
        if isinstance(x, Reshape) and x.x.type.shape == shape and x.type.shape == node.type.shape:
            mapping[x] = x.x
        elif x.rank:
            small = x.type.shape != node.type.shape or isinstance(x, Constant)
            target = carried(x.type.shape, node.type.shape, shape) if small else None
            if target is None:
                return None
            mapping[x] = _reshaped(x, target)
    new = with_operands(node, mapping)
    if new.type.shape != shape:
        return None
    return {node: Reshape(new, node.type.shape)}


def _reshaped(x: Value, shape: Shape) -> Value:
    if isinstance(x, Constant):
        return constant(x.data.reshape(tuple(d for d in shape if isinstance(d, int))))
    return x if x.type.shape == shape else Reshape(x, shape)


def _leads_to_reduction(node: Node, shape: Shape, graph: Graph) -> bool:
    """Whether a reduction that cannot be done on `shape`, or what will be expanded to one, reads `node` through
    pointwise operators only."""
    readers = users(graph)
    stack, seen = [node], set[Node]()
    while stack and len(seen) < READERS:
        for reader in readers.get(stack.pop(), ()):
            if reader.name in ("softmax", "log_softmax", "layer_norm"):
                return True
            if isinstance(reader, Reduction) and _axes_before(reader, shape) is None:
                return True
            if isinstance(reader, Pointwise) and reader not in seen:
                seen.add(reader)
                stack.append(reader)
    return False


def reshape_past_reduction(node: Reduction, graph: Graph) -> Patch | None:
    """reduce(reshape(x), axes) -> reshape(reduce(x, axes')) where the reduced axes are axes of x as they are"""
    if not isinstance(node.x, Reshape) or not node.keepdims:
        return None
    axes = _axes_before(node, node.x.x.type.shape)
    if axes is None:
        return None
    return {node: Reshape(dataclasses.replace(node, x=node.x.x, axes=axes), node.type.shape)}


def _axes_before(node: Reduction, shape: Shape) -> tuple[int, ...] | None:
    """The axes of a value of `shape` that `node` reduces when it reads the value reshaped."""
    found = runs(shape, node.x.type.shape)
    whole = [r for r in found or () if r.new[0] in node.axes]
    reduced = [a for a in node.axes if node.x.type.shape[a] != 1]
    if found is None or len(whole) != len(reduced) or any(len(r.old) > 1 or len(r.new) > 1 for r in whole):
        return None
    return tuple(sorted(r.old[0] for r in whole)) or None


def reshape_past_product(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(reshape(x), w) -> reshape(mat_mul(reshape(x), w)) for one matrix w, with x's own leading axes"""
    match node:
        case MatMul(Reshape(x) as reshaped, w) if w.rank == 2 and x.rank >= 2:
            pass
        case _:
            return None
    found = runs(x.shape, reshaped.shape)
    if not found or found[-1].new != (reshaped.rank - 1,):
        return None
    inner = (*x.shape[: found[-1].old[0]], reshaped.shape[-1])
    if len(inner) < 2 or inner == reshaped.shape:
        return None
    before = x if inner == x.shape else Reshape(x, inner)
    return {node: Reshape(MatMul(before, w, node.a_bits), node.type.shape)}


def slice_before_reshape(node: Slice, graph: Graph) -> Patch | None:
    """slice(reshape(x)) -> reshape(slice(x)) along an axis of x, or along the first of those that one is split in"""
    if not isinstance(node.x, Reshape):
        return None
    x, shape = node.x.x, node.x.type.shape
    cut = [a for a in range(node.rank) if node.sizes[a] != shape[a] or node.steps[a] != 1]
    found = runs(x.shape, shape)
    if len(cut) != 1 or found is None or isinstance(x, Constant):
        return None
    axis, step = cut[0], node.steps[cut[0]]
    run = next((r for r in found if axis in r.new), None)
    if run is None or len(run.old) != 1 or run.new[0] != axis or (step != 1 and len(run.new) > 1):
        return None
    inner = product(shape[a] for a in run.new[1:])
    if divide_exact(x.shape[run.old[0]], inner) is None:
        return None
    part = _part(x, run.old[0], node.starts[axis] * inner, node.sizes[axis] * inner, step)
    return {node: Reshape(part, node.type.shape)}


def shared_perm(values: Sequence[Value]) -> tuple[int, ...] | None:
    """The permutation of `values` if they all are transposes with the same one."""
    perms = {x.perm if isinstance(x, Transpose) else None for x in values}
    return perms.pop() if len(perms) == 1 else None


def inverse_of(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    return tuple(int(i) for i in np.argsort(perm))


RULES: tuple[Rule, ...] = (
    merge_transposes,
    merge_reshapes,
    split_to_slices,
    concat_of_slices,
    transpose_past_pointwise,
    transpose_past_reduction,
    transpose_past_concat,
    transpose_past_pad,
    transpose_past_slice,
    transpose_past_lookup,
    transpose_past_product,
    transpose_past_reshape,
    reshape_past_transpose,
    reshape_past_pointwise,
    reshape_past_reduction,
    reshape_past_product,
    slice_before_reshape,
)
