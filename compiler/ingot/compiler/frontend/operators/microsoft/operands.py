"""What several rows of com.microsoft do with their operands."""

from __future__ import annotations

from dataclasses import replace

from ingot.compiler.frontend.context import Context
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import pointwise as ops


def given(ctx: Context, *operands: Value | None) -> Context:
    """The node as a standard operator's row is to see it, with these operands."""
    return replace(ctx, operands=operands, opset=ctx.scope.opsets.get("", ctx.opset))


def plus(ctx: Context, x: Value, other: Value | None) -> Value:
    """``x + other`` in the shape of x; x itself where the other is left out."""
    if other is None:
        return x
    ctx.broadcast_to(x.shape, other.shape)
    return ctx.pointwise(ops.Add, x, other)
