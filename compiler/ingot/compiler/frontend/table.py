"""The table of operators: (domain, ONNX operator) -> functions by the opset version that introduced them.

Each family of operators has its own `Table`; `operators/__init__.py` merges them. A row is a function that takes the
node's context and returns its results in ONNX order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results

Row: TypeAlias = Callable[[Context], Results]


MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"
TRAINING = "ai.onnx.preview.training"


class Table:
    """Rows of one family, or of all. Rows are entered for operators of `domain` where they name no other."""

    def __init__(self, families: Iterable[Table] = (), *, domain: str = "") -> None:
        self.domain = domain
        self._rows: dict[tuple[str, str], dict[int, Row]] = {}
        for family in families:
            for (domain, op_type), versions in family._rows.items():
                for since, row in versions.items():
                    self.add(op_type, row, since, domain)

    def add(self, op_type: str, row: Row, since: int = 1, domain: str | None = None) -> None:
        """Enter a row that serves `op_type` from opset `since` up to the next version entered."""
        versions = self._rows.setdefault((self.domain if domain is None else domain, op_type), {})
        if since in versions:
            raise ValueError(f"{op_type} has two rows since opset {since}")
        versions[since] = row

    def onnx_op(self, op_type: str, *, since: int = 1, domain: str | None = None) -> Callable[[Row], Row]:
        """Decorator form of `add`."""

        def enter(row: Row) -> Row:
            self.add(op_type, row, since, domain)
            return row

        return enter

    def find(self, domain: str, op_type: str, opset: int) -> Row | None:
        """The newest row that is not newer than `opset`, None when there is none."""
        versions = self._rows.get((domain, op_type), {})
        since = max((v for v in versions if v <= opset), default=None)
        return None if since is None else versions[since]

    def knows(self, domain: str, op_type: str) -> bool:
        """Whether there is a row for any opset."""
        return (domain, op_type) in self._rows

    def domains(self) -> frozenset[str]:
        """Those of which there is a row for any operator."""
        return frozenset(domain for domain, _ in self._rows)

    def forget(self, domain: str, op_type: str) -> None:
        """Take out the rows of an operator."""
        self._rows.pop((domain, op_type), None)

    def names(self) -> tuple[str, ...]:
        """All operators, sorted, those of other domains as ``domain.Op``."""
        return tuple(sorted(f"{domain}.{op_type}" if domain else op_type for domain, op_type in self._rows))
