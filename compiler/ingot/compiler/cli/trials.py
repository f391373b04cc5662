"""Arguments of the commands that try models: what is tried, on which inputs, and what counts as a failure."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.compile import input_names
from ingot.compiler.cli.failures import CommandError, one_line
from ingot.compiler.cli.passes import add_pipeline_arguments, build_pipeline
from ingot.compiler.cli.run import seed_type
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import for_compile

if TYPE_CHECKING:
    from ingot.compiler.debug.trial import Arrays, Stage, Trial


def add_trial_arguments(parser: argparse.ArgumentParser, checked: str) -> None:
    """Declare the options that `build_trial` and `read_data` read; `checked` says whose path a check gets."""
    parser.add_argument("--data", type=Path, metavar="X.npz", help="inputs by name (default: made-up ones)")
    parser.add_argument("--seed", type=seed_type, default=0, metavar="N", help="of made-up inputs (default: 0)")
    parser.add_argument(
        "--bound",
        type=bound_type,
        metavar="B",
        help="largest difference of floats allowed, relative to the largest output (default: by element type)",
    )
    parser.add_argument(
        "--reference",
        choices=("interpreter", "onnxruntime"),
        default="interpreter",
        help="what results are compared with: the imported graph evaluated on numpy, or ONNX Runtime",
    )
    parser.add_argument(
        "--check",
        metavar="MODULE:FUNCTION",
        help=f"a function that is asked instead: it gets the path of {checked} and returns true or raises where the "
        "failure shows (the current directory is searched too)",
    )
    parser.add_argument("--target", default="cpu", help="what it is compiled for (see ingot compile)")
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=SHAPE_HELP)
    parser.add_argument("--numerics", choices=("default", "strict"), default="default")
    parser.add_argument(
        "--timeout", type=duration_type, default=600.0, metavar="S", help="seconds for one try (default: 600)"
    )
    add_pipeline_arguments(parser)


def build_trial(options: argparse.Namespace, *, stage: Stage, check_artifact: bool) -> Trial:
    """The trial that the options describe. Raises CommandError, PipelineError, TargetError."""
    from ingot.compiler.debug.trial import Trial
    from ingot.compiler.targets.registry import find_target, require_runnable

    find_target(options.target)
    if stage == "accuracy" and not options.check:
        require_runnable(options.target)
    shapes, ranges = for_compile(options.shape, lambda: input_names(options.model))
    return Trial(
        stage=stage,
        reference=options.reference,
        bound=options.bound,
        seed=options.seed,
        check=load_check(options.check) if options.check else None,
        check_artifact=check_artifact,
        target=options.target,
        shapes=shapes,
        ranges=ranges,
        pipeline=build_pipeline(
            options.numerics, text=options.pipeline, passes=options.passes, without=options.without
        ),
        numerics=options.numerics,
    )


def load_check(reference: str) -> Callable[[Path], object]:
    """The function ``module:function``. Raises CommandError."""
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise CommandError(f"--check {reference!r}: write module:function")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise CommandError(f"--check {reference}: {type(error).__name__}: {one_line(str(error))}") from error
    if not callable(found):
        raise CommandError(f"--check {reference}: this is a {type(found).__name__}, not a function")
    return found


def read_data(path: Path | None, model: Path) -> Arrays | None:
    """The arrays of ``--data``, for the inputs of `model`. Raises CommandError, ModelError."""
    if path is None:
        return None
    from ingot.compiler.cli.artifacts import read_arrays
    from ingot.compiler.frontend.mapping import map_file
    from ingot.compiler.frontend.weights import dtype_of, open_model
    from ingot.runtime.inputs import TensorInfo

    inputs: list[TensorInfo] = []
    for value in open_model(map_file(model), str(model), model.parent).proto.graph.input:
        if value.type.HasField("tensor_type"):
            dtype = dtype_of(value.type.tensor_type.elem_type, f"input {value.name!r}")
            inputs.append(TensorInfo(value.name, dtype.to_array(), ()))
    return read_arrays([str(path)], inputs, option="--data")


def bound_type(text: str) -> float:
    """A tolerance, for argparse."""
    return _positive(text, "tolerance", zero=True)


def duration_type(text: str) -> float:
    """A number of seconds, for argparse."""
    return _positive(text, "number of seconds", zero=False)


def _positive(text: str, what: str, *, zero: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0.0 <= value < float("inf")) or (value == 0.0 and not zero):
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
    return value
