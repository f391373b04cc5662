"""Which integers cannot be negative, by how they are computed: sizes of which no check has to be written."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.compiler.ir.graph import Constant, Graph, Input, Result, Value, node_of
from ingot.compiler.ops import indexing, movement, pointwise, reduction
from ingot.compiler.ops.control import If, Loop, Require
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.shape_arithmetic import nonnegative
from ingot.compiler.ops.suppression import NonMaxSuppression
from ingot.runtime.dtypes import boolean

DEEPEST = 12
"""Operators followed back from a value."""
LARGEST = 4096
"""Elements of a constant that is looked at."""


def never_negative(value: Value) -> bool:
    """True where no element of an integer `value` can be below 0; False where that is not evident."""
    return _sure(value, {}, DEEPEST)


def _sure(value: Value, inputs: Mapping[Value, bool], depth: int) -> bool:
    """`inputs` says it of inputs of sub-graphs."""
    if depth == 0:
        return False
    index = value.index if isinstance(value, Result) else 0

    def sure(*values: Value) -> bool:
        return all(_sure(v, inputs, depth - 1) for v in values)

    match node_of(value):
        case Input():
            return inputs.get(value, False)
        case Constant(data=data):
            return data.size <= LARGEST and bool((data >= 0).all())
        case movement.DimValues(dims=shape):
            return all(map(nonnegative, shape))
        case pointwise.Max(a=a, b=b):
            return sure(a) or sure(b)
        case pointwise.Clip(low=Value() as low, high=high):
            return sure(low) and (high is None or sure(high))
        case pointwise.Min(a=a, b=b) | pointwise.Where(a=a, b=b) | pointwise.Div(a=a, b=b):
            return sure(a, b)
        case pointwise.Mod(b=b):
            return sure(b)
        case pointwise.Cast(x=x, to=to):
            kept = x.dtype.is_integer and x.dtype.bits <= to.bits and x.dtype.kind == to.kind and sure(x)
            return kept or x.dtype == boolean or (x.dtype.kind == "unsigned" and x.dtype.bits < to.bits)
        case reduction.ReduceSum(x=pointwise.Cast(x=x)):  # how often something holds
            return x.dtype == boolean
        case movement.Reshape(x=x) | movement.Slice(x=x) | movement.Expand(x=x) | pointwise.Identity(x=x):
            return sure(x)
        case movement.Gather(data=data):
            return sure(data)
        case Require(values=values):
            return sure(values[index])
        case pointwise.Relu() | NonMaxSuppression() | indexing.Compact():
            return True
        case If(captures=captures, then_graph=then, else_graph=otherwise):
            known = [sure(v) for v in captures]
            graphs = (then, otherwise)
            return all(_result(g, index, dict(zip(g.inputs, known, strict=True)), depth) for g in graphs)
        case Loop() as loop:
            return index < len(loop.carried) and sure(loop.carried[index]) and _stays(loop, index, depth)
        case Fused(operands=operands, body=body):
            return _result(body, index, {i: sure(v) for i, v in zip(body.inputs, operands, strict=True)}, depth)
        case _:
            return False


def _result(graph: Graph, index: int, inputs: Mapping[Value, bool], depth: int) -> bool:
    return _sure(graph.results[index], inputs, depth - 1)


def _stays(loop: Loop, index: int, depth: int) -> bool:
    """Whether the carried value `index`, not negative before an iteration, is not so after it. A count of iterations
    does not overflow."""
    iteration, own = loop.body.inputs[0], loop.body.inputs[2 + index]
    match sum_with_constant(loop.body.results[1 + index]):
        case (before, 0 | 1) if before is iteration or before is own:
            return True
        case _:
            return _result(loop.body, 1 + index, {iteration: True, own: True}, depth)


def sum_with_constant(value: Value) -> tuple[Value, int] | None:
    """(x, n) for a `value` that is x + n, a constant integer, in a fused group or not; None for others."""
    node, outer = node_of(value), dict[Value, Value]()
    if isinstance(node, Fused):
        outer = dict[Value, Value](zip(node.body.inputs, node.operands, strict=True))
        value = node.body.results[value.index if isinstance(value, Result) else 0]
    match value:
        case pointwise.Add(a=x, b=Constant(data=data)) | pointwise.Add(a=Constant(data=data), b=x) if data.size == 1:
            return outer.get(x, x), int(data.reshape(()))
        case _:
            return None
