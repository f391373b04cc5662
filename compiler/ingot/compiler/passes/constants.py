"""Reading constants in rules."""

from __future__ import annotations

from ingot.compiler.ir.dims import Expr
from ingot.compiler.ir.graph import Constant, Graph, Node, Value, fields_of, operands_of
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.movement import Expand, Reshape
from ingot.runtime.dtypes import string

UNIFORM_LIMIT = 4096  # elements that are compared to see whether they are all the same


def splat(value: Value | None) -> float | int | bool | None:
    """The number that every element of `value` is: a small constant of equal elements, expanded or reshaped or not."""
    while isinstance(value, Expand | Reshape):
        value = value.x
    if not isinstance(value, Constant) or not 0 < value.data.size <= UNIFORM_LIMIT or value.dtype == string:
        return None
    data = value.data.ravel()
    if data.size > 1 and not bool((data == data[0]).all()):
        return None
    item: object = data[0].item() if hasattr(data[0], "item") else float(data[0])
    return item if isinstance(item, float | int | bool) else float(item)  # pyright: ignore[reportArgumentType] - bf16


def is_splat(value: Value | None, number: float) -> bool:
    """True when every element of `value` is `number` (of 0: either sign)."""
    found = splat(value)
    return found is not None and not isinstance(found, bool) and found == number


def fitted(value: Value, node: Value) -> Value | None:
    """`value` with the type of `node`, expanded where its shape is smaller; None when the element types differ."""
    if value.type == node.type:
        return value
    return Expand(value, node.type.shape) if value.dtype == node.dtype else None


def has_symbolic_attributes(node: Node) -> bool:
    """True when a field holds a symbolic dim."""

    def symbolic(item: object) -> bool:
        match item:
            case Expr():
                return True
            case TensorType():
                return not item.is_static
            case tuple():
                return any(symbolic(x) for x in item)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            case _:
                return False

    return any(symbolic(getattr(node, f.name)) for f in fields_of(node))


def users(graph: Graph) -> dict[Value, list[Node]]:
    """The nodes of `graph` that read each value; cached on the graph."""
    cached: dict[Value, list[Node]] | None = graph.__dict__.get("_users")
    if cached is None:
        cached = {}
        for node in graph.nodes():
            for operand in dict.fromkeys(operands_of(node)):
                cached.setdefault(operand, []).append(node)
        object.__setattr__(graph, "_users", cached)
    return cached
