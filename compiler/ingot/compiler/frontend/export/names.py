"""Names of values and nodes: unique in the model, taken from what the user calls things, the same every time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingot.compiler.ir.graph import Origin

_LABEL = re.compile(r"[A-Z][A-Za-z0-9]*:(?!:)(.+)", re.DOTALL)  # Conv:first_output, of a node that has no name
MOST_ORIGINS = 4  # in the name of a node that stands for several; the rest is counted


@dataclass
class Names:
    """The names given away so far."""

    taken: set[str] = field(default_factory=set[str])
    _next: dict[str, int] = field(default_factory=dict[str, int])

    def reserve(self, names: Iterable[str]) -> None:
        """Names that no wish may get."""
        self.taken.update(names)

    def unique(self, wish: str) -> str:
        """`wish`, or `wish` with the first free number from 2 on."""
        name = wish
        if name in self.taken:
            number = self._next.get(wish, 2)
            while (name := f"{wish}_{number}") in self.taken:
                number += 1
            self._next[wish] = number + 1
        self.taken.add(name)
        return name


def node_name(origin: Origin) -> str:
    """The name of a node that stands for the nodes in `origin`; empty when it stands for none."""
    shown = origin[:MOST_ORIGINS]
    return "+".join(shown) + (f"+{len(origin) - len(shown)} more" if len(origin) > len(shown) else "")


def value_name(node: str) -> str:
    """What the result of the node of this name is called when nobody asks for another name."""
    label = _LABEL.fullmatch(node)
    return label[1] if label else f"{node}_output"
