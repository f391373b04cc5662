"""What values are called in reports and by users."""

from __future__ import annotations

from collections.abc import Iterable

from ingot.compiler.ir.graph import Input, Value, node_of


def called(value: Value) -> str:
    """What the user knows a value by, else its operator; several may be called the same."""
    node = node_of(value)
    return node.label if isinstance(node, Input) else (node.origin[0] if node.origin else node.name)


def numbered(wishes: Iterable[str]) -> list[str]:
    """The names with numbers behind those that were there before."""
    found: dict[str, None] = {}
    for wish in wishes:
        name, number = wish, 1
        while name in found:
            number += 1
            name = f"{wish}#{number}"
        found[name] = None
    return list(found)
