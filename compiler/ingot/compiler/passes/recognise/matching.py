"""What the rules of recognition share: numbers as exporters round them, products taken apart, uses counted."""

from __future__ import annotations

import math

from ingot.compiler.ir.graph import Graph, Node, Value
from ingot.compiler.ir.types import IrError, broadcast_shapes
from ingot.compiler.ops.pointwise import Div, Mul
from ingot.compiler.passes.constants import splat
from ingot.compiler.rewrite import Patch


def close(found: float | int | bool | None, wanted: float, like: Value) -> bool:
    """`found` is `wanted` as an exporter may have rounded it."""
    return found is not None and math.isclose(found, wanted, rel_tol=1e-4 if like.dtype.bits >= 32 else 2e-3)


def once(value: Value, graph: Graph) -> bool:
    """Whether one operand or result reads `value`."""
    return graph.uses().get(value, 0) == 1


def typed(node: Node, new: Value) -> Patch | None:
    """`node` replaced by `new` where their types agree."""
    return {node: new} if new.type == node.type else None


def broadcasts_to(value: Value, target: Value) -> bool:
    """Whether `value` broadcasts to the shape of `target`."""
    try:
        return broadcast_shapes((target.type.shape, value.type.shape)) == target.type.shape
    except IrError:
        return False


def factors(value: Value, graph: Graph) -> tuple[float, list[Value]]:
    """`value` as coefficient * product of values: products and quotients by constants are taken apart.

    A product that something else uses too is one factor.
    """
    coefficient = 1.0
    found: list[Value] = []
    stack = [value]
    while stack:
        item = stack.pop()
        inner = item is value or once(item, graph)
        match item:
            case Mul(a, b) if inner:
                number = splat(b)
                if number is None:
                    stack += [b, a]
                else:
                    coefficient *= number
                    stack.append(a)
            case Div(a, b) if inner and (number := splat(b)):
                coefficient /= number
                stack.append(a)
            case _:
                found.append(item)
    return coefficient, found


def pair(values: list[Value], kind: type[Node]) -> tuple[Value, Value] | None:
    """(x, y) of two values where y is of the given kind."""
    if len(values) != 2:
        return None
    a, b = values
    return (a, b) if isinstance(b, kind) else (b, a) if isinstance(a, kind) else None
