"""Non-maximum suppression: of boxes that overlap, the one with the best score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingot.compiler.ir.dims import Dim, product, show
from ingot.compiler.ir.graph import Array, Node, Value, op
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.checks import equal_dims, fail, ints
from ingot.runtime.dtypes import f32, i64


@op("non_max_suppression")
class NonMaxSuppression(Node):
    """ONNX NonMaxSuppression with a result of fixed extent: the chosen boxes, zeros after them, and their number.

    `boxes` f32 [B, N, 4] are pairs of opposite corners (y, x, y, x), with `center` (x, y, width, height); `scores` f32
    [B, C, N]. Of every batch and class, boxes are visited from the best score down, of equal ones the first; a box is
    chosen unless its intersection over union with one chosen before is above `iou_threshold`. At most `max_output` and
    at most `limit` are chosen, and only scores above `score_threshold` where there is one; NaN is no score. Scalars
    have one element. Results: i64 [B * C * limit, 3], (batch, class, box) by batch, class and score; and i64 [].
    """

    boxes: Value
    scores: Value
    max_output: Value
    iou_threshold: Value
    score_threshold: Value | None
    center: bool
    limit: Dim

    def infer(self) -> Sequence[TensorType]:
        boxes, scores = self.boxes, self.scores
        for what, value in (("boxes", boxes), ("scores", scores)):
            if value.dtype != f32 or value.rank != 3:
                fail(self, f"the {what} are {value.type}: f32 of rank 3 is needed")
        if boxes.shape[2] != 4:
            fail(self, f"the boxes are {boxes.type}: a last extent of 4 is needed")
        batch = equal_dims(self, boxes.shape[0], scores.shape[0], "the batches of boxes and scores")
        equal_dims(self, boxes.shape[1], scores.shape[2], "the numbers of boxes and of scores")
        scalars = [("max_output", self.max_output, i64), ("iou_threshold", self.iou_threshold, f32)]
        if self.score_threshold is not None:
            scalars.append(("score_threshold", self.score_threshold, f32))
        for what, value, dtype in scalars:
            if value.dtype != dtype or any(d != 1 for d in value.shape):
                fail(self, f"the {what} is {value.type}: one {dtype} is needed")
        if isinstance(self.limit, int) and self.limit < 0:
            fail(self, f"the limit is {show(self.limit)}")
        return (TensorType(i64, (product((batch, scores.shape[1], self.limit)), 3)), TensorType(i64, ()))

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        boxes, scores, *scalars = operands
        most, threshold, *least = (scalar.reshape(()) for scalar in scalars)
        if not 0 <= threshold <= 1:
            fail(self, f"the iou_threshold is {threshold}: it must be between 0 and 1")
        (limit,) = ints((self.limit,))
        most = min(int(most), limit)
        found: list[tuple[int, int, int]] = []
        with np.errstate(all="ignore"):
            corners = corners_of(boxes, self.center)
            for b, c in np.ndindex(*scores.shape[:2]):
                row = scores[b, c]
                valid = np.flatnonzero(row > least[0] if least else ~np.isnan(row))
                chosen: list[int] = []
                for candidate in valid[np.argsort(-row[valid], kind="stable")]:
                    if len(chosen) >= most:
                        break
                    if not (overlaps(corners[b, candidate], corners[b, chosen]) > threshold).any():
                        chosen.append(int(candidate))
                found += [(b, c, box) for box in chosen]
        result = np.zeros((scores.shape[0] * scores.shape[1] * limit, 3), np.int64)
        result[: len(found)] = np.array(found, np.int64).reshape(-1, 3)
        return result, np.array(len(found), np.int64)


def corners_of(boxes: Array, center: bool) -> Array:
    """Boxes [..., 4] as (low x, low y, high x, high y)."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center:
        half = second / np.float32(2)
        return np.concatenate((first - half, first + half), -1)
    first, second = first[..., ::-1], second[..., ::-1]
    swapped = first >= second
    return np.concatenate((np.where(swapped, second, first), np.where(swapped, first, second)), -1)


def overlaps(box: Array, others: Array) -> Array:
    """Intersection over union of a box with others [K, 4]; 0 where an area is not positive. All in f32."""
    low, high = (
        np.where(box[:2] < others[:, :2], others[:, :2], box[:2]),
        np.where(others[:, 2:] < box[2:], others[:, 2:], box[2:]),
    )
    sides = high - low
    shared = sides[:, 0] * sides[:, 1]
    own = (box[2] - box[0]) * (box[3] - box[1])
    area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = own + area - shared
    nothing = (high <= low).any(1) | (shared <= 0) | (own <= 0) | (area <= 0) | (union <= 0)
    return np.where(nothing, np.float32(0), shared / union)
