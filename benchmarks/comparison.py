"""Tables of latency: a row a model and number of threads, a column an engine, a note for what has no figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.entrants import GATING, TITLES

WRONG = 1e-2  # of the output's scale; what quantised models may differ by is larger
WORK = 100.0  # MFLOP; below, what a call costs decides
HALVES: Mapping[str, str] = {"cnn": "CNNs", "transformer": "Transformers"}
Row = Mapping[str, Any]


def table(rows: Sequence[Row], names: Sequence[str] = ("ingot", *GATING)) -> str:
    """The rows as a Markdown table with the engines `names` (Ingot first), the notes it refers to, and the means. Cells
    are milliseconds, for peers that do not gate how many times faster Ingot is, and in brackets the error."""
    others = [name for name in names if name != "ingot"]
    notes: list[str] = []
    gating = [name for name in others if name in GATING]
    heads = ["model", "threads", "Ingot ms", *(f"{TITLES[n]} ms" for n in others), *(f"× {TITLES[n]}" for n in gating)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        for suffix in ("", " (bound)"):
            if suffix and f"ingot{suffix}" not in row.get("milliseconds", {}):
                continue
            cells = [f"{row['model']}{', bind' if suffix else ''}", str(row.get("threads", "–"))]
            cells += [_time(row, name, suffix, notes) for name in ("ingot", *others)]
            speedup = row.get("speedup", {})
            cells += [f"{speedup[n + suffix]:.2f}" if n + suffix in speedup else "–" for n in gating]
            lines.append(f"| {' | '.join(cells)} |")
    parts = ["\n".join(lines)]
    if notes:
        parts.append("\n".join(f"[{number}] {note}  " for number, note in enumerate(notes, 1)))
    if told := {row["model"]: row["imprecise"] for row in rows if row.get("imprecise")}:
        listed = "; ".join(f"{model} ({why})" for model, why in told.items())
        parts.append(f"Errors against ONNX Runtime instead of the model in double precision: {listed}.")
    if said := list(means(rows)):
        parts.append("\n".join(f"- {line}" for line in said))
    return "\n\n".join(parts)


def _time(row: Row, name: str, suffix: str, notes: list[str]) -> str:
    """Milliseconds and error, or the number of the note that says why there are none."""
    if name in row["refused"]:
        note = f"{TITLES[name]}: {row['refused'][name]}"
        if note not in notes:
            notes.append(note)
        return f"– [{notes.index(note) + 1}]"
    if name + suffix not in row["milliseconds"]:
        return "–"
    seconds = row["milliseconds"][name + suffix] / 1e3
    tokens = f", {row['tokens'] / seconds:.0f} tokens/s" if row.get("tokens") else ""
    speedup = f", ×{row['speedup'][name + suffix]:.2f}" if name not in ("ingot", *GATING) else ""
    return f"{seconds * 1e3:.3f}{speedup} ({_error(row, name)}{tokens})"


def _error(row: Row, name: str) -> str:
    error = row["error"][name]
    text = "other shapes or NaN" if math.isinf(error) else f"{error:.0e}"
    return text if not wrong(row, name) else f"WRONG: {text}"


def wrong(row: Row, name: str) -> bool:
    """Whether an engine computes something else."""
    return row["error"][name] > WRONG and not (row.get("quantised") and math.isfinite(row["error"][name]))


def means(rows: Iterable[Row]) -> Iterator[str]:
    """For each half and number of threads the geometric mean of the speedups over the faster gating peer, over models
    of more than `WORK`."""
    rows = [row for row in rows if row.get("mflop", 0.0) > WORK]
    for kind, title in HALVES.items():
        for threads in sorted({row["threads"] for row in rows}):
            found = [
                (least, row["model"])
                for row in rows
                if row["kind"] == kind and row["threads"] == threads and (least := over_gating(row)) is not None
            ]
            if not found:
                continue
            mean = math.exp(math.fsum(math.log(speedup) for speedup, _ in found) / len(found))
            lowest, model = min(found)
            faster = " and ".join(TITLES[name] for name in GATING)
            rows_text = "1 row" if len(found) == 1 else f"{len(found)} rows"
            yield (
                f"{title} above {WORK:.0f} MFLOP, {threads} thread{'s' * (threads > 1)}: geometric mean {mean:.2f} "
                f"against the faster of {faster}, over {rows_text}; lowest {lowest:.2f} ({model})"
            )


def over_gating(row: Row) -> float | None:
    """How many times faster Ingot is than the faster gating peer that computes the same; None without any."""
    times = [row["speedup"][name] for name in GATING if name in row["speedup"] and not wrong(row, name)]
    return min(times, default=None)
