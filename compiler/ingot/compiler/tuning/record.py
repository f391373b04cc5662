"""Tuning records: for processors and levels the schedules of kernels by their signatures, in a JSON file.

    {"format": 1, "machines": [{"processor": "...", "target": "native", "features": ["avx2", ...],
      "kernels": {"conv, f32[...], ...": [{"algorithm": "direct", "width": 16, ..., "measured": 31.2}, ...]}}]}

The first option of a kernel is the one that is used; times are microseconds of one launch on one thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from ingot.compiler.ir.templates import Order
from ingot.compiler.lower.schedules import Algorithm, Limit, Option, Schedule
from ingot.runtime import records
from ingot.runtime.errors import ArtifactError
from ingot.runtime.replacement import replaced

FORMAT = 1
MOST_BYTES = 64 << 20
MOST_OPTIONS = 256  # of a kernel
MOST_SIGNATURE = 4096  # characters
_LARGEST = 1 << 40
_MOST_MICROSECONDS = 1e12

Kernels = Mapping[str, tuple[Option, ...]]


class TuningError(ValueError):
    """A tuning record that cannot be read, or measurements that cannot be made."""


class TuningWarning(UserWarning):
    """A tuning record holds nothing for this machine."""


@dataclass(frozen=True)
class Machine:
    """What measurements hold for: the processor by name, the target, and the features that its code may use."""

    processor: str
    target: str
    features: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.processor} (target {self.target})"


@dataclass(frozen=True)
class Record:
    """The options of kernels, the one to use first, by machine and signature."""

    machines: Mapping[Machine, Kernels] = field(default_factory=dict[Machine, Kernels])

    def kernels(self, machine: Machine) -> Kernels:
        """What is known for a machine."""
        return self.machines.get(machine, {})

    def joined(self, machine: Machine, kernels: Kernels) -> Record:
        """This record with `kernels` in the place of what it knew of them."""
        return Record({**self.machines, machine: {**self.kernels(machine), **kernels}})

    def encode(self) -> str:
        """The file's text; the same record gives the same text."""
        machines = [
            {**asdict(machine), "kernels": {name: [_row(o) for o in kernels[name]] for name in sorted(kernels)}}
            for machine, kernels in sorted(self.machines.items(), key=lambda item: str(item))
        ]
        return json.dumps({"format": FORMAT, "machines": machines}, ensure_ascii=False, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write the file whole. Raises OSError."""
        with replaced(path) as partial:
            partial.write_text(self.encode(), encoding="utf-8")


def read_record(path: Path) -> Record:
    """The record in a file. Raises TuningError for a file that is not there or holds anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise TuningError(f"{path}: {error.strerror or error}; a tuning record is made by --tune") from error
    try:
        return parse_record(data)
    except ArtifactError as error:
        raise TuningError(f"{path}: {error}; tune again into another file") from error


def parse_record(data: bytes) -> Record:
    """The record that `Record.encode` wrote. Raises ArtifactError for anything else, with the place."""
    top = records.Record("the tuning record", records.decode(data, "the tuning record", MOST_BYTES))
    version = top.integer("format", 0, _LARGEST)
    if version != FORMAT:
        raise ArtifactError(f"the tuning record has format {version}, this version reads {FORMAT}")
    machines: dict[Machine, Kernels] = {}
    for number, item in enumerate(top.sequence("machines")):
        each = records.Record(f"machines[{number}]", item)
        names = each.sequence("features")
        features = tuple(records.text(name, f"{each.where}.features", 64) for name in names)
        machine = Machine(each.text("processor", longest=256), each.text("target", longest=64), features)
        if machine in machines:
            raise ArtifactError(f"{each.where} is there twice")
        kernels = records.Record(f"{each.where}.kernels", each.take("kernels"))
        machines[machine] = {name: _options(kernels, name) for name in kernels.names()}
        each.end()
    top.end()
    return Record(machines)


def _options(kernels: records.Record, signature: str) -> tuple[Option, ...]:
    where = f"{kernels.where}[{signature[:80]!r}]"
    records.text(signature, where, MOST_SIGNATURE)
    rows = kernels.sequence(signature)
    if not 1 <= len(rows) <= MOST_OPTIONS:
        raise ArtifactError(f"{where} has {len(rows)} options; there are 1 to {MOST_OPTIONS}")
    return tuple(_option(records.Record(f"{where}[{number}]", row)) for number, row in enumerate(rows))


def _option(row: records.Record) -> Option:
    schedule = Schedule(
        cast(Algorithm, row.choice("algorithm", get_args(Algorithm))),
        row.integer("width", 1, _LARGEST),
        row.integer("tile_rows", 1, _LARGEST),
        row.integer("row_block", 1, _LARGEST),
        row.integer("panel_block", 1, _LARGEST),
        cast(Order, row.choice("order", get_args(Order))),
    )
    limit = cast(Limit, row.choice("limit", get_args(Limit)))
    predicted, measured = _time(row, "predicted"), _time(row, "measured", missing=True)
    row.end()
    assert predicted is not None
    return Option(schedule, predicted, limit, measured)


def _time(row: records.Record, key: str, *, missing: bool = False) -> float | None:
    value = row.take(key)
    if value is None and missing:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_MICROSECONDS:
        raise ArtifactError(f"{row.where}.{key} is no number of microseconds")
    return float(value)


def _row(option: Option) -> dict[str, Any]:
    times = {"predicted": option.predicted, "limit": option.limit, "measured": option.measured}
    return {**asdict(option.schedule), **times}
