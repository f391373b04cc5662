"""Softmax and attention from their parts, in every head layout.

The rules expect movement to have sunk (`passes.sink`): transposes then stand directly on q and k. Masks are added to
the scores; several become one by adding them up. What is recognised may differ from its parts where scores overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.ir.types import IrError, Shape
from ingot.compiler.ops.composite import Attention, Softmax
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Expand, Reshape, Transpose
from ingot.compiler.ops.pointwise import Add, Div, Equal, Exp, IsNaN, Mul, Neg, Reciprocal, Sub, Where
from ingot.compiler.ops.reduction import ReduceMax, ReduceSum
from ingot.compiler.passes.axes import carried, runs
from ingot.compiler.passes.constants import is_splat, splat
from ingot.compiler.passes.recognise.matching import once, typed
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import f64


def recognise_softmax(node: Div | Mul, graph: Graph) -> Patch | None:
    """exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x) over one axis"""
    match node:
        case Div(Exp(Sub(x, ReduceMax(y, (top,), True))) as powers, ReduceSum(z, (axis,), True)):
            pass
        case Mul(Exp(Sub(x, ReduceMax(y, (top,), True))) as powers, Reciprocal(ReduceSum(z, (axis,), True))):
            pass
        case _:
            return None
    return typed(node, Softmax(x, axis)) if x is y and z is powers and axis == top else None


Guard = Literal["none", "masked", "nan"]


@dataclass(frozen=True)
class _Weights:
    """Softmax weights: the scores, and what becomes of rows that have no finite score."""

    scores: Value
    guard: Guard
    watched: Value | None  # the mask that a "masked" guard looks at


def _weights(value: Value, graph: Graph) -> _Weights | None:
    """softmax(s); where(is_nan(softmax(s)), 0, softmax(s)); where(max(mask) == -inf, 0, softmax(s)), used once."""
    if not once(value, graph):
        return None
    match value:
        case Softmax(scores, axis) if axis == value.rank - 1:
            return _Weights(scores, "none", None)
        case Where(IsNaN(a), zero, Softmax(scores, axis) as b) if a is b and is_splat(zero, 0):
            if axis == value.rank - 1 and graph.uses().get(b) == 2:
                return _Weights(scores, "nan", None)
        case Where(Equal(ReduceMax(mask, (last,), True), low), zero, Softmax(scores, axis) as b):
            whole = axis == value.rank - 1 and last == mask.rank - 1 and once(b, graph)
            if whole and is_splat(zero, 0) and is_splat(low, -math.inf):
                return _Weights(scores, "masked", mask.x if isinstance(mask, Expand) else mask)
        case _:
            pass
    return None


@dataclass(frozen=True)
class _Scores:
    """scale * a @ b + masks. `shapes` are those of the scores from the product on, one more for every reshape of their
    batch axes; every mask belongs to one of them."""

    scale: float
    a: Value
    b: Value
    shapes: tuple[Shape, ...]
    masks: tuple[tuple[Value, int], ...] = field(default=())

    def masked(self, mask: Value) -> _Scores:
        return replace(self, masks=(*self.masks, (mask, len(self.shapes) - 1)))

    def scaled(self, factor: float) -> _Scores | None:
        if factor <= 0 and self.masks:
            return None
        masks = tuple((m if factor == 1 else Mul(m, constant(factor, m.dtype)), level) for m, level in self.masks)
        return replace(self, scale=self.scale * factor, masks=masks)


def _scores(value: Value, graph: Graph) -> _Scores | None:
    """What `value` is as masked scores, each step of which only the next one reads."""
    if not once(value, graph):
        return None
    match value:
        case MatMul(a, b):
            return _Scores(1.0, a, b, (value.type.shape,))
        case Mul(x, c) if (number := splat(c)) is not None and x.type == value.type:
            found = _scores(x, graph)
            return found and found.scaled(number)
        case Div(x, c) if (number := splat(c)) and x.type == value.type:
            found = _scores(x, graph)
            return found and found.scaled(1 / number)
        case Add(x, y):
            for scores, mask in ((x, y), (y, x)):
                if scores.type == value.type and (found := _scores(scores, graph)):
                    return found.masked(mask)
        case Sub(x, mask) if x.type == value.type and (found := _scores(x, graph)):
            return found.masked(Neg(mask))
        case Where(keep, x, low) if _vanishes_beside(low) and x.type == value.type and (found := _scores(x, graph)):
            return found.masked(Where(keep, constant(0.0, low.dtype), constant(splat(low) or 0.0, low.dtype)))
        case Where(drop, low, x) if _vanishes_beside(low) and x.type == value.type and (found := _scores(x, graph)):
            return found.masked(Where(drop, constant(splat(low) or 0.0, low.dtype), constant(0.0, low.dtype)))
        case Reshape(x) if x.rank >= 2 and x.shape[-2:] == value.shape[-2:] and (found := _scores(x, graph)):
            return replace(found, shapes=(*found.shapes, value.type.shape))
        case _:
            pass
    return None


def _vanishes_beside(low: Value) -> bool:
    """Whether any score vanishes beside `low` in a softmax."""
    number = splat(low)
    return number is not None and (number == -math.inf or (number < -1e30 and low.dtype.bits >= 32))


def recognise_attention(node: MatMul, graph: Graph) -> Patch | None:
    """softmax(scale * q @ k^T + mask) @ v -> attention(q, k, v, mask, scale)

    The scale may be on q or k as well; masks may be several, added or chosen by `where`, also between reshapes of the
    batch axes; weights may be guarded against rows without a key.
    """
    weights = _weights(node.a, graph)
    scores = None if weights is None else _scores(weights.scores, graph)
    if weights is None or scores is None:
        return None
    if weights.watched is not None and all(m is not weights.watched for m, _ in scores.masks):
        return None
    try:
        return _attention(node, weights.guard, scores)
    except IrError:  # shapes that only the parts accept: dims that cannot be proved equal, a mask that widens
        return None


def _attention(node: MatMul, guard: Guard, scores: _Scores) -> Patch | None:
    if node.dtype == f64:  # the kernel computes in f32
        return None
    q_scale, q = scaled(scores.a)
    k_scale, k = scaled(scores.b)
    k, v, shapes = swap_last_axes(k), node.b, scores.shapes
    scale = scores.scale * q_scale * k_scale
    level = max(range(len(shapes)), key=lambda i: len(shapes[i]))
    masks: list[Value] = []
    for mask, at in scores.masks:
        moved = _at_level(mask, at, level, shapes)
        if moved is None:
            return None
        if not is_splat(moved, 0):
            masks.append(moved)
    if len(shapes) > 1:
        q, k, v = (_with_batch(x, s, shapes[level]) for x, s in ((q, shapes[0]), (k, shapes[0]), (v, shapes[-1])))
    made = Attention(q, k, v, _sum(masks), scale, guard)
    return typed(node, made if len(shapes) == 1 else Reshape(made, node.type.shape))


def _at_level(mask: Value, start: int, end: int, shapes: tuple[Shape, ...]) -> Value | None:
    """A mask that broadcasts to ``shapes[start]`` so that it broadcasts to ``shapes[end]``."""
    step = 1 if end > start else -1
    for i in range(start, end, step):
        shape = carried(mask.type.shape, shapes[i], shapes[i + step])
        if shape is None:
            return None
        mask = mask if shape == mask.type.shape else Reshape(mask, shape)
    return mask


def _with_batch(x: Value, scores: Shape, wanted: Shape) -> Value:
    """`x`, whose batch axes must be those of `scores`, with those of `wanted`."""
    if x.shape[:-2] != scores[:-2]:
        raise IrError(f"{x.type} has other batch axes than the scores")
    shape = (*wanted[:-2], *x.shape[-2:])
    return x if shape == x.type.shape else Reshape(x, shape)


def _sum(masks: list[Value]) -> Value | None:
    """Masks added up, those of few elements first: they are often shared."""
    total: Value | None = None
    for mask in sorted(
        masks, key=lambda m: (sum(d != 1 for d in m.shape), any(not isinstance(d, int) for d in m.shape))
    ):
        total = mask if total is None else Add(total, mask)
    return total


def scaled(value: Value) -> tuple[float, Value]:
    """(c, x) with value = c * x for a constant c, looking through transposes and reshapes."""
    coefficient = 1.0
    above: list[Transpose | Reshape] = []
    while True:
        match value:
            case Mul(x, c) if (number := splat(c)) is not None and x.type == value.type:
                coefficient, value = coefficient * number, x
            case Div(x, c) if (number := splat(c)) and x.type == value.type:
                coefficient, value = coefficient / number, x
            case Transpose(x) | Reshape(x):
                above.append(value)
                value = x
            case _:
                break
    for movement in reversed(above):
        if isinstance(movement, Transpose):
            value = transposed(value, movement.perm)
        else:
            value = Reshape(value, movement.shape)
    return coefficient, value


def transposed(value: Value, perm: tuple[int, ...]) -> Value:
    """`value` with axes permuted, by one transpose at most."""
    if isinstance(value, Transpose):
        perm, value = tuple(value.perm[p] for p in perm), value.x
    return value if perm == tuple(range(len(perm))) else Transpose(value, perm)


def swap_last_axes(value: Value) -> Value:
    """The transposed matrices of `value`."""
    rank = value.rank
    return transposed(value, (*range(rank - 2), rank - 1, rank - 2))


def share_heads(node: Attention, graph: Graph) -> Patch | None:
    """attention(q, repeated k, repeated v) -> attention(q by groups of heads, k, v): grouped-query attention

    Keys and values [..., G, T, D], each repeated R times along their heads, are read where they are; q [..., H, S, D]
    becomes [..., G, R, S, D] (Ainslie et al. 2023).
    """
    k, v = _repeated(node.k), _repeated(node.v)
    if k is None or v is None or k[1:] != v[1:] or node.q.rank != node.k.rank:
        return None
    (keys, groups, times), values, q, mask = k, v[0], node.q, node.mask
    lead, heads = q.shape[:-3], q.shape[-3]
    if node.k.shape[:-2] != (*lead, heads) or node.v.shape[:-2] != (*lead, heads):
        return None
    if groups == 1:
        made = replace(
            node, k=Reshape(keys, (*lead, 1, *keys.shape[-2:])), v=Reshape(values, (*lead, 1, *values.shape[-2:]))
        )
        return typed(node, made)
    split = (*lead, groups, times)
    scores = (*lead, heads, q.shape[-2], node.k.shape[-2])
    if mask is not None:
        shape = carried(mask.type.shape, scores, (*split, *scores[-2:]))
        if shape is None:
            return None
        mask = Reshape(mask, shape)
    keys, values = (Reshape(x, (*lead, groups, 1, *x.shape[-2:])) for x in (keys, values))
    grouped = Attention(Reshape(q, (*split, *q.shape[-2:])), keys, values, mask, node.scale, node.guard)
    return typed(node, Reshape(grouped, node.type.shape))


def unfold_heads(node: Attention, graph: Graph) -> Patch | None:
    """attention of q, k, v [B * H, T, D] -> attention of [B, H, T, D], reshaped: no view can merge what a transpose has
    put side by side"""
    q, k, v = _unmerged(node.q), _unmerged(node.k), _unmerged(node.v)
    if q is None or k is None or v is None or len({x.shape[:-2] for x in (q, k, v)}) > 1:
        return None
    if any(x.type.shape[:-2] != node.shape[:-2] for x in (node.q, node.k, node.v)):
        return None
    mask, scores = node.mask, (*node.shape[:-1], node.k.shape[-2])
    if mask is not None:
        shape = carried(mask.type.shape, scores, (*q.shape[:-2], *scores[-2:]))
        if shape is None:
            return None
        mask = Reshape(mask, shape)
    return typed(node, Reshape(Attention(q, k, v, mask, node.scale, node.guard), node.type.shape))


def _unmerged(value: Value) -> Value | None:
    """[..., T, D] before its leading axes were merged by a reshape, looking through a transpose after it."""
    perm, merged = (value.perm, value.x) if isinstance(value, Transpose) else (tuple(range(value.rank)), value)
    if not isinstance(merged, Reshape):
        return None
    x, found = merged.x, runs(merged.x.shape, merged.shape)
    ones = [d for d in (*x.shape, *merged.shape) if d == 1]
    if found is None or ones or any(len(r.new) > 1 for r in found) or x.rank == merged.rank:
        return None
    order = [a for p in perm for a in found[p].old]
    if any(len(found[p].old) > 1 for p in perm[-2:]):
        return None
    return transposed(x, tuple(order))


def _repeated(value: Value) -> tuple[Value, Dim, Dim] | None:
    """(x, G, R) of keys [..., G * R, T, D] that hold each of x's G heads R times in a row."""
    match value:
        case Reshape(Expand(x) as wide) | (Expand(x) as wide) if value.rank >= 3:
            pass
        case _:
            return None
    if isinstance(x, Constant) or x.rank != wide.rank or x.shape[-2:] != wide.shape[-2:]:
        return None
    found = runs(wide.shape, value.shape)
    stretched = [a for a in range(x.rank) if x.shape[a] != wide.shape[a]]
    if found is None or len(stretched) != 1 or value.shape[-2:] != wide.shape[-2:]:
        return None
    axis, head = stretched[0], value.rank - 3
    run = next((r for r in found if axis in r.old), None)
    if run is None or run.new != (head,) or run.old[-1] != axis or len(run.old) > 2:
        return None
    return x, (x.shape[run.old[0]] if len(run.old) == 2 else 1), wide.shape[axis]


RULES: tuple[Rule, ...] = (recognise_softmax, recognise_attention, share_heads, unfold_heads)
