"""``ingot compile``: an ONNX model to an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from ingot.compiler.cli.artifacts import SUFFIX, is_artifact
from ingot.compiler.cli.console import Console, bytes_text
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.passes import add_pipeline_arguments, build_pipeline, working_directory_importable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import for_compile

HELP = "compile an ONNX model to an artifact"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument("-o", "--output", type=output_type, help="the artifact (default: the model's name with .ingot)")
    parser.add_argument(
        "--target", default="cpu", help="cpu (a portable level of this machine's architecture), native, or a level"
    )
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=SHAPE_HELP)
    parser.add_argument(
        "--numerics", choices=("default", "strict"), default="default", help="strict: keep the order of operations"
    )
    parser.add_argument(
        "--verify", action="store_true", help="evaluate the graph before and after every pass and compare"
    )
    parser.add_argument("--jobs", type=_jobs, metavar="N", help="processes that compile kernels (default: the cores)")
    add_pipeline_arguments(parser)
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
    """Compile and save."""
    model: Path = options.model
    require_model(model)
    output: Path = options.output or model.with_suffix(SUFFIX)
    require_writable(output, sources=(model,))
    progress = console.progress()
    try:
        with working_directory_importable(options.pipeline, *options.passes):
            pipeline = build_pipeline(
                options.numerics, text=options.pipeline, passes=options.passes, without=options.without
            )
            shapes, ranges = for_compile(options.shape, lambda: input_names(model))
            progress(f"compiling {model}")
            from ingot.compiler import compile

            artifact = compile(
                model,
                target=options.target,
                shapes=shapes,
                ranges=ranges,
                pipeline=pipeline,
                numerics=options.numerics,
                verify=options.verify,
                print_after=options.print_after,
                dump=options.dump or console.environment.dump,
                stop_at=console.environment.stop_at,
                jobs=options.jobs,
                progress=progress,
            )
            artifact.save(output)
    finally:
        progress.close()
    size = output.stat().st_size
    levels = [code.level for code in artifact.manifest.code]
    record = {
        "artifact": output,
        "bytes": size,
        "seconds": progress.seconds,
        "target": options.target,
        "levels": levels,
        "pipeline": str(pipeline),
        "numerics": options.numerics,
    }
    console.result(
        record, [f"{output}: {bytes_text(size)} for {', '.join(levels)}, compiled in {progress.seconds:.1f} s"]
    )
    return 0


def require_model(model: Path) -> None:
    """Raise CommandError for a model that is not there or is an artifact already."""
    if not model.is_file():
        raise CommandError(f"{model}: there is no such file" if not model.exists() else f"{model}: not a file")
    if is_artifact(model):
        raise CommandError(f"{model} is an artifact already; give the .onnx file")


def input_names(model: Path) -> frozenset[str]:
    """The names of the model's inputs. Raises ModelError."""
    from ingot.compiler.frontend.weights import map_file, open_model

    proto = open_model(map_file(model), str(model), model.parent).proto
    return frozenset(value.name for value in proto.graph.input)


def _jobs(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes")
    return count
