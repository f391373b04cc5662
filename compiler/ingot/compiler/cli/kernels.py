"""``ingot inspect --kernels``: what was chosen for each convolution and matrix product, and what was not.

For an artifact it is what the artifact says; a model is imported, optimised and lowered for it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.artifacts import is_artifact, require_artifact
from ingot.compiler.cli.console import Console, bytes_text, table
from ingot.compiler.cli.failures import CommandError
from ingot.runtime import container
from ingot.runtime.profile import LaunchCost, parse_costs

if TYPE_CHECKING:
    from ingot.compiler.lower.schedules import Option
    from ingot.compiler.tuning.explanation import Explanation

Costs = Sequence[Mapping[str, list[LaunchCost]]]
"""What is known of the launches of each program, by kernel."""

PART = re.compile(r"_rows\d+$")
"""How the name of a kernel for some rows of a launch ends (`lower.row_parts`)."""


def kernel_record(path: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All of it as JSON can hold it. Raises CommandError."""
    if path.is_file() and not is_artifact(path):
        found, costs = _of_model(path, options, console)
    else:
        require_artifact(path)
        if options.tuning is not None:
            raise CommandError("--tuning is for a model: an artifact has the schedules that it was compiled with")
        found, costs = _of_artifact(path)
    return {"file": path, "kernels": [_record(each, costs) for each in found]}


def _of_artifact(path: Path) -> tuple[tuple[Explanation, ...], Costs]:
    from ingot.compiler.stored import SCHEDULES_MEMBER
    from ingot.compiler.tuning.explanation import MOST_BYTES, decode
    from ingot.runtime.manifest import MANIFEST_MEMBER, MAX_PROFILE_BYTES, parse_manifest, profile_member

    with container.read(path) as file:
        file.verify(MANIFEST_MEMBER)
        manifest = parse_manifest(file.view(MANIFEST_MEMBER).tobytes())
        names = [profile_member(number) for number in range(1 + len(manifest.variants))]
        if SCHEDULES_MEMBER not in file.members or file.entry(SCHEDULES_MEMBER).size > MOST_BYTES:
            raise CommandError(
                f"{path} does not say how its kernels are scheduled: it has none of constant extents, or too many; "
                "give the model instead, with --target and --shape as for ingot compile"
            )
        file.verify(SCHEDULES_MEMBER)
        found = decode(file.view(SCHEDULES_MEMBER).tobytes())
        costs: list[Mapping[str, list[LaunchCost]]] = []
        for name in names:
            known = name in file.members and file.entry(name).size <= MAX_PROFILE_BYTES
            parsed = parse_costs(file.view(name).tobytes()) if known else ()
            costs.append(_by_kernel(parsed))
    return found, costs


def _of_model(
    path: Path, options: argparse.Namespace, console: Console
) -> tuple[tuple[Explanation, ...], Costs]:
    from ingot.compiler.cli.compile import input_names, require_model
    from ingot.compiler.cli.shapes import for_compile
    from ingot.compiler.driver import explain
    from ingot.compiler.ir.costs import launch_cost
    from ingot.compiler.request import Request
    from ingot.compiler.targets.registry import find_target

    require_model(path)
    shapes, ranges = for_compile(options.shape, lambda: input_names(path))
    progress = console.progress()
    try:
        request = Request(
            path, options.target, shapes=shapes, ranges=ranges, tuning=options.tuning, progress=progress
        )
        found, programs = explain(request, find_target(options.target).machine)
    finally:
        progress.close()
    return found, [_by_kernel(launch_cost(launch) for launch in program.launches()) for program in programs]


def _by_kernel(costs: Iterable[LaunchCost]) -> Mapping[str, list[LaunchCost]]:
    """The costs of launches by the names of their kernels; those of the parts of a launch by that of the whole."""
    found: dict[str, list[LaunchCost]] = {}
    for cost in costs:
        found.setdefault(PART.sub("", cost.kernel), []).append(cost)
    return found


def _record(each: Explanation, costs: Costs) -> dict[str, Any]:
    known: Mapping[str, list[LaunchCost]] = costs[each.program] if each.program < len(costs) else {}
    launches = [cost for name in each.kernels for cost in known.get(name, ())]
    nodes = dict.fromkeys(name for cost in launches for name in cost.origin)
    chosen, *rejected = map(_option, each.options)
    return {
        "program": each.program,
        "signature": each.signature,
        "count": each.count,
        "nodes": list(nodes),
        "kernels": list(each.kernels),
        "launches": len(launches),
        "flops": _total([cost.flops for cost in launches], each.count),
        "bytes": _total([cost.bytes for cost in launches], each.count),
        "limit": each.options[0].limit,
        "chosen": chosen,
        "rejected": rejected,
    }


def _option(option: Option) -> dict[str, Any]:
    return {
        "schedule": str(option.schedule),
        "predicted_microseconds": option.predicted,
        "measured_microseconds": option.measured,
    }


def _total(parts: Sequence[Any], count: int) -> int | None:
    """The sum for one of `count` equal groups; None where it is not known."""
    return sum(parts) // count if parts and all(isinstance(part, int) for part in parts) else None


def kernel_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The record as text."""
    kernels = record["kernels"]
    count = sum(each["count"] for each in kernels)
    yield f"{record['file']}: {count} convolutions and matrix products of constant extents, {len(kernels)} different"
    yield "times in µs of one launch on one thread; the chosen schedule comes first"
    for each in kernels:
        yield ""
        yield each["signature"]
        name = each["nodes"][0] if each["nodes"] else each["kernels"][0]
        more = each["count"] - 1
        facts = [f"{name} and {more} more" if more else name]
        if each["flops"] is not None:
            facts.append(f"{each['flops'] / 1e9:.4f} GFLOP")
        if each["bytes"] is not None:
            facts.append(f"{bytes_text(each['bytes'])} moved")
        if each["launches"] > len(each["kernels"]):
            facts.append(f"in bands: {each['launches']} launches")
        facts.append(f"limited by {each['limit']}")
        yield f"  {', '.join(facts)}"
        rows = [
            (
                "  chosen" if number == 0 else "",
                option["schedule"],
                f"predicted {option['predicted_microseconds']:.1f}",
                "" if option["measured_microseconds"] is None else f"measured {option['measured_microseconds']:.1f}",
            )
            for number, option in enumerate([each["chosen"], *each["rejected"]])
        ]
        yield from table(rows, right=(2, 3))
