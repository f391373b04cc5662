"""Pooling over windows and over whole channels."""

from __future__ import annotations

from collections.abc import Callable

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.operators.contraction import Window, window
from ingot.compiler.frontend.operators.table import Results, Row, Table
from ingot.compiler.ir.graph import Node, Value
from ingot.compiler.ops.linear import AveragePool, MaxPool
from ingot.compiler.ops.reduction import ReduceMax, ReduceMean

TABLE = Table()
onnx_op = TABLE.onnx_op


def _window(ctx: Context, x: Value) -> tuple[tuple[int, ...], Window, bool]:
    kernel = ctx.required_ints("kernel_shape")
    if len(kernel) != x.rank - 2 or not kernel:
        raise ctx.error(f"kernel_shape {list(kernel)} does not fit {x.type}: one entry for each spatial axis is needed")
    return kernel, window(ctx, x, kernel), bool(ctx.attribute("ceil_mode", 0))


@onnx_op("MaxPool")
def max_pool(ctx: Context) -> Results:
    x = ctx.operand(0)
    kernel, w, ceil_mode = _window(ctx, x)
    ctx.ignore("storage_order")  # it concerns the second output, the indices, alone
    return ctx.build(MaxPool, x, kernel, w.strides, w.pads, w.dilations, ceil_mode, False)


@onnx_op("AveragePool")
def average_pool(ctx: Context) -> Results:
    x = ctx.operand(0)
    kernel, w, ceil_mode = _window(ctx, x)
    include_pad = bool(ctx.attribute("count_include_pad", 0))
    return ctx.build(AveragePool, x, kernel, w.strides, w.pads, w.dilations, ceil_mode, include_pad, False)


def _global(op: Callable[..., Node]) -> Row:
    def row(ctx: Context) -> Results:
        x = ctx.operand(0)
        if x.rank < 3:
            raise ctx.error(f"global pooling needs spatial axes, the operand is {x.type}")
        return ctx.build(op, x, tuple(range(2, x.rank)), True)

    return row


TABLE.add("GlobalAveragePool", _global(ReduceMean))
TABLE.add("GlobalMaxPool", _global(ReduceMax))
