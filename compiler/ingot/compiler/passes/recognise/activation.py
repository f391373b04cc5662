"""Activations from their parts."""

from __future__ import annotations

import math

from ingot.compiler.ir.graph import Graph, Value
from ingot.compiler.ops.composite import Gelu, HardSigmoid, HardSwish, Silu
from ingot.compiler.ops.pointwise import (
    Add,
    Clip,
    Div,
    Erf,
    Exp,
    Greater,
    Less,
    Log,
    Mul,
    Pow,
    Sigmoid,
    Softplus,
    Tanh,
    Where,
)
from ingot.compiler.passes.constants import is_splat, splat
from ingot.compiler.passes.recognise.matching import close, factors, pair, typed
from ingot.compiler.rewrite import Patch, Rule


def recognise_gelu(node: Mul | Div, graph: Graph) -> Patch | None:
    """0.5 * x * (1 + erf(x / sqrt(2))) -> gelu(x); with tanh(sqrt(2/pi) * (x + 0.044715 * x**3)) its tanh form"""
    half, values = factors(node, graph)
    found = pair(values, Add)
    if found is None or not close(half, 0.5, node):
        return None
    for x, total in (found, found[::-1]):
        match total:
            case Add(Erf(inner), one) if is_splat(one, 1):
                coefficient, scaled = factors(inner, graph)
                if scaled == [x] and close(coefficient, math.sqrt(0.5), node):
                    return typed(node, Gelu(x, False))
            case Add(Tanh(inner), one) if is_splat(one, 1) and _is_gelu_argument(inner, x, graph):
                return typed(node, Gelu(x, True))
            case _:
                pass
    return None


def _is_gelu_argument(value: Value, x: Value, graph: Graph) -> bool:
    """sqrt(2/pi) * (x + 0.044715 * x**3), or with x outside: sqrt(2/pi) * x * (1 + 0.044715 * x**2)."""
    coefficient, values = factors(value, graph)
    if not close(coefficient, math.sqrt(2 / math.pi), x):
        return False
    if values.count(x) == 1:
        values.remove(x)
        power = 2
    else:
        power = 3
    match values:
        case [Add(a, b)]:
            for first, second in ((a, b), (b, a)):
                starts = first is x if power == 3 else is_splat(first, 1)
                if starts and _is_cubic(second, x, power, graph):
                    return True
            return False
        case _:
            return False


def _is_cubic(value: Value, x: Value, power: int, graph: Graph) -> bool:
    coefficient, values = factors(value, graph)
    count = 0
    for item in values:
        match item:
            case Mul(a, b) if a is x and b is x:
                count += 2
            case Mul(Mul(a, b), c) if a is x and b is x and c is x:
                count += 3
            case Pow(a, exponent) if a is x:
                count += next((p for p in (2, 3) if is_splat(exponent, p)), 8)
            case _ if item is x:
                count += 1
            case _:
                return False
    return count == power and close(coefficient, 0.044715, x)


def recognise_silu(node: Mul, graph: Graph) -> Patch | None:
    """x * sigmoid(x) -> silu(x)"""
    match node:
        case Mul(x, Sigmoid(y)) | Mul(Sigmoid(y), x) if x is y:
            return {node: Silu(x)}
        case _:
            return None


def recognise_hard_swish(node: Mul | Div, graph: Graph) -> Patch | None:
    """x * clip(x + 3, 0, 6) / 6 -> hard_swish(x); x * hard_sigmoid(x, 1/6, 1/2), or its parts -> hard_swish(x)"""
    coefficient, values = factors(node, graph)
    for kind in (Clip, HardSigmoid):
        match pair(values, kind):
            case (x, Clip(Add(y, three), low, high)) if x is y:
                bounds = is_splat(three, 3) and is_splat(low, 0) and is_splat(high, 6)
                if bounds and close(coefficient, 1 / 6, node):
                    return typed(node, HardSwish(x))
            case (x, Clip(Add(Mul(y, sixth), half), low, high)) if x is y and coefficient == 1:
                slope = splat(sixth)
                if close(slope, 1 / 6, x) and is_splat(half, 0.5) and is_splat(low, 0) and is_splat(high, 1):
                    return typed(node, HardSwish(x))
            case (x, HardSigmoid(y, alpha, beta)) if x is y and coefficient == 1:
                if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
                    return typed(node, HardSwish(x))
            case _:
                pass
    return None


def recognise_softplus(node: Log | Where, graph: Graph) -> Patch | None:
    """log(1 + exp(x)) -> softplus(x); where(x > 20, x, softplus(x)) -> softplus(x): the two differ by 2e-9 there

    Where exp(x) overflows softplus is x, not inf.
    """
    match node:
        case Log(Add(Exp(x), one)) if is_splat(one, 1):
            return typed(node, Softplus(x))
        case Where(Greater(x, limit), y, Softplus(z)) if x is y and x is z and _is_far(splat(limit)):
            return {node: node.b}
        case Where(Less(limit, x), y, Softplus(z)) if x is y and x is z and _is_far(splat(limit)):
            return {node: node.b}
        case _:
            return None


def _is_far(limit: float | None) -> bool:
    return limit is not None and limit >= 18


RULES: tuple[Rule, ...] = (recognise_gelu, recognise_silu, recognise_hard_swish, recognise_softplus)
