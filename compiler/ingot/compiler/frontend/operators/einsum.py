"""Einsum: two operands at a time become one MatMul."""

from __future__ import annotations

from string import ascii_letters

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ir.types import show_shape
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Reshape, Slice, Transpose
from ingot.compiler.ops.reduction import ReduceSum

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("Einsum", since=12)
def einsum(ctx: Context) -> Results:
    """Labels of both operands that stay are batch axes of the MatMul, those that go are summed."""
    operands = ctx.variadic()
    equation = ctx.attribute("equation", "").replace(" ", "")
    labels, result = _labels(ctx, equation, operands)
    terms = [_distinct(ctx, value, names) for value, names in zip(operands, labels, strict=True)]
    terms = _without_broadcast(ctx, terms)
    value, names = terms[0]
    for position, (other, other_names) in enumerate(terms[1:], 1):
        needed = set(result).union(*(n for _, n in terms[position + 1 :]))
        value, names = _pair(ctx, value, names, other, other_names, needed)
    value, names = _sum_out(ctx, value, names, set(result))
    missing = "".join(c for c in result if c not in names)
    if missing:  # every operand has extent 1 there
        value = ctx.build(Reshape, value, (*value.shape, *(1,) * len(missing)))
    return _arrange(ctx, value, names + missing, result)


def _labels(ctx: Context, equation: str, operands: tuple[Value, ...]) -> tuple[list[str], str]:
    """One letter an axis for operands and result; an ellipsis gets letters of its own, matched from the end."""
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    free = [c for c in ascii_letters if c not in equation]
    if len(terms) != len(operands):
        raise ctx.error(f"Einsum {equation!r} does not fit {len(operands)} operands")
    hidden = [v.rank - len(t) + 3 for t, v in zip(terms, operands, strict=True) if "..." in t]
    most = max(hidden, default=0)
    if min(hidden, default=0) < 0 or most > len(free):
        raise ctx.error(f"Einsum {equation!r} does not fit operands {', '.join(str(v.type) for v in operands)}")
    dots = "".join(free[:most])
    labels = [
        t.replace("...", dots[most - (v.rank - len(t) + 3) :] if "..." in t else "")
        for t, v in zip(terms, operands, strict=True)
    ]
    if not arrow:
        joined = "".join(terms).replace("...", "")
        result = "..." + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    result = result.replace("...", dots)
    used = set("".join(labels))
    malformed = any(not c.isalpha() for c in [*used, *result]) or set(result) - used or len(set(result)) < len(result)
    if malformed or any(len(t) != v.rank for t, v in zip(labels, operands, strict=True)):
        raise ctx.error(f"Einsum {equation!r} does not fit operands {', '.join(str(v.type) for v in operands)}")
    return labels, result


def _distinct(ctx: Context, value: Value, names: str) -> tuple[Value, str]:
    """The diagonal over every label that names two axes: of their n * n elements every (n + 1)-th."""
    while len(set(names)) < len(names):
        twice = next(c for c in names if names.count(c) > 1)
        first = names.index(twice)
        second = names.index(twice, first + 1)
        rest = [a for a in range(value.rank) if a not in (first, second)]
        n = value.shape[first]
        ctx.equal(n, value.shape[second])
        if not isinstance(n, int):
            raise ctx.unsupported(f"Einsum takes a diagonal of {value.type}", "pin its extents with shapes")
        outer = tuple(value.shape[a] for a in rest)
        moved = ctx.build(Transpose, value, (*rest, first, second))
        flat = ctx.build(Reshape, moved, (*outer, n * n))
        steps = (*(1,) * len(outer), n + 1)
        value = ctx.build(Slice, flat, (0,) * flat.rank, (*outer, n), steps)
        names = "".join(names[a] for a in rest) + twice
    return value, names


def _without_broadcast(ctx: Context, terms: list[tuple[Value, str]]) -> list[tuple[Value, str]]:
    """Operands without the axes of extent 1 whose label is longer elsewhere: they broadcast by being left out."""
    longer = {c for value, names in terms for c, d in zip(names, value.shape, strict=True) if d != 1}
    kept: list[tuple[Value, str]] = []
    for value, names in terms:
        axes = [i for i, c in enumerate(names) if value.shape[i] != 1 or c not in longer]
        if len(axes) < value.rank:
            value = ctx.build(Reshape, value, tuple(value.shape[i] for i in axes))
        kept.append((value, "".join(names[i] for i in axes)))
    return kept


def _sum_out(ctx: Context, value: Value, names: str, kept: set[str]) -> tuple[Value, str]:
    axes = tuple(i for i, c in enumerate(names) if c not in kept)
    if axes:
        value = ctx.build(ReduceSum, value, axes, False)
    return value, "".join(c for c in names if c in kept)


def _arrange(ctx: Context, value: Value, names: str, order: str) -> Value:
    return value if names == order else ctx.build(Transpose, value, tuple(names.index(c) for c in order))


def _pair(ctx: Context, a: Value, a_names: str, b: Value, b_names: str, needed: set[str]) -> tuple[Value, str]:
    a, a_names = _sum_out(ctx, a, a_names, needed | set(b_names))
    b, b_names = _sum_out(ctx, b, b_names, needed | set(a_names))
    extents: dict[str, Dim] = dict(zip(b_names, b.shape, strict=True))
    for name, extent in zip(a_names, a.shape, strict=True):
        if name in extents:
            ctx.equal(extent, extents[name])
            if ctx.assumptions.differ(extent, extents[name]):
                raise ctx.unsupported(f"Einsum label {name!r} is {show_shape((extent, extents[name]))}")
        extents[name] = extent
    both = [c for c in a_names if c in b_names]
    batch = "".join(c for c in both if c in needed)
    inner = "".join(c for c in both if c not in needed)
    left = "".join(c for c in a_names if c not in b_names)
    right = "".join(c for c in b_names if c not in a_names)

    def shape(*groups: str) -> tuple[Dim, ...]:
        return (*(extents[c] for c in batch), *(dims.product(extents[c] for c in group) for group in groups))

    a = ctx.build(Reshape, _arrange(ctx, a, a_names, batch + left + inner), shape(left, inner))
    b = ctx.build(Reshape, _arrange(ctx, b, b_names, batch + inner + right), shape(inner, right))
    names = batch + left + right
    return ctx.build(Reshape, ctx.build(MatMul, a, b), tuple(extents[c] for c in names)), names
