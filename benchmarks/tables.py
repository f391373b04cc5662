"""Remake the tables of the documentation: ``python -m benchmarks.tables [latency footprint support tasks ...]``.

Needs a quiet machine; the tables of all models take an hour. Each table stands between two comment lines that name it,
in README.md (a few models) or docs/models.md (all).
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import compare, footprint, support, tasks
from benchmarks.models import Case, cases, missing, short

ROOT = Path(__file__).resolve().parents[1]
README, MODELS = ROOT / "README.md", ROOT / "docs/models.md"
# Beside those of the README, the models whose compile time, start and memory are measured: each takes half a minute.
SIZED = ("mobilenet_v2_tf2_qdq", "yolox_nano", "zoo/resnet50", "zoo/vgg19", "zoo/bert_base")


def machine() -> str:
    """The processor and the versions that the figures belong to."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    peers = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino"))
    return f"{model}, Python {platform.python_version()}, {peers}, Ingot with `--target native`."


def latency(chosen: Iterable[Case], rounds: int) -> str:
    """Latency at one and two threads."""
    peers = ("onnxruntime", "openvino")
    rows = [row for case in chosen for row in compare.measured(case, "native", (1, 2), peers, rounds=rounds)]
    return f"{compare.table(rows)}\n\n{machine()}"


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


TABLES: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "latency": (README, lambda: latency(short(), 15)),
    "footprint": (README, lambda: sizes(short())),
    "support": (README, support.table),
    "tasks": (README, tasks.table),
    "models agreement": (MODELS, lambda: agreement(cases())),
    "models latency": (MODELS, lambda: latency(cases(), 5)),
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
