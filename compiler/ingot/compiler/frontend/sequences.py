"""Sequences and optionals: values of the importer alone.

A graph of this compiler holds tensors. A sequence whose length is known while the model is imported is a tuple of
values, an optional is its content or nothing; operators on them choose values and leave no node behind. Where a length
or a position depends on data a sequence is *ragged*: the elements' data one after the other in one tensor and a table
of their shapes, both of which grow and shrink as tensors do. Where a presence depends on data it is a bool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.runtime.dtypes import DType


@dataclass(frozen=True)
class TensorSequence:
    """The elements of an ONNX sequence in order."""

    elements: tuple[Item, ...] = ()

    def __str__(self) -> str:
        return f"a sequence of {len(self.elements)}"


@dataclass(frozen=True)
class RaggedSequence:
    """A sequence of tensors of which as many are as the data say.

    `data` ([total], any element type) has the elements in order, each in row-major order; `shapes` (i64 [length, 1 +
    axes]) a row for each: its rank, its extents, then ones. `rank` is that of all of them, None where it differs;
    `known` the extents that all of them have, None for those that differ (empty where the rank does).
    """

    data: Value
    shapes: Value
    rank: int | None
    known: tuple[Dim | None, ...]

    def __str__(self) -> str:
        return "a sequence whose length depends on data"

    @property
    def length(self) -> Dim:
        """The number of elements."""
        return self.shapes.shape[0]

    @property
    def width(self) -> int:
        """The axes for which the table has columns: the largest rank."""
        return int(self.shapes.shape[1]) - 1

    @property
    def dtype(self) -> DType:
        """The type of the elements' elements."""
        return self.data.dtype


@dataclass(frozen=True)
class Optional:
    """An ONNX optional: what it holds, None when it is empty. Where that depends on data it holds something, and
    `present` (bool []) says whether it counts."""

    content: Item | None = None
    present: Value | None = None

    def __str__(self) -> str:
        if self.present is not None:
            return "an optional value whose presence depends on data"
        return "an optional value" if self.content is not None else "an empty optional value"


Item: TypeAlias = Value | TensorSequence | RaggedSequence | Optional
ITEMS = (Value, TensorSequence, RaggedSequence, Optional)
Results: TypeAlias = Item | Sequence[Item | None]
"""What a node gives, in ONNX order; None where it gives nothing."""


def tensors_of(item: Item) -> tuple[Value, ...]:
    """All tensors in `item`."""
    match item:
        case TensorSequence(elements):
            return tuple(value for element in elements for value in tensors_of(element))
        case RaggedSequence(data, shapes):
            return (data, shapes)
        case Optional(content, present):
            inside = () if content is None else tensors_of(content)
            return inside if present is None else (present, *inside)
        case _:
            return (item,)


def mapped(item: Item, change: Callable[[Value], Value]) -> Item:
    """`item` with `change` made to every tensor in it."""
    match item:
        case TensorSequence(elements):
            return TensorSequence(tuple(mapped(e, change) for e in elements))
        case RaggedSequence(data, shapes, rank, known):
            return RaggedSequence(change(data), change(shapes), rank, known)
        case Optional(content, present):
            inside = None if content is None else mapped(content, change)
            return Optional(inside, None if present is None else change(present))
        case _:
            return change(item)
