"""What the commands that compress a model have in common: its arguments, its samples, what is written."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.compile import input_names, read_steps, require_model
from ingot.compiler.cli.console import Console, Progress, bytes_text
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import for_compile

if TYPE_CHECKING:
    from ingot.compiler.compressed import Compressed, LayersReport

SUFFIXES = (".onnx", ".ingot")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and the files to write."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument(
        "-o",
        "--output",
        type=output_type,
        action="append",
        required=True,
        metavar="OUT",
        help="the file to write, .onnx or .ingot; may be given for both",
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:  # pyright: ignore[reportPrivateUsage]
    """Samples; the group, for what else is about them."""
    data = parser.add_argument_group("samples (see docs/calibration.md)")
    data.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PATH",
        help="an .npz, a folder of these or of images, or MODULE:FUNCTION (the current directory is searched too)",
    )
    data.add_argument("--samples", type=count, metavar="N", help="take this many at most")
    data.add_argument(
        "--preprocess", action="append", default=[], metavar="INPUT=STEP", help="steps for samples: image:imagenet, ..."
    )
    return data


def add_written_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:  # pyright: ignore[reportPrivateUsage]
    """How it is written, with its shapes; the group of the report."""
    told = parser.add_argument_group("report")
    told.add_argument("--report", type=output_type, metavar="FILE", help="write the report, as JSON if FILE is .json")
    parser.add_argument("--opset", type=count, default=21, metavar="N", help="of an ONNX model (21)")
    parser.add_argument("--target", default="cpu", help="of an artifact: what ingot compile takes (cpu)")
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=f"of the model: {SHAPE_HELP}")
    add_custom_argument(parser)
    return told


def require_files(
    options: argparse.Namespace, read: Sequence[str | Path] = (), written: Sequence[Path | None] = ()
) -> None:
    """Raise CommandError for a model that is not there, outputs of other kinds, and a file that cannot be written, is
    read too, or is to be written twice: the outputs and the report, and those that are `written` and `read` beside."""
    require_model(options.model)
    outputs: list[Path] = options.output
    for output in outputs:
        if output.suffix not in SUFFIXES:
            raise CommandError(f"{output}: write {' or '.join(SUFFIXES)}, as what the model is wanted")
    files = [each for each in (*outputs, options.report, *written) if each is not None]
    for number, output in enumerate(files):
        require_writable(output, sources=(options.model, *_sources((*options.data, *read), output)))
        if any(output.resolve() == other.resolve() for other in files[:number]):
            raise CommandError(f"{output} is to be written twice: give every file a name of its own")


def require_target(options: argparse.Namespace) -> None:
    """Raise what a target or an opset that there is not raises, before samples run, which takes its time."""
    from ingot.compiler.frontend.export.model import require_opset
    from ingot.compiler.targets.registry import find_level

    require_opset(options.opset)
    find_level(options.target)


def model_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that say how a model and its samples are read, as `quantize` and `prune` take them."""
    shapes, ranges = for_compile(options.shape, lambda: input_names(options.model))
    return {
        "samples": options.samples,
        "shapes": shapes,
        "ranges": ranges,
        "custom": load_custom(options.custom),
        "preprocess": read_steps("--preprocess", options.preprocess) or None,
    }


def write(result: Compressed[Any], options: argparse.Namespace, progress: Callable[[str], None]) -> None:
    """Write the outputs and the report."""
    for output in options.output:
        progress(f"writing {output}")
        if output.suffix == ".onnx":
            result.save(output, opset=options.opset)
        else:
            result.save(output, target=options.target, progress=progress)
    if options.report:
        result.report.save(options.report)


def tell(report: LayersReport, options: argparse.Namespace, console: Console, progress: Progress, **more: Any) -> None:
    """Say what was written; `more` is for the record, `notes` of it also for people."""
    record: dict[str, Any] = {
        "model": options.model,
        "outputs": [{"path": output, "bytes": output.stat().st_size} for output in options.output],
        "seconds": progress.seconds,
        "report": report.record(),
    }
    lines = [] if options.report else report.text().splitlines()
    lines += more.get("notes", [])
    lines += [f"{output}: {bytes_text(output.stat().st_size)}" for output in options.output]
    console.result(record | more, lines)


def count(text: str) -> int:
    """The type of an argument that is a number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _sources(data: Sequence[str | Path], output: Path) -> list[Path]:
    """What is read that a file at `output` could take the place of."""
    found = [Path(each) for each in data]
    return [output if each.is_dir() and each.resolve() in output.resolve().parents else each for each in found]
