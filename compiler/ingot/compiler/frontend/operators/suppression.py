"""NonMaxSuppression."""

from __future__ import annotations

from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.sequences import Results
from ingot.compiler.frontend.table import Table
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Value
from ingot.compiler.ops import suppression as ops
from ingot.compiler.ops.movement import Slice
from ingot.runtime import dtypes

TABLE = Table()
onnx_op = TABLE.onnx_op


@onnx_op("NonMaxSuppression", since=10)
def non_max_suppression(ctx: Context) -> Results:
    """The rows that were found of a result that has room for all that could be."""
    boxes, scores = ctx.operand(0), ctx.operand(1)
    center = ctx.attribute("center_point_box", 0)
    if center not in (0, 1):
        raise ctx.error(f"attribute 'center_point_box' is {center}: it must be 0 or 1")
    if boxes.rank != 3 or scores.rank != 3:
        raise ctx.error(f"boxes {boxes.type} and scores {scores.type} need rank 3 each")
    ctx.equal(boxes.shape[0], scores.shape[0])
    ctx.equal(boxes.shape[1], scores.shape[2])
    most = _scalar(ctx, 2)
    limit: Dim = boxes.shape[1]
    if most is None:
        most, limit = ctx.constant(0, dtypes.i64), 0
    elif (known := ctx.known(most)) is not None:
        limit = dims.minimum(dims.maximum(known[0], 0), limit)
    threshold = _scalar(ctx, 3) or ctx.constant(0.0, dtypes.f32)
    node = ctx.build(ops.NonMaxSuppression, boxes, scores, most, threshold, _scalar(ctx, 4), bool(center), limit)
    found, count = node.results()
    room = found.shape[0]
    size = ctx.size(count, "the number of boxes found", room if isinstance(room, int) else None)
    return ctx.build(Slice, found, (0, 0), (size, 3), (1, 1))


def _scalar(ctx: Context, index: int) -> Value | None:
    value = ctx.optional(index)
    return None if value is None else ctx.scalar(value)
