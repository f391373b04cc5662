"""Channels of activations of very different sizes, brought nearer to each other for the one grid that they lie on.

A grid over all channels leaves those that are much smaller than the largest few of its steps. As in SmoothQuant (Xiao
et al. 2022), but for convolutions too, channels are divided by factors that the weights behind them take up, whose
grids have one scale for each output. Which factors, and whether any, follows from the noise that they leave: a step of
the activations' grid and one of the weights' each stand for a uniform error of their width, independent of the others.

Factors are powers of two: the model computes the same as before, to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.compiler.ir.graph import Constant, Graph, Value, constant, node_of, with_operands
from ingot.compiler.ops.linear import MatMul, MaxPool
from ingot.compiler.ops.movement import Concat, Gather, Pad, Transpose
from ingot.compiler.ops.pointwise import Mul
from ingot.compiler.passes.constants import is_splat, users
from ingot.compiler.passes.quantize.channels import divided
from ingot.compiler.passes.quantize.flow import pointwise
from ingot.compiler.passes.quantize.grids import exact_grid
from ingot.compiler.passes.quantize.products import Array, Product, by_activations, chosen, products
from ingot.compiler.passes.quantize.weights import WeightOptions
from ingot.compiler.rewrite import rebuild

GAIN = 3.0  # decibels of noise that a division must save: less is not worth an operator
POWERS = (0.5, 0.75, 1.0)  # of the channels' sizes that are divided by
LOWER = (1.0, 0.5, 0.25, 0.125)  # shares of a grid below zero, of those above, that are tried
OFFSETS = (0.0, 0.25, 0.5, 0.75)  # before factors are rounded to powers of two
SPAN = 2.0**8  # between the largest channel and the smallest that is scaled up to it
STEPS = 255  # of the activations' grid
FLOOR = 0.01  # of the mean energy of the outputs: what those without any count as


@dataclass(frozen=True, eq=False)
class Channels:
    """What samples tell of each channel of an activation, [channels] each: the smallest and the largest value, and the
    mean square."""

    low: Array
    high: Array
    square: Array


def balance(
    graph: Graph,
    channels: Mapping[str, Channels],
    options: WeightOptions | None = None,
    *,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> tuple[Graph, dict[str, float]]:
    """`graph` with the activations of its products divided, channel by channel, where that saves noise, and the
    decibels by which it is less, by the products' names. `channels` says what is known of the activations of each
    product; `options` are those that its weights are quantised with.

    The division goes into what computes the activations (a product before a Relu), else it is an operator behind that.
    Elementwise operators that read the activations too multiply them again, so that one value is stored for all.
    """
    options = options or WeightOptions()
    found = {name: each for name, each in chosen(graph, only, exclude).items() if name in channels}
    gains: dict[str, float] = {}
    for names in by_activations(found).values():
        now = products(graph)
        factor, gain = balancing([now[name] for name in names], channels[names[0]], options)
        if gain >= GAIN:
            graph = _stored_divided(graph, names, factor)
            gains |= dict.fromkeys(names, gain)
    return graph, gains


def balancing(readers: Sequence[Product], seen: Channels, options: WeightOptions) -> tuple[Array, float]:
    """The factors [channels], powers of two, by which to divide what these products read, and how many decibels of the
    noise of their results that saves; ones and 0 where it does not save any."""
    size = np.maximum(np.maximum(seen.high, -seen.low), 0)
    one = np.ones(len(size))
    if not (np.isfinite(size).all() and np.isfinite(seen.square).all() and size.any()):
        return one, 0.0
    layers = [_Noise.of(each, seen, options) for each in readers]
    before = _total(layers, seen, one)
    ideal = np.maximum(np.maximum(seen.high, 0) - np.minimum(seen.low, 0), size.max() / SPAN)
    if _decibels(before, sum(each.of_activations(ideal, 1 / STEPS) for each in layers)) < GAIN:
        return one, 0.0  # even if each channel had all of the grid, and weights cost nothing
    best, least = one, before
    for power in POWERS:
        for lower in LOWER if (seen.low < 0).any() else LOWER[:1]:
            reach: Array = np.asarray(np.maximum(np.maximum(seen.high, -seen.low / lower), 0))
            # Nobody knows how large those will be that were zero.
            wide: Array = np.where(reach > 0, reach, float(reach.max()))
            shares: Array = np.maximum(wide / float(wide.max()), 1 / SPAN)
            sizes: Array = power * np.log2(shares)
            factors = [np.exp2(np.round(sizes + offset)) for offset in OFFSETS]
            factor = min(factors, key=lambda each: sum(x.of_activations(each, _step(seen, each)) for x in layers))
            noise = _total(layers, seen, factor)
            if noise < least:
                best, least = factor, noise
    return best, _decibels(before, least)


@dataclass(frozen=True, eq=False)
class _Noise:
    """The noise in the results of a product, as a share of their energy, the mean of all output channels. `squares` and
    `largest` [groups, N, K] are those of the weights of each input and output channel, over `taps`; `signal` [groups,
    N] is the energy of the outputs; `steps` of a grid lie on either side of zero; `is_exact`: weights as they are lie
    on grids."""

    squares: Array
    largest: Array
    taps: int
    power: Array
    signal: Array
    steps: int
    is_exact: bool
    per_channel: bool

    @staticmethod
    def of(product: Product, seen: Channels, options: WeightOptions) -> _Noise:
        """That of a product whose activations are known."""
        data = product.weight().astype(np.float64)
        if isinstance(product.node, MatMul):
            data = data.T
        taps = data.reshape(product.groups, data.shape[0] // product.groups, data.shape[1], -1)
        power = seen.square.reshape(product.groups, 1, -1)
        squares = np.square(taps).sum(-1)
        signal = (squares * power).sum(-1)
        signal = signal + FLOOR * signal.mean()
        exact = None
        if options.exact:
            axis = (1 if isinstance(product.node, MatMul) else 0) if options.per_channel else None
            exact = exact_grid(product.weight(), axis, bits=options.bits)
        return _Noise(
            squares,
            np.abs(taps).max(-1),
            taps.shape[-1],
            power,
            signal,
            2 ** (options.bits - 1) - 1,
            exact is not None,
            options.per_channel,
        )

    def of_activations(self, factor: Array, step: float) -> float:
        """What activations divided by `factor` on a grid of this step cause."""
        noise = step**2 / 12 * (self.squares * np.square(self._placed(factor))).sum(-1)
        return float(np.divide(noise, self.signal, out=np.zeros_like(noise), where=self.signal > 0).mean())

    def of_weights(self, factor: Array) -> float:
        """What the rounding of the weights, multiplied by `factor`, causes."""
        if self.is_exact and (factor == 1).all():
            return 0.0
        placed = self._placed(factor)
        ends = (self.largest * placed).max(-1)
        if not self.per_channel:
            ends = np.full_like(ends, ends.max())
        noise = np.square(ends / self.steps) / 12 * self.taps * (self.power / np.square(placed)).sum(-1)
        return float(np.divide(noise, self.signal, out=np.zeros_like(noise), where=self.signal > 0).mean())

    def _placed(self, factor: Array) -> Array:
        return factor.reshape(self.power.shape)


def _total(layers: Sequence[_Noise], seen: Channels, factor: Array) -> float:
    step = _step(seen, factor)
    return sum(each.of_activations(factor, step) + each.of_weights(factor) for each in layers)


def _step(seen: Channels, factor: Array) -> float:
    """Of the grid of activations divided by `factor`."""
    high, low = float((seen.high / factor).max(initial=0)), float((seen.low / factor).min(initial=0))
    return (max(high, 0.0) - min(low, 0.0)) / STEPS


def _decibels(before: float, after: float) -> float:
    return 10 * math.log10(before / after) if before > 0 and after > 0 else 0.0


def _stored_divided(graph: Graph, names: Sequence[str], factor: Array) -> Graph:
    """`graph` with what these products read divided by `factor`, so that this is what is stored."""
    found = products(graph)
    mine = {found[name].node: found[name] for name in names}
    first = found[names[0]]
    x, axis = first.x, first.in_axis
    shape = [1] * x.rank
    shape[axis] = -1
    spread = factor.reshape(shape)
    others = [user for user in users(graph)[x] if user not in mine]
    again = [user for user in others if x in pointwise(user)]
    less = None
    if x not in graph.results and len(again) == len(others):
        less = divided(graph, x, spread, found)
    if less is None:
        less = _multiplied(x, axis, 1 / factor)
    mapping: dict[Value, Value] = {
        node: each.with_operands(less, each.inputs_scaled(factor)) for node, each in mine.items()
    }
    more = Mul(less, constant(spread.astype(x.dtype.to_numpy())), origin=node_of(x).origin)
    for user in again:
        mapping |= dict(zip(user.results(), with_operands(user, {x: more}).results(), strict=True))
    return rebuild(graph, mapping)


def _multiplied(value: Value, axis: int, factor: Array) -> Value:
    """`value` with a factor for each index of `axis`, multiplied before what only moves elements: these are moved on
    the grid that they lie on."""

    def inner(x: Value, at: int = axis) -> Value:
        return _multiplied(x, at, factor)

    match value:
        case Concat(parts=parts, axis=along) if along == axis:
            extents = [part.shape[axis] for part in parts]
            if all(isinstance(extent, int) for extent in extents):
                pieces = np.split(factor, np.cumsum([int(extent) for extent in extents])[:-1])
                made = tuple(_multiplied(p, axis, piece) for p, piece in zip(parts, pieces, strict=True))
                return dataclasses.replace(value, parts=made)
        case Concat(parts=parts):
            return dataclasses.replace(value, parts=tuple(inner(part) for part in parts))
        case MaxPool(x=x, channels_last=last) if axis == (value.rank - 1 if last else 1):
            return dataclasses.replace(value, x=inner(x))
        case Transpose(x=x, perm=perm):
            return dataclasses.replace(value, x=inner(x, perm[axis]))
        case Gather(data=data, indices=indices, axis=along) if along != axis and indices.rank == 1:
            return dataclasses.replace(value, data=inner(data))
        case Pad(x=x, pads=pads, mode=mode, value=fill) if pads[axis] == pads[axis + value.rank] == 0 and (
            mode != "constant" or fill is None or is_splat(fill, 0)
        ):
            return dataclasses.replace(value, x=inner(x))
        case Constant(data=data):
            return constant(data * factor.astype(data.dtype).reshape(_along(axis, value.rank)), origin=value.origin)
        case _:
            pass
    row = constant(factor.astype(value.dtype.to_numpy()).reshape(_along(axis, value.rank)))
    return Mul(value, row, origin=node_of(value).origin)


def _along(axis: int, rank: int) -> list[int]:
    return [-1 if i == axis else 1 for i in range(rank)]
