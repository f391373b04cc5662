"""Tables of results, and the list of exceptions that they are held against."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

import onnx

from benchmarks.conformance.judge import PEERS, Result
from benchmarks.tables import replaced
from ingot.compiler.frontend.operators import TABLE
from ingot.runtime import dtypes

EXCEPTIONS = Path(__file__).with_name("exceptions.txt")
SUPPORT = Path(__file__).resolve().parents[2] / "docs/onnx-support.md"
VERDICTS = ("right", "wrong", "refused", "failed")


def read_exceptions() -> dict[str, tuple[str, str]]:
    """What is expected of the cases that are not right: name -> verdict and reason. ValueError when the file is not
    sorted or a line is no ``name verdict: reason``."""
    found: dict[str, tuple[str, str]] = {}
    lines = [line for line in EXCEPTIONS.read_text().splitlines() if line and not line.startswith("#")]
    if lines != sorted(lines):
        raise ValueError(f"{EXCEPTIONS.name} is not sorted")
    for line in lines:
        head, _, reason = line.partition(": ")
        name, _, verdict = head.partition(" ")
        if verdict not in VERDICTS[1:] or not reason or name in found:
            raise ValueError(f"{EXCEPTIONS.name}: {line!r} is not 'name verdict: reason', or its name is there twice")
        found[name] = verdict, reason
    return found


def write_exceptions(results: Iterable[Result]) -> None:
    """Put what came out into the list. The reasons of names that are there already, with that verdict, are kept; cases
    that were not run are too."""
    listed = read_exceptions() if EXCEPTIONS.exists() else {}
    for result in results:
        if result.verdict == "right":
            listed.pop(result.name, None)
        elif listed.get(result.name, ("",))[0] != result.verdict:
            listed[result.name] = result.verdict, result.reason
    header = "# Cases that are expected not to come out right, and why: python -m benchmarks.conformance\n"
    body = sorted(f"{name} {verdict}: {reason}" for name, (verdict, reason) in listed.items())
    EXCEPTIONS.write_text(header + "\n".join(body) + "\n")


def surprises(results: Iterable[Result]) -> list[str]:
    """A line for every result that is not the one expected."""
    expected = read_exceptions()
    found: list[str] = []
    for result in results:
        verdict, _ = expected.get(result.name, ("right", ""))
        if result.verdict != verdict:
            found.append(f"{result.name}: {result.verdict}, {verdict} was expected. {result.reason}".rstrip())
    return found


def counts(results: Sequence[Result], heading: str, key: Callable[[Result], str]) -> str:
    """A table with a row for each `key`, in the order in which they come."""
    peers = [peer for peer in PEERS if any(peer in r.peers for r in results)]
    titles = [heading, "cases", *VERDICTS, *(f"{peer} right" for peer in peers)]
    lines = [f"| {' | '.join(titles)} |", f"|---{'|--:' * (len(titles) - 1)}|"]
    for name in [*dict.fromkeys(map(key, results)), "all"]:
        group = [r for r in results if name == "all" or key(r) == name]
        verdicts = Counter(r.verdict for r in group)
        right = (sum(r.peers.get(peer) == "right" for r in group) for peer in peers)
        cells = [name, len(group), *(verdicts[v] for v in VERDICTS), *right]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def by_category(results: Sequence[Result]) -> str:
    """Categories of onnx's tests."""
    return counts(results, "category", lambda r: r.category)


def by_opset(results: Sequence[Result]) -> str:
    """Domains and opsets."""
    ordered = sorted(results, key=lambda r: (r.domain, r.opset))
    return counts(ordered, "domain and opset", lambda r: f"{r.domain} {r.opset}")


def summary(results: Sequence[Result]) -> str:
    """All for a terminal: counts, times, and the cases that are not right."""
    times = [r.milliseconds for r in results if r.verdict == "right"] or [0.0]
    others = [f"{r.verdict:8}{r.name}: {r.reason}" for r in results if r.verdict != "right"]
    timing = f"compile: mean {mean(times):.0f} ms, median {median(times):.0f} ms, most {max(times):.0f} ms"
    return "\n\n".join(["\n".join(others), by_category(results), by_opset(results), timing])


def operators(results: Sequence[Result]) -> str:
    """The operators of the importer's table, the versions of each that it has, and the element types of the inputs of
    cases that came out right."""
    versions: dict[tuple[str, str], set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.deprecated and TABLE.find(schema.domain, schema.name, schema.since_version) is not None:
            versions[schema.domain, schema.name].add(schema.since_version)
    types: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result in results:
        if result.verdict == "right":
            domain = "" if result.domain == "ai.onnx" else result.domain
            types[domain, result.operator].update(result.types)
    lines = ["| operator | versions, by opset | inputs of cases that are right |", "|---|---|---|"]
    order = [*dtypes.BY_NAME]
    for key in sorted(versions):
        listed = ", ".join(sorted(types[key], key=order.index)) or "no case"
        lines.append(f"| {'.'.join(filter(None, key))} | {', '.join(map(str, sorted(versions[key])))} | {listed} |")
    return "\n".join(lines)


def write_tables(results: Sequence[Result]) -> None:
    """Put the tables into the documentation."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnx", "onnxruntime"))
    tables = {
        "categories": f"{by_category(results)}\n\n{versions}.",
        "opsets": by_opset(results),
        "exceptions": exceptions(),
        "operators": operators(results),
    }
    for name, table in tables.items():
        SUPPORT.write_text(replaced(SUPPORT, name, table))


def exceptions() -> str:
    """The expected exceptions by reason."""
    groups: dict[tuple[str, str], int] = Counter(read_exceptions().values())
    lines = ["| cases | outcome | why |", "|--:|---|---|"]
    ordered = sorted(groups.items(), key=lambda group: (-group[1], group[0]))
    lines += [f"| {count} | {verdict} | {why} |" for (verdict, why), count in ordered]
    return "\n".join(lines)
