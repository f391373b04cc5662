"""`quantize`: from an ONNX model and data to a quantised graph, on one page.

model --frontend, hold--> --simplify, recognise, fold_norm--> Graph --calibration--> ranges --passes.quantize--> Graph
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import hold_narrow
from ingot.compiler.ir.graph import Graph, Node
from ingot.compiler.ops.custom import CustomOp
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.passes.integers import INTEGERS
from ingot.compiler.passes.quantize.dynamic import DynamicOptions, Grain, quantise_dynamic
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.groups import WeightForm
from ingot.compiler.passes.quantize.half import store_half
from ingot.compiler.passes.quantize.layers import Layer, Selection, layers_of
from ingot.compiler.passes.quantize.lossless import store_exactly
from ingot.compiler.passes.quantize.products import products
from ingot.compiler.passes.quantize.static import Activations, StaticOptions
from ingot.compiler.passes.quantize.tables import Part, tables_of
from ingot.compiler.passes.quantize.weight_only import WITH_DATA, Method, weight_only
from ingot.compiler.passes.quantize.weights import WeightOptions, Weights
from ingot.compiler.pipeline import Pipeline
from ingot.compiler.quantization.activations import activation_statistics
from ingot.compiler.quantization.made import Made, Stored
from ingot.compiler.quantization.mixture import Mixture, Seen, finished, seen_ranges, seen_statistics
from ingot.compiler.quantization.plan import WEIGHTS, LayerPlan, Plan
from ingot.compiler.quantization.reporting import reported
from ingot.compiler.quantization.result import Quantized
from ingot.compiler.quantization.static import Care, static
from ingot.compiler.quantization.validate import LEAST_SNR, Scheme, require_fitting, require_layers
from ingot.compiler.rewrite import rewrite

if TYPE_CHECKING:
    from ingot.compiler.calibration import Sample

COMPARED = 8  # samples that the report is measured on
HELD = 32  # samples that are kept
CORE = ("simplify", "recognise", "fold_norm")
"""The passes of the default pipeline after which composites are whole and norms folded: models are quantised there."""


def quantize(
    model: Any,
    data: Any = None,
    *,
    scheme: Scheme = "int8",
    plan: Plan | str | Path | None = None,
    method: str = "mse",
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    ends: bool | None = None,
    activations: Activations = "u8",
    symmetric: bool = False,
    everywhere: bool = False,
    grain: Grain = "token",
    weight_bits: int = 8,
    per_channel: bool = True,
    clip_weights: bool = False,
    correct_biases: bool = True,
    balance: bool = True,
    least_snr: float | None = LEAST_SNR,
    rounding: Method | None = None,
    group: int | None = None,
    tables: bool = False,
    measure: bool = True,
    samples: int | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    custom: Iterable[CustomOp] = (),
    preprocess: Any = None,
    progress: Callable[[str], None] | None = None,
) -> Quantized:
    """Quantise an ONNX model: what `load_onnx` takes, with `shapes`, `ranges` and `custom` as there.

    `scheme`: "int8", activations and weights in 8 bits with grids from `data`; "int8-dynamic", the same for products,
    with grids from each run's own values; "int8-weights" and "int4-weights", weights of products alone; "fp16" and
    "bf16", large weights rounded to halves; "lossless", the weights that lie on a grid of 8 bits stored so, every
    result unchanged. Options that a scheme has no use for are refused.

    `data`: samples as `ingot.compiler.calibration.read_samples` takes them (files, folders, arrays by input, a
    function), `samples` of them at most, with `preprocess` for pictures; only "int8" needs them, others measure the
    report on them. `method`: how ranges follow from what was seen (see docs/calibration.md). `only` and `exclude`:
    names of layers, or patterns of them; without `ends` the first and the last layers stay in floats (by default of
    "int8" alone). `activations`, `symmetric`: the grids of values; `everywhere`: grids also where Ingot does without,
    for runtimes that want one on either side of an operator. `grain`: dynamic grids for each "token" or "tensor".
    `weight_bits`, `per_channel`, `clip_weights`: the grids of weights. `correct_biases`: what rounded weights add to
    the means of results, as "int8" sees them in the samples, is taken off their biases. `balance`: channels of an
    activation that differ too much in size for one grid are divided by powers of two that weights make up for.
    `least_snr`: where 8 bits take an output below so many decibels of signal over noise, measured on the first samples,
    `balance` helps, and layers that do so by themselves stay in floats (None: nothing is measured, nothing changed).
    `rounding`, `group` and `tables`: how weights alone are rounded (gptq where there are samples, else nearest), how
    many rows have one scale, and whether tables that rows are looked up in are, too (see docs/weights.md). `plan`:
    instead of a scheme for all, one for each layer, or the file that has it; `only`, `exclude`, `ends`, `rounding`,
    `group` and `tables` do not go with it. `measure`: measure the report's ratios and shares. `progress` is called with
    a line of text at each step.

    Raises QuantisationError (nothing to quantise, names of no layer, options that do not go together),
    CalibrationError (the samples), ModelError and what else `load_onnx` and `compile` raise.
    """
    tell = progress or _silent
    only, exclude = ((names,) if isinstance(names, str) else tuple(names) for names in (only, exclude))
    if plan is not None and not isinstance(plan, Plan):
        plan = Plan.load(plan)
    require_fitting(
        scheme,
        data,
        plan=plan,
        method=method,
        only=only,
        exclude=exclude,
        ends=ends,
        activations=activations,
        symmetric=symmetric,
        everywhere=everywhere,
        grain=grain,
        weight_bits=weight_bits,
        per_channel=per_channel,
        clip_weights=clip_weights,
        correct_biases=correct_biases,
        balance=balance,
        least_snr=least_snr,
        rounding=rounding,
        group=group,
        tables=tables,
        samples=samples,
        preprocess=preprocess,
    )
    tell("reading the model")
    graph = core(load_onnx(model, shapes=shapes, ranges=ranges, custom=custom, watch=True))
    every = layers_of(graph)
    weights = WeightOptions(weight_bits, per_channel, clip_weights)
    read = Samples(graph, data, preprocess, samples)
    mixture = Mixture(
        StaticOptions(activations, symmetric, weights), DynamicOptions(grain, symmetric, weights), everywhere
    )
    is_balanced = False
    if plan is not None:
        parts = (*every, *tables_of(graph))
        made = _planned(graph, parts, plan.among(parts), mixture, read, method, correct_biases, tell)
        report = reported("plan", made, read.kept() if measure and data is not None else [], tell)
        halves = any(each.scheme in ("fp16", "bf16") for each in plan.layers.values())
        return Quantized(dataclasses.replace(made.after, watched={}), report, halves, plan)
    selection = Selection(only, exclude, scheme != "int8" if ends is None else ends)
    layers = selection.among(every)
    if scheme == "int8-dynamic" or scheme in WEIGHTS:
        layers = tuple(layer for layer in layers if isinstance(layer.node, MatMul))
    if scheme not in ("fp16", "bf16"):
        require_layers(graph, every, layers, scheme)
    match scheme:
        case "int8":
            care = Care(least_snr, balance)
            made, is_balanced = static(graph, selection, mixture, read, method, care, correct_biases, tell)
        case "int8-dynamic":
            marked = _marked(graph, every)
            after, stored = quantise_dynamic(marked, layers, mixture.dynamic)
            made = Made(marked, rewrite(after, INTEGERS), every, _stored(stored), {})
        case "int8-weights" | "int4-weights":
            made = _weights_alone(_marked(graph, every), every, layers, scheme, rounding, group, tables, read, tell)
        case "lossless":
            marked = _marked(graph, every)
            after, exact = store_exactly(marked, layers)
            made = Made(marked, after, every, _stored(exact), {})
        case "fp16" | "bf16":
            marked = _marked(graph, every)
            after, error = store_half(marked, "f16" if scheme == "fp16" else "bf16")
            note = f"weights are rounded: errors up to {error:.1e} of the largest of a weight"
            made = Made(marked, after, every, {}, {}, (note,))
    report = reported(scheme, made, read.kept() if measure and data is not None else [], tell)
    uniform = None
    if scheme in WEIGHTS:
        bits, rows = WEIGHTS[scheme]
        how = rounding or ("nearest" if data is None else "gptq")
        uniform = _uniform(made, LayerPlan(scheme, bits, rows if group is None else group, how))
        if tables:
            narrow = LayerPlan(scheme, bits, rows if group is None else group)
            uniform = Plan({**uniform.layers, **{table.name: narrow for table in tables_of(graph)}})
    elif scheme == "int8-dynamic" or (scheme == "int8" and not is_balanced):
        uniform = _uniform(made, LayerPlan(scheme, None if weight_bits == 8 else weight_bits))
    return Quantized(dataclasses.replace(made.after, watched={}), report, scheme in ("fp16", "bf16"), uniform)


def core(graph: Graph) -> Graph:
    """`graph` simplified, composites recognised and norms folded, quantised weights and halves as they are."""
    held = hold_narrow(graph)
    passes = Pipeline([item for item in default_pipeline() if item.name in CORE])
    return held.release(passes.run(held.graph))


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""


def _planned(
    graph: Graph,
    every: tuple[Part, ...],
    layers: Mapping[Part, LayerPlan],
    mixture: Mixture,
    samples: Samples,
    method: str,
    correct_biases: bool,
    tell: Callable[[str], None],
) -> Made:
    has_samples = samples.data is not None
    placement, products = mixture.placement(graph, layers), mixture.needs_statistics(layers, has_samples)
    if placement.layers and not has_samples:
        raise QuantisationError(
            f"the plan has {placement.layers[0].name} in int8, which needs samples for its ranges: give data"
        )
    seen = Seen()
    if placement.layers:
        seen = seen_ranges(graph, placement, samples.read, method, correct_biases=correct_biases, progress=tell)
    if products:
        seen = dataclasses.replace(seen, statistics=seen_statistics(graph, products, samples.read, tell))
    return finished(mixture.made(graph, every, layers, seen), layers)


def _uniform(made: Made, plan: LayerPlan) -> Plan:
    """The plan that does the same."""

    def left(layer: Part) -> LayerPlan:
        end = "the first layer" if layer.is_first else "the last layer" if layer.is_last else ""
        return LayerPlan("f32", reason=end)

    return Plan({layer.name: plan if layer in made.weights else left(layer) for layer in made.layers})


class Samples:
    """The samples, which may be read several times, and the first of them. Of an iterator that ends when it has been
    read there are only the first `HELD` from then on."""

    def __init__(self, graph: Graph, data: Any, preprocess: Any, limit: int | None) -> None:
        self.graph, self.data, self.preprocess, self.limit = graph, data, preprocess, limit
        self._first: list[Sample] = []
        self._is_spent = False

    def read(self) -> Iterator[Sample]:
        """All samples."""
        from ingot.compiler.calibration import read_samples

        if self._is_spent:
            yield from self._first
            return
        self._is_spent = isinstance(self.data, Iterator)
        given = {} if self.preprocess is None else {"preprocess": self.preprocess}
        for number, sample in enumerate(read_samples(self.data, self.graph, limit=self.limit, **given)):
            if number == len(self._first) and number < HELD:
                self._first.append(sample)
            yield sample

    def head(self, count: int) -> list[Sample]:
        """The first `count` samples, `HELD` at most."""
        if not self._first:
            for _ in zip(range(HELD if isinstance(self.data, Iterator) else count), self.read(), strict=False):
                pass
        return self._first[:count]

    def kept(self) -> list[Mapping[str, Any]]:
        """The arrays of those that the report is measured on."""
        return [sample.arrays for sample in self.head(COMPARED)]


def _stored(weights: Mapping[Layer, Weights]) -> dict[Part, Stored]:
    return {layer: Stored.of(each) for layer, each in weights.items()}


def _weights_alone(
    graph: Graph,
    every: tuple[Layer, ...],
    layers: tuple[Layer, ...],
    scheme: str,
    rounding: Method | None,
    group: int | None,
    tables: bool,
    samples: Samples,
    tell: Callable[[str], None],
) -> Made:
    bits, rows = WEIGHTS[scheme]
    form = WeightForm(bits, rows if group is None else group)
    method = rounding or ("nearest" if samples.data is None else "gptq")
    chosen: dict[Node, Layer] = {layer.node: layer for layer in layers}
    found = {name: each.node for name, each in products(graph).items() if isinstance(each.node, MatMul)}
    named = {name: chosen[node] for name, node in found.items() if node in chosen}
    statistics = None
    if method in WITH_DATA:
        if samples.data is None:
            raise QuantisationError(f"{method} needs samples: give data, or round by nearest or hqq, which need none")
        statistics = activation_statistics(graph, samples.read(), list(named), progress=tell)
    left = [name for name in found if name not in named]
    after, done = weight_only(
        graph, form, method=method, statistics=statistics, exclude=left, tables=tables, progress=tell
    )
    how = f"{bits} bits, {method}, groups of {form.group}"
    stored: dict[Part, Stored] = {named[each.name]: Stored(how, each.after) for each in done if each.name in named}
    notes = [f"{each.name}: {each.before} -> {each.after} bytes" for each in done if each.name not in named]
    return Made(graph, after, every, stored, {}, tuple(notes))


def _marked(graph: Graph, layers: tuple[Layer, ...]) -> Graph:
    """`graph` with the results of the layers watched by their names, and nothing else."""
    return dataclasses.replace(graph, watched={layer.name: layer.node for layer in layers})
