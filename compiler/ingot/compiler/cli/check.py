"""``ingot check``: whether a model can be compiled, and all that stands in the way."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ingot.compiler.cli.compile import input_names, require_model
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.failures import one_line
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import for_compile

HELP = "say whether a model can be compiled, and what is missing"

NOT_COMPILABLE = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument("--target", default="cpu", help="what it would be compiled for (see ingot compile)")
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=SHAPE_HELP)
    parser.add_argument("--numerics", choices=("default", "strict"), default="default")
    add_custom_argument(parser)


def execute(options: argparse.Namespace, console: Console) -> int:
    """All of a compile but the code generation."""
    from ingot.compiler.defects import defects_of
    from ingot.compiler.frontend.errors import UnsupportedError
    from ingot.compiler.frontend.onnx import load_onnx
    from ingot.compiler.ir.verify import verify_program
    from ingot.compiler.lower.context import LoweringError
    from ingot.compiler.lower.lowering import lower
    from ingot.compiler.ops.custom import CustomOpError
    from ingot.compiler.passes.default import default_pipeline
    from ingot.compiler.targets.registry import check_routines, find_target

    model: Path = options.model
    require_model(model)
    target = find_target(options.target)
    shapes, ranges = for_compile(options.shape, lambda: input_names(model))
    operators = load_custom(options.custom)
    progress = console.progress()
    record: dict[str, Any] = {"model": model, "target": options.target, **survey(model)}
    problems: list[dict[str, Any]] = []
    try:
        progress(f"importing {model}")
        graph = load_onnx(model, shapes=shapes, ranges=ranges, custom=operators)
        graph = default_pipeline(options.numerics).run(graph, verbose=lambda report: progress(str(report)))
        progress("lowering")
        with defects_of("lowering"):
            program = lower(graph, target.machine, reorder=options.numerics != "strict")
            verify_program(program)
        check_routines(options.target, program)
        record["launches"] = sum(1 for _ in program.launches())
    except UnsupportedError as error:
        if error.operators:
            problems += [
                {
                    "operator": _spelled(each.domain, each.op_type),
                    "opset": each.opset,
                    "count": each.count,
                    "nodes": list(each.nodes),
                    "reason": "there is no such operator in Ingot",
                }
                for each in error.operators
            ]
        else:
            problems.append(_problem(error.node, error.opset, error))
    except (LoweringError, CustomOpError) as error:
        problems.append(_problem(None, None, error))
    finally:
        progress.close()
    used = {_spelled(each.domain, each.op_type): each.form for each in operators}
    record["custom"] = {name: form for name, form in used.items() if name in record["operators"]}
    record |= {"compilable": not problems, "unsupported": problems, "seconds": progress.seconds}
    console.result(record, _lines(record))
    return NOT_COMPILABLE if problems else 0


def survey(model: Path) -> dict[str, Any]:
    """The opsets of the model and how often each operator occurs in it, sub-graphs included. Raises ModelError."""
    from ingot.compiler.frontend.topology import subgraphs
    from ingot.compiler.frontend.weights import map_file, open_model

    proto = open_model(map_file(model), str(model), model.parent).proto
    counts: Counter[str] = Counter()
    graphs = [proto.graph]
    while graphs:
        for node in graphs.pop().node:
            counts[_spelled(node.domain, node.op_type)] += 1
            graphs.extend(subgraphs(node))
    return {
        "opsets": {each.domain or "ai.onnx": each.version for each in proto.opset_import},
        "operators": dict(sorted(counts.items())),
    }


def _spelled(domain: str, op_type: str) -> str:
    return op_type if domain in ("", "ai.onnx") else f"{domain}.{op_type}"


def _problem(node: str | None, opset: int | None, error: Exception) -> dict[str, Any]:
    return {
        "operator": None,
        "opset": opset,
        "count": 1,
        "nodes": [node] if node else [],
        "reason": one_line(str(error)),
    }


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    opsets = ", ".join(f"{domain} {version}" for domain, version in record["opsets"].items())
    total = sum(record["operators"].values())
    yield f"{record['model']}: {total} nodes of {len(record['operators'])} kinds, opset {opsets}"
    for name, form in record["custom"].items():
        yield f"  {name}: a custom operator ({form})"
    if record["compilable"]:
        yield f"can be compiled for {record['target']}: {record['launches']} kernel launches a run"
        return
    yield f"cannot be compiled for {record['target']}:"
    for each in record["unsupported"]:
        if each["operator"] is None:
            yield f"  {each['reason']}"
            continue
        more = ", ..." if each["count"] > len(each["nodes"]) else ""
        named = f"{each['count']} node(s): {', '.join(each['nodes'])}{more}"
        yield f"  {each['operator']} of opset {each['opset']}: {each['reason']}; {named}"
