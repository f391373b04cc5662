"""Reductions, positions of extremes, running sums and products."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ingot.compiler.frontend.export.kernels import allowed
from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Row, Table, Written
from ingot.compiler.ir.graph import Node
from ingot.compiler.ops import reduction as ops
from ingot.runtime.dtypes import i64

TABLE = Table()

AXES_AS_INPUT = 18  # the opset that made axes of reductions an input; of ReduceSum it was 13, the oldest here


def _reduction(op_type: str) -> Row:
    def row(scope: Scope, node: ops.Reduction) -> Written:
        dtype = node.x.dtype
        if not node.axes:
            return scope.name(node.x)
        compute = scope.compute_type(op_type, dtype, node)
        if op_type == "ReduceMean" and not dtype.is_float:
            compute = i64  # sums may not fit the type itself
        x, keepdims = scope.cast(scope.name(node.x), dtype, compute), int(node.keepdims)
        if scope.opset >= AXES_AS_INPUT or op_type == "ReduceSum":
            result = scope.add(op_type, x, scope.constant(sorted(node.axes), "axes"), keepdims=keepdims)
        else:
            result = scope.add(op_type, x, axes=sorted(node.axes), keepdims=keepdims)
        return scope.cast(result, compute, dtype)

    return row


def _position(op_type: str) -> Row:
    def row(scope: Scope, node: ops.ArgReduction) -> Written:
        compute = scope.compute_type(op_type, node.x.dtype, node)
        x = scope.cast(scope.name(node.x), node.x.dtype, compute)
        last = 1 if node.last else None
        return scope.add(op_type, x, axis=node.axis, keepdims=int(node.keepdims), select_last_index=last)

    return row


def _enter(rows: Callable[[str], Row], names: Mapping[type[Node], str]) -> None:
    for op, name in names.items():
        TABLE.add(op, rows(name))


_enter(
    _reduction,
    {
        ops.ReduceSum: "ReduceSum",
        ops.ReduceMean: "ReduceMean",
        ops.ReduceMax: "ReduceMax",
        ops.ReduceMin: "ReduceMin",
        ops.ReduceProd: "ReduceProd",
    },
)
_enter(_position, {ops.ArgMax: "ArgMax", ops.ArgMin: "ArgMin"})


def _cumulative(op_type: str) -> Row:
    def row(scope: Scope, node: ops.Cumulative) -> Written:
        if not allowed(op_type, scope.opset):
            return None
        compute = scope.compute_type(op_type, node.x.dtype, node)
        x = scope.cast(scope.name(node.x), node.x.dtype, compute)
        axis = scope.scalar(node.axis)
        result = scope.add(op_type, x, axis, exclusive=int(node.exclusive), reverse=int(node.reverse))
        return scope.cast(result, compute, node.x.dtype)

    return row


_enter(_cumulative, {ops.CumSum: "CumSum", ops.CumProd: "CumProd"})
