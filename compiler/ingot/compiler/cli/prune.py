"""``ingot prune``: a model with zeros in its weights, as an ONNX model or an artifact."""

from __future__ import annotations

import argparse

from ingot.compiler.cli.compressing import (
    add_data_arguments,
    add_model_arguments,
    add_written_arguments,
    count,
    model_arguments,
    require_files,
    require_target,
    tell,
    write,
)
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.passes import working_directory_importable

HELP = "prune a model (.onnx) and write it as ONNX or as an artifact"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--rate", type=float, metavar="R", help="the part of the weights that goes (0.5; N:M patterns have their own)"
    )
    parser.add_argument(
        "--criterion",
        metavar="NAME",
        help="magnitude (default without --data), shrinkage (default with --data), channel-magnitude, "
        "shrinkage-literal, wanda, sparsegpt, greedy, random",
    )
    parser.add_argument(
        "--pattern",
        default="unstructured",
        metavar="PATTERN",
        help="unstructured (default), blocks such as 4x1 (output channels x inputs), kernel, 2:4 and other N:M",
    )
    parser.add_argument(
        "--scope", choices=("layer", "output", "global"), help="where weights compete (default: the criterion's own)"
    )
    parser.add_argument(
        "--distribution",
        choices=("uniform", "erk", "global", "sensitivity"),
        default="uniform",
        help="of the rate among layers (uniform)",
    )
    parser.add_argument(
        "--schedule",
        choices=("one-shot", "linear", "cubic", "exponential"),
        default="one-shot",
        help="the way to the rate (one-shot)",
    )
    parser.add_argument("--steps", type=count, default=8, metavar="N", help="of a schedule (8)")
    parser.add_argument("--no-repair", action="store_true", help="leave weights that stay, and biases, as they are")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is random (0)")
    add_data_arguments(parser)
    layers = parser.add_argument_group("layers, by name or by pattern")
    layers.add_argument("--only", action="append", default=[], metavar="NAME", help="prune these (repeatable)")
    layers.add_argument("--exclude", action="append", default=[], metavar="NAME", help="not these (repeatable)")
    layers.add_argument("--ends", action="store_true", help="the first and last layers too")
    add_written_arguments(parser)


def execute(options: argparse.Namespace, console: Console) -> int:
    """Prune and write."""
    require_files(options)
    require_target(options)
    from ingot.compiler.pruning import prune

    given = model_arguments(options)
    progress = console.progress()
    try:
        with working_directory_importable(*options.data):
            pruned = prune(
                options.model,
                options.data or None,
                rate=options.rate,
                criterion=options.criterion,
                pattern=options.pattern,
                scope=options.scope,
                distribution=options.distribution,
                schedule=options.schedule,
                steps=options.steps,
                repair=not options.no_repair,
                only=options.only,
                exclude=options.exclude,
                ends=options.ends,
                seed=options.seed,
                progress=progress,
                **given,
            )
        write(pruned, options, progress)
    finally:
        progress.close()
    tell(pruned.report, options, console, progress)
    return 0
