"""``ingot opt``: passes on a graph in text form or on a model, the result as text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.console import Console
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.failures import CommandError
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.passes import parse, working_directory_importable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.runtime.replacement import replaced

if TYPE_CHECKING:
    from ingot.compiler.ir.graph import Graph
    from ingot.compiler.ops.custom import CustomOp

HELP = "run passes on a graph (.ir or .onnx) and print the result"

WEIGHTS = "weights"
"""The folder beside a text that holds its large constants."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("graph", type=Path, help="a dump (.ir, with its constants in weights/ beside it) or a model")
    parser.add_argument(
        "-o", "--output", type=output_type, metavar="OUT.ir", help="write the text here (default: print it)"
    )
    parser.add_argument(
        "--pass",
        dest="passes",
        action="append",
        default=[],
        metavar="PASS",
        help="run this pass (repeatable): a name, module:attribute, or name{field=value}",
    )
    parser.add_argument("--pipeline", metavar="TEXT", help="run these passes: simplify,fuse,... or default")
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=f"of a model: {SHAPE_HELP}")
    parser.add_argument(
        "--print-after",
        action="append",
        default=[],
        metavar="NAME",
        help="print the graph after a pass, or all",
    )
    parser.add_argument("--dump", type=Path, metavar="DIR", help="write the graph after every pass (or INGOT_DUMP)")
    parser.add_argument(
        "--stop-at", type=_count, metavar="N", help="no rule fires after the N-th firing (or INGOT_STOP_AT)"
    )
    add_custom_argument(parser)
    parser.add_argument(
        "--verify", action="store_true", help="evaluate the graph before and after every pass and compare"
    )


def execute(options: argparse.Namespace, console: Console) -> int:
    """Read, run, print."""
    from ingot.compiler.ir.text.graph import show_graph
    from ingot.compiler.passes.default import REGISTRY, default_pipeline
    from ingot.compiler.pipeline import Pipeline
    from ingot.compiler.rewrite import Trace

    output: Path | None = options.output
    if output is not None:
        require_writable(output, sources=(options.graph,))
    with working_directory_importable(options.pipeline, *options.passes):
        if options.pipeline == "default":
            pipeline = default_pipeline()
        else:
            pipeline = Pipeline.parse(options.pipeline or "", REGISTRY)
        pipeline = Pipeline((*pipeline.passes, *(parse(spec) for spec in options.passes)))
        graph = read_graph(options.graph, options.shape, load_custom(options.custom))
        before = len(graph.nodes())
        stop_at = options.stop_at if options.stop_at is not None else console.environment.stop_at
        trace = Trace(stop_at=stop_at)
        progress = console.progress()
        try:
            graph = pipeline.run(
                graph,
                trace=trace,
                print_after=options.print_after,
                dump_dir=options.dump or console.environment.dump,
                validate=options.verify,
                verbose=lambda report: progress(str(report)),
            )
        finally:
            progress.close()
    if console.verbose:
        for firing in trace.firings:
            console.note(str(firing))
    record: dict[str, Any] = {
        "graph": options.graph,
        "pipeline": str(pipeline),
        "nodes_before": before,
        "nodes_after": len(graph.nodes()),
        "firings": [str(firing) for firing in trace.firings],
    }
    if output is None:
        text = show_graph(graph)
        console.result(record | {"text": text}, [text.rstrip("\n")])
        return 0
    from ingot.compiler.ir.text.resources import WeightFolder

    text = show_graph(graph, WeightFolder(output.parent / WEIGHTS))
    with replaced(output) as partial:
        partial.write_text(text, encoding="utf-8")
    console.result(
        record | {"output": output}, [f"{output}: {record['nodes_after']} nodes, {len(trace.firings)} rule firings"]
    )
    return 0


def read_graph(path: Path, shape: list[str], custom: Sequence[CustomOp] = ()) -> Graph:
    """The graph of a text or of a model, with custom operators. Raises CommandError, TextError, ModelError."""
    if not path.is_file():
        raise CommandError(f"{path}: there is no such file" if not path.exists() else f"{path}: not a file")
    if path.suffix != ".ir":
        from ingot.compiler.cli.compile import input_names, require_model
        from ingot.compiler.cli.shapes import for_compile
        from ingot.compiler.frontend.onnx import load_onnx

        require_model(path)
        shapes, ranges = for_compile(shape, lambda: input_names(path))
        return load_onnx(path, shapes=shapes, ranges=ranges, custom=custom)
    if shape:
        raise CommandError("--shape is for models: a graph in text form has its shapes")
    from ingot.compiler.ir.graph import OPS
    from ingot.compiler.ir.text.graph import parse_graph
    from ingot.compiler.ir.text.resources import WeightFolder

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not a graph in text form: {error}") from error
    ops = {**OPS, **{operator.spelling: operator.node for operator in custom}}
    return parse_graph(text, WeightFolder(path.parent / WEIGHTS), ops=ops, source=str(path))


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of firings")
    return int(text)
