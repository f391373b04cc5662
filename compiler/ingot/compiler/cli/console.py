"""What commands write: results to stdout as text or JSON, progress to stderr."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TextIO, cast

from ingot.compiler.cli.failures import printable
from ingot.compiler.environment import Environment

PATIENCE = 1.0
"""Seconds between lines of progress where the output is no terminal; what takes less says nothing."""


@dataclass
class Progress:
    """What is being done now: one line that is overwritten on a terminal, else a line now and then.

    `verbose` writes every message, `quiet` none. Times are seconds since the start.
    """

    stream: TextIO
    verbose: bool = False
    quiet: bool = False
    _started: float = field(default_factory=perf_counter)
    _written: float = field(default_factory=perf_counter)
    _drawn: bool = False

    def __call__(self, message: str) -> None:
        """Say what is being done."""
        if self.quiet:
            return
        now = perf_counter()
        line = f"[{now - self._started:5.1f} s] {printable(message)}"
        if self.verbose:
            self.stream.write(line + "\n")
        elif self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[K" + line[:width])
            self._drawn = True
        elif now - self._written >= PATIENCE:
            self.stream.write(line + "\n")
            self._written = now
        self.stream.flush()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    def close(self) -> None:
        """Take the overwritten line away."""
        if self._drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self._drawn = False


@dataclass(frozen=True)
class Console:
    """The streams of one command and how it was asked to talk."""

    out: TextIO
    err: TextIO
    json: bool = False
    verbose: bool = False
    quiet: bool = False
    environment: Environment = field(default_factory=Environment)

    def result(self, record: Mapping[str, Any], lines: Iterable[str]) -> None:
        """The result of the command: `record` as JSON or `lines` as text; with --quiet no text."""
        if self.json:
            self.out.write(json.dumps(_plain(record), allow_nan=False, indent=1) + "\n")
        elif not self.quiet:
            self.out.writelines(f"{printable(line)}\n" for line in lines)

    def note(self, line: str) -> None:
        """Something that the user should know, on stderr, kept apart from the result."""
        if not self.quiet:
            self.err.write(f"ingot: {printable(line)}\n")

    def progress(self) -> Progress:
        """A new line of progress."""
        return Progress(self.err, verbose=self.verbose, quiet=self.quiet)


def standard_console(**options: Any) -> Console:
    """A console on the streams of the process as they are now."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot show is no reason to fail
    return Console(sys.stdout, sys.stderr, **options)


def _plain(value: Any) -> Any:
    """`value` as JSON can say it: NaN and infinities become null, tuples lists, other things text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case _ if isinstance(value, Mapping):
            items = cast("Mapping[Any, Any]", value).items()
            return {str(key): _plain(item) for key, item in items}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in cast("Iterable[Any]", value)]
        case _:
            return str(value)


def bytes_text(count: int) -> str:
    """A size for people, in powers of 1000: ``1.2 MB``."""
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def seconds_text(seconds: float) -> str:
    """A time for people, with three digits: ``12.3 ms``."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            value = seconds * factor
            digits = max(0, 2 - int(math.log10(value))) if value >= 1 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def table(rows: list[tuple[str, ...]], *, right: Iterable[int] = ()) -> list[str]:
    """Rows as lines of aligned columns; the columns in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    aligned = set(right)
    return [
        "  ".join(
            cell.rjust(width) if column in aligned else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
