"""``ingot compile``: an ONNX model to an artifact, or to a library for C programs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.compiler.cli.artifacts import SUFFIX, is_artifact
from ingot.compiler.cli.console import Console, Progress, bytes_text, table
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.passes import add_pipeline_arguments, build_pipeline, working_directory_importable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import VARIANT_HELP, for_compile, for_variants

if TYPE_CHECKING:
    from ingot.compiler.api import Options
    from ingot.compiler.pipeline import Pipeline
    from ingot.compiler.targets.null.outline import KernelUse, Outline

HELP = "compile an ONNX model to an artifact, or to a library for C"

TUNE_SECONDS = 60.0
"""Of measuring where no number is given."""

SUFFIXES = {"ingot": SUFFIX, "so": ".so", "obj": ".o", "header": ".h"}
"""What can be written, and how its files end."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument(
        "-o", "--output", type=output_type, help="what is written (default: the model's name with .ingot or its like)"
    )
    parser.add_argument(
        "--emit",
        type=_kinds,
        default=("ingot",),
        metavar="KINDS",
        help="what to write: ingot (an artifact, the default); so, obj, header (for C programs); several with commas",
    )
    parser.add_argument(
        "--target",
        default="cpu",
        help="cpu (a portable level of this machine's architecture), native, a level, or null: say what would be made",
    )
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=SHAPE_HELP)
    parser.add_argument("--specialise", action="append", default=[], metavar="DIMS", help=VARIANT_HELP)
    parser.add_argument(
        "--only-specialised", action="store_true", help="no general program: refuse other shapes when the model is run"
    )
    _add_code_arguments(parser)
    parser.add_argument("--jobs", type=_jobs, metavar="N", help="processes that compile kernels (default: the cores)")
    parser.add_argument(
        "--no-cache", action="store_true", help="compile everything again, and keep nothing (or INGOT_CACHE=0)"
    )
    _add_tuning_arguments(parser)
    add_custom_argument(parser)
    _add_processing_arguments(parser)
    add_pipeline_arguments(parser)
    _add_watching_arguments(parser)


def _add_code_arguments(parser: argparse.ArgumentParser) -> None:
    """What the code and the weights are to be like."""
    parser.add_argument(
        "--numerics", choices=("default", "strict"), default="default", help="strict: keep the order of operations"
    )
    parser.add_argument(
        "--requantise",
        choices=("onnx", "tosa", "tosa-double"),
        default="onnx",
        help="sums of integers become integers by float scales, or by multipliers and shifts (see docs/integers.md)",
    )
    parser.add_argument(
        "--denormals", choices=("keep", "flush"), default="keep", help="flush: compute with zeros in their place"
    )
    parser.add_argument(
        "--memory", choices=("fast", "small"), default="fast", help="small: no form of weights larger than the model's"
    )
    parser.add_argument(
        "--weights",
        choices=("default", "f32", "keep", "f16", "bf16"),
        default="default",
        help="how f32 weights lie in memory: keep: narrow where that is exact; f16, bf16: rounded",
    )
    parser.add_argument(
        "--sparse",
        choices=("auto", "on", "off"),
        default="auto",
        help="weights with many zeros are multiplied without these: where that is faster, everywhere, nowhere",
    )
    parser.add_argument(
        "--verify", action="store_true", help="evaluate what was before and after every pass and lowering and compare"
    )
    parser.add_argument(
        "--checked", action="store_true", help="code that checks each access of memory, to find faults of the compiler"
    )


def _add_tuning_arguments(parser: argparse.ArgumentParser) -> None:
    tuning = parser.add_argument_group("schedules by measurement (see docs/tools.md)")
    tuning.add_argument(
        "--tune",
        type=_seconds,
        nargs="?",
        const=TUNE_SECONDS,
        metavar="SECONDS",
        help=f"measure schedules of kernels on this machine, for so long ({TUNE_SECONDS:.0f}); with --target native",
    )
    tuning.add_argument(
        "--tuning", type=Path, metavar="FILE", help="use the schedules of this record; with --tune, add to it"
    )


def _add_processing_arguments(parser: argparse.ArgumentParser) -> None:
    around = parser.add_argument_group("before and after the model (see docs/processing.md)")
    around.add_argument(
        "--preprocess", action="append", default=[], metavar="INPUT=STEP", help="image:imagenet, cast:u8, .."
    )
    around.add_argument(
        "--postprocess",
        action="append",
        default=[],
        metavar="OUTPUT=STEP",
        help="argmax, topk:5, softmax, cast:f16, ..",
    )


def _add_watching_arguments(parser: argparse.ArgumentParser) -> None:
    watch = parser.add_argument_group("watching the passes")
    watch.add_argument(
        "--print-after",
        action="append",
        default=[],
        metavar="NAME",
        help="print the graph after a pass, or all",
    )
    watch.add_argument(
        "--dump", type=Path, metavar="DIR", help="write the graph after every pass that changed it (or INGOT_DUMP)"
    )


def execute(options: argparse.Namespace, console: Console) -> int:
    """Compile and save, or say what would be made."""
    model: Path = options.model
    require_model(model)
    target: str = options.target
    outputs = _outputs(options)
    written = [*outputs.values(), *([options.tuning] if options.tune and options.tuning else [])]
    for output in written:
        require_writable(output, sources=(model,))
    progress = console.progress()
    try:
        with working_directory_importable(options.pipeline, *options.passes):
            pipeline = None  # the default one, whose modules are not needed where the cache has the artifact
            if options.pipeline is not None or options.passes or options.without:
                pipeline = build_pipeline(
                    options.numerics,
                    options.requantise,
                    text=options.pipeline,
                    passes=options.passes,
                    without=options.without,
                )
            progress(f"compiling {model}")
            from ingot.compiler.api import compile, compile_library

            asked = _asked(options, pipeline, console, progress)
            if options.target == "null":
                return report_outline(compile(model, target="null", **asked), console)
            levels: list[str] = []
            passes: object = None if pipeline is None else str(pipeline)
            if "ingot" in outputs:
                artifact = compile(model, target=target, **asked)
                artifact.save(outputs["ingot"])
                levels = [code.level for code in artifact.manifest.code]
                passes = artifact.manifest.provenance["pipeline"]
            if libraries := [output for kind, output in outputs.items() if kind != "ingot"]:
                asked["name"] = libraries[0].stem.removeprefix("lib")
                library = compile_library(model, target=target, **asked)
                for output in libraries:
                    library.save(output)
                levels = [library.signature.level.name]
    finally:
        progress.close()
    sizes = {kind: output.stat().st_size for kind, output in outputs.items()}
    first = next(iter(outputs))
    record = {
        "artifact": outputs[first],
        "bytes": sizes[first],
        "outputs": {kind: {"path": output, "bytes": sizes[kind]} for kind, output in outputs.items()},
        "seconds": progress.seconds,
        "target": options.target,
        "levels": levels,
        "pipeline": str(build_pipeline(options.numerics, options.requantise)) if passes is None else passes,
        "numerics": options.numerics,
        "requantise": options.requantise,
    }
    written = [f"{output}: {bytes_text(sizes[kind])}" for kind, output in outputs.items()]
    written[-1] += f" for {', '.join(levels)}, compiled in {progress.seconds:.1f} s"
    console.result(record, written)
    return 0


def _asked(options: argparse.Namespace, pipeline: Pipeline | None, console: Console, progress: Progress) -> Options:
    """What `compile` is asked for. Raises CommandError, ModelError."""
    from ingot.compiler.api import Options

    shapes, ranges = for_compile(options.shape, lambda: input_names(options.model))
    return Options(
        shapes=shapes,
        ranges=ranges,
        specialise=for_variants(options.specialise),
        general=not options.only_specialised,
        custom=load_custom(options.custom),
        preprocess=read_steps("--preprocess", options.preprocess),
        postprocess=read_steps("--postprocess", options.postprocess),
        pipeline=pipeline,
        numerics=options.numerics,
        requantise=options.requantise,
        denormals=options.denormals,
        memory=options.memory,
        weights=options.weights,
        sparse=options.sparse,
        verify=options.verify,
        checked=options.checked,
        print_after=options.print_after,
        dump=options.dump or console.environment.dump,
        stop_at=console.environment.stop_at,
        jobs=options.jobs,
        cache=not options.no_cache,
        tune=options.tune,
        tuning=options.tuning,
        progress=progress,
    )


def report_outline(outline: Outline, console: Console) -> int:
    """Print what would be made; symbolic dims count as 1 where that is in their range."""
    values = {name: max(low, min(1, high)) for name, (low, high) in outline.manifest.symbols.items()}
    record = outline.record(values)
    with_dims = f" with {', '.join(f'{name} = {value}' for name, value in values.items())}" if values else ""
    lines = [
        f"weights     {bytes_text(record['weights_bytes'])}",
        f"memory      {bytes_text(record['memory']['arena_bytes'])} to run{with_dims}",
        f"arguments   {record['argument_words']} words, {record['temporaries']} temporaries",
        f"kernels     {len(outline.kernels)}, {record['launches']} launches",
    ]
    lines += [f"  {line}" for line in _kernel_rows(outline.kernels)]
    for variant, kernels in zip(outline.manifest.variants, outline.programs[1:], strict=True):
        lines.append(f"variant     {variant.name}: {len(kernels)} kernels, {sum(k.launches for k in kernels)} launches")
        lines += [f"  {line}" for line in _kernel_rows(kernels)]
    console.result(record, lines)
    return 0


def _kernel_rows(kernels: Sequence[KernelUse]) -> list[str]:
    return table([(k.name, k.kind, f"x{k.launches}", f"chunks {', '.join(k.chunks)}") for k in kernels])


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    if unknown := [repr(kind) for kind in kinds if kind not in SUFFIXES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: what can be written is {', '.join(SUFFIXES)}")
    return kinds


def _outputs(options: argparse.Namespace) -> dict[str, Path]:
    """The file of each kind. Raises CommandError for a name that does not go with it."""
    given: Path | None = options.output
    if options.target == "null":
        if given is not None or options.emit != ("ingot",):
            raise CommandError("--target null writes nothing: leave out -o and --emit")
        return {}
    if options.target == "interpreter":
        raise CommandError(f"the interpreter makes no file; use: ingot run {options.model} --target interpreter")
    if given is not None and len(options.emit) == 1:
        kind = options.emit[0]
        if kind != "ingot" and given.suffix != SUFFIXES[kind]:
            raise CommandError(f"{given}: with --emit {kind} the name ends in {SUFFIXES[kind]}")
        return {kind: given}
    return {kind: (given or options.model).with_suffix(SUFFIXES[kind]) for kind in options.emit}


def require_model(model: Path) -> None:
    """Raise CommandError for a model that is not there or is an artifact already."""
    if not model.is_file():
        raise CommandError(f"{model}: there is no such file" if not model.exists() else f"{model}: not a file")
    if is_artifact(model):
        raise CommandError(f"{model} is an artifact already; give the .onnx file")


def input_names(model: Path) -> frozenset[str]:
    """The names of the model's inputs. Raises ModelError."""
    from ingot.compiler.frontend.mapping import map_file
    from ingot.compiler.frontend.weights import open_model

    proto = open_model(map_file(model), str(model), model.parent).proto
    return frozenset(value.name for value in proto.graph.input)


def read_steps(option: str, given: list[str]) -> dict[str, list[str]]:
    """NAME=STEP options by name, in order. Raises CommandError."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, step = text.partition("=")
        if not (equals and name and step):
            raise CommandError(f"{option} {text}: write NAME=STEP, as in input=image:imagenet")
        found.setdefault(name, []).append(step)
    return found


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds: write --tune=60, or --tune last")
    return seconds


def _jobs(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes")
    return count
