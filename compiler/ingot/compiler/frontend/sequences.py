"""Sequences and optionals: values of the importer alone.

A graph of this compiler holds tensors. A sequence whose length is known while the model is imported is a tuple of
values, an optional is its content or nothing; operators on them choose values and leave no node behind. Where a length,
a position or a presence depends on data there is no such tuple, and the model is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ingot.compiler.ir.graph import Value


@dataclass(frozen=True)
class TensorSequence:
    """The elements of an ONNX sequence in order."""

    elements: tuple[Item, ...] = ()

    def __str__(self) -> str:
        return f"a sequence of {len(self.elements)}"


@dataclass(frozen=True)
class Optional:
    """An ONNX optional: what it holds, None when it is empty."""

    content: Item | None = None

    def __str__(self) -> str:
        return "an optional value" if self.content is not None else "an empty optional value"


Item: TypeAlias = Value | TensorSequence | Optional


def tensors_of(item: Item) -> tuple[Value, ...]:
    """All tensors in `item`."""
    match item:
        case TensorSequence(elements):
            return tuple(value for element in elements for value in tensors_of(element))
        case Optional(content):
            return () if content is None else tensors_of(content)
        case _:
            return (item,)


def mapped(item: Item, change: Callable[[Value], Value]) -> Item:
    """`item` with `change` made to every tensor in it."""
    match item:
        case TensorSequence(elements):
            return TensorSequence(tuple(mapped(e, change) for e in elements))
        case Optional(content):
            return Optional(None if content is None else mapped(content, change))
        case _:
            return change(item)
