"""``ingot export``: an optimised graph as an ONNX model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ingot.compiler.cli.console import Console, bytes_text
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.files import output_type, require_writable
from ingot.compiler.cli.opt import read_graph
from ingot.compiler.cli.passes import add_pipeline_arguments, build_pipeline, working_directory_importable
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP

HELP = "optimise a model (.onnx) or graph (.ir) and write it as ONNX"

PIPELINE = "simplify,recognise,fold_norm"
"""The passes by default: what is worth doing for any runtime. Layouts and groups are for Ingot's own kernels."""
OPSET = 20
"""The opset of a model whose own is older: it has operators for what `recognise` finds."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("graph", type=Path, help="a model (.onnx) or a graph in text form (.ir, see ingot opt)")
    parser.add_argument("-o", "--output", type=output_type, required=True, metavar="OUT.onnx", help="the file to write")
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=f"of a model: {SHAPE_HELP}")
    parser.add_argument(
        "--opset", type=_opset, metavar="N", help=f"the opset to write (default: the model's, at least {OPSET})"
    )
    parser.add_argument("--name", help="the name of the graph (default: its own)")
    parser.add_argument(
        "--no-functions",
        action="store_true",
        help="write what ONNX has no operator for (attention before opset 23) in parts, not as a function of the model",
    )
    parser.add_argument(
        "--external-data",
        choices=("auto", "always", "never"),
        default="auto",
        help="weights in OUT.onnx.data: when they exceed 2 GB (auto), always or never",
    )
    parser.add_argument(
        "--verify", action="store_true", help="evaluate the graph before and after every pass and compare"
    )
    add_custom_argument(parser)
    add_pipeline_arguments(parser)


def execute(options: argparse.Namespace, console: Console) -> int:
    """Read, optimise, write."""
    output: Path = options.output
    require_writable(output, sources=(options.graph,))
    from ingot.compiler.frontend.export import hold_narrow, save_onnx
    from ingot.compiler.rewrite import Trace

    progress = console.progress()
    try:
        with working_directory_importable(options.pipeline, *options.passes):
            text = PIPELINE if options.pipeline is None else options.pipeline
            pipeline = build_pipeline("default", text=text, passes=options.passes, without=options.without)
            progress(f"reading {options.graph}")
            graph = read_graph(options.graph, options.shape, load_custom(options.custom))
            opset = options.opset or max(OPSET, _own_opset(options.graph))
            before = len(graph.nodes())
            held = hold_narrow(graph)
            graph = pipeline.run(
                held.graph,
                trace=Trace(stop_at=console.environment.stop_at),
                dump_dir=console.environment.dump,
                validate=options.verify,
                verbose=lambda report: progress(str(report)),
            )
        graph = held.release(graph)
        progress(f"writing {output}")
        save_onnx(
            graph,
            output,
            opset=opset,
            name=options.name,
            functions=not options.no_functions,
            external_data=options.external_data,
        )
    finally:
        progress.close()
    size = output.stat().st_size
    record = {
        "graph": options.graph,
        "output": output,
        "bytes": size,
        "opset": opset,
        "pipeline": str(pipeline),
        "nodes_before": before,
        "nodes_after": len(graph.nodes()),
        "seconds": progress.seconds,
    }
    console.result(record, [f"{output}: {bytes_text(size)}, opset {opset}; {pipeline}"])
    return 0


def _own_opset(path: Path) -> int:
    """The opset of a model, 0 of a text."""
    if path.suffix == ".ir":
        return 0
    from ingot.compiler.frontend.functions import opsets_of
    from ingot.compiler.frontend.mapping import map_file
    from ingot.compiler.frontend.weights import open_model

    return opsets_of(open_model(map_file(path), str(path), path.parent).proto.opset_import).get("", 0)


def _opset(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no opset")
    return int(text)
