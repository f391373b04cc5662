"""What an artifact says of the schedules of its kernels: the member that ``ingot inspect --kernels`` reads.

A JSON array with ``[program, count, signature, [kernel ...], [[algorithm, width, rows of a tile, rows of a chunk,
panels of a chunk, order, predicted, limit, measured] ...]]`` for each signature, the chosen option first; times in
microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast, get_args

from ingot.compiler.ir.templates import Order
from ingot.compiler.lower.schedules import Algorithm, Decision, Limit, Option, Schedule
from ingot.runtime import records
from ingot.runtime.errors import ArtifactError

MOST_BYTES = 20_000
"""What is longer is cut: options that were not chosen go, then all of it."""


@dataclass(frozen=True)
class Explanation:
    """The options of `count` equal groups of a program (the general one is 0, the variants follow), chosen first;
    `kernels` compute them all."""

    program: int
    count: int
    signature: str
    kernels: tuple[str, ...]
    options: tuple[Option, ...]

    @property
    def row(self) -> list[Any]:
        """How it is stored."""
        return [self.program, self.count, self.signature, list(self.kernels), [_row(option) for option in self.options]]


def explanations(
    programs: Sequence[Iterable[Decision]], measured: Mapping[str, tuple[Option, ...]]
) -> tuple[Explanation, ...]:
    """What was decided in each program, signature by signature; `measured` has the options of those that were tuned."""
    found: dict[tuple[int, str], Explanation] = {}
    for program, decisions in enumerate(programs):
        for each in decisions:
            known = found.get((program, each.signature))
            kernels = (*(known.kernels if known else ()), *each.kernels)
            options = measured.get(each.signature, each.options)
            if options[0].schedule != each.options[0].schedule:  # rows that lie apart, which Strassen's does not take
                options = each.options
            count = 1 + (known.count if known else 0)
            found[program, each.signature] = Explanation(program, count, each.signature, kernels, options)
    return tuple(found.values())


def encode(items: Sequence[Explanation], most: int = MOST_BYTES) -> bytes:
    """The member, empty where it would have more than `most` bytes."""
    for count in (None, 3, 1):
        rows = [[*item.row[:-1], item.row[-1][:count]] for item in items]
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= most:
            return text if items else b""
    return b""


def decode(data: bytes) -> tuple[Explanation, ...]:
    """Read the member. Raises ArtifactError for anything that `encode` does not write."""
    found: list[Explanation] = []
    for number, item in enumerate(records.sequence(records.decode(data, "the list of schedules", MOST_BYTES), "it")):
        where = f"schedules[{number}]"
        row = records.sequence(item, where)
        if len(row) != 5:
            raise ArtifactError(f"{where} has {len(row)} parts, not 5")
        kernels = tuple(records.text(name, f"{where}.kernels", 4096) for name in records.sequence(row[3], where))
        options = tuple(_option(option, where) for option in records.sequence(row[4], where))
        if not options:
            raise ArtifactError(f"{where} has no options")
        program, count = (records.integer(value, where, 0, 1 << 31) for value in row[:2])
        found.append(Explanation(program, max(count, 1), records.text(row[2], where, 4096), kernels, options))
    return tuple(found)


def _option(item: object, where: str) -> Option:
    row = records.sequence(item, where)
    known = (get_args(Algorithm), get_args(Order), get_args(Limit))
    if len(row) != 9 or any(row[place] not in names for place, names in zip((0, 5, 7), known, strict=True)):
        raise ArtifactError(f"{where} has an option that is none")
    sizes = [records.integer(value, where, 1, 1 << 40) for value in row[1:5]]
    times = [row[6], row[8] if row[8] is not None else 0]
    if not all(isinstance(time, int | float) and 0 <= time < 1e15 for time in times):
        raise ArtifactError(f"{where} has a time that is none")
    schedule = Schedule(cast(Algorithm, row[0]), sizes[0], sizes[1], sizes[2], sizes[3], cast(Order, row[5]))
    return Option(schedule, cast(float, row[6]), cast(Limit, row[7]), cast("float | None", row[8]))


def _row(option: Option) -> list[Any]:
    return [*astuple(option.schedule), round(option.predicted, 1), option.limit, option.measured]
