"""``ingot cut``: a part of a model as a model, inputs and outputs renamed, dims changed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.compiler.cli.compile import require_model
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.shapes import parse_assignments

if TYPE_CHECKING:
    from ingot.compiler.frontend.cut import Extents

HELP = "extract a part of a model, rename its inputs and outputs, change dims"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument(
        "-o", "--output", type=output_type, required=True, metavar="PART.onnx", help="the file to write"
    )
    parser.add_argument(
        "--inputs", action="append", metavar="NAMES", help="tensors that become the inputs: a,b (default: the model's)"
    )
    parser.add_argument(
        "--outputs",
        action="append",
        metavar="NAMES",
        help="tensors that become the outputs: c,d (default: the model's)",
    )
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="name an input or output anew (repeatable)"
    )
    parser.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="DIMS",
        help="batch=1 or batch=n (a named dim), x=1,3,224,224 or x=batch,3,h,w (all dims of an input or output)",
    )


def execute(options: argparse.Namespace, console: Console) -> int:
    """Cut and write."""
    model, output = options.model, options.output
    require_model(model)
    require_writable(output, sources=(model,))
    from ingot.compiler.frontend.cut import cut_onnx, describe_type

    part = cut_onnx(
        model,
        output,
        inputs=_names("--inputs", options.inputs),
        outputs=_names("--outputs", options.outputs),
        rename=_renamed(options.rename),
        dims=_dims(options.dim),
    )
    ends = {"inputs": part.graph.input, "outputs": part.graph.output}
    described = {what: {v.name: describe_type(v) for v in infos} for what, infos in ends.items()}
    lines = [f"{output}: {len(part.graph.node)} nodes"]
    for what, types in described.items():
        lines += [f"  {what[:-1]} {name} {text}" for name, text in types.items()]
    console.result({"model": model, "output": output, "nodes": len(part.graph.node), **described}, lines)
    return 0


def _names(option: str, texts: Sequence[str] | None) -> list[str] | None:
    """The names of a comma list; None when the option is not given."""
    if texts is None:
        return None
    names = [name.strip() for text in texts for name in text.split(",")]
    if not all(names):
        raise CommandError(f"{option} {','.join(texts)!r} has an empty name; write {option} a,b")
    return names


def _renamed(texts: Sequence[str]) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for text in (part for each in texts for part in each.split(",")):
        old, equals, new = (piece.strip() for piece in text.partition("="))
        if not (old and equals and new):
            raise CommandError(f"--rename {text!r} is no OLD=NEW")
        if old in renamed:
            raise CommandError(f"--rename gives {old!r} twice")
        renamed[old] = new
    return renamed


def _dims(texts: Sequence[str]) -> Extents:
    found = parse_assignments(texts, "--dim")
    for name, values in found:
        if ranged := [v for v in values if ".." in v]:
            raise CommandError(
                f"--dim gives {name!r} the range {ranged[0]}; ONNX has no ranges: a number or a name is needed"
            )
    return [(name, [int(v) if v.isdecimal() else v for v in values]) for name, values in found]
