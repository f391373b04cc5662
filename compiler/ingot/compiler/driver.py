"""The way of a model through the compiler, on one page.

model.onnx --frontend--> Graph --pipeline--> Graph --lower--> Program --target--> code --artifact--> file
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

from ingot.compiler.cache.programs import open_shelf
from ingot.compiler.defects import defects_of
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower, lower_interface
from ingot.compiler.lower.machine import Machine
from ingot.compiler.lower.rounding import round_weights
from ingot.compiler.lower.variants import WeightPool
from ingot.compiler.processing import appended, prepended
from ingot.compiler.request import Request
from ingot.compiler.rewrite import Trace
from ingot.compiler.targets.target import Compilation, Labels, Target, Variants
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


def build(request: Request, place: Target[P]) -> P:
    """What `place` makes of the model. Raises what `compile` says."""
    tell = request.progress or _silent
    stages = _Stages(tell)
    shelf = open_shelf(request, place)
    if (known := shelf.find()) is not None:
        stages.finish("from the cache")
        return known

    variants = request.variants
    graph, program, error = _lowered(request, place.machine, stages, is_whole=request.general)
    others: list[Program] = []
    pool = WeightPool()
    if variants:
        program = pool.share(program)
    for name, each in variants.items():
        tell(f"variant {name}")
        variant, other, _ = _lowered(each, place.machine, stages)
        require_same_interface(graph, variant, name)
        others.append(pool.share(replace(other, name=name)))

    labels = Labels(
        name=request.name or graph.name[:MAX_NAME],
        inputs=[x.label for x in graph.inputs],
        outputs=[label for label, _ in graph.outputs],
        provenance={**request.provenance, **({} if error is None else {"weights_error": error})},
    )
    with defects_of("code generation"):
        product = place.build(
            program,
            labels,
            variants=Variants(tuple(others), closed=not request.general),
            compilation=Compilation(
                jobs=request.processes,
                progress=lambda done, total: tell(f"kernel {done} of {total}"),
                cache=shelf.cache,
            ),
        )
    stages.finish("generate")
    return shelf.keep(product)


def _lowered(
    request: Request, machine: Machine, stages: _Stages, *, is_whole: bool = True
) -> tuple[Graph, Program, float | None]:
    """One program of the model, or else one that only describes it, the graph that it is made from, and the error of
    its weights where they are rounded."""
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

    error: float | None = None
    if request.forms.rounds_to is not None:
        graph, error = round_weights(graph, request.forms.rounds_to)
        stages.tell(f"weights as {request.forms.rounds_to}: errors up to {error:.1e} of the largest of a weight")

    with defects_of("lowering"):
        if is_whole:
            program = lower(graph, machine, reorder=request.numerics != "strict", forms=request.forms)
            verify_program(program)
        else:
            program = lower_interface(graph, machine)
    if request.verify and is_whole:
        validate_lowering(graph, program)
    stages.finish("lower")
    return graph, program, error
