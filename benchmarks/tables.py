"""Remake the tables of the documentation: ``python -m benchmarks.tables [latency footprint support tasks ...]``.

Needs a quiet machine; the tables of all models take an hour, that of all peers several. Each table stands between two
comment lines that name it, in README.md (a few models), docs/models.md (all) or docs/performance.md (kernels). What the
long ones are made of lies in benchmarks/results, row by row as it is measured: ``--models`` measures some models again
and keeps the other rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import (
    algorithms,
    compare,
    comparison,
    footprint,
    mixed,
    neighbour,
    pruning,
    quantised,
    quantization,
    roofline,
    support,
    tasks,
    weights,
)
from benchmarks.entrants import GATING, TITLES
from benchmarks.models import Case, cases, further, missing, short
from benchmarks.peers.catalogue import PEERS

ROOT = Path(__file__).resolve().parents[1]
README, MODELS, PERFORMANCE = ROOT / "README.md", ROOT / "docs/models.md", ROOT / "docs/performance.md"
QUANTIZATION, WEIGHTS = ROOT / "docs/quantization.md", ROOT / "docs/weights.md"
PRUNING = ROOT / "docs/pruning.md"
RESULTS = ROOT / "benchmarks/results"
# Beside those of the README, the models whose compile time, start and memory are measured: each takes half a minute.
SIZED = ("mobilenet_v2_tf2_qdq", "yolox_nano", "zoo/resnet50", "zoo/vgg19", "zoo/bert_base")


def machine(engines: Iterable[str] = tuple(GATING)) -> str:
    """The processor and the versions that the figures of these engines belong to."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    peers = ", ".join(PEERS[name].label if name in PEERS else f"{name} {version(name)}" for name in engines)
    return f"{model}, Python {platform.python_version()}, {peers}, Ingot with `--target native`."


def latency(
    chosen: Iterable[Case], rounds: int, engines: Sequence[str] = tuple(GATING), threads: Sequence[int] = (1, 2)
) -> str:
    """Latency beside engines."""
    rows = [row for case in chosen for row in compare.measured(case, "native", threads, engines, rounds=rounds)]
    return f"{comparison.table(rows, engines)}\n\n{machine(engines)}"


def recorded(path: Path, wanted: Sequence[str], rounds: int, engines: Sequence[str], threads: Sequence[int]) -> str:
    """Latency of all models beside engines, from the rows of `path`. Those of models with one of the `wanted` in their
    names (default: all) are measured first, each kept as soon as it is there."""
    every = (*cases(), *further())
    order = {case.name: place for place, case in enumerate(every)}
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if wanted and path.exists() else []
    for case in every:
        if not wanted or any(text == case.name or (text in case.name and text not in order) for text in wanted):
            found = list(compare.measured(case, "native", threads, engines, rounds=rounds))
            rows = [row for row in rows if row["model"] != case.name and row["model"] in order] + found
            rows.sort(key=lambda row: order[row["model"]])  # stable: threads stay in their order
            kept = path.with_suffix(".new")
            kept.write_text(json.dumps(rows, indent=1) + "\n")
            kept.replace(path)
    there = {row["model"] for row in rows}
    absent = ", ".join(name for name in order if name not in there)
    note = f"\n\nNot measured yet: {absent}." if absent else ""
    return f"{comparison.table(rows, engines)}\n\n{machine(engines)}{note}"


def beside(chosen: Iterable[Case], engines: Sequence[str], rounds: int) -> str:
    """Two threads beside a busy process."""
    found = (neighbour.measured(case, "native", engines, rounds=rounds, limit=900) for case in chosen)
    return f"{neighbour.table([row for rows in found for row in rows])}\n\n{machine(engines)}"


def sizes(chosen: Iterable[Case], runs: int = 7) -> str:
    """Compile time, sizes, start-up and memory."""
    rows = [footprint.measure(case, "native", runs) for case in chosen]
    note = "Cells with three figures are Ingot / ONNX Runtime / OpenVINO, one thread, medians of fresh processes."
    return f"{footprint.table(rows)}\n\n{note}"


def sized() -> tuple[Case, ...]:
    """The models of the README and some larger ones."""
    return (*short(), *(case for case in cases() if case.name in SIZED))


def agreement(chosen: Iterable[Case]) -> str:
    """Every model beside ONNX Runtime; what was not there to compare is named."""
    absent = missing()
    return support.agreement_table(chosen) + (f"\n\nNot there: {', '.join(absent)}." if absent else "")


OTHERS = tuple(name for name in TITLES if name != "ingot")
TABLES: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "latency": (README, lambda: latency(short(), 15)),
    "footprint": (README, lambda: sizes(short())),
    "support": (README, support.table),
    "tasks": (README, tasks.table),
    "quantization": (QUANTIZATION, quantization.table),
    "mixed": (QUANTIZATION, mixed.table),
    "weights": (WEIGHTS, weights.table),
    "pruning": (PRUNING, pruning.table),
    "models agreement": (MODELS, lambda: agreement(cases())),
    "models neighbour": (MODELS, lambda: beside(short(), OTHERS, 5)),
    "models footprint": (MODELS, lambda: sizes(sized())),
    "models quantised": (MODELS, quantised.report),
    "models roofline": (PERFORMANCE, lambda: roofline.report(cases())[0]),
    "models algorithms": (PERFORMANCE, lambda: algorithms.table(map(algorithms.measured, algorithms.TRIALS))),
}
RECORDED: Mapping[str, tuple[Path, Callable[[Sequence[str]], str]]] = {
    "models latency": (MODELS, lambda wanted: recorded(RESULTS / "latency.json", wanted, 5, tuple(GATING), (1, 2))),
    "models peers": (MODELS, lambda wanted: recorded(RESULTS / "peers.json", wanted, 5, OTHERS, (1,))),
}
"""Tables of rows that are kept: each is remade for models with one of some texts in their names, or for all."""


def replaced(path: Path, name: str, table: str) -> str:
    """The text of `path` with what stands between the markers of table `name` replaced."""
    text = path.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{path} has no markers for the table {name!r}")
    return pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*TABLES, *RECORDED]
    parser.add_argument("tables", nargs="*", help=f"which: {', '.join(names)}; default all")
    parser.add_argument("--models", default="", help="names of models or texts in them, comma separated; default all")
    options = parser.parse_args(arguments)
    wanted, models = options.tables or names, [text for text in options.models.split(",") if text]
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"there is no table {', '.join(map(repr, unknown))}; there are {', '.join(names)}")
    if models and (whole := [name for name in wanted if name not in RECORDED]):
        parser.error(f"--models is for {' and '.join(RECORDED)}, not for {whole[0]}, which is always remade whole")
    for name in wanted:
        if name in RECORDED:
            path, remake = RECORDED[name]
            table = remake(models)
        else:
            path, make = TABLES[name]
            table = make()
        print(table, flush=True)
        path.write_text(replaced(path, name, table))


if __name__ == "__main__":
    main()
