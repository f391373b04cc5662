"""Normalisations from their parts: layer, group and instance norm as `LayerNorm`, whatever way the variance is written.

Root-mean-square norms have no composite: their parts are one row group as they are.
"""

from __future__ import annotations

from ingot.compiler.ir.dims import Dim, divide_exact, product
from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.ops.composite import LayerNorm
from ingot.compiler.ops.movement import Reshape
from ingot.compiler.ops.pointwise import Add, Div, Mul, Reciprocal, Relu, Sqrt, Sub
from ingot.compiler.ops.reduction import ReduceMean
from ingot.compiler.passes.constants import is_splat, splat
from ingot.compiler.passes.recognise.matching import broadcasts_to, once, typed
from ingot.compiler.rewrite import Patch, Rule


def recognise_variance(node: Sub, graph: Graph) -> Patch | None:
    """mean(x*x) - mean(x)**2 -> mean((x - mean(x))**2): what does not cancel"""
    match node:
        case Sub(ReduceMean(Mul(a, b), axes, True), Mul(ReduceMean(x, others, True) as mean, same)):
            if a is x and b is x and mean is same and axes == others:
                centred = Sub(x, mean)
                return typed(node, ReduceMean(Mul(centred, centred), axes, True))
        case _:
            pass
    return None


def drop_clamp_of_squares(node: Relu, graph: Graph) -> Patch | None:
    """relu(mean(x*x)) -> mean(x*x)"""
    match node.x:
        case ReduceMean(Mul(a, b)) if a is b:
            return {node: node.x}
        case _:
            return None


def scale_after_root(node: Mul, graph: Graph) -> Patch | None:
    """x * (1/sqrt(v) * s) -> (x * 1/sqrt(v)) * s for x as large as the result and one v a row"""
    for x, factor in ((node.a, node.b), (node.b, node.a)):
        if x.type != node.type:
            continue
        match factor:
            case Mul(Reciprocal(Sqrt()) as root, scale) | Mul(scale, Reciprocal(Sqrt()) as root):
                if root.type.size != node.type.size and scale.type != node.type and once(factor, graph):
                    return typed(node, Mul(Mul(x, root), scale))
            case _:
                pass
    return None


def unfold_mean(node: Add, graph: Graph) -> Patch | None:
    """x * f + (b - mean(x) * f) -> (x - mean(x)) * f + b: how tf.nn.batch_normalization is written"""
    for scaled, rest in ((node.a, node.b), (node.b, node.a)):
        match scaled, rest:
            case Mul(x, f), Sub(bias, Mul(ReduceMean(y, _, True) as mean, g)) if x is y and f is g:
                return typed(node, Add(Mul(Sub(x, mean), f), bias))
            case _:
                pass
    return None


def _centred(value: Value) -> tuple[Value, tuple[int, ...]] | None:
    """(x, axes) of x - mean(x)."""
    match value:
        case Sub(x, ReduceMean(y, axes, True)) if x is y:
            return x, axes
        case _:
            return None


def _deviation(value: Value) -> tuple[Value, tuple[int, ...], float] | None:
    """(x, axes, epsilon) of sqrt(mean((x - mean(x))**2) + epsilon)."""
    match value:
        case Sqrt(Add(ReduceMean(Mul(a, b), axes, True), offset)) if (epsilon := splat(offset)) is not None:
            pass
        case Sqrt(ReduceMean(Mul(a, b), axes, True)):  # an exporter's optimizer drops an epsilon of 1e-12
            epsilon = 0.0
        case _:
            return None
    found = _centred(a) if a is b else None
    return (found[0], axes, float(epsilon)) if found is not None and found[1] == axes else None


def recognise_normal(node: Div | Mul, graph: Graph) -> Patch | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps) -> layer_norm(x, 1), means over the last axes"""
    match node:
        case Div(a, Sqrt() as root):
            pass
        case Mul(a, Reciprocal(Sqrt() as root)) | Mul(Reciprocal(Sqrt() as root), a):
            pass
        case _:
            return None
    above, below = _centred(a), _deviation(root)
    if above is None or below is None or above != below[:2]:
        return None
    x, axes, epsilon = below
    if not axes or sorted(axes) != list(range(x.rank - len(axes), x.rank)) or not x.dtype.is_float:
        return None
    return typed(node, LayerNorm(x, constant(1.0, x.dtype), None, min(axes), epsilon))


def absorb_scale(node: Mul, graph: Graph) -> Patch | None:
    """layer_norm(x, 1) * s -> layer_norm(x, s)"""
    for normal, scale in ((node.a, node.b), (node.b, node.a)):
        match normal:
            case LayerNorm(x, one, None, axis, epsilon) if is_splat(one, 1) and once(normal, graph):
                if broadcasts_to(scale, x):
                    return typed(node, LayerNorm(x, scale, None, axis, epsilon))
            case _:
                pass
    return None


def absorb_bias(node: Add, graph: Graph) -> Patch | None:
    """layer_norm(x, s) + b -> layer_norm(x, s, b) for b smaller than x"""
    for normal, bias in ((node.a, node.b), (node.b, node.a)):
        match normal:
            case LayerNorm(x, scale, None, axis, epsilon) if once(normal, graph):
                small = bias.rank <= x.rank - axis or isinstance(bias, Constant)
                if small and broadcasts_to(bias, x):
                    return typed(node, LayerNorm(x, scale, bias, axis, epsilon))
            case _:
                pass
    return None


def split_groups(node: Reshape, graph: Graph) -> Patch | None:
    """reshape(layer_norm([N, G, rest])) as [N, C, ...] -> the same norm of [N, G, C/G, rest], reshaped

    Group norm: a scale per channel then fits the norm's own axes.
    """
    match node.x:
        case LayerNorm(x, one, None, 2, epsilon) if x.rank == 3 and is_splat(one, 1) and node.rank >= 3:
            pass
        case _:
            return None
    batch, groups, length = x.shape
    each = _part(node.shape[1], groups)
    rest = product(node.shape[2:])
    if node.shape[0] != batch or each is None or each == 1 or product((each, rest)) != length:
        return None
    split = Reshape(x, (batch, groups, each, rest))
    return {node: Reshape(LayerNorm(split, one, None, 2, epsilon), node.shape)}


def _part(channels: Dim, groups: Dim) -> Dim | None:
    return divide_exact(channels, groups) if groups != 1 else channels


RULES: tuple[Rule, ...] = (
    recognise_variance,
    drop_clamp_of_squares,
    scale_after_root,
    unfold_mean,
    recognise_normal,
    absorb_scale,
    absorb_bias,
    split_groups,
)
