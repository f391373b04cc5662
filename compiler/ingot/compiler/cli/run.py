"""``ingot run``: an artifact on arrays from files, or on random ones. Needs numpy and the runtime alone, unless it is
asked to compile a model first."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.array_files import write_arrays
from ingot.compiler.cli.artifacts import (
    array_files,
    concrete_shapes,
    random_arrays,
    read_arrays,
    read_artifact,
    require_archive,
    require_artifact,
)
from ingot.compiler.cli.console import Console, seconds_text, table
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.runtime import Session

if TYPE_CHECKING:
    from ingot.compiler.artifact import Artifact
    from ingot.compiler.targets.interpreter.session import Interpreted
    from ingot.compiler.targets.null.outline import Outline

HELP = "run an artifact"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("artifact", type=Path, help="the .ingot file, or with --target the .onnx file")
    parser.add_argument(
        "--target", help="compile a model for this and run it: interpreter, or what ingot compile takes"
    )
    parser.add_argument(
        "--input", action="append", default=[], metavar="FILE", help="name=array.npy (repeatable) or arrays.npz"
    )
    parser.add_argument(
        "--random", nargs="?", type=seed_type, const=0, metavar="SEED", help="random inputs where none are given"
    )
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=f"dims of --random: {SHAPE_HELP}")
    parser.add_argument("-o", "--output", type=output_type, metavar="OUT.npz", help="write the outputs to this file")
    parser.add_argument("--threads", type=threads_type, metavar="N", help="threads to use (default: all cores)")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Run once."""
    path: Path = options.artifact
    compiled = None if options.target is None else _compile(path, options.target, console)
    if compiled is None:
        require_artifact(path)
    if options.output is not None:
        require_archive(options.output)
        require_writable(options.output, sources=(path, *array_files(options.input)))
    if options.shape and options.random is None:
        raise CommandError("--shape is for --random: the shapes of given inputs are known")
    threads: int | None = options.threads
    with Session(path, threads=threads) if compiled is None else compiled.session(threads=threads) as session:
        arrays = read_arrays(options.input, session.inputs)
        if options.random is not None:
            manifest = read_artifact(path)[0] if compiled is None else compiled.manifest
            arrays = random_arrays(manifest, concrete_shapes(manifest, options.shape), options.random) | arrays
        elif not arrays and session.inputs:
            wanted = ", ".join(f"{i.name} {i.dtype}{list(i.shape)}" for i in session.inputs)
            raise CommandError(f"give inputs with --input name=array.npy, or --random; the model takes {wanted}")
        started = perf_counter()
        outputs = session.run(arrays)
        seconds = perf_counter() - started
    record: dict[str, Any] = {
        "artifact": path,
        "seconds": seconds,
        "outputs": {name: _summary(array) for name, array in outputs.items()},
    }
    lines = table([(name, *_described(array)) for name, array in outputs.items()])
    if options.output is not None:
        write_arrays(options.output, outputs)
        record["output"] = options.output
        lines.append(f"{options.output}: {len(outputs)} array(s), run in {seconds_text(seconds)}")
    console.result(record, lines)
    return 0


def _compile(model: Path, target: str, console: Console) -> Artifact | Interpreted | Outline:
    """The model compiled, to be run from memory."""
    from ingot.compiler.api import compile
    from ingot.compiler.cli.compile import require_model
    from ingot.compiler.targets.registry import require_runnable

    require_model(model)
    require_runnable(target)
    progress = console.progress()
    try:
        progress(f"compiling {model}")
        return compile(model, target=target, progress=progress)
    finally:
        progress.close()


def threads_type(text: str) -> int:
    """A number of threads for argparse."""
    return _positive(text, "threads")


def rounds_type(text: str) -> int:
    """How often something is measured, for argparse."""
    return _positive(text, "runs")


def _positive(text: str, what: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of {what}")
    return count


def count_type(text: str) -> int:
    """A number of things to list, for argparse; 0 is all."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of things to list")
    return int(text)


def seed_type(text: str) -> int:
    """The seed of a random generator, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; a seed is 0, 1, 2, ...")
    return int(text)


def _summary(array: NDArray[Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size and not array.dtype.hasobject:
        values = array.astype(np.float64)
        with np.errstate(all="ignore"):
            record |= {"min": float(values.min()), "max": float(values.max()), "mean": float(values.mean())}
    return record


def _described(array: NDArray[Any]) -> tuple[str, str]:
    """Type and shape; the values where they are few, else their range."""
    kind = f"{array.dtype}{list(array.shape)}"
    if array.size == 0:
        return kind, "empty"
    if array.size <= 8:
        return kind, " ".join(map(_element, array.reshape(-1)))
    summary = _summary(array)
    if array.dtype.hasobject:
        return kind, f"{len(set(array.reshape(-1).tolist()))} different strings"
    return kind, "  ".join(f"{key} {summary[key]:.6g}" for key in ("min", "max", "mean"))


def _element(item: np.generic | str) -> str:
    if isinstance(item, str):
        return repr(str(item))
    return str(item.item()) if item.dtype.kind in "iub" else f"{float(item):.6g}"  # pyright: ignore[reportArgumentType]
