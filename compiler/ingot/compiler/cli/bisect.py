"""``ingot bisect``: the first rule firing of the passes with which a model comes out wrong or cannot be compiled."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.compile import require_model
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.failures import CommandError, one_line
from ingot.compiler.cli.passes import working_directory_importable
from ingot.compiler.cli.trials import add_trial_arguments, build_trial, read_data

if TYPE_CHECKING:
    from ingot.compiler.debug.bisection import Culprit

HELP = "find the first rule firing that makes a model wrong"

FOUND = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    add_trial_arguments(parser, "the artifact")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Bisect. The status is 1 where the model fails, 0 where it does not."""
    model: Path = options.model
    require_model(model)
    data = read_data(options.data, model)
    progress = console.progress()
    try:
        with working_directory_importable(options.pipeline, options.check, *options.passes):
            trial = build_trial(options, stage="accuracy", check_artifact=True)
            from ingot.compiler.debug.bisection import find_culprit

            culprit = find_culprit(trial, model, data, seconds=options.timeout, progress=progress)
    finally:
        progress.close()
    if culprit is not None and culprit.failure.kind == "reference":
        raise CommandError(
            f"the reference cannot evaluate {model} on {'these' if data is not None else 'made-up'} inputs, so nothing "
            f"can be compared: {one_line(culprit.failure.message)}; give others with --data"
        )
    record: dict[str, Any] = {"model": model, "pipeline": str(trial.pipeline), "fails": culprit is not None}
    if culprit is not None:
        firing = culprit.firing
        record |= {
            "failure": str(culprit.failure),
            "firings": culprit.firings,
            "pass": culprit.pass_name or None,
            "firing": firing.number if firing else None,
            "rule": firing.rule if firing else None,
            "node": firing.node if firing else None,
            "before": culprit.before,
            "after": culprit.after,
            "graph_is_right": culprit.graph_is_right,
        }
    console.result(record, _lines(model, culprit))
    return FOUND if culprit is not None else 0


def _lines(model: Path, culprit: Culprit | None) -> Iterator[str]:
    if culprit is None:
        yield f"{model}: nothing fails"
        return
    yield f"{model} fails: {one_line(str(culprit.failure))}"
    firing = culprit.firing
    if firing is None:
        yield (
            f"it fails without any rule firing, from pass {culprit.pass_name} on"
            if culprit.pass_name
            else "no pass has a part in it: the import, the lowering or the code generation is wrong"
        )
    elif not culprit.before:
        yield f"rule {firing.rule} of pass {culprit.pass_name} fails after {culprit.firings} firings, on {firing.node}"
    else:
        yield f"first harmful firing: {firing.number} of {culprit.firings}"
        yield f"  pass  {firing.pass_name}"
        yield f"  rule  {firing.rule}"
        yield f"  node  {firing.node}"
        yield from ("before:", *_indented(culprit.before), "after:", *_indented(culprit.after))
    if culprit.graph_is_right is not None:
        yield (
            "the graph after it, interpreted, is right: the lowering or the code generation makes something wrong of it"
            if culprit.graph_is_right
            else "the graph after it, interpreted, is wrong already"
        )


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.rstrip("\n").splitlines()]
