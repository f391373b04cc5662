"""The way of a model through the compiler, on one page.

model.onnx --frontend--> Graph --pipeline--> Graph --lower--> Program --target--> code --artifact--> file
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeVar

from ingot.compiler.cache.programs import Shelf, open_shelf
from ingot.compiler.collector import rarely_collected
from ingot.compiler.defects import defects_of
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.labels import Labels
from ingot.compiler.lower.lowering import lower, lower_interface
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.rounding import round_weights
from ingot.compiler.lower.samples import by_samples
from ingot.compiler.lower.schedules import Decision
from ingot.compiler.lower.variants import WeightPool
from ingot.compiler.processing.apply import appended, prepended
from ingot.compiler.request import Request
from ingot.compiler.rewrite import Trace
from ingot.compiler.targets.target import Compilation, Programs, Target
from ingot.compiler.tuning.explanation import Explanation, encode, explanations
from ingot.compiler.tuning.tuning import Tuning
from ingot.compiler.validate import validate_lowering
from ingot.compiler.variants import require_same_interface
from ingot.runtime.manifest import MAX_NAME

P = TypeVar("P")


class _Stages:
    """Tells how long each stage took."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.started = perf_counter()

    def finish(self, stage: str) -> None:
        """The stage ends here."""
        self.tell(f"{stage}: {perf_counter() - self.started:.2f} s")
        self.started = perf_counter()


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""


def build(request: Request, target: Target[P], shelf: Shelf | None = None, tuning: Tuning | None = None) -> P:
    """What `target` makes of the model, which the `shelf` does not hold: it is kept there. `tuning` is what the request
    asks for. Raises what `compile` says."""
    with rarely_collected():
        return _build(request, target, shelf or open_shelf(request, programs=False), tuning or Tuning.of(request))


def _build(request: Request, target: Target[P], shelf: Shelf, tuning: Tuning) -> P:
    tell = request.progress or _silent
    stages = _Stages(tell)

    variants = request.variants
    work = Compilation(
        jobs=request.processes, progress=lambda done, total: tell(f"kernel {done} of {total}"), cache=shelf.cache
    )
    tune = _Tune(tuning, work, 1 / (len(variants) + request.general))
    general = _lowered(request, target.machine, stages, tune, is_whole=request.general)
    program, decided = general.program, [general.decisions]
    others: list[Program] = []
    pool = WeightPool()
    if variants:
        program = pool.share(program)
    for name, each in variants.items():
        tell(f"variant {name}")
        lowered = _lowered(each, target.machine, stages, tune)
        decided.append(lowered.decisions)
        require_same_interface(general.graph, lowered.graph, name)
        others.append(pool.share(replace(lowered.program, name=name)))

    explained = explanations(decided, tuning.kernels)
    schedules = encode(explained)
    if not schedules:  # too many for the artifact to tell
        for each in explained:
            tell(f"{each.signature}: {each.options[0].schedule}")
    labels = replace(
        Labels.of(general.graph, request.name or general.graph.name[:MAX_NAME]),
        provenance={**request.provenance, **({} if general.error is None else {"weights_error": general.error})},
        schedules=schedules,
    )
    with defects_of("code generation"):
        product = target.build(Programs(program, tuple(others), closed=not request.general), labels, work)
    stages.finish("generate")
    return shelf.keep(product)


def explain(request: Request, machine: Machine) -> tuple[tuple[Explanation, ...], list[Program]]:
    """What would be chosen for the kernels of the model on `machine`, and its programs, without making code. Raises
    what `compile` says."""
    tell = request.progress or _silent
    stages, tuning = _Stages(tell), Tuning.of(request)
    tune = _Tune(tuning, Compilation(), 0.0)
    requests = [*([request] if request.general else []), *request.variants.values()]
    lowered = [_lowered(each, machine, stages, tune) for each in requests]
    return explanations([each.decisions for each in lowered], tuning.kernels), [each.program for each in lowered]


@dataclass(frozen=True)
class _Tune:
    """How schedules are looked for: by `tuning`, compiled as `work` says, in `share` of its time for each program."""

    tuning: Tuning
    work: Compilation
    share: float


@dataclass(frozen=True)
class _Lowered:
    """One program of the model: the graph that it is made from, the error of its weights where they are rounded, and
    what was chosen for its kernels."""

    graph: Graph
    program: Program
    error: float | None
    decisions: tuple[Decision, ...]


def _lowered(request: Request, machine: Machine, stages: _Stages, tune: _Tune, *, is_whole: bool = True) -> _Lowered:
    """One program of the model; without `is_whole` one that only describes it."""
    model = request.model
    if not isinstance(model, Graph):
        model = load_onnx(model, shapes=request.shapes, ranges=request.ranges, custom=request.custom)
    graph = appended(prepended(model, request.before), request.after)
    stages.finish("import")

    graph = request.passes.run(
        graph,
        trace=Trace(stop_at=request.stop_at),
        print_after=request.print_after,
        dump_dir=request.dump,
        repro_dir=request.repro,
        validate=request.verify,
        verbose=lambda report: stages.tell(str(report)),
    )
    stages.finish("passes")

    forms, reorder, error = request.forms, request.numerics != "strict", None
    if forms.rounds_to is not None:
        graph, error = round_weights(graph, forms.rounds_to)
        stages.tell(f"weights as {forms.rounds_to}: errors up to {error:.1e} of the largest of a weight")
    graph = by_samples(graph, machine)

    if request.tune is not None and is_whole and tune.share:
        tune.tuning.measure(
            graph, tune.work, reorder=reorder, forms=forms, sparse=request.sparse, share=tune.share, tell=stages.tell
        )
        stages.finish("tuning")
    decided: list[Decision] = []
    with defects_of("lowering"):
        if is_whole:
            schedules = tune.tuning.schedules(decided.append)
            program = lower(
                graph, machine, reorder=reorder, forms=forms, sparse=request.sparse, schedules=schedules
            )
            verify_program(program)
        else:
            program = lower_interface(graph, machine)
    if request.verify and is_whole:
        validate_lowering(graph, program)
    stages.finish("lower")
    return _Lowered(graph, program, error, tuple(decided))
