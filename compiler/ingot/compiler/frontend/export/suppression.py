"""NonMaxSuppression, filled up to the extent that its result has here."""

from __future__ import annotations

from ingot.compiler.frontend.export.scope import Scope
from ingot.compiler.frontend.export.table import Table, Written
from ingot.compiler.ops import suppression as ops

TABLE = Table()


@TABLE.exports(ops.NonMaxSuppression)
def non_max_suppression(scope: Scope, node: ops.NonMaxSuppression) -> Written:
    boxes, scores, most, threshold = (
        scope.name(v) for v in (node.boxes, node.scores, node.max_output, node.iou_threshold)
    )
    least = None if node.score_threshold is None else scope.name(node.score_threshold)
    bounded = scope.add("Min", scope.add("Reshape", most, scope.constant([1], "one")), scope.dim(node.limit))
    found = scope.add(
        "NonMaxSuppression", boxes, scores, bounded, threshold, least, center_point_box=int(node.center) or None
    )
    first = scope.constant([0], "zero")
    count = scope.add("Gather", scope.add("Shape", found), first, axis=0)
    missing = scope.add("Sub", scope.dim(node.types[0].shape[0]), count)
    pads = scope.add("Concat", first, first, missing, first, axis=0)
    return [scope.add("Pad", found, pads), scope.add("Squeeze", count, first)]
