"""Identities of pointwise operators and reductions.

Every rule is exact, infinities and NaN included, but for what its docstring says. The sign of a zero may change.
"""

from __future__ import annotations

import math

from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.ops.movement import Expand, Reshape
from ingot.compiler.ops.pointwise import (
    Abs,
    Add,
    And,
    Cast,
    Ceil,
    Clip,
    Div,
    Equal,
    Floor,
    Identity,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Reciprocal,
    Relu,
    Round,
    Sign,
    Sqrt,
    Sub,
    Where,
    Xor,
)
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceMin, ReduceProd, ReduceSum
from ingot.compiler.passes.constants import fitted, is_splat, splat
from ingot.compiler.rewrite import Patch, Rule
from ingot.runtime.dtypes import DType


def _patch(node: Value, value: Value | None) -> Patch | None:
    """`node` replaced by `value`, expanded to its shape."""
    fit = None if value is None else fitted(value, node)
    return None if fit is None else {node: fit}


def put_constant_right(node: Add | Mul | Min | Max | And | Or | Xor | Equal, graph: Graph) -> Patch | None:
    """c + x -> x + c for constants c and every commutative operator: other rules look for constants on the right."""
    if splat(node.a) is None and not isinstance(node.a, Constant):
        return None
    if splat(node.b) is not None or isinstance(node.b, Constant):
        return None
    return {node: type(node)(node.b, node.a)}


def drop_identity(node: Identity, graph: Graph) -> Patch | None:
    """identity(x) -> x"""
    return {node: node.x}


def add_zero(node: Add | Sub, graph: Graph) -> Patch | None:
    """x + 0 -> x; x - 0 -> x (-0.0 + 0.0 is 0.0, here -0.0)"""
    return _patch(node, node.a) if is_splat(node.b, 0) else None


def multiply_one(node: Mul | Div, graph: Graph) -> Patch | None:
    """x * 1 -> x; x / 1 -> x"""
    return _patch(node, node.a) if is_splat(node.b, 1) else None


def multiply_minus_one(node: Mul | Div, graph: Graph) -> Patch | None:
    """x * -1 -> -x; x / -1 -> -x"""
    if is_splat(node.b, -1) and node.dtype.kind in ("float", "signed"):
        return _patch(node, Neg(node.a))
    return None


def divide_by_power_of_two(node: Div, graph: Graph) -> Patch | None:
    """x / 2**n -> x * 2**-n for floats, where both are normal numbers"""
    number = splat(node.b)
    if not node.dtype.is_float or number is None or number == 0 or not math.isfinite(number):
        return None
    mantissa, exponent = math.frexp(number)
    if abs(mantissa) != 0.5 or abs(exponent) > 12:
        return None
    return {node: Mul(node.a, Expand(constant(1 / number, node.dtype), node.b.shape))}


def add_negated(node: Add | Sub, graph: Graph) -> Patch | None:
    """a + -b -> a - b; -a + b -> b - a; a - -b -> a + b"""
    match node:
        case Add(a, Neg(b)):
            return {node: Sub(a, b)}
        case Add(Neg(a), b):
            return {node: Sub(b, a)}
        case Sub(a, Neg(b)):
            return {node: Add(a, b)}
        case _:
            return None


def power_to_products(node: Pow, graph: Graph) -> Patch | None:
    """x**1 -> x; x**2 -> x*x; x**3 -> x*x*x; x**-1 -> 1/x; x**0.5 -> sqrt(x); x**-0.5 -> 1/sqrt(x)

    Of floats, x**3 and x**-0.5 are rounded twice, and (-inf)**0.5 is NaN instead of inf.
    """
    x, number = node.a, splat(node.b)
    if number is None or isinstance(number, bool):
        return None
    result: Value
    if number == 1:
        result = x
    elif number == 2:
        result = Mul(x, x)
    elif number == 3 and x.dtype.bits >= 32:
        result = Mul(Mul(x, x), x)
    elif not x.dtype.is_float:
        return None
    elif number == -1:
        result = Reciprocal(x)
    elif number == 0.5:
        result = Sqrt(x)
    elif number == -0.5 and x.dtype.bits >= 32:
        result = Reciprocal(Sqrt(x))
    else:
        return None
    return _patch(node, result)


def divide_to_reciprocal(node: Div, graph: Graph) -> Patch | None:
    """1 / x -> reciprocal(x)"""
    if node.dtype.is_float and is_splat(node.a, 1):
        return _patch(node, Reciprocal(node.b))
    return None


def undo_involution(node: Neg | Not, graph: Graph) -> Patch | None:
    """-(-x) -> x; not(not(x)) -> x"""
    match node:
        case Neg(Neg(x)) | Not(Not(x)):
            return {node: x}
        case _:
            return None


def drop_repeated(node: Relu | Abs | Sign, graph: Graph) -> Patch | None:
    """relu(relu(x)) -> relu(x), the same for abs and sign"""
    return {node: node.x} if type(node.x) is type(node) else None


def drop_absolute(node: Abs, graph: Graph) -> Patch | None:
    """abs(-x) -> abs(x); abs(relu(x)) -> relu(x); abs(sqrt(x)) -> sqrt(x)"""
    match node:
        case Abs(Neg(x)):
            return {node: Abs(x)}
        case Abs(Relu() | Sqrt() as inner):
            return {node: inner}
        case _:
            return None


def drop_rounding(node: Floor | Ceil | Round, graph: Graph) -> Patch | None:
    """floor(y) -> y where y is floor, ceil or round of something or comes from an integer; so for ceil and round"""
    match node.x:
        case Floor() | Ceil() | Round():
            return {node: node.x}
        case Cast(x) if not x.dtype.is_float:
            return {node: node.x}
        case _:
            return None


def max_to_relu(node: Max, graph: Graph) -> Patch | None:
    """max(x, 0) -> relu(x)"""
    if is_splat(node.b, 0) and node.dtype.kind in ("float", "signed"):
        return _patch(node, Relu(node.a))
    return None


def minmax_to_clip(node: Min | Max, graph: Graph) -> Patch | None:
    """min(max(x, low), high) -> clip(x, low, high) for scalar constants; max(min(x, high), low) if low <= high"""
    outer = node.b
    if not (isinstance(outer, Constant) and outer.rank == 0):
        return None
    match node:
        case Min(Max(x, Constant() as low)) if low.rank == 0:
            return {node: Clip(x, low, outer)}
        case Min(Relu(x)):
            return {node: Clip(x, constant(0, node.dtype), outer)}
        case Max(Min(x, Constant() as high)) if high.rank == 0 and bool(outer.data <= high.data):
            return {node: Clip(x, outer, high)}
        case _:
            return None


def drop_clip_bounds(node: Clip, graph: Graph) -> Patch | None:
    """clip(x, -inf, high) -> clip(x, , high), the same for inf; clip(x, , ) -> x; clip(x, 0, ) -> relu(x)"""
    low = None if is_splat(node.low, -math.inf) else node.low
    high = None if is_splat(node.high, math.inf) else node.high
    if low is None and high is None:
        return _patch(node, node.x)
    if high is None and is_splat(low, 0) and node.dtype.kind in ("float", "signed"):
        return _patch(node, Relu(node.x))
    if low is not node.low or high is not node.high:
        return _patch(node, Clip(node.x, low, high))
    return None


def choose_where(node: Where, graph: Graph) -> Patch | None:
    """where(true, a, b) -> a; where(false, a, b) -> b; where(c, x, x) -> x; where(not c, a, b) -> where(c, b, a)"""
    match node:
        case Where(Not(condition), a, b):
            return {node: Where(condition, b, a)}
        case Where(_, a, b) if a is b:
            return _patch(node, a)
        case Where(condition, a, b):
            chosen = splat(condition)
            return None if chosen is None else _patch(node, a if chosen else b)


def logic(node: And | Or | Xor, graph: Graph) -> Patch | None:
    """x and true -> x; x and false -> false; x or false -> x; x or true -> true; x xor false -> x; x xor true -> not x;
    x and x -> x; x or x -> x"""
    if node.a is node.b and not isinstance(node, Xor):
        return {node: node.a}
    known = splat(node.b)
    if known is None:
        return None
    match node:
        case And():
            return _patch(node, node.a if known else node.b)
        case Or():
            return _patch(node, node.b if known else node.a)
        case Xor():
            return _patch(node, Not(node.a) if known else node.a)


_MANTISSA = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}


def holds_exactly(wide: DType, narrow: DType) -> bool:
    """True when every value of `narrow` is a value of `wide`."""
    if narrow == wide or narrow.kind == "bool":
        return True
    if wide.kind == "bool":
        return False
    if narrow.is_float:
        return wide.name == "f64" or (wide.name == "f32" and narrow.bits == 16)
    bits = narrow.bits - (narrow.kind == "signed")
    if wide.is_float:
        return bits <= _MANTISSA[wide.name]
    if narrow.kind == "signed":
        return wide.kind == "signed" and wide.bits >= narrow.bits
    return bits <= wide.bits - (wide.kind == "signed")


def merge_casts(node: Cast, graph: Graph) -> Patch | None:
    """cast(x, its own type) -> x; cast(cast(x, a), b) -> cast(x, b) where a holds all values of x's type"""
    match node:
        case Cast(x, to) if x.dtype == to:
            return {node: x}
        case Cast(Cast(x, middle), to) if holds_exactly(middle, x.dtype):
            return {node: x if x.dtype == to else Cast(x, to)}
        case _:
            return None


def reduce_nothing(node: ReduceSum | ReduceMean | ReduceMax | ReduceMin | ReduceProd, graph: Graph) -> Patch | None:
    """a reduction over axes of extent 1, or none -> reshape(x)"""
    if any(node.x.shape[a] != 1 for a in node.axes):
        return None
    return {node: node.x if node.x.type == node.type else Reshape(node.x, node.type.shape)}


RULES: tuple[Rule, ...] = (
    put_constant_right,
    drop_identity,
    add_zero,
    multiply_one,
    multiply_minus_one,
    divide_by_power_of_two,
    add_negated,
    power_to_products,
    divide_to_reciprocal,
    undo_involution,
    drop_repeated,
    drop_absolute,
    drop_rounding,
    max_to_relu,
    minmax_to_clip,
    drop_clip_bounds,
    choose_where,
    logic,
    merge_casts,
    reduce_nothing,
)
