"""Outcomes as records, the list of what is not right, and the table for the documentation."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.conformance.report import SUPPORT
from benchmarks.grid.batches import Outcome, Verdict
from benchmarks.tables import replaced
from ingot.runtime import dtypes

EXCEPTIONS = Path(__file__).with_name("exceptions.txt")
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "refused", "failed", "unjudged")
ALL, SEPARATOR = "*", " | "
LINE = re.compile(r"(\S+) (\S+) \[(.*?)\] (\w+): (.+)")


@dataclass(frozen=True)
class Record:
    """An outcome without its case."""

    operator: str
    types: str
    variant: str
    verdict: Verdict
    reason: str
    oracle: str

    @classmethod
    def of(cls, outcome: Outcome) -> Record:
        """The record of an outcome."""
        case = outcome.case
        names = case.operator, case.types, case.example.variant
        return cls(*names, outcome.verdict, outcome.reason, outcome.oracle)

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def read_records(path: Path) -> list[Record]:
    """Records that were written a line each."""
    return [Record(**json.loads(line)) for line in path.read_text().splitlines()]


def listed(records: Sequence[Record]) -> list[str]:
    """A line ``operator types [variants] verdict: reason`` for each operator, version, set of types and verdict that is
    not "right", sorted; ``*`` stands for all variants. Of several reasons the first is given."""
    variants: dict[tuple[str, str], set[str]] = defaultdict(set)
    groups: dict[tuple[str, str, Verdict], list[Record]] = defaultdict(list)
    for record in records:
        variants[record.operator, record.types].add(record.variant)
        groups[record.operator, record.types, record.verdict].append(record)
    lines: list[str] = []
    for (operator, types, verdict), group in groups.items():
        if verdict == "right":
            continue
        names = sorted(r.variant for r in group)
        spelled = ALL if len(names) == len(variants[operator, types]) else SEPARATOR.join(names)
        lines.append(f"{operator} {types} [{spelled}] {verdict}: {_brief(group[0].reason)}")
    return sorted(lines)


def _brief(reason: str) -> str:
    """The part of a reason that does not depend on the model: at most 120 characters."""
    text = reason.partition("; element types supported")[0].partition("; ")[0]
    for mark in (", opset ",):
        if mark in text:
            text = text.partition(mark)[2].partition(": ")[2] or text
    return text[:120].rstrip()


def write_exceptions(records: Sequence[Record]) -> None:
    """Put what came out into the list, in the place of what it says about the operators that `records` has."""
    fresh = {record.operator for record in records}
    kept = [line for line in _lines() if line.partition(" ")[0] not in fresh] if EXCEPTIONS.exists() else []
    header = "# What is not right in the grid, and why: python -m benchmarks.grid --accept\n"
    EXCEPTIONS.write_text(header + "\n".join(sorted([*kept, *listed(records)])) + "\n")


def _lines() -> list[str]:
    return [line for line in EXCEPTIONS.read_text().splitlines() if line and not line.startswith("#")]


def read_exceptions() -> dict[tuple[str, str], list[tuple[str, Verdict]]]:
    """What is expected by operator and types: variants (``*`` for all) and verdict. ValueError for a line that says
    nothing of the kind, or lines that are not sorted."""
    found: dict[tuple[str, str], list[tuple[str, Verdict]]] = defaultdict(list)
    lines = _lines()
    if lines != sorted(lines):
        raise ValueError(f"{EXCEPTIONS.name} is not sorted")
    for line in lines:
        match = LINE.fullmatch(line)
        known: Verdict | None = next((v for v in VERDICTS[1:] if match is not None and match[4] == v), None)
        if match is None or known is None:
            raise ValueError(f"{EXCEPTIONS.name}: {line!r} is not 'operator types [variants] verdict: reason'")
        found[match[1], match[2]].extend((variant, known) for variant in match[3].split(SEPARATOR))
    return dict(found)


def surprises(records: Iterable[Record]) -> Iterator[str]:
    """A line for each case that comes out otherwise than the list says, for the better or the worse."""
    expected = read_exceptions()
    for r in records:
        wanted = dict(expected.get((r.operator, r.types), ()))
        verdict = wanted.get(r.variant, wanted.get(ALL, "right"))
        if r.verdict != verdict:
            yield f"{r.operator} {r.types} {r.variant}: {r.verdict}, {verdict} was expected. {r.reason}".rstrip()


def summary(records: Sequence[Record]) -> str:
    """Counts by verdict and by oracle."""
    verdicts, oracles = Counter(r.verdict for r in records), Counter(r.oracle for r in records if r.oracle)
    counted = ", ".join(f"{verdicts[v]} {v}" for v in VERDICTS)
    judges = ", ".join(f"{count} by {name}" for name, count in oracles.most_common())
    return f"{len(records)} cases: {counted}. Judged: {judges}."


def table(records: Sequence[Record]) -> str:
    """A row an operator: versions, the element types of which all or some cases are right, and counts."""
    order = {d.name: i for i, d in enumerate(dtypes.BY_NAME.values())}
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.operator.rpartition("-")[0]].append(record)
    lines = ["| operator | versions | element types that run | refused | right | others |", "|---|---|---|---|--:|--:|"]
    for name in sorted(groups):
        group = groups[name]
        versions = sorted({int(r.operator.rpartition("-")[2]) for r in group})
        kinds = {v: {k for r in group if r.verdict == v for k in _kinds(r.types)} for v in VERDICTS}
        runs = sorted(kinds["right"], key=lambda k: order.get(k, 99))
        refused = sorted(set().union(*(kinds[v] for v in VERDICTS[1:])) - kinds["right"])
        counts = Counter(r.verdict for r in group)
        others = ", ".join(f"{counts[v]} {v}" for v in VERDICTS[1:] if counts[v])
        cells = name, ", ".join(map(str, versions)), ", ".join(runs), ", ".join(refused), counts["right"], others
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _kinds(types: str) -> list[str]:
    return [part.rpartition("=")[2] for part in types.split(",")]


def write_table(records: Sequence[Record]) -> None:
    """Put the summary and the table into the documentation."""
    SUPPORT.write_text(replaced(SUPPORT, "grid", f"{summary(records)}\n\n{table(records)}"))
