"""One model, other schemes for other layers: what samples tell is found once, then any mixture is made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ingot.compiler.ir.graph import Array, Graph, Node, Value, constant, node_of, with_operands
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.passes.integers import INTEGERS
from ingot.compiler.passes.quantize.dynamic import DynamicOptions, quantise_dynamic
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.grid import Grid, Range
from ingot.compiler.passes.quantize.groups import WeightForm
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.points import Placement, placed
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.static import StaticOptions, quantise_static
from ingot.compiler.passes.quantize.statistics import Statistics
from ingot.compiler.passes.quantize.tables import LookupTable, Part, tables_of
from ingot.compiler.passes.quantize.weight_only import WITH_DATA, Method, weight_only
from ingot.compiler.passes.quantize.weights import Weights
from ingot.compiler.quantization.activations import activation_statistics
from ingot.compiler.quantization.made import Made, Stored
from ingot.compiler.quantization.plan import WEIGHTS, LayerPlan
from ingot.compiler.rewrite import rebuild, rewrite
from ingot.runtime.dtypes import BY_NAME, f32

if TYPE_CHECKING:
    from ingot.compiler.calibration import Observer, Sample


@dataclass(frozen=True)
class Seen:
    """What samples tell: the ranges of values that may lie on grids, the mean of each input channel of convolutions
    whose biases are corrected, and the statistics of what products multiply their weights by."""

    ranges: Mapping[Value, Range] = field(default_factory=dict[Value, Range])
    means: Mapping[Layer, Array] = field(default_factory=dict[Layer, Array])
    statistics: Mapping[Layer, Statistics] = field(default_factory=dict[Layer, Statistics])

    def named(self, placement: Placement) -> dict[str, Range]:
        """The ranges of the points of a placement."""
        return {name: self.ranges[value] for value, name in placement.names.items() if value in self.ranges}


def seen_ranges(
    graph: Graph,
    placement: Placement,
    samples: Callable[[], Iterable[Sample]],
    method: str,
    *,
    correct_biases: bool,
    progress: Callable[[str], None],
) -> Seen:
    """The ranges that a placement needs, or a part of it, by the calibration method called `method`."""
    from ingot.compiler.calibration import Calibration, Extremes, Histogram, Moments
    from ingot.compiler.calibration.ranges import read_method

    layers = placement.layers if correct_biases else ()
    corrected = {layer: each.in_axis for layer in layers if (each := layer.product) is not None}
    points = placement.points
    known = {value: name for name, value in points.items()}
    operands = {layer: known.get(layer.x, f"operand of {layer.name}") for layer in corrected}
    points |= {name: layer.x for layer, name in operands.items()}
    if not points:
        return Seen()
    ends: list[Observer] = [Extremes(), Histogram()] if read_method(method).needs_histogram else [Extremes()]
    observers = dict.fromkeys(points, ends)
    for layer, name in operands.items():
        observers[name] = [*ends, Moments(corrected[layer])]
    calibration = Calibration(graph, points, observers)
    calibration.update(samples(), progress=progress)
    found = calibration.ranges(method)
    if empty := [name for name in placement.points if name not in found]:
        raise QuantisationError(f"all samples are empty at {', '.join(empty[:3])}: give some that are not")
    means = {layer: calibration.moments(name, corrected[layer])[0] for layer, name in operands.items()}
    return Seen({value: found[name] for name, value in points.items() if name in found}, means)


def seen_statistics(
    graph: Graph,
    layers: Collection[Layer],
    samples: Callable[[], Iterable[Sample]],
    progress: Callable[[str], None],
) -> dict[Layer, Statistics]:
    """The statistics of the activations of products."""
    names = _product_names(graph)
    wanted = {names[layer.node]: layer for layer in layers if layer.node in names}
    found = activation_statistics(graph, samples(), list(wanted), progress=progress) if wanted else {}
    return {wanted[name]: each for name, each in found.items()}


@dataclass(frozen=True)
class Mixture:
    """How the schemes are carried out, where a layer's plan does not say."""

    static: StaticOptions = field(default_factory=StaticOptions)
    dynamic: DynamicOptions = field(default_factory=DynamicOptions)
    everywhere: bool = False

    def needs_statistics(self, layers: Mapping[Part, LayerPlan], has_samples: bool) -> list[Layer]:
        """The layers whose weights are rounded with statistics. Raises QuantisationError where these need samples that
        are not there."""
        found: list[Layer] = []
        for layer, each in layers.items():
            if isinstance(layer, LookupTable):
                continue
            if each.scheme in WEIGHTS and rounding(each, has_samples) in WITH_DATA:
                if not has_samples:
                    what = f"{each.method} needs samples for {layer.name}"
                    raise QuantisationError(f"{what}: give data, or round by nearest or hqq, which need none")
                found.append(layer)
        return found

    def placement(self, graph: Graph, layers: Mapping[Part, LayerPlan]) -> Placement:
        """Where values lie on grids."""
        static = [layer for layer, each in layers.items() if each.scheme == "int8" and isinstance(layer, Layer)]
        return placed(graph, static, everywhere=self.everywhere)

    def made(self, graph: Graph, every: tuple[Part, ...], layers: Mapping[Part, LayerPlan], seen: Seen) -> Made:
        """`graph`, whose layers are `every`, with each of `layers` as its plan says. Raises QuantisationError."""
        before = after = dataclasses.replace(graph, watched={layer.name: layer.node for layer in every})
        weights: dict[Part, Stored] = {}
        placement = self.placement(graph, layers)
        grids: dict[Layer, Grid] = {}
        if placement.layers:
            own = {
                layer: dataclasses.replace(self.static.weights, bits=each.bits)
                for layer, each in layers.items()
                if each.bits is not None and isinstance(layer, Layer)
            }
            static = quantise_static(
                before, placement, seen.named(placement), self.static, means=seen.means, weights=own
            )
            after = static.graph
            weights |= {layer: Stored.of(each) for layer, each in static.weights.items()}
            grids = {
                layer: static.grids[placement.of[layer.x]] for layer in placement.layers if layer.x in placement.of
            }
        after, dynamic = self._dynamic(after, layers)
        weights |= {layer: Stored.of(each) for layer, each in dynamic.items()}
        after, alone = _weights_alone(after, layers, seen.statistics)
        after, halves = _halves(after, layers)
        return Made(before, after, every, weights | alone | halves, grids)

    def _dynamic(self, graph: Graph, layers: Mapping[Part, LayerPlan]) -> tuple[Graph, dict[Layer, Weights]]:
        found: dict[Layer, Weights] = {}
        wanted = {
            layer: each.bits
            for layer, each in layers.items()
            if each.scheme == "int8-dynamic" and isinstance(layer, Layer)
        }
        for bits in dict.fromkeys(wanted.values()):
            now = {layer_in(graph, layer): layer for layer, own in wanted.items() if own == bits}
            options = self.dynamic
            if bits is not None:
                options = dataclasses.replace(options, weights=dataclasses.replace(options.weights, bits=bits))
            graph, made = quantise_dynamic(graph, list(now), options)
            found |= {now[layer]: each for layer, each in made.items()}
        return graph, found


def finished(made: Made, layers: Mapping[Part, LayerPlan]) -> Made:
    """Dynamic products as products of integers, which ONNX has operators for."""
    if not any(each.scheme == "int8-dynamic" for each in layers.values()):
        return made
    return dataclasses.replace(made, after=rewrite(made.after, INTEGERS))


def rounding(plan: LayerPlan, has_samples: bool) -> Method:
    """How the weights of a layer are rounded."""
    return plan.method or ("gptq" if has_samples else "nearest")


def layer_in(graph: Graph, layer: Layer) -> Layer:
    """A layer as a graph that was made of its own has it."""
    node = node_of(graph.watched[layer.name])
    assert isinstance(node, type(layer.node))
    x = node.a if isinstance(node, MatMul) else node.x
    return dataclasses.replace(layer, node=node, x=x, w=node.b if isinstance(node, MatMul) else node.w)


def table_in(graph: Graph, table: LookupTable) -> LookupTable:
    """A table as a graph that was made of its own has it."""
    node = node_of(graph.watched[table.name])
    assert isinstance(node, Gather)
    return next(each for each in tables_of(graph) if each.w is node.data)


def _product_names(graph: Graph) -> dict[Node, str]:
    return {each.node: name for name, each in products(graph).items() if isinstance(each.node, MatMul)}


def _weights_alone(
    graph: Graph, layers: Mapping[Part, LayerPlan], statistics: Mapping[Layer, Statistics]
) -> tuple[Graph, dict[Part, Stored]]:
    found: dict[Part, Stored] = {}
    methods: dict[Part, Method] = {}
    for layer, each in layers.items():
        if each.scheme in WEIGHTS:
            is_table = isinstance(layer, LookupTable)
            methods[layer] = "nearest" if is_table else rounding(each, layer in statistics)
    for method in dict.fromkeys(methods.values()):
        names = _product_names(graph)
        mine: dict[str, Part] = {}
        for layer, own in methods.items():
            if own != method:
                continue
            if isinstance(layer, LookupTable):
                mine[table_in(graph, layer).name] = layer
            else:
                mine[names[layer_in(graph, layer).node]] = layer
        forms = {name: _form(layers[layer]) for name, layer in mine.items()}
        known = {
            name: statistics[layer]
            for name, layer in mine.items()
            if isinstance(layer, Layer) and layer in statistics
        }
        tables = any(isinstance(layer, LookupTable) for layer in mine.values())
        graph, done = weight_only(
            graph, method=method, statistics=known or None, forms=forms, only=list(mine), tables=tables
        )
        for each in done:
            how = f"{each.form.bits} bits, {method}, groups of {each.form.group}"
            found[mine[each.name]] = Stored(how, each.after)
    return graph, found


def _form(plan: LayerPlan) -> WeightForm:
    bits, group = WEIGHTS[plan.scheme]
    return WeightForm(bits if plan.bits is None else plan.bits, group if plan.group is None else plan.group)


def _halves(graph: Graph, layers: Mapping[Part, LayerPlan]) -> tuple[Graph, dict[Part, Stored]]:
    mapping: dict[Value, Value] = {}
    found: dict[Part, Stored] = {}
    for layer, each in layers.items():
        if each.scheme not in ("fp16", "bf16"):
            continue
        dtype = BY_NAME["f16" if each.scheme == "fp16" else "bf16"]
        now = table_in(graph, layer) if isinstance(layer, LookupTable) else layer_in(graph, layer)
        with np.errstate(over="ignore"):
            rounded = layer.weights().astype(dtype.to_numpy())
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise QuantisationError(f"{layer.name} has weights that {dtype} cannot hold: take bf16, or leave it in f32")
        if now.w.dtype != f32 and isinstance(now, LookupTable):
            raise QuantisationError(f"{layer.name} is stored in {now.w.dtype} as it is: leave it in f32")
        whole = Cast(constant(rounded, origin=node_of(now.w).origin), f32)
        if isinstance(now, LookupTable):
            mapping[now.w] = whole
        else:
            mapping[now.node] = with_operands(now.node, {now.w: whole})
        found[layer] = Stored(f"{dtype}, rounded", rounded.nbytes)
    return (rebuild(graph, mapping) if mapping else graph), found
