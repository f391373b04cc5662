"""The table of exports: operator class -> the row that writes its nodes.

Each family has its own `Table`; `rows.py` merges them. A row takes the scope to write into and the node and adds ONNX
nodes; it gives the names of the results. Where no ONNX operator does the same it adds nothing and gives a value made of
other operators to be written instead, or None for the node's own definition (`expand`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ingot.compiler.frontend.export.scope import Row, Scope, Written
from ingot.compiler.ir.graph import Node

N = TypeVar("N", bound=Node)


class Table:
    """Rows of one family, or of all."""

    def __init__(self, families: Iterable[Table] = ()) -> None:
        self._rows: dict[type[Node], Row] = {}
        for family in families:
            for op, row in family._rows.items():
                self.add(op, row)

    def add(self, op: type[Node], row: Row) -> None:
        """Enter the row of one operator class."""
        if op in self._rows:
            raise ValueError(f"{op.name} has two rows")
        self._rows[op] = row

    def exports(self, op: type[N]) -> Callable[[Callable[[Scope, N], Written]], Callable[[Scope, N], Written]]:
        """Decorator form of `add`."""

        def enter(row: Callable[[Scope, N], Written]) -> Callable[[Scope, N], Written]:
            self.add(op, row)
            return row

        return enter

    def find(self, op: type[Node]) -> Row | None:
        """The row of a class or of the nearest class that it is derived from, None when there is none."""
        return next((self._rows[c] for c in op.__mro__ if c in self._rows), None)
