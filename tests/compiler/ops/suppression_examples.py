"""Examples of non-maximum suppression, and ONNX Runtime's answers."""

from __future__ import annotations

from functools import partial

import numpy as np
from tests.compiler.ops.example import Example, normal

from ingot.compiler.ir.graph import Array, Node, Value
from ingot.compiler.ops.suppression import NonMaxSuppression


def _build(
    center: bool,
    limit: int,
    boxes: Value,
    scores: Value,
    max_output: Value,
    iou_threshold: Value,
    score_threshold: Value | None = None,
) -> Node:
    return NonMaxSuppression(boxes, scores, max_output, iou_threshold, score_threshold, center, limit)


def boxes_near(name: str, *shape: int, grid: int = 0) -> Array:
    """Boxes [*shape, 4] that overlap a good deal; `grid` > 0 rounds to so many places a unit."""
    where = np.abs(normal(name, *shape, 4)) * np.float32(0.5)
    return np.round(where * np.float32(grid)) / np.float32(grid) if grid else where


def scores_of(name: str, *shape: int) -> Array:
    """Scores with ties."""
    return np.round(np.abs(normal(name, *shape)) * np.float32(8)) / np.float32(8)


def onnx_runtime(node: NonMaxSuppression, *operands: Array) -> tuple[Array, Array]:
    """The answer of ONNX Runtime, with zeros up to the extent of the result."""
    import onnxruntime
    from onnx import helper

    names = ["boxes", "scores", "max_output", "iou_threshold", "score_threshold"][: len(operands)]
    given = [*operands[:2], *(np.atleast_1d(x) for x in operands[2:])]
    given[2] = np.minimum(given[2], int(node.limit))  # pyright: ignore[reportArgumentType]
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", names, ["y"], center_point_box=int(node.center))],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in zip(names, given, strict=True)
        ],
        [helper.make_tensor_value_info("y", 7, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(None, dict(zip(names, given, strict=True)))[0])
    rows = operands[1].shape[0] * operands[1].shape[1] * int(node.limit)  # pyright: ignore[reportArgumentType]
    padded = np.zeros((rows, 3), np.int64)
    padded[: len(found)] = found
    return padded, np.array(len(found), np.int64)


def _examples() -> list[Example]:
    def f32(value: float) -> Array:
        return np.array(value, np.float32)

    def i64(value: int) -> Array:
        return np.array([value], np.int64)

    many, scores = boxes_near("m", 2, 37), scores_of("s", 2, 3, 37)
    odd = boxes_near("o", 1, 21, grid=4)
    odd[0, 3], odd[0, 7], odd[0, 9, 1], odd[0, 11, 2] = np.nan, np.inf, np.nan, -np.inf
    edge = scores_of("e", 1, 2, 21)
    edge[0, 0, :4] = -np.inf, np.inf, np.nan, np.nan
    edge[0, 1] = -np.inf
    made: list[Example] = []
    for center in (False, True):
        tag = "centers" if center else "corners"
        run = partial(_build, center)
        made += [
            Example(f"suppress_{tag}", partial(run, 37), (many, scores, i64(400), f32(0.3), f32(0.25))),
            Example(f"suppress_{tag}_few", partial(run, 20), (many, scores, i64(7), f32(0.5), f32(0.5))),
            Example(f"suppress_{tag}_limit", partial(run, 5), (many, scores, i64(7), f32(0.5), f32(0.5))),
            Example(
                f"suppress_{tag}_grid",
                partial(run, 29),
                (boxes_near("g", 1, 29, grid=2), scores_of("t", 1, 1, 29), i64(29), f32(0.5)),
            ),
            Example(f"suppress_{tag}_all", partial(run, 29), (many[:1, :29], scores[:1, :, :29], i64(29), f32(1))),
            Example(f"suppress_{tag}_none", partial(run, 21), (odd, edge, i64(0), f32(0.5))),
            Example(f"suppress_{tag}_high", partial(run, 37), (many, scores, i64(9), f32(0.5), f32(9))),
            Example(f"suppress_{tag}_one", partial(run, 1), (many[:1, :1], scores[:1, :1, :1], i64(9), f32(0.5))),
            Example(f"suppress_{tag}_special", partial(run, 21), (odd, edge, i64(21), f32(0.3), f32(-np.inf))),
            Example(f"suppress_{tag}_no_threshold", partial(run, 21), (odd, edge[:, 1:], i64(21), f32(0.3))),
        ]
    empty = partial(_build, False, 4)
    made += [
        Example("suppress_no_boxes", empty, (many[:1, :0], scores[:1, :, :0], i64(4), f32(0.5))),
        Example("suppress_no_classes", empty, (many[:1], scores[:1, :0], i64(4), f32(0.5))),
        Example("suppress_no_images", empty, (many[:0], scores[:0], i64(4), f32(0.5))),
    ]
    return made


SUPPRESSION = _examples()
