"""`prune`: from an ONNX model and data to a graph with zeros in its weights, on one page.

model --frontend, hold--> --simplify, recognise, fold_norm--> Graph --calibration--> statistics --passes.prune--> Graph
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ops.custom import CustomOp
from ingot.compiler.ops.linear import Conv, MatMul
from ingot.compiler.ops.quantised import Dequantize, Quantize
from ingot.compiler.passes.prune.criteria import METHODS, Scope
from ingot.compiler.passes.prune.criteria import criterion as find_criterion
from ingot.compiler.passes.prune.errors import PruningError
from ingot.compiler.passes.prune.masks import STEPS, PruneOptions, prune_weights
from ingot.compiler.passes.prune.patterns import Array, Pattern
from ingot.compiler.passes.prune.rates import Distribution, Schedule, require_rate
from ingot.compiler.passes.quantize.bias import correct_bias
from ingot.compiler.passes.quantize.layers import Selection, layers_of
from ingot.compiler.passes.quantize.products import Product, products
from ingot.compiler.passes.quantize.statistics import Runner, Statistics, observed
from ingot.compiler.pruning.report import PrunedLayer, PruningReport
from ingot.compiler.pruning.result import Pruned
from ingot.compiler.quantization.comparison import compared
from ingot.compiler.quantization.schemes import core

SAMPLES = 128  # that are read unless a number is given: moments need no more
COMPARED = 8  # of these the report is measured on


def prune(
    model: Any,
    data: Any = None,
    *,
    rate: float | None = None,
    criterion: str | None = None,
    pattern: str = "unstructured",
    scope: Scope | None = None,
    distribution: Distribution = "uniform",
    schedule: Schedule = "one-shot",
    steps: int = STEPS,
    repair: bool = True,
    rates: Mapping[str, float] | None = None,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    ends: bool = False,
    seed: int = 0,
    samples: int | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    custom: Iterable[CustomOp] = (),
    preprocess: Any = None,
    progress: Callable[[str], None] | None = None,
) -> Pruned:
    """Prune an ONNX model: what `load_onnx` takes, with `shapes`, `ranges` and `custom` as there.

    `rate`: the part of the weights of the chosen layers that becomes zero, from 0 to below 1 (default 0.5; N:M patterns
    have their own); `rates` says it for single layers by name. `criterion`: which go (docs/pruning.md; default:
    shrinkage with `data`, else magnitude); `pattern`: "unstructured", blocks such as "4x1" (output channels x inputs),
    "kernel", or "2:4" and other N:M; `scope`: whether weights compete within a "layer", each "output" channel, or the
    whole model ("global": a `distribution` then); `distribution` of the rate among layers: "uniform", "erk", "global",
    "sensitivity"; `schedule` and `steps`: how the rate is reached. `repair`: the weights that stay, and biases, make up
    for those that went, as far as `data` tells.

    `data`, `samples` (default 128) and `preprocess`: as `ingot.compiler.calibration.read_samples` takes them. `only`,
    `exclude`: names of layers or patterns of them; without `ends` the first and the last layers, and always depthwise
    convolutions unless `only` names them, stay as they are. `progress` is called with a line of text at each step.

    Raises PruningError (rates, patterns and criteria that do not fit, nothing to prune, a model of integers),
    CalibrationError (the samples), ModelError and what else `load_onnx` and `compile` raise.
    """
    tell = progress or _silent
    form = Pattern.parse(pattern)
    rate = _rate(rate, form)
    for name, each in (rates or {}).items():
        try:
            require_rate(each)
        except PruningError as error:
            raise PruningError(f"{name}: {error}") from None
    wanted = criterion or ("magnitude" if data is None else "shrinkage")
    if scope == "global":
        if distribution not in ("uniform", "global"):
            raise PruningError(f"scope global finds the rates by itself: leave distribution {distribution} out")
        scope, distribution = None, "global"
    if rates and (form.rate is not None or distribution != "uniform"):
        what = f"pattern {form}" if form.rate is not None else f"distribution {distribution}"
        raise PruningError(f"{what} says the rates of all layers: leave rates of single ones out")
    repaired = repair and data is not None
    options = PruneOptions(wanted, form, scope, distribution, schedule, steps, repaired, seed=seed)
    if options.needs_data and data is None:
        what = wanted if wanted in METHODS or find_criterion(wanted).needs_data else distribution
        raise PruningError(f"{what} needs samples: give data, or prune by magnitude")
    tell("reading the model")
    graph = core(load_onnx(model, shapes=shapes, ranges=ranges, custom=custom, watch=True))
    chosen = chosen_products(graph, tuple(only), tuple(exclude), ends)
    names = list(chosen)
    if unknown := [name for name in rates or () if name not in chosen]:
        raise PruningError(f"{unknown[0]!r} is none of the layers that are pruned: {', '.join(names[:3])} ... are")
    read = [] if data is None else _read(graph, data, preprocess, SAMPLES if samples is None else samples)
    statistics: dict[str, Statistics] = {}
    if read and (options.needs_data or repair):
        tell("observing activations")
        with np.errstate(invalid="ignore"):  # what is not finite is refused by name
            statistics = observed(graph, read, names, compiled)
        _require_numbers(statistics)
    asked = rate if rates is None else {name: rates.get(name, rate) for name in names}
    after, weights = prune_weights(graph, asked, options, statistics=statistics, only=names, progress=tell)
    if repair and statistics:
        after = correct_bias(graph, after, statistics)
    report = _report(graph, after, chosen, weights, options, read[:COMPARED], tell)
    return Pruned(dataclasses.replace(after, watched={}), report)


def chosen_products(
    graph: Graph, only: tuple[str, ...] = (), exclude: tuple[str, ...] = (), ends: bool = False
) -> dict[str, Product]:
    """The products that are pruned, by name."""
    every = layers_of(graph)
    found = products(graph)
    if not every or not found:
        integers = any(isinstance(node, Quantize | Dequantize) for node in graph.nodes())
        why = (
            "the model is quantised already: prune it before, and quantise what comes of that"
            if integers
            else "the model has no convolutions or products with constant weights"
        )
        raise PruningError(f"there is nothing to prune: {why}")
    try:
        layers = {layer.node: layer for layer in Selection(only, exclude, ends).among(every)}
    except ValueError as error:
        raise PruningError(str(error)) from error
    named = set(only)
    chosen = {
        name: product
        for name, product in found.items()
        if (layer := layers.get(product.node)) is not None
        and (not _is_depthwise(product) or named.intersection(layer.names))
    }
    if not chosen:
        raise PruningError(
            "no layer is chosen: the first, the last and depthwise layers stay as they are unless they are named "
            f"(ends, only); there are {', '.join(list(found)[:5])}"
        )
    return chosen


def _is_depthwise(product: Product) -> bool:
    return isinstance(product.node, Conv) and product.groups > 1 and product.node.w.shape[1] == 1


def _read(graph: Graph, data: Any, preprocess: Any, limit: int) -> list[Mapping[str, Array]]:
    from ingot.compiler.calibration import read_samples

    given = {} if preprocess is None else {"preprocess": preprocess}
    return [sample.arrays for sample in read_samples(data, graph, limit=limit, **given)]


def _rate(rate: float | None, pattern: Pattern) -> float:
    """The rate that is asked for, or that the pattern has."""
    if pattern.rate is None:
        return require_rate(0.5 if rate is None else rate)
    if rate is not None and not math.isclose(require_rate(rate), pattern.rate, abs_tol=0.005):
        raise PruningError(f"pattern {pattern} has a rate of {pattern.rate:.2g}, not {rate}: leave the rate out")
    return pattern.rate


def _require_numbers(statistics: Mapping[str, Statistics]) -> None:
    for name, seen in statistics.items():
        if not seen.count:
            raise PruningError(f"all samples are empty at {name}: give some that are not")
        if not np.isfinite(seen.moment).all():
            raise PruningError(f"what {name} multiplies has NaN or infinities on these samples: leave out it or them")


def compiled(graph: Graph) -> Runner:
    """What runs a graph's compiled code."""
    from ingot.compiler.api import compile

    return compile(dataclasses.replace(graph, watched={}), target="native").session().run


def _report(
    graph: Graph,
    after: Graph,
    chosen: Mapping[str, Product],
    weights: Sequence[Any],
    options: PruneOptions,
    samples: Sequence[Mapping[str, Array]],
    tell: Callable[[str], None],
) -> PruningReport:
    outputs: dict[str, float] = {}
    if samples:
        outputs, _, _ = compared(graph, after, {}, {}, samples, tell)
    owner = {name: weight for weight in weights for name in weight.names}
    layers = tuple(
        PrunedLayer(
            name,
            "Conv" if isinstance(product.node, Conv) else MatMul.__name__,
            product.w.type.static_shape(),
            owner[name].zeros_before / max(owner[name].size, 1),
            owner[name].zeros / max(owner[name].size, 1),
            owner[name].error,
        )
        for name, product in chosen.items()
    )
    every = {id(product.w): product for product in products(graph).values()}
    total = sum(product.weight().size for product in every.values())
    zeros = sum(weight.zeros for weight in weights)
    how = f"{options.criterion}, {options.pattern}"
    return PruningReport(how, layers, outputs, len(samples), total, zeros)


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""
