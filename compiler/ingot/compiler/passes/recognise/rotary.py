"""Rotary embeddings: what is computed on joined halves is computed half by half, so that nothing is joined and cut.

x * cos + concat(-high, low) * sin becomes concat(low * cos - high * sin, high * cos + low * sin) (Su et al. 2021), one
kernel that writes both halves in place.
"""

from __future__ import annotations

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Constant, Graph, Value, operands_of, with_operands
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.movement import Concat, Slice
from ingot.compiler.ops.pointwise import Pointwise
from ingot.compiler.passes.constants import users
from ingot.compiler.passes.recognise.matching import once
from ingot.compiler.rewrite import Patch, Rule

DEPTH = 4  # pointwise operators between a part and the slice it is made of


def compute_parts(node: Pointwise, graph: Graph) -> Patch | None:
    """f(concat(a, b), y) -> concat(f(a, y's part), f(b, y's part)) for parts made of slices, or two equal parts"""
    whole = next((x for x in operands_of(node) if isinstance(x, Concat) and x.type.shape == node.type.shape), None)
    if whole is None or len(whole.parts) != 2 or whole.parts[0].type.shape != whole.parts[1].type.shape:
        return None
    same = whole.parts[0] is whole.parts[1]
    if not same and not (once(whole, graph) and all(_is_made_of_slices(p, DEPTH) for p in whole.parts)):
        return None
    parts: list[Value] = []
    start: Dim = 0
    for part in whole.parts:
        size = part.shape[whole.axis]
        mapping = {x: part if x is whole else _part(x, whole, start, size) for x in operands_of(node)}
        parts.append(with_operands(node, mapping))
        start = start + size
    new = Concat((parts[0], parts[0] if same and parts[0].type == node.type else parts[1]), whole.axis)
    return {node: new} if new.type == node.type else None


def _is_made_of_slices(value: Value, depth: int) -> bool:
    match value:
        case Slice():
            return True
        case Pointwise() if depth:
            return any(_is_made_of_slices(x, depth - 1) for x in operands_of(value))
        case _:
            return False


def _part(x: Value, whole: Concat, start: Dim, size: Dim) -> Value:
    """What of `x`, which broadcasts to `whole`, belongs to one of its parts."""
    axis = whole.axis - (whole.rank - x.rank)
    if axis < 0 or x.shape[axis] == 1:
        return x
    starts = tuple(start if a == axis else 0 for a in range(x.rank))
    sizes = tuple(size if a == axis else d for a, d in enumerate(x.shape))
    return Slice(x, starts, sizes, (1,) * x.rank)


def slice_before_computing(node: Slice, graph: Graph) -> Patch | None:
    """slice(f(a, b)) -> f(slice(a), slice(b)) where only slices along one axis read f, and only pointwise ops those

    Not what a contraction does on the way out.
    """
    inner = node.x
    if not isinstance(inner, Pointwise):
        return None
    axis = _cut(node)
    readers = users(graph).get(inner, [])
    if axis is None or len(readers) < 2 or graph.uses().get(inner, 0) != len(readers):
        return None
    if not all(isinstance(r, Slice) and _cut(r) == axis and _is_computed_with(r, graph) for r in readers):
        return None
    if any(isinstance(x, Constant | MatMul | Conv) for x in operands_of(inner)):
        return None
    mapping: dict[Value, Value] = {}
    for x in operands_of(inner):
        own = axis - (inner.rank - x.rank)
        if own < 0 or x.shape[own] == 1:
            mapping[x] = x
            continue
        skip = inner.rank - x.rank
        starts = tuple(node.starts[skip + a] if a == own else 0 for a in range(x.rank))
        sizes = tuple(node.sizes[skip + a] if a == own else d for a, d in enumerate(x.shape))
        mapping[x] = Slice(x, starts, sizes, tuple(node.steps[skip + a] if a == own else 1 for a in range(x.rank)))
    new = with_operands(inner, mapping)
    return {node: new} if new.type == node.type else None


def _is_computed_with(value: Value, graph: Graph) -> bool:
    return all(isinstance(reader, Pointwise) for reader in users(graph).get(value, ())) and value not in graph.results


def _cut(node: Slice) -> int | None:
    """The only axis that is not read whole."""
    cut = [a for a, d in enumerate(node.x.shape) if node.sizes[a] != d or node.steps[a] != 1]
    return cut[0] if len(cut) == 1 else None


RULES: tuple[Rule, ...] = (compute_parts, slice_before_computing)
