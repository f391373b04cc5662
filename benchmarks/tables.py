"""Remake the tables of the documentation: ``python -m benchmarks.tables [latency footprint support tasks ...]``.

Needs a quiet machine; the tables of all models take an hour, that of all peers several. Each table stands between two
comment lines that name it, in README.md (a few models) or docs/models.md (all).
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import compare, comparison, footprint, neighbour, support, tasks
from benchmarks.entrants import GATING, TITLES
from benchmarks.models import Case, cases, further, missing, short
from benchmarks.peers.catalogue import PEERS

ROOT = Path(__file__).resolve().parents[1]
README, MODELS = ROOT / "README.md", ROOT / "docs/models.md"
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
    "models agreement": (MODELS, lambda: agreement(cases())),
    "models latency": (MODELS, lambda: latency((*cases(), *further()), 5)),
    "models peers": (MODELS, lambda: latency((*cases(), *further()), 5, OTHERS, (1,))),
    "models neighbour": (MODELS, lambda: beside(short(), OTHERS, 5)),
    "models footprint": (MODELS, lambda: sizes(sized())),
}


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
    parser.add_argument("tables", nargs="*", help=f"which: {', '.join(TABLES)}; default all")
    wanted = parser.parse_args(arguments).tables or list(TABLES)
    if unknown := [name for name in wanted if name not in TABLES]:
        parser.error(f"there is no table {', '.join(map(repr, unknown))}; there are {', '.join(TABLES)}")
    for name in wanted:
        path, make = TABLES[name]
        table = make()
        print(table, flush=True)
        path.write_text(replaced(path, name, table))


if __name__ == "__main__":
    main()
