"""Recognition of composites that exporters have written as their parts: activations, norms, softmax, attention.

The rules expect a simplified graph: constants on the right, squares as products, equal values computed once. What is
recognised may be rounded differently than its parts. A composite is made only where its parts have no other user.
"""

from __future__ import annotations

import math

from ingot.compiler.ir.graph import Graph, Node, Value, constant
from ingot.compiler.ir.types import IrError, broadcast_shapes
from ingot.compiler.ops.composite import Attention, Gelu, HardSigmoid, HardSwish, LayerNorm, Silu, Softmax
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Transpose
from ingot.compiler.ops.pointwise import Add, Clip, Div, Erf, Exp, Mul, Pow, Reciprocal, Sigmoid, Sqrt, Sub, Tanh, Where
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean, ReduceSum
from ingot.compiler.passes.constants import is_splat, splat
from ingot.compiler.rewrite import Patch, Rule, Trace, rewrite


def _close(found: float | int | bool | None, wanted: float, like: Value) -> bool:
    """`found` is `wanted` as an exporter may have rounded it."""
    return found is not None and math.isclose(found, wanted, rel_tol=1e-4 if like.dtype.bits >= 32 else 2e-3)


def _once(value: Value, graph: Graph) -> bool:
    return graph.uses().get(value, 0) == 1


def factors(value: Value, graph: Graph) -> tuple[float, list[Value]]:
    """`value` as coefficient * product of values: products and quotients by constants are taken apart.

    A product that something else uses too is one factor.
    """
    coefficient = 1.0
    found: list[Value] = []
    stack = [value]
    while stack:
        item = stack.pop()
        inner = item is value or _once(item, graph)
        match item:
            case Mul(a, b) if inner:
                number = splat(b)
                if number is None:
                    stack += [b, a]
                else:
                    coefficient *= number
                    stack.append(a)
            case Div(a, b) if inner and (number := splat(b)):
                coefficient /= number
                stack.append(a)
            case _:
                found.append(item)
    return coefficient, found


def _pair(values: list[Value], kind: type[Node]) -> tuple[Value, Value] | None:
    """(x, y) of two values where y is of the given kind."""
    if len(values) != 2:
        return None
    a, b = values
    return (a, b) if isinstance(b, kind) else (b, a) if isinstance(a, kind) else None


def recognise_gelu(node: Mul | Div, graph: Graph) -> Patch | None:
    """0.5 * x * (1 + erf(x / sqrt(2))) -> gelu(x); with tanh(sqrt(2/pi) * (x + 0.044715 * x**3)) its tanh form"""
    half, values = factors(node, graph)
    pair = _pair(values, Add)
    if pair is None or not _close(half, 0.5, node):
        return None
    for x, total in (pair, pair[::-1]):
        match total:
            case Add(Erf(inner), one) if is_splat(one, 1):
                coefficient, scaled = factors(inner, graph)
                if scaled == [x] and _close(coefficient, math.sqrt(0.5), node):
                    return _typed(node, Gelu(x, False))
            case Add(Tanh(inner), one) if is_splat(one, 1) and _is_gelu_argument(inner, x, graph):
                return _typed(node, Gelu(x, True))
            case _:
                pass
    return None


def _is_gelu_argument(value: Value, x: Value, graph: Graph) -> bool:
    """sqrt(2/pi) * (x + 0.044715 * x**3), or with x outside: sqrt(2/pi) * x * (1 + 0.044715 * x**2)."""
    coefficient, values = factors(value, graph)
    if not _close(coefficient, math.sqrt(2 / math.pi), x):
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
    return count == power and _close(coefficient, 0.044715, x)


def _typed(node: Node, new: Value) -> Patch | None:
    return {node: new} if new.type == node.type else None


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
        match _pair(values, kind):
            case (x, Clip(Add(y, three), low, high)) if x is y:
                bounds = is_splat(three, 3) and is_splat(low, 0) and is_splat(high, 6)
                if bounds and _close(coefficient, 1 / 6, node):
                    return _typed(node, HardSwish(x))
            case (x, Clip(Add(Mul(y, sixth), half), low, high)) if x is y and coefficient == 1:
                slope = splat(sixth)
                if _close(slope, 1 / 6, x) and is_splat(half, 0.5) and is_splat(low, 0) and is_splat(high, 1):
                    return _typed(node, HardSwish(x))
            case (x, HardSigmoid(y, alpha, beta)) if x is y and coefficient == 1:
                if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
                    return _typed(node, HardSwish(x))
            case _:
                pass
    return None


def recognise_normal(node: Div | Mul, graph: Graph) -> Patch | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps) -> layer_norm(x, 1), means over the last axes"""
    match node:
        case Div(Sub() as centred, Sqrt(Add(ReduceMean(Mul() as square, axes, True), epsilon))):
            pass
        case Mul(Sub() as centred, Reciprocal(Sqrt(Add(ReduceMean(Mul() as square, axes, True), epsilon)))):
            pass
        case Mul(Reciprocal(Sqrt(Add(ReduceMean(Mul() as square, axes, True), epsilon))), Sub() as centred):
            pass
        case _:
            return None
    x, eps = centred.a, splat(epsilon)
    match centred.b:
        case ReduceMean(y, same_axes, True) if y is x and set(same_axes) == set(axes):
            pass
        case _:
            return None
    trailing = set(axes) == set(range(x.rank - len(axes), x.rank)) and axes
    if square.a is not centred or square.b is not centred or not trailing or eps is None or not x.dtype.is_float:
        return None
    return _typed(node, LayerNorm(x, constant(1.0, x.dtype), None, min(axes), float(eps)))


def _broadcasts_to(value: Value, target: Value) -> bool:
    try:
        return broadcast_shapes((target.type.shape, value.type.shape)) == target.type.shape
    except IrError:
        return False


def absorb_scale(node: Mul, graph: Graph) -> Patch | None:
    """layer_norm(x, 1) * s -> layer_norm(x, s)"""
    for normal, scale in ((node.a, node.b), (node.b, node.a)):
        match normal:
            case LayerNorm(x, one, None, axis, epsilon) if is_splat(one, 1) and _once(normal, graph):
                if _broadcasts_to(scale, x):
                    return _typed(node, LayerNorm(x, scale, None, axis, epsilon))
            case _:
                pass
    return None


def absorb_bias(node: Add, graph: Graph) -> Patch | None:
    """layer_norm(x, s) + b -> layer_norm(x, s, b) for b smaller than x"""
    for normal, bias in ((node.a, node.b), (node.b, node.a)):
        match normal:
            case LayerNorm(x, scale, None, axis, epsilon) if _once(normal, graph):
                if _broadcasts_to(bias, x) and bias.rank <= x.rank - axis:
                    return _typed(node, LayerNorm(x, scale, bias, axis, epsilon))
            case _:
                pass
    return None


def recognise_softmax(node: Div, graph: Graph) -> Patch | None:
    """exp(x - max(x)) / sum(exp(x - max(x))) -> softmax(x) over one axis"""
    match node:
        case Div(Exp(Sub(x, ReduceMax(y, (top_axis,), True))) as powers, ReduceSum(z, (axis,), True)):
            if x is y and z is powers and axis == top_axis:
                return _typed(node, Softmax(x, axis))
        case _:
            pass
    return None


def recognise_attention(node: MatMul, graph: Graph) -> Patch | None:
    """softmax(scale * q @ k^T + mask) @ v -> attention(q, k, v, mask, scale); the scale may be on q or k as well"""
    match node:
        case MatMul(Softmax(scores, axis) as weights, v) if axis == weights.rank - 1 and _once(weights, graph):
            pass
        case _:
            return None
    for product, mask in _masked(scores, graph):
        coefficient, values = factors(product, graph)
        if not _once(product, graph) or len(values) != 1 or not isinstance(values[0], MatMul):
            continue
        q_scale, q = _scaled(values[0].a)
        k_scale, transposed = _scaled(values[0].b)
        scale = coefficient * q_scale * k_scale
        try:
            return _typed(node, Attention(q, swap_last_axes(transposed), v, mask, scale))
        except IrError:  # shapes that only the parts accept: dims that cannot be proved equal, a mask that widens
            return None
    return None


def _masked(scores: Value, graph: Graph) -> list[tuple[Value, Value | None]]:
    """(x, mask) with scores = x + mask, or with scores = where(keep, x, low) for a `low` that any x vanishes beside."""
    found: list[tuple[Value, Value | None]] = [(scores, None)]
    if not _once(scores, graph):
        return found
    zero = constant(0.0, scores.dtype)
    match scores:
        case Add(a, b):
            found += [(a, b), (b, a)]
        case Where(keep, x, low) if _vanishes_beside(low):
            found.append((x, Where(keep, zero, constant(splat(low) or 0.0, low.dtype))))
        case Where(drop, low, x) if _vanishes_beside(low):
            found.append((x, Where(drop, constant(splat(low) or 0.0, low.dtype), zero)))
        case _:
            pass
    return found


def _vanishes_beside(low: Value) -> bool:
    number = splat(low)
    return number is not None and (number == -math.inf or (number < -1e30 and low.dtype.bits >= 32))


def _scaled(value: Value) -> tuple[float, Value]:
    """(c, x) with value = c * x for a constant c, looking through transposes."""
    coefficient = 1.0
    perms: list[tuple[int, ...]] = []
    while True:
        match value:
            case Mul(x, c) if (number := splat(c)) is not None and x.type == value.type:
                coefficient, value = coefficient * number, x
            case Div(x, c) if (number := splat(c)) and x.type == value.type:
                coefficient, value = coefficient / number, x
            case Transpose(x, perm):
                perms.append(perm)
                value = x
            case _:
                break
    for perm in reversed(perms):
        value = transposed(value, perm)
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


RULES: tuple[Rule, ...] = (
    recognise_gelu,
    recognise_silu,
    recognise_hard_swish,
    recognise_normal,
    absorb_scale,
    absorb_bias,
    recognise_softmax,
    recognise_attention,
)


def recognise(graph: Graph, *, trace: Trace | None = None) -> Graph:
    """`graph` with composites in the place of their parts."""
    return rewrite(graph, RULES, trace=trace, pass_name="recognise")
