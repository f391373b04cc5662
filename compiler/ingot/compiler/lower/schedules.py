"""What can be chosen for the kernel of a contraction group, and what is said of the choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ingot.compiler.ir.graph import Origin
from ingot.compiler.ir.templates import Order

Algorithm: TypeAlias = Literal["direct", "strassen", "winograd2", "winograd4", "winograd6", "sparse"]
"""How a contraction is computed: as it is, by one level of Strassen's algorithm, as a convolution by Winograd's minimal
filtering, in tiles of 2, 4 or 6 results along each axis, or without the zeros of its weights."""

Limit: TypeAlias = Literal["compute", "bandwidth"]


@dataclass(frozen=True, order=True)
class Schedule:
    """One way to run a contraction of constant extents: the algorithm, columns a panel, rows of a register tile, rows
    and panels of a chunk, and the order of its loops. With Winograd's algorithm all but the first say how the products
    of the transformed data are computed; with Strassen's, whose tiles and loops are its own, chunks are those of a half
    of the result. Without zeros they are rows of a chunk, columns of a visit, steps of a block of the depth, and panels
    in all."""

    algorithm: Algorithm
    width: int
    tile_rows: int
    row_block: int
    panel_block: int
    order: Order = "auto"

    def __str__(self) -> str:
        if self.algorithm == "sparse":
            return f"sparse {self.tile_rows} x 1, {self.width} rows x {self.row_block} deep, {self.panel_block} panels"
        tile = f"{self.tile_rows}x{self.width}, chunks of {self.row_block} rows x {self.panel_block} panels"
        return f"{self.algorithm} {tile}" + ("" if self.order == "auto" else f", {self.order}")


@dataclass(frozen=True)
class Option:
    """A schedule with the microseconds that the cost model expects of one launch on one thread, what it expects to
    limit it, and the microseconds that were measured, None where nothing was."""

    schedule: Schedule
    predicted: float
    limit: Limit
    measured: float | None = None


@dataclass(frozen=True)
class Decision:
    """What was chosen for the group that `kernels` compute, and out of what: the first of `options`. `signature` says
    all that a schedule depends on."""

    signature: str
    kernels: tuple[str, ...]
    origin: Origin
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Schedules:
    """Where lowering asks and tells: `find` gives the schedule wanted for a signature, and for the nodes of the group,
    None for that of the cost model; `note` is told what was chosen, None where nobody wants to know."""

    find: Callable[[str, Origin], Schedule | None] = lambda signature, origin: None
    note: Callable[[Decision], None] | None = None


ANALYTICAL = Schedules()
