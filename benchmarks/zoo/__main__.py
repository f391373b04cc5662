"""Command line of the zoo.

python -m benchmarks.zoo list
python -m benchmarks.zoo export [--tiny | --full] [--exporter dynamo-18] [--force] [names ...]
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.zoo import MODELS, VARIANTS, Variant, place
from benchmarks.zoo.catalogue import find
from benchmarks.zoo.specification import Model


def show() -> None:
    """One line a model: symbols with their usual extents, exporters, and which variants are in the cache."""
    for model in MODELS.values():
        dims = " ".join(f"{symbol}={extent}" for symbol, extent in model.dims.items())
        there = [
            f"{variant}-{exporter}"
            for variant in VARIANTS
            for exporter in model.exported_by(variant)
            if place(model.name, variant, exporter).is_file()
        ]
        print(f"{model.name:20} {dims:24} {len(there)} of {sum(len(model.exported_by(v)) for v in VARIANTS)} exported")


def write(model: Model, variant: Variant, exporter: str, path: Path) -> None:
    """Export one model and write its record beside it; a file that is there is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    if exporter.startswith("onnx-"):
        from benchmarks.zoo.light import rebuild

        rebuild(model, variant, unfinished)
    else:
        from benchmarks.zoo.export import export

        export(model, variant, exporter, unfinished)
    path.with_suffix(".json").write_text(json.dumps(describe(model, variant, exporter, unfinished), indent=1) + "\n")
    unfinished.replace(path)


def describe(model: Model, variant: Variant, exporter: str, path: Path) -> dict[str, Any]:
    """The record of an exported file."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    operators = collections.Counter(operator for graph in _graphs(proto) for operator in graph)
    kind, opset = exporter.split("-")
    packages = ("onnx",) if kind == "onnx" else ("torch", "onnx", "onnxscript")
    return {
        **model.describe(variant, exporter),
        "exporter": kind,
        "opset": int(opset),
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "nodes": operators.total(),
        "operators": dict(sorted(operators.items())),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _graphs(proto: Any) -> list[list[str]]:
    """Operators of the graph, of its sub-graphs and of functions."""
    found: list[list[str]] = []

    def visit(nodes: Any) -> None:
        found.append([f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes])
        for node in nodes:
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    visit(graph.node)

    visit(proto.graph.node)
    for function in proto.functions:
        visit(function.node)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description="Export the models of the zoo.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the models and what of them is in the cache folder")
    exporting = commands.add_parser("export", help="write models to the cache folder")
    exporting.add_argument("names", nargs="*", metavar="name", help="default: all")
    size = exporting.add_mutually_exclusive_group()
    size.add_argument("--tiny", action="store_const", const="tiny", dest="variant", help="only the tiny variants")
    size.add_argument("--full", action="store_const", const="full", dest="variant", help="only the full variants")
    exporting.add_argument("--exporter", help="only this one, as torchscript-17; default: all that the model lists")
    exporting.add_argument("--force", action="store_true", help="also what is already there")
    chosen = parser.parse_args(arguments)
    if chosen.command == "list":
        show()
        return 0

    failures = 0
    models = [find(name) for name in chosen.names] or list(MODELS.values())
    for model in models:
        for variant in (chosen.variant,) if chosen.variant else VARIANTS:
            for exporter in model.exported_by(variant):
                path = place(model.name, variant, exporter)
                if chosen.exporter not in (None, exporter) or (path.is_file() and not chosen.force):
                    continue
                started = time.perf_counter()
                try:
                    write(model, variant, exporter, path)
                except Exception as error:  # one model that cannot be exported must not hide the others
                    failures += 1
                    reason = str(error).strip().split("\n")[0]
                    print(f"{model.name} {variant} {exporter}: {type(error).__name__}: {reason}", file=sys.stderr)
                    continue
                print(f"{path} ({time.perf_counter() - started:.1f} s)", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
