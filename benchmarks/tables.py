"""Remake the tables of README.md: ``python -m benchmarks.tables [latency footprint support tasks]``.

Needs a quiet machine and takes some minutes. Each table stands between two comment lines that name it.
"""

from __future__ import annotations

import argparse
import platform
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import compare, footprint, support, tasks
from benchmarks.models import cases
from ingot.compiler import compile

README = Path(__file__).resolve().parents[1] / "README.md"


def machine() -> str:
    """The processor and the versions that the figures belong to."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    peers = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "openvino"))
    return f"{model}, Python {platform.python_version()}, {peers}, Ingot with `--target native`."


def latency() -> str:
    """Latency at one and two threads."""
    rows = []
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            artifact = Path(folder) / "model.ingot"
            compile(case.path, target="native").save(artifact)
            for threads in (1, 2):
                peers = ("onnxruntime", "openvino")
                rows.append(compare.measure(case, artifact, threads, peers, rounds=15, bound=False))
    return f"{compare.table(rows)}\n\n{machine()}"


def sizes() -> str:
    """Compile time, sizes, start-up and memory."""
    rows = [footprint.measure(case, "native") for case in cases()]
    note = "Cells with three figures are Ingot / ONNX Runtime / OpenVINO, one thread, medians of fresh processes."
    return f"{footprint.table(rows)}\n\n{note}"


TABLES: Mapping[str, Callable[[], str]] = {
    "latency": latency,
    "footprint": sizes,
    "support": support.table,
    "tasks": tasks.table,
}


def replaced(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers of table `name` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no markers for the table {name!r}")
    return pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"which: {', '.join(TABLES)}; default all")
    for name in parser.parse_args(arguments).tables or TABLES:
        table = TABLES[name]()
        print(table, flush=True)
        README.write_text(replaced(README.read_text(), name, table))


if __name__ == "__main__":
    main()
