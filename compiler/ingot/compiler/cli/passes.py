"""Pipelines on the command line: ``--pipeline``, ``--pass`` and ``--without``."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ingot.compiler.cli.failures import CommandError, one_line

if TYPE_CHECKING:
    from ingot.compiler.pipeline import Pipeline
    from ingot.compiler.single_pass import Pass

DEFAULT_PLACE = "simplify"
"""The pass that those without a place of their own come after."""

_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]")
_PLACED = re.compile(r"(before|after|replace):([\w.:]+)=(.+)", re.DOTALL)


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that `build_pipeline` reads."""
    group = parser.add_argument_group("passes")
    group.add_argument(
        "--pass",
        dest="passes",
        action="append",
        default=[],
        metavar="[PLACE=]PASS",
        help="add a pass: module:attribute (the current directory is searched too), the name of an installed one, with "
        "options name{field=value}; PLACE is before:NAME, after:NAME or replace:NAME, by default after:simplify",
    )
    group.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="leave a pass out (repeatable, comma list)"
    )
    group.add_argument("--pipeline", metavar="TEXT", help="the passes instead of the default ones: simplify,fuse,...")


@contextmanager
def working_directory_importable(*specs: str | None) -> Generator[None]:
    """Modules of the current directory can be imported, as with ``python -m``, where one of `specs` names a module;
    otherwise a file there that is called like a library would take its place for nothing."""
    here = os.getcwd()
    wanted = any(spec and _MODULE.search(spec) for spec in specs)
    added = wanted and here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def build_pipeline(
    numerics: str,
    requantise: str = "onnx",
    *,
    text: str | None = None,
    passes: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Pipeline:
    """The default pipeline for `numerics` and `requantise`, or the one of `text`, with passes added and taken away.

    Raises CommandError for a pass whose module cannot be imported, PipelineError for what is not known.
    """
    from ingot.compiler.passes.default import REGISTRY, default_pipeline
    from ingot.compiler.pipeline import Pipeline

    if text is not None:
        with _imports(text):
            pipeline = Pipeline.parse(text, REGISTRY)
    else:
        pipeline = default_pipeline(numerics, requantise)
    # Passes without a place keep their order: each comes after the one before it.
    last: str | None = None
    for spec in passes:
        placed = _PLACED.fullmatch(spec)
        place, equals, rest = spec.partition("{")[0].partition("=")
        if equals and not placed:
            why = f"{place}= is none" if rest else "a pass must follow"
            raise CommandError(
                f"--pass {spec}: places are before:NAME=PASS, after:NAME=PASS and replace:NAME=PASS; {why}"
            )
        item = parse(placed[3] if placed else spec)
        if placed:
            pipeline = _place(pipeline, placed[1], placed[2], item)
        else:
            anchor = last or DEFAULT_PLACE
            pipeline = pipeline.after(anchor, item) if anchor in pipeline.names else Pipeline((item, *pipeline.passes))
            last = item.name
    if names := [name for part in without for name in part.split(",") if name]:
        pipeline = pipeline.without(*names)
    return pipeline


def parse(spec: str) -> Pass:
    """The pass spelt `spec`. Raises CommandError, PipelineError."""
    from ingot.compiler.passes.default import REGISTRY
    from ingot.compiler.pipeline import parse_pass

    with _imports(spec):
        return parse_pass(spec, REGISTRY)


def _place(pipeline: Pipeline, place: str, name: str, item: Pass) -> Pipeline:
    match place:
        case "before":
            return pipeline.before(name, item)
        case "after":
            return pipeline.after(name, item)
        case _:
            return pipeline.replace(name, item)


@contextmanager
def _imports(spec: str) -> Generator[None]:
    """Errors in a module of the user's are errors of the user's."""
    from ingot.compiler.pipeline import PipelineError

    try:
        yield
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:
        raise CommandError(f"pass {spec}: {type(error).__name__}: {one_line(str(error))}") from error
