"""``ingot selftest``: whether the code that Ingot makes is right on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ingot.compiler.cli.console import Console, seconds_text, table
from ingot.compiler.cli.failures import CommandError, one_line

if TYPE_CHECKING:
    from ingot.compiler.debug.selftest import Outcome

HELP = "compile built-in models and compare their results, to see whether this machine is served right"

WRONG = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("tests", nargs="*", metavar="TEST", help="names of tests, such as attention (default: all)")
    parser.add_argument("--target", default="native", help="what to compile for (see ingot compile; default: native)")
    parser.add_argument("--quick", action="store_true", help="the most important tests alone")


def execute(options: argparse.Namespace, console: Console) -> int:
    """Run all tests. The status is 1 where one fails."""
    from ingot.compiler.debug.selftest import machine, names, report
    from ingot.compiler.targets.registry import require_runnable

    require_runnable(options.target)
    wanted: list[str] = options.tests or names(quick=options.quick)
    if unknown := [name for name in wanted if name not in names()]:
        raise CommandError(f"there is no test {unknown[0]!r}; the tests are {', '.join(map(repr, names()))}")
    progress = console.progress()
    try:
        outcomes = report(wanted, options.target, progress=progress)
    finally:
        progress.close()
    described = machine()
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    record: dict[str, Any] = {
        "machine": dict(described),
        "target": options.target,
        "levels": sorted({outcome.level for outcome in outcomes if outcome.level}),
        "tests": [
            {
                "name": each.name,
                "passed": each.failure is None,
                "outputs": each.compared,
                "failure": str(each.failure) if each.failure is not None else None,
            }
            for each in outcomes
        ],
        "passed": not failed,
        "seconds": progress.seconds,
    }
    console.result(record, _lines(record, described, outcomes))
    return WRONG if failed else 0


def _lines(record: Mapping[str, Any], described: Mapping[str, str], outcomes: Sequence[Outcome]) -> Iterator[str]:
    versions = ", ".join(f"{name} {described[name]}" for name in ("ingot", "python", "numpy", "onnx", "llvmlite"))
    yield f"{described['processor']} ({described['architecture']}, {described['cpus']} CPUs); {versions}"
    yield f"target {record['target']}, code of level {', '.join(record['levels']) or 'none'}"
    yield from table(
        [
            (
                "passed" if each.failure is None else "FAILED",
                each.name,
                f"{each.compared} outputs" if each.failure is None else one_line(str(each.failure)),
            )
            for each in outcomes
        ]
    )
    wrong = sum(each.failure is not None for each in outcomes)
    verdict = "all passed" if not wrong else f"{wrong} FAILED; please report this text"
    yield f"{len(outcomes)} tests in {seconds_text(record['seconds'])}: {verdict}"
