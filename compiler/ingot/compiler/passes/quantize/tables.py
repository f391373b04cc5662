"""Tables that rows, and nothing else, are looked up in, such as the vectors of words: their numbers may be narrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ingot.compiler.ir.graph import Array, Constant, Graph, Node, Value
from ingot.compiler.ops.movement import Gather
from ingot.compiler.passes.constants import users
from ingot.compiler.passes.quantize.errors import QuantisationError
from ingot.compiler.passes.quantize.layers import Layer
from ingot.compiler.passes.quantize.naming import called, numbered


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A table `w` [rows, width] of floats. `node` is the first that looks rows of it up; it is called as that is."""

    name: str
    names: tuple[str, ...]
    node: Gather
    w: Constant
    is_first: bool = False
    is_last: bool = False

    def weights(self) -> Array:
        """The elements. Raises QuantisationError for NaN and infinities."""
        if not np.isfinite(self.w.data.astype(np.float32)).all():
            what = f"the table {self.name} has NaN or infinities"
            raise QuantisationError(f"{what}: mend it or exclude it")
        return self.w.data


Part: TypeAlias = Layer | LookupTable
"""What numbers of a model are stored for, and may be stored narrow."""


def tables_of(graph: Graph) -> tuple[LookupTable, ...]:
    """The tables of floats of the main graph that rows, and nothing else, are looked up in."""
    found: list[tuple[Gather, Constant]] = []
    for value, readers in users(graph).items():
        if not isinstance(value, Constant) or value.rank != 2 or not value.dtype.is_float or value in graph.results:
            continue
        if value.data.size and all(_looks_up(reader, value) for reader in readers):
            assert isinstance(readers[0], Gather)
            found.append((readers[0], value))
    names = numbered(called(reader.results()[0]) for reader, _ in found)
    tables: list[LookupTable] = []
    for name, (reader, value) in zip(names, found, strict=True):
        watched = [each for each, result in graph.watched.items() if result is reader]
        tables.append(LookupTable(name, tuple(dict.fromkeys((name, *reader.origin, *watched))), reader, value))
    return tuple(tables)


def _looks_up(reader: Node, table: Value) -> bool:
    return isinstance(reader, Gather) and reader.data is table and reader.axis == 0
