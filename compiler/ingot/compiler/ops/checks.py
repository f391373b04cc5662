"""What `infer` methods check: element types, ranks, axes and dims that must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ingot.compiler.ir.dims import Dim, show
from ingot.compiler.ir.graph import Node, Value, describe
from ingot.compiler.ir.types import IrError, Shape, broadcast_shapes
from ingot.runtime.dtypes import DType, Kind


def fail(node: Node, problem: str) -> NoReturn:
    """Raise IrError with the node's name in front of `problem`."""
    raise IrError(f"{describe(node)}: {problem}")


def require_kind(node: Node, value: Value, kinds: frozenset[Kind], what: str) -> None:
    """`value` must have one of the element kinds."""
    if value.dtype.kind not in kinds:
        fail(node, f"{what} is {value.type}, but {' or '.join(sorted(kinds))} elements are needed: cast it first")


def same_dtype(node: Node, *values: Value) -> DType:
    """The one element type of all values."""
    first = values[0].dtype
    if any(v.dtype != first for v in values):
        types = ", ".join(str(v.type) for v in values)
        fail(node, f"operands have different element types ({types}): cast them to one")
    return first


def broadcast(node: Node, *values: Value) -> Shape:
    """The common shape of all values."""
    try:
        return broadcast_shapes([v.type.shape for v in values])
    except IrError as error:
        types = ", ".join(str(v.type) for v in values)
        fail(node, f"operands {types} do not fit: {error}")


def require_axis(node: Node, axis: int, rank: int) -> None:
    """0 <= axis < rank."""
    if not 0 <= axis < rank:
        fail(node, f"axis {axis} is outside 0..{rank - 1} of a value of rank {rank} (axes are non-negative here)")


def equal_dims(node: Node, a: Dim, b: Dim, what: str) -> Dim:
    """The one dim that `a` and `b` both are. A constant against a symbolic dim is the constant.

    Two different symbolic dims are refused: nothing would check them at run time.
    """
    if a == b:
        return a
    if isinstance(a, int) != isinstance(b, int):
        return a if isinstance(a, int) else b
    advice = "" if isinstance(a, int) else ": give both dims one name if they are equal"
    fail(node, f"{what} differ: {show(a)} against {show(b)}{advice}")


def provably_different(a: Dim, b: Dim) -> bool:
    """True when no values of the symbols make the two dims equal (a - b is a constant other than 0)."""
    difference = a - b
    return isinstance(difference, int) and difference != 0


def ints(dims: Sequence[Dim]) -> tuple[int, ...]:
    """`dims` as ints; IrError when one is symbolic (it should have been replaced before evaluation)."""
    if any(not isinstance(d, int) for d in dims):
        raise IrError(f"dims [{', '.join(show(d) for d in dims)}] are symbolic where values are needed")
    return tuple(d for d in dims if isinstance(d, int))
