"""How the recurrent weights of a layer's gates are packed: in the order in which its kernels read them.

A *panel* is as many units as a vector has lanes, a *column* one gate of one panel, a *group* the panels that are done
together. The columns of a group, gate by gate, are read a few at a time, as many as registers have sums for: these
lie as ``[k, column, lane]``, one such block after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.ir.dims import Dim

MOST_PANELS = 4  # of a group


@dataclass(frozen=True)
class Columns:
    """Columns read together: (gate, panel of the group) pairs, the first of them number `start` of its group."""

    start: int
    members: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Panels:
    """The packing of `hidden` units' weights over `hidden` elements of the state, `width` lanes to a vector.

    `together` panels make a group, `columns` columns are read together.
    """

    gates: str
    hidden: int
    width: int
    together: int
    columns: int

    @classmethod
    def choose(cls, gates: str, hidden: int, width: int, *, rows: int, accumulators: int) -> Panels:
        """The packing for tiles of `rows` batch rows: as few panels as let whole register tiles do all gates."""
        count = len(gates)
        columns = max(1, accumulators // rows)
        if rows == 1 or (count <= columns and 4 * count * rows >= 3 * accumulators):
            return cls(gates, hidden, width, 1, min(count, columns))
        together = next((n for n in range(1, MOST_PANELS + 1) if count * n % columns == 0), 1)
        return cls(gates, hidden, width, together, columns)

    @property
    def count(self) -> int:
        """Panels, the last perhaps not full."""
        return -(-self.hidden // self.width)

    @property
    def groups(self) -> int:
        """Groups, the last perhaps of fewer panels, or with a panel that is not full."""
        return -(-self.count // self.together)

    @property
    def whole(self) -> int:
        """Groups of all their panels, all of them full."""
        return self.hidden // (self.width * self.together)

    @property
    def size(self) -> int:
        """Elements of one direction."""
        return self.count * self._panel

    @property
    def _panel(self) -> int:
        return len(self.gates) * self.hidden * self.width

    def rest(self) -> Iterator[tuple[int, int, int]]:
        """What whole groups leave over, as groups: first panel, number of panels, lanes of the last one."""
        start = self.whole * self.together
        full, lanes = divmod(self.hidden - start * self.width, self.width)
        if full:
            yield start, full, self.width
        if lanes:
            yield start + full, 1, lanes

    def blocks(self, panels: int) -> Iterator[Columns]:
        """The columns of a group of some panels, as they are read together."""
        every = [(gate, panel) for gate in self.gates for panel in range(panels)]
        for start in range(0, len(every), self.columns):
            yield Columns(start, tuple(every[start : start + self.columns]))

    def offset(self, panel: Dim, block: Columns, column: int, k: Dim, lane: Dim) -> Dim:
        """Where a weight lies within its direction; `panel` is the first of the group, `column` counts in the block."""
        return panel * self._panel + (block.start * self.hidden + k * len(block.members) + column) * self.width + lane

    def pack(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Weights [D, G, H, H] packed: [D, `size`]."""
        directions, hidden, width = weights.shape[0], self.hidden, self.width
        padded = np.zeros((directions, len(self.gates), self.count * width, hidden), weights.dtype)
        padded[:, :, :hidden] = weights
        # [D, gate, panel, k, lane]
        split = padded.reshape(directions, len(self.gates), self.count, width, hidden).swapaxes(3, 4)
        groups = [(g * self.together, self.together) for g in range(self.whole)]
        groups += [(start, panels) for start, panels, _ in self.rest()]
        blocks = [
            np.stack([split[:, self.gates.index(gate), start + panel] for gate, panel in block.members], 2)
            for start, panels in groups
            for block in self.blocks(panels)
        ]
        return np.concatenate([block.reshape(directions, -1) for block in blocks], 1)
