"""One spelling for what exporters spell differently, so that the other rules see one form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ingot.compiler.ir.dims import product
from ingot.compiler.ir.graph import Constant, Graph, Value, constant, operands_of, with_operands
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Expand, Reshape
from ingot.compiler.ops.pointwise import (
    Add,
    Cast,
    Clip,
    Div,
    Equal,
    Max,
    Mul,
    Not,
    Pointwise,
    Reciprocal,
    Sqrt,
    Where,
)
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceMin, ReduceSum, Reduction
from ingot.compiler.passes.constants import is_splat, splat
from ingot.compiler.passes.recognise.matching import once
from ingot.compiler.rewrite import Patch, Rule


def shrink_constant(node: Pointwise, graph: Graph) -> Patch | None:
    """f(x, [[c]]) -> f(x, c); f(x, [[[a b]]]) -> f(x, [a b]) where the result's shape stays"""
    mapping: dict[Value, Value] = {}
    for x in operands_of(node):
        if not isinstance(x, Constant) or x.rank == 0 or x.data.size == 0:
            continue
        shape = () if x.data.size == 1 else x.data.shape[next(i for i, d in enumerate(x.data.shape) if d != 1) :]
        if shape != x.data.shape:
            mapping[x] = constant(np.ascontiguousarray(x.data).reshape(shape), origin=x.origin)
    if not mapping:
        return None
    new = with_operands(node, mapping)
    return {node: new} if new.type == node.type else None


def keep_reduced_axes(node: Reduction, graph: Graph) -> Patch | None:
    """reduce(x, axes, keepdims=false) -> reshape(reduce(x, axes, keepdims=true))"""
    if node.keepdims:
        return None
    return {node: Reshape(dataclasses.replace(node, keepdims=True), node.type.shape)}


def reduce_uniform(node: ReduceMax | ReduceMin | ReduceMean, graph: Graph) -> Patch | None:
    """max(expand(c)) -> expand(c) for one number c, the same for min and mean, where there is something to reduce"""
    match node.x:
        case Expand(Constant() as c) if c.data.size == 1 and node.dtype.is_float:
            if all(isinstance(node.x.shape[a], int) and node.x.shape[a] != 0 for a in node.axes) or c.data.item() == 0:
                return {node: Expand(constant(c.data.reshape(())), node.type.shape)}
        case _:
            pass
    return None


def compute_uniform(node: Pointwise, graph: Graph) -> Patch | None:
    """f(expand(a), expand(b)) -> expand(f(a, b)) for numbers a and b"""
    mapping: dict[Value, Value] = {}
    for x in operands_of(node):
        match x:
            case Constant() if x.rank == 0:
                mapping[x] = x
            case Expand(Constant() as c) if c.data.size == 1:
                mapping[x] = constant(c.data.reshape(()))
            case _:
                return None
    if all(isinstance(x, Constant) for x in mapping):
        return None
    return {node: Expand(with_operands(node, mapping), node.type.shape)}


def mean_of_sum(node: Mul | Div, graph: Graph) -> Patch | None:
    """sum(x) / n -> mean(x) for the sum of n elements"""
    match node:
        case Div(ReduceSum(x, axes, True) as total, n):
            number = splat(n)
        case Mul(ReduceSum(x, axes, True) as total, n) if inverse := splat(n):
            number = 1 / inverse
        case _:
            return None
    count = product(x.shape[a] for a in axes)
    fits = number is not None and isinstance(count, int) and math.isclose(number, count, rel_tol=1e-6)
    if not fits or not once(total, graph) or not x.dtype.is_float:
        return None
    mean = ReduceMean(x, axes, True)
    return {node: mean} if mean.type == node.type else None


def outer_product(node: MatMul, graph: Graph) -> Patch | None:
    """mat_mul(a [.., M, 1], b [.., 1, N]) -> a * b"""
    if node.a.shape[-1] != 1:
        return None
    a, b = (x if x.dtype == node.dtype else Cast(x, node.dtype) for x in (node.a, node.b))
    product = Mul(a, b)
    return {node: product} if product.type == node.type else None


def drop_bound_of_maximum(node: Max, graph: Graph) -> Patch | None:
    """max(x, -inf) -> x"""
    return {node: node.a} if is_splat(node.b, -math.inf) and node.a.type == node.type else None


def condition_of_choice(node: Equal, graph: Graph) -> Patch | None:
    """where(c, a, b) == a -> c; where(c, a, b) == b -> not c; cast(c) == 1 -> c; cast(c) == 0 -> not c, for numbers"""
    match node:
        case Equal(Where(condition, a, b), k):
            yes, no, wanted = splat(a), splat(b), splat(k)
        case Equal(Cast(condition), k) if condition.dtype.kind == "bool":
            yes, no, wanted = 1, 0, splat(k)
        case _:
            return None
    if yes is None or no is None or wanted is None or yes == no or condition.type != node.type:
        return None
    return {node: condition} if wanted == yes else {node: Not(condition)} if wanted == no else None


def divide_by_row(node: Div, graph: Graph) -> Patch | None:
    """x / r -> x * (1 / r) for one r a row, a root or bounded away from 0: one division a row instead of one an element

    Rounded twice.
    """
    x, r = node.a, node.b
    if not node.dtype.is_float or node.dtype.bits < 32 or not _is_row_of(r, x) or not _is_ordinary(r):
        return None
    return {node: Mul(x, Reciprocal(r))}


def _is_row_of(r: Value, x: Value) -> bool:
    return r.rank == x.rank and any(a == 1 and b != 1 for a, b in zip(r.shape, x.shape, strict=True))


def _is_ordinary(r: Value) -> bool:
    """No result of `r` is so small that its reciprocal overflows where a quotient by it would not."""
    match r:
        case Sqrt():
            return True
        case Add(Sqrt(), c) | Clip(Sqrt(), c):
            return isinstance(number := splat(c), float) and number > 1e-30
        case _:
            return False


RULES: tuple[Rule, ...] = (
    shrink_constant,
    keep_reduced_axes,
    reduce_uniform,
    compute_uniform,
    mean_of_sum,
    outer_product,
    drop_bound_of_maximum,
    condition_of_choice,
)
LATE: tuple[Rule, ...] = (divide_by_row,)  # after what looks for quotients
