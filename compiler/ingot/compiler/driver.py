"""The way of a model through the compiler, on one page.

model.onnx --frontend--> Graph --pipeline--> Graph --lower--> Program --target--> code --artifact--> file
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast, overload

from ingot.compiler.artifact import Artifact
from ingot.compiler.cache import CacheWarning, open_cache
from ingot.compiler.cache.programs import find_program, keep_program, program_key
from ingot.compiler.defects import defects_of
from ingot.compiler.environment import read_environment
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.custom import CustomOp
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.pipeline import Pipeline
from ingot.compiler.processing import NO_STEPS, Steps, appended, prepended, read_steps
from ingot.compiler.rewrite import Trace
from ingot.compiler.targets.registry import Product, find_library_target, find_target
from ingot.compiler.targets.target import Labels, Target

if TYPE_CHECKING:
    from ingot.compiler.targets.cpu.c_interface.library import Library
    from ingot.compiler.targets.interpreter.session import Interpreted
    from ingot.compiler.targets.null.outline import Outline

Numerics = Literal["default", "strict"]
P = TypeVar("P")


def _warn(message: str) -> None:
    """Where the cache reports."""
    warnings.warn(message, CacheWarning, stacklevel=2)


def _silent(message: str) -> None:
    """Where progress goes when nobody asked for it."""


class Options(TypedDict, total=False):
    """What `compile` and `compile_library` may be asked for."""

    shapes: Mapping[str, Sequence[int | str]] | None
    ranges: Mapping[str, tuple[int, int]] | None
    custom: Iterable[CustomOp]
    preprocess: Steps
    postprocess: Steps
    pipeline: Pipeline | None
    numerics: Numerics
    verify: bool
    checked: bool
    print_after: Collection[str]
    dump: Path | None
    repro: Path | None
    stop_at: int | None
    jobs: int | None
    name: str | None
    cache: bool
    progress: Callable[[str], None] | None


@overload
def compile(  # pyright: ignore[reportOverlappingOverload]
    model: Any, *, target: Literal["interpreter"], **options: Unpack[Options]
) -> Interpreted: ...
@overload
def compile(  # pyright: ignore[reportOverlappingOverload]
    model: Any, *, target: Literal["null"], **options: Unpack[Options]
) -> Outline: ...
@overload
def compile(model: Any, *, target: str = ..., **options: Unpack[Options]) -> Artifact: ...
def compile(model: Any, *, target: str = "cpu", **options: Unpack[Options]) -> Product:
    """Compile an ONNX model to an artifact of native code.

    `model`: a path, the bytes of a file, an onnx.ModelProto, a gs.Graph, or a `Graph` of this compiler. `target`:
    "cpu" (a portable level of this machine's architecture), "native" (this very machine) or a level by name
    ("x86-64-v3", "x86-64-v4", "aarch64"); "interpreter" gives an object like an artifact, whose sessions interpret the
    program, and "null" one that says what would be made (`Outline`). `shapes`: dims per input, ints pin them, names
    make them symbolic; `ranges`: (low, high) per symbolic dim. `custom`: operators of your own (`custom_op`).
    `preprocess` and `postprocess`: steps before inputs and after outputs that become part of the model, by name, such
    as ``{"input": "image:imagenet"}`` (see docs/processing.md).
    `numerics`: "strict" leaves out what changes the order of floating-point operations beyond sums. `verify`: evaluate
    the graph before and after every pass on probe inputs and refuse a pass that changes a result. `checked`: code that
    checks each access of memory and names the one that is out of bounds (see docs/tools.md). `print_after`, `dump`
    and `stop_at` (rule firings allowed) serve to watch and bisect the passes; `repro` is the folder where a pass that
    fails leaves its graph (default: `dump`, else the working one); `jobs` is the number of processes that compile
    kernels (default: the cores).

    With `cache`, machine code and artifacts that were made before are taken from the kernel cache and new ones are kept
    there, as the environment says (see docs/tools.md); CacheWarning tells when that fails.

    Raises ModelError (the model), ProcessingError (a step), PassError and ValidationError (a pass), LoweringError (no
    kernel), CustomOpError (an operator of your own), TargetError, DefectError (Ingot itself).
    """
    return _build(model, find_target(target, checked=options.get("checked", False)), target, **options)


def compile_library(model: Any, *, target: str = "cpu", **options: Unpack[Options]) -> Library:
    """Compile an ONNX model to a library for C programs: `Library.save` writes it as a shared object, an object file
    or a header, by the suffix. The names in it begin with `name`, or with the graph's.

    Arguments and errors are those of `compile`; TargetError also for a model whose sizes come from data, and for
    targets that make no code.
    """
    place = find_library_target(target, checked=options.get("checked", False))
    return _build(model, place, target, **options)


def _build(
    model: Any,
    place: Target[P],
    target: str,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    custom: Iterable[CustomOp] = (),
    preprocess: Steps = NO_STEPS,
    postprocess: Steps = NO_STEPS,
    pipeline: Pipeline | None = None,
    numerics: Numerics = "default",
    verify: bool = False,
    checked: bool = False,
    print_after: Collection[str] = (),
    dump: Path | None = None,
    repro: Path | None = None,
    stop_at: int | None = None,
    jobs: int | None = None,
    name: str | None = None,
    cache: bool = True,
    progress: Callable[[str], None] | None = None,
) -> P:
    """What `compile` does, on one page; `target` is the name that was asked for."""
    tell: Callable[[str], None] = progress or _silent
    started = perf_counter()

    def finish(stage: str) -> None:
        nonlocal started
        tell(f"{stage}: {perf_counter() - started:.2f} s")
        started = perf_counter()

    before, after = read_steps(preprocess), read_steps(postprocess)
    passes = pipeline if pipeline is not None else default_pipeline(numerics)
    kept = open_cache(read_environment(), _warn) if cache else None
    key = None
    operators = tuple(custom)  # functions of the user's, whose meaning no key can tell
    if kept is not None and not (operators or verify or print_after or dump or stop_at is not None):
        asked = (target, numerics, name, repr(before), repr(after))
        key = program_key(kept, model, passes, place, shapes, ranges, asked)
        if key is not None and (known := find_program(kept, key)) is not None:
            finish("from the cache")
            return cast("P", known)  # only a target that makes artifacts has such keys
    graph = model if isinstance(model, Graph) else load_onnx(model, shapes=shapes, ranges=ranges, custom=operators)
    graph = appended(prepended(graph, before), after)
    finish("import")

    trace = Trace(stop_at=stop_at)
    graph = passes.run(
        graph,
        trace=trace,
        print_after=print_after,
        dump_dir=dump,
        repro_dir=repro,
        validate=verify,
        verbose=lambda r: tell(str(r)),
    )
    finish("passes")

    with defects_of("lowering"):
        program = lower(graph, place.machine, reorder=numerics != "strict")
        verify_program(program)
    finish("lower")

    labels = Labels(
        name=name or graph.name,
        inputs=[x.label for x in graph.inputs],
        outputs=[label for label, _ in graph.outputs],
        provenance={
            "pipeline": str(passes),
            "numerics": numerics,
            "target": target,
            **({"checked": True} if checked else {}),
            **({"preprocess": before} if before else {}),
            **({"postprocess": after} if after else {}),
        },
    )
    with defects_of("code generation"):
        product = place.build(
            program, labels, jobs=jobs, progress=lambda done, total: tell(f"kernel {done} of {total}"), cache=kept
        )
    finish("generate")

    if kept is not None and key is not None and isinstance(product, Artifact):
        product = cast("P", keep_program(kept, key, product))
    if kept is not None:
        kept.store.trim()
    return product
