"""The way of a model through the compiler, on one page.

model.onnx --frontend--> Graph --pipeline--> Graph --lower--> Program --target--> code --artifact--> file
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from ingot.compiler.artifact import Artifact, build_artifact
from ingot.compiler.defects import defects_of
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.pipeline import Pipeline
from ingot.compiler.rewrite import Trace
from ingot.compiler.targets.registry import find_target

Numerics = Literal["default", "strict"]


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""


def compile(
    model: Any,
    *,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    pipeline: Pipeline | None = None,
    numerics: Numerics = "default",
    verify: bool = False,
    print_after: Collection[str] = (),
    dump: Path | None = None,
    stop_at: int | None = None,
    jobs: int | None = None,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Compile an ONNX model to an artifact of native code.

    `model`: a path, the bytes of a file, an onnx.ModelProto, a gs.Graph, or a `Graph` of this compiler. `target`:
    "cpu" (a portable level of this machine's architecture), "native" (this very machine) or a level by name
    ("x86-64-v3", "x86-64-v4", "aarch64"). `shapes`: dims per input, ints pin them, names make them symbolic;
    `ranges`: (low, high) per symbolic dim. `numerics`: "strict" leaves out what changes the order of floating-point
    operations beyond sums. `verify`: evaluate the graph before and after every pass on probe inputs and refuse a pass
    that changes a result. `print_after`, `dump` and `stop_at` (rule firings allowed) serve to watch and bisect the
    passes; `jobs` is the number of processes that compile kernels (default: the cores).

    Raises ModelError (the model), PassError and ValidationError (a pass), LoweringError (no kernel), TargetError,
    DefectError (Ingot itself).
    """
    tell: Callable[[str], None] = progress or _silent
    started = perf_counter()

    def finish(stage: str) -> None:
        nonlocal started
        tell(f"{stage}: {perf_counter() - started:.2f} s")
        started = perf_counter()

    place = find_target(target)
    graph = model if isinstance(model, Graph) else load_onnx(model, shapes=shapes, ranges=ranges)
    finish("import")

    passes = pipeline if pipeline is not None else default_pipeline(numerics)
    trace = Trace(stop_at=stop_at)
    graph = passes.run(
        graph, trace=trace, print_after=print_after, dump_dir=dump, validate=verify, verbose=lambda r: tell(str(r))
    )
    finish("passes")

    with defects_of("lowering"):
        program = lower(graph, place.machine, reorder=numerics != "strict")
        verify_program(program)
    finish("lower")

    with defects_of("code generation"):
        made = place.generate(program, jobs=jobs, progress=lambda done, total: tell(f"kernel {done} of {total}"))
    finish("generate")

    with defects_of("packing"):
        return build_artifact(
            program,
            made.code,
            made.arguments,
            target=made.description,
            name=name or graph.name,
            provenance={
                "pipeline": str(passes),
                "numerics": numerics,
                "target": target,
                "kernels": made.kernels,
                "launches": sum(1 for _ in program.launches()),
            },
            inputs=[x.label for x in graph.inputs],
            outputs=[label for label, _ in graph.outputs],
        )
