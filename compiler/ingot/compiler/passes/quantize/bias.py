"""Means and spreads of outputs that quantisation has moved, put right in biases and scales.

Rounded weights move the mean of an output by ``E[x] @ (rounded - w)``: "Data-Free Quantization Through Weight
Equalization and Bias Correction" (Nagel et al. 2019, section 4.2). A spread that has changed is what a batch norm would
have measured anew ("Hybrid 8-bit Floating Point Training and Inference for Deep Neural Networks", Sun et al. 2019,
section 3.3); where it is folded, the scale of the weights takes its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ingot.compiler.ir.graph import Constant, Graph, Value, constant, node_of
from ingot.compiler.ops.linear import Conv
from ingot.compiler.ops.movement import Expand, Reshape, Slice
from ingot.compiler.ops.pointwise import Add, Cast
from ingot.compiler.ops.quantised import Dequantize, integer_range
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.products import Array, Product, known, products
from ingot.compiler.passes.quantize.statistics import Runner, Statistics, outputs_observed
from ingot.compiler.rewrite import rebuild, substitute

Compiled = Callable[[Graph], Runner]


def shifts(graph: Graph, quantised: Graph, statistics: Mapping[str, Statistics]) -> dict[str, Array]:
    """By how much the mean of each output channel of the products of `quantised` is off because their weights differ
    from those of the same name in `graph`, whose activations have these statistics: [output channels] each."""
    theirs = products(quantised)
    found: dict[str, Array] = {}
    for name, product in products(graph).items():
        if name in theirs and name in statistics:
            found[name] = shift(product, theirs[name].weight(), statistics[name].mean)
    return found


def shift(product: Product, weight: Array, mean: Array) -> Array:
    """What another `weight` adds to the mean of each output channel of a product, the rows of whose activations have
    this `mean` [groups, K]; or, for one mean of each input channel [channels], padding counts as if it had that."""
    change = product.matrices(weight).astype(np.float64) - product.matrices()
    if mean.ndim == 1:
        grouped = mean.reshape(product.groups, -1)
        mean = np.repeat(grouped, change.shape[1] // grouped.shape[1], axis=1)
    return np.einsum("gk,gkn->gn", mean, change).reshape(-1)


def correct_bias(graph: Graph, quantised: Graph, statistics: Mapping[str, Statistics]) -> Graph:
    """`quantised` with what the rounding of weights adds to the mean of each output taken off the biases. Weights are
    compared with those of the same name in `graph`, the model before, whose activations have the `statistics`."""
    for name, shift in shifts(graph, quantised, statistics).items():
        if shift.any():
            quantised = _changed(quantised, name, np.ones(1), -shift)
    return quantised


def reestimate(
    graph: Graph,
    quantised: Graph,
    samples: Sequence[Mapping[str, Array]],
    *,
    spread: bool = True,
    limit: float = 2.0,
    compiled: Compiled | None = None,
) -> Graph:
    """`quantised` with each output channel of its products scaled and moved to the standard deviation and the mean that
    it has over `samples` in `graph`, the model before; products are put right one after another, as each changes what
    those behind it see. Without `spread` means alone are.

    Scales change by a factor of `limit` at most; those of channels that do not vary stay. `compiled` makes something
    that computes a graph's outputs; by default the interpreter does. Raises QuantisationError without samples.
    """
    if not samples:
        raise QuantisationError("means cannot be measured without samples: give some")
    names = [name for name in products(quantised) if name in products(graph)]
    wanted = outputs_observed(graph, samples, names, compiled)
    for name in names:
        now, goal = outputs_observed(quantised, samples, [name], compiled)[name], wanted[name]
        factor = np.ones(len(goal.mean))
        if spread:
            varies = (now.deviation > 1e-6 * np.abs(now.mean)) & (goal.deviation > 0)
            np.divide(goal.deviation, now.deviation, out=factor, where=varies & (now.deviation > 0))
            factor = np.clip(factor, 1 / limit, limit)
        quantised = _changed(quantised, name, factor, goal.mean - factor * now.mean)
    return quantised


def _changed(graph: Graph, name: str, factor: Array, offset: Array) -> Graph:
    """`graph` with the result of a product, bias included, times `factor` plus `offset`, [output channels] or [1]."""
    product = products(graph)[name]
    node = product.node
    w = product.w if (factor == 1).all() else _weight_scaled(product, factor)
    if isinstance(node, Conv):
        whole = np.zeros(product.channels[1]) if node.bias is None else _elements(node.bias)
        bias = _with_elements(node.bias, whole * factor + offset, factor, node)
        return rebuild(graph, {node: dataclasses.replace(node, w=w, bias=bias)})
    biased = product.biased(graph)
    whole = np.zeros(1) if biased is None else _elements(biased[1])
    bias = constant(whole * factor + offset, node.dtype)
    result: Value = node if biased is None else biased[0]
    origin = node_of(result).origin
    return rebuild(graph, {result: Add(product.with_operands(product.x, w), bias, origin=origin)})


def _elements(value: Value) -> Array:
    found = known(value)
    if found is None:
        raise QuantisationError(f"a bias {value.type} is not known at compile time: simplify the model first")
    return found.astype(np.float64)


def _with_elements(value: Value | None, data: Array, factor: Array, node: Conv) -> Value:
    """A bias [channels] with other elements: on its grid, times `factor`, where it is quantised."""
    match value:
        case Dequantize(x=Constant() as codes, scale=scale, zero_point=zero) if not _moves(zero):
            step = (np.broadcast_to(_elements(scale).reshape(-1), data.shape) * factor).astype(np.float32)
            rounded = np.clip(np.rint(data / step), *integer_range(codes.dtype)).astype(codes.data.dtype)
            return Dequantize(constant(rounded), constant(step, scale.dtype), None, origin=value.origin)
        case _:
            return constant(data, node.dtype)


def _moves(zero: Value | None) -> bool:
    return zero is not None and bool(_elements(zero).any())


def _weight_scaled(product: Product, factor: Array) -> Value:
    """The weight with a factor for each output channel, in its scales where it is quantised."""
    w = product.w
    axis = 0 if isinstance(product.node, Conv) else 1

    def column(rank: int) -> Array:
        shape = [1] * rank
        shape[axis - w.rank] = -1
        return factor.reshape(shape)

    if not isinstance(w, Dequantize):
        return constant(product.weight() * column(w.rank), w.dtype)
    source = w.scale
    while isinstance(source, Reshape | Expand | Slice | Cast):  # one for each block
        source = source.x
    if isinstance(source, Constant) and source.rank == w.rank:
        changed = constant(source.data * column(w.rank), source.dtype)
        (scale,) = substitute((w.scale,), {source: changed})
    else:
        found = known(w.scale)
        assert found is not None
        whole = found.reshape((1,) * (w.rank - found.ndim) + found.shape) * column(w.rank)
        scale = constant(whole, w.scale.dtype)
    return dataclasses.replace(w, scale=scale)
