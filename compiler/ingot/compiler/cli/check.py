"""``ingot check``: whether a model can be compiled, and all that stands in the way."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.compile import input_names, require_model
from ingot.compiler.cli.console import Console
from ingot.compiler.cli.custom import add_custom_argument, load_custom
from ingot.compiler.cli.failures import one_line
from ingot.compiler.cli.shapes import HELP as SHAPE_HELP
from ingot.compiler.cli.shapes import VARIANT_HELP, for_compile, for_variants

if TYPE_CHECKING:
    from ingot.compiler.frontend.errors import UnsupportedError
    from ingot.compiler.ir.graph import Graph
    from ingot.compiler.ir.program import Program
    from ingot.compiler.targets.registry import Product
    from ingot.compiler.targets.target import Target

HELP = "say whether a model can be compiled, and what is missing"

NOT_COMPILABLE = 1
UNKNOWN_OPERATOR = "there is no such operator in Ingot"
UNKNOWN_DOMAIN = (
    "there is no such operator, and no domain {!r} in Ingot: give it with --custom FILE (docs/write-an-operator.md), "
    "or export the model without it"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", type=Path, help="the .onnx file")
    parser.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="what it would be compiled for (see ingot compile; default: cpu); may be given more than once",
    )
    parser.add_argument("--shape", action="append", default=[], metavar="DIMS", help=SHAPE_HELP)
    parser.add_argument("--specialise", action="append", default=[], metavar="DIMS", help=VARIANT_HELP)
    parser.add_argument("--numerics", choices=("default", "strict"), default="default")
    add_custom_argument(parser)


def execute(options: argparse.Namespace, console: Console) -> int:
    """All of a compile but the code generation."""
    from ingot.compiler.frontend.errors import UnsupportedError
    from ingot.compiler.frontend.onnx import load_onnx
    from ingot.compiler.passes.default import default_pipeline
    from ingot.compiler.targets.registry import find_target
    from ingot.compiler.variants import read_variants, require_same_interface

    model: Path = options.model
    require_model(model)
    names: list[str] = list(dict.fromkeys(options.target or ["cpu"]))
    targets = {name: find_target(name) for name in names}
    shapes, ranges = for_compile(options.shape, lambda: input_names(model))
    operators = load_custom(options.custom)
    progress = console.progress()
    surveyed, labels = survey(model)
    record: dict[str, Any] = {"model": model, "target": names[0], **surveyed}
    problems: list[dict[str, Any]] = []
    unexamined: Mapping[str, int] = {}
    graph: Graph | None = None
    variants: dict[str, Graph] = {}
    found: dict[str, dict[str, Any]] = {}
    try:
        try:
            progress(f"importing {model}")
            graph = load_onnx(model, shapes=shapes, ranges=ranges, custom=operators)
            graph = default_pipeline(options.numerics).run(graph, verbose=lambda report: progress(str(report)))
            for variant in read_variants(for_variants(options.specialise), ranges):
                progress(f"importing {model} with {variant.name}")
                special = load_onnx(model, shapes=shapes, ranges={**ranges, **variant.ranges}, custom=operators)
                require_same_interface(graph, special, variant.name)
                variants[variant.name] = default_pipeline(options.numerics).run(special)
        except UnsupportedError as error:
            problems, unexamined = list(_refused(error)), error.unexamined
        for name, target in targets.items():
            progress(f"checking {name}")
            missing, program = list(problems), None
            others: dict[str, Program | None] = {}
            if graph is not None and not problems:
                program = _lowered(graph, name, target, options.numerics, missing)
                for which, special in variants.items():
                    others[which] = _lowered(special, name, target, options.numerics, missing)
            found[name] = {
                "compilable": not missing,
                "native": _native(record, missing, unexamined, _on_host(program, labels)),
                "host": {} if program is None else dict(Counter(step.function for step in program.host_steps())),
                "missing": missing,
                "launches": _launches(program),
                "variants": {which: _launches(other) for which, other in others.items()},
            }
    finally:
        progress.close()
    used = {_spelled(each.domain, each.op_type): each.form for each in operators}
    record["custom"] = {name: form for name, form in used.items() if name in record["operators"]}
    first = found[names[0]]
    record |= {
        "compilable": all(each["compilable"] for each in found.values()),
        "unsupported": first["missing"],
        "unexamined": dict(unexamined),
        "launches": first["launches"],
        "targets": found,
        "seconds": progress.seconds,
    }
    console.result(record, _lines(record))
    return 0 if record["compilable"] else NOT_COMPILABLE


def _launches(program: Program | None) -> int | None:
    return None if program is None else sum(1 for _ in program.launches())


def _lowered(
    graph: Graph, name: str, target: Target[Product], numerics: str, missing: list[dict[str, Any]]
) -> Program | None:
    """The program; None where the target has no kernel for something, which goes into `missing`."""
    from ingot.compiler.defects import defects_of
    from ingot.compiler.ir.verify import verify_program
    from ingot.compiler.lower.context import LoweringError
    from ingot.compiler.lower.lowering import lower
    from ingot.compiler.ops.custom import CustomOpError
    from ingot.compiler.targets.registry import check_routines

    try:
        with defects_of("lowering"):
            program = lower(graph, target.machine, reorder=numerics != "strict")
            verify_program(program)
        check_routines(name, program)
    except (LoweringError, CustomOpError) as error:
        missing.append(_problem(None, None, error))
        return None
    return program


def _refused(error: UnsupportedError) -> Iterator[dict[str, Any]]:
    """What the importer does not support: operators without a meaning, then nodes that use others in odd ways."""
    for each in error.operators:
        yield {
            "operator": _spelled(each.domain, each.op_type),
            "opset": each.opset,
            "count": each.count,
            "nodes": list(each.nodes),
            "types": None,
            "reason": UNKNOWN_OPERATOR if each.is_known_domain else UNKNOWN_DOMAIN.format(each.domain),
        }
    for use in error.uses:
        yield {
            "operator": _spelled(use.domain, use.op_type),
            "opset": use.opset,
            "count": 1,
            "nodes": [use.node],
            "types": list(use.types),
            "reason": one_line(use.reason),
        }
    if not error.operators and not error.uses:
        yield _problem(error.node, error.opset, error)


def _native(
    record: Mapping[str, Any],
    missing: Iterable[Mapping[str, Any]],
    unexamined: Mapping[str, int],
    on_host: Mapping[str, int],
) -> dict[str, int]:
    """How often each operator occurs, without what is not used, what is missing, what nobody could look at and what the
    host computes as a whole."""
    from ingot.compiler.frontend.operators import FAMILIES

    left: Counter[str] = Counter(record["operators"])
    left.subtract(record["unused"])
    for each in missing:
        if each["operator"] is None:
            return {}
        left[each["operator"]] -= each["count"]
    left.subtract(unexamined)
    left.subtract(on_host)
    host = set(FAMILIES["strings"].names())
    return {name: count for name, count in left.items() if count > 0 and name not in host}


def _on_host(program: Program | None, labels: Mapping[str, str]) -> Counter[str]:
    """How often the host computes all of an operator, and no kernel takes part: a Cast to strings, say."""
    if program is None:
        return Counter()
    steps = {name for step in program.host_steps() for name in step.origin}
    return Counter(labels[name] for name in steps.difference(*(x.origin for x in program.launches())) if name in labels)


def survey(model: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The opsets of the model and how often each operator occurs in it, sub-graphs included; `unused` are nodes that no
    output needs. Second, the operators of nodes by the names that the user knows them by. Raises ModelError."""
    from ingot.compiler.frontend.errors import ModelError
    from ingot.compiler.frontend.mapping import map_file
    from ingot.compiler.frontend.topology import label, live_order, own_names, producers, subgraphs
    from ingot.compiler.frontend.weights import open_model

    proto = open_model(map_file(model), str(model), model.parent).proto
    counts: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    labels: dict[str, str] = {}
    graphs = [(proto.graph, True)]
    while graphs:
        graph, needed = graphs.pop()
        try:
            order = live_order(graph.node, producers(graph.node, own_names(graph)), [o.name for o in graph.output])
        except ModelError as error:
            raise error.at(file=str(model)) from None
        live = set(order) if needed else set[int]()
        for index, node in enumerate(graph.node):
            name = _spelled(node.domain, node.op_type)
            counts[name] += 1
            labels[label(node)] = name
            unused[name] += index not in live
            graphs.extend((each, index in live) for each in subgraphs(node))
    record = {
        "opsets": {each.domain or "ai.onnx": each.version for each in proto.opset_import},
        "operators": dict(sorted(counts.items())),
        "unused": {name: count for name, count in sorted(unused.items()) if count},
    }
    return record, labels


def _spelled(domain: str, op_type: str) -> str:
    return op_type if domain in ("", "ai.onnx") else f"{domain}.{op_type}"


def _problem(node: str | None, opset: int | None, error: Exception) -> dict[str, Any]:
    return {
        "operator": None,
        "opset": opset,
        "count": 1,
        "nodes": [node] if node else [],
        "types": None,
        "reason": one_line(str(error)),
    }


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    opsets = ", ".join(f"{domain} {version}" for domain, version in record["opsets"].items())
    total = sum(record["operators"].values())
    yield f"{record['model']}: {total} nodes of {len(record['operators'])} kinds, opset {opsets}"
    for name, form in record["custom"].items():
        yield f"  {name}: a custom operator ({form})"
    for target, found in record["targets"].items():
        if found["compilable"]:
            host = ", ".join(f"{function} {count}" for function, count in found["host"].items())
            where = f"host steps: {host};" if host else "all native,"
            yield f"can be compiled for {target}: {where} {found['launches']} kernel launches a run"
            for name, launches in found["variants"].items():
                yield f"  with {name}: {launches} kernel launches a run"
            continue
        yield f"cannot be compiled for {target}:"
        for each in found["missing"]:
            yield f"  {_described(each)}"
        if left := sum(record["unexamined"].values()):
            yield f"  {left} node(s) behind these could not be looked at, because their types are not known"
        native = sum(found["native"].values())
        yield f"  native: {native} of {total} nodes ({', '.join(found['native']) or 'none'}); on the host: none"


def _described(problem: Mapping[str, Any]) -> str:
    if problem["operator"] is None:
        return str(problem["reason"])
    more = ", ..." if problem["count"] > len(problem["nodes"]) else ""
    named = f"{problem['count']} node(s): {', '.join(problem['nodes'])}{more}"
    types = f" on {', '.join(problem['types'])}" if problem["types"] else ""
    return f"{problem['operator']} of opset {problem['opset']}{types}: {problem['reason']}; {named}"
