"""What programs call: `compile`, and `compile_library` for C. The way of a model is told in `driver`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast, overload

from ingot.compiler.cache.programs import open_shelf
from ingot.compiler.request import Request

if TYPE_CHECKING:
    from ingot.compiler.artifact import Artifact
    from ingot.compiler.lower.sparsity import Sparse
    from ingot.compiler.lower.weight_forms import Memory, Weights
    from ingot.compiler.ops.custom import CustomOp
    from ingot.compiler.pipeline import Pipeline
    from ingot.compiler.processing.steps import Steps
    from ingot.compiler.request import Numerics, Requantise
    from ingot.compiler.targets.cpu.c_interface.library import Library
    from ingot.compiler.targets.interpreter.session import Interpreted
    from ingot.compiler.targets.null.outline import Outline
    from ingot.compiler.targets.registry import Product
    from ingot.compiler.targets.target import Denormals, Target
    from ingot.compiler.variants import Case

P = TypeVar("P")


class Options(TypedDict, total=False):
    """What `compile` and `compile_library` may be asked for."""

    shapes: Mapping[str, Sequence[int | str]] | None
    ranges: Mapping[str, tuple[int, int]] | None
    specialise: Iterable[Case]
    general: bool
    custom: Iterable[CustomOp]
    preprocess: Steps
    postprocess: Steps
    pipeline: Pipeline | None
    numerics: Numerics
    requantise: Requantise
    denormals: Denormals
    memory: Memory
    weights: Weights
    sparse: Sparse
    verify: bool
    checked: bool
    print_after: Collection[str]
    dump: Path | None
    repro: Path | None
    stop_at: int | None
    jobs: int | None
    name: str | None
    cache: bool
    tune: float | None
    tuning: str | Path | None
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
    make them symbolic; `ranges`: (low, high) per symbolic dim, both ends included, which sessions check. `specialise`:
    cases such as ``{"batch": 1, "seq": (1, 128)}``, for each of which the artifact has a program of its own beside the
    general one; with `general` false there is none, and other shapes are refused (see docs/models.md). `custom`:
    operators of your own (`custom_op`).
    `preprocess` and `postprocess`: steps before inputs and after outputs that become part of the model, by name, such
    as ``{"input": "image:imagenet"}`` (see docs/processing.md).
    `pipeline`: the passes (default: `default_pipeline`); `name`: what the model is called (default: as its graph).
    `numerics`: "strict" leaves out what changes the order of floating-point operations beyond sums. `requantise`: how
    sums of integers become integers again: "onnx" by float scales, "tosa" by multipliers and shifts, rounded once, and
    "tosa-double" by the same, rounded twice (see docs/integers.md). `denormals`:
    "flush" takes denormal operands for zeros and gives zeros instead of denormal results, which is faster where
    they appear; the caller's own mode is left as it was (see docs/levels.md). `memory`: "small" leaves out what makes
    weights larger than the model has them; `weights`: "keep" stores those that f16 or bf16 hold exactly in it, "f16"
    and "bf16" round f32 weights, "f32" stores all as they are computed (see docs/models.md). `sparse`: where weights
    with many zeros are multiplied without these: "auto" where that is expected to be faster, "on" wherever it can be
    done, "off" nowhere (see docs/sparse.md). `verify`: evaluate what
    was before and after every pass and lowering on probe inputs and refuse what changes a result. `checked`: code
    that checks each access of memory and names the one that is out of bounds (see docs/tools.md). `print_after`,
    `dump` and `stop_at` (rule firings allowed) serve to watch and bisect the passes; `repro` is the folder where a
    pass that fails leaves its graph (default: `dump`, else the working one); `jobs` is the number of processes that
    compile kernels (default: the cores). `progress` is called with a line of text whenever a stage, pass or kernel is
    done.

    With `cache`, machine code and artifacts that were made before are taken from the kernel cache and new ones are kept
    there, as the environment says (see docs/tools.md); CacheWarning tells when that fails.

    `tuning` is a record of schedules that were measured, of which those for this processor are used; `tune`, a number
    of seconds, measures schedules on this machine first and adds them to the record, if one is given (see
    docs/tools.md). TuningWarning says that a record holds nothing for this processor.

    Raises ModelError (the model), ProcessingError (a step), PassError and ValidationError (a pass), LoweringError (no
    kernel), CustomOpError (an operator of your own), TargetError, TuningError (a record, or a target that cannot be
    tuned for), DefectError (Ingot itself).
    """
    request = Request(model, target, **cast("Any", options))

    def find() -> Target[Product]:
        from ingot.compiler.targets.registry import find_target

        return find_target(target, checked=request.checked, denormals=request.denormals)

    return _made(request, find, is_kept=True)


def compile_library(model: Any, *, target: str = "cpu", **options: Unpack[Options]) -> Library:
    """Compile an ONNX model to a library for C programs: `Library.save` writes it as a shared object, an object file
    or a header, by the suffix. The names in it begin with `name`, or with the graph's.

    Arguments and errors are those of `compile`; TargetError also for a model whose sizes come from data, and for
    targets that make no code.
    """
    request = Request(model, target, **cast("Any", options))

    def find() -> Target[Library]:
        from ingot.compiler.targets.registry import find_library_target

        variants = bool(request.specialise)
        return find_library_target(target, checked=request.checked, variants=variants, denormals=request.denormals)

    return _made(request, find, is_kept=False)


def _made(request: Request, find: Callable[[], Target[P]], *, is_kept: bool) -> P:
    """What the target that `find` gives makes of the model. Where products are kept and there is one for the request,
    the compiler's modules are not even imported, which takes longer than all else then."""
    tuning = None
    if request.tuning is not None or request.tune is not None:
        from ingot.compiler.tuning.tuning import Tuning

        tuning = Tuning.of(request)
    shelf = open_shelf(request, "" if tuning is None else tuning.key, programs=is_kept)
    if (known := shelf.find(request.progress)) is not None:
        return cast("P", known)  # only targets that make artifacts keep any
    from ingot.compiler.driver import build

    return build(request, find(), shelf, tuning)
