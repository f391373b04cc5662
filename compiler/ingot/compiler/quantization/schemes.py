"""`quantize`: from an ONNX model and data to a quantised graph, on one page.

model --frontend, hold--> --simplify, recognise, fold_norm--> Graph --calibration--> ranges --passes.quantize--> Graph
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
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
from ingot.compiler.quantization.balanced import balanced
from ingot.compiler.quantization.made import Made, Stored
from ingot.compiler.quantization.mixture import Mixture, Seen, finished, seen_ranges, seen_statistics
from ingot.compiler.quantization.plan import WEIGHTS, LayerPlan, Plan
from ingot.compiler.quantization.reporting import reported
from ingot.compiler.quantization.result import Quantized
from ingot.compiler.quantization.validate import Scheme, require_fitting, require_layers
from ingot.compiler.rewrite import rewrite

if TYPE_CHECKING:
    from ingot.compiler.calibration import Sample

COMPARED = 8  # samples that the report is measured on
BALANCED = 16  # samples that show which channels are much larger than others
NAMED = 4  # layers that a note names
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
    the means of results, as "int8" sees them in the samples, is taken off their biases. `balance`: where channels of an
    activation differ too much in size for one grid, they are divided by powers of two that weights make up for.
    `rounding`, `group` and `tables`: how weights alone are rounded (gptq where there are samples, else nearest), how
    many rows have one scale, and whether tables that rows are looked up in are, too (see docs/weights.md). `plan`:
    instead of a scheme for all, one for each layer, or the file that has it; `only`, `exclude`, `ends`, `rounding`,
    `group` and `tables` do not go with it. `measure`: measure the report's ratios and shares. `progress` is called with a line of text at each step.

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
    scaled: dict[str, float] = {}
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
    if balance and scheme == "int8":
        graph, scaled = balanced(graph, layers, read.head(BALANCED), weights, tell)
        every = layers_of(graph)
        layers = selection.among(every)
    match scheme:
        case "int8":
            chosen: dict[Part, LayerPlan] = {layer: LayerPlan("int8") for layer in layers}
            placement = mixture.placement(graph, chosen)
            seen = seen_ranges(graph, placement, read.read, method, correct_biases=correct_biases, progress=tell)
            made = mixture.made(graph, every, chosen, seen)
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
    made = _noted(made, scaled)
    report = reported(scheme, made, read.kept() if measure and data is not None else [], tell)
    uniform = None
    if scheme in WEIGHTS:
        bits, rows = WEIGHTS[scheme]
        how = rounding or ("nearest" if data is None else "gptq")
        uniform = _uniform(made, LayerPlan(scheme, bits, rows if group is None else group, how))
        if tables:
            narrow = LayerPlan(scheme, bits, rows if group is None else group)
            uniform = Plan({**uniform.layers, **{table.name: narrow for table in tables_of(graph)}})
    elif scheme in ("int8", "int8-dynamic"):
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
    """The samples, read once unless they are asked for again; the first are kept for the report, and for what looks at
    some before all are read."""

    def __init__(self, graph: Graph, data: Any, preprocess: Any, limit: int | None) -> None:
        self.graph, self.data, self.preprocess, self.limit = graph, data, preprocess, limit
        self.first: list[Sample] = []
        self._rest: Iterator[Sample] | None = None  # what comes after the first

    def head(self, count: int) -> list[Sample]:
        """The first `count` samples, or as many as there are, before others are read."""
        if not self.first:
            self._rest = self._begun()
            self.first = list(islice(self._rest, count))
        return self.first[:count]

    def read(self) -> Iterator[Sample]:
        """All samples."""
        rest, self._rest = self._rest, None
        if rest is not None:
            yield from self.first
            yield from rest
            return
        for sample in self._begun():
            if len(self.first) < COMPARED:
                self.first.append(sample)
            yield sample

    def kept(self) -> list[Mapping[str, Any]]:
        """The arrays of the first samples."""
        return [sample.arrays for sample in self.head(COMPARED)]

    def _begun(self) -> Iterator[Sample]:
        from ingot.compiler.calibration import read_samples

        given = {} if self.preprocess is None else {"preprocess": self.preprocess}
        return read_samples(self.data, self.graph, limit=self.limit, **given)


def _noted(made: Made, scaled: Mapping[str, float]) -> Made:
    """`made` with a note on operands whose channels were divided."""
    if not scaled:
        return made
    most = sorted(scaled, key=lambda name: -scaled[name])[:NAMED]
    shown = ", ".join(f"{name} ({scaled[name]:.0f} dB)" for name in most) + (", ..." if len(scaled) > NAMED else "")
    what = f"channels of the operands of {len(scaled)} layers were divided, as their sizes differ too much: {shown}"
    return dataclasses.replace(made, notes=(*made.notes, what))


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
