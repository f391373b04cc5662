"""``ingot reduce``: the smallest model found that still fails in the same way."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.array_files import write_arrays
from ingot.compiler.cli.compile import require_model
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.failures import CommandError, one_line
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.passes import working_directory_importable
from ingot.compiler.cli.trials import add_trial_arguments, build_trial, duration_type, read_data
from ingot.runtime.replacement import replaced

if TYPE_CHECKING:
    from ingot.compiler.debug.reduction import Case

HELP = "make a model that fails small"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument(
        "-o", "--output", type=output_type, required=True, metavar="SMALL.onnx",
        help="the file to write; with --data also SMALL.npz, its inputs",
    )  # fmt: skip
    parser.add_argument(
        "--fails",
        choices=("compile", "accuracy"),
        default="accuracy",
        help="what is tried: the compile alone, or also a run and its results (default: accuracy)",
    )
    parser.add_argument(
        "--seconds", type=duration_type, default=300.0, metavar="S", help="begin no step after this time (300)"
    )
    add_trial_arguments(parser, "the model")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Reduce and write. Raises CommandError where the model does not fail."""
    model, output = options.model, options.output
    require_model(model)
    require_writable(output, sources=(model,))
    data = read_data(options.data, model)
    inputs = output.with_suffix(".npz")
    if data is not None:
        require_writable(inputs, sources=(options.data,))
    progress = console.progress()
    try:
        with working_directory_importable(options.pipeline, options.check, *options.passes):
            trial = build_trial(options, stage=options.fails, check_artifact=False)
            from ingot.compiler.debug.reduction import ReductionError, read_model, reduce_model
            from ingot.compiler.debug.sandbox import Sandbox

            progress(f"trying {model}")
            with Sandbox(options.timeout) as sandbox:
                try:
                    reduced = reduce_model(
                        read_model(model),
                        lambda case, given: sandbox.attempt(trial, case, given),
                        data=data,
                        seconds=options.seconds,
                        progress=progress,
                        accepted=lambda case: _write(case, output, inputs),
                    )
                except ReductionError as error:
                    raise CommandError(f"{model}: {one_line(str(error))}") from error
    finally:
        progress.close()
    _write(reduced.case, output, inputs)
    nodes, ends, elements = reduced.case.size
    record: dict[str, Any] = {
        "model": model,
        "output": output,
        "data": inputs if data is not None else None,
        "failure": str(reduced.failure),
        "nodes": nodes,
        "ends": ends,
        "elements": elements,
        "tried": reduced.tried,
        "stopped": reduced.stopped,
        "seconds": progress.seconds,
    }
    console.result(record, _lines(record))
    return 0


def _write(case: Case, output: Path, inputs: Path) -> None:
    """The model and its data; each file appears whole."""
    if case.data is not None:
        write_arrays(inputs, case.data)
    with replaced(output) as partial:
        partial.write_bytes(case.model.SerializeToString(deterministic=True))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    files = f"{record['output']}" + (f" with {record['data']}" if record["data"] else "")
    yield f"{files}: {record['nodes']} nodes, {record['elements']} elements of weights"
    yield f"it fails as {record['model']} does: {one_line(record['failure'])}"
    why = "time ran out: give --seconds more to go on" if record["stopped"] else "nothing smaller was found"
    yield f"{record['tried']} cases tried in {record['seconds']:.1f} s; {why}"
