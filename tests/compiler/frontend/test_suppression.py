"""NonMaxSuppression as models use it: left-out inputs, scalars from data, symbolic extents; exactly as others do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ingot.compiler import compile
from ingot.compiler.frontend import ModelError, load_onnx
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops.suppression import NonMaxSuppression
from ingot.runtime.errors import RuntimeFault

onnxruntime = pytest.importorskip("onnxruntime")
Array = np.ndarray[Any, Any]
SCALARS = ("most", "iou", "least")


def model_of(given: tuple[str, ...], known: dict[str, Array], center: int = 0) -> onnx.ModelProto:
    names = ["boxes", "scores", *((s if s in given else "") for s in SCALARS)]
    while not names[-1]:
        names.pop()
    values = [
        helper.make_tensor_value_info("boxes", 1, ["b", "n", 4]),
        helper.make_tensor_value_info("scores", 1, ["b", "c", "n"]),
    ]
    values += [
        helper.make_tensor_value_info(s, 7 if s == "most" else 1, [1]) for s in SCALARS if s in given and s not in known
    ]
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", names, ["found"], center_point_box=center)],
        "g",
        values,
        [helper.make_tensor_value_info("found", 7, None)],
        [numpy_helper.from_array(array, name) for name, array in known.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


def feed_of(seed: int, batch: int, classes: int, count: int, grid: int) -> dict[str, Array]:
    """Boxes and scores with many ties."""
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, grid, (2, batch, count, 2)) / np.float32(grid)
    scores = rng.integers(0, 5, (batch, classes, count)) / np.float32(4)
    return {
        "boxes": np.concatenate((corner, corner + size), -1).astype(np.float32),
        "scores": scores.astype(np.float32),
    }


def onnx_runtime(model: onnx.ModelProto, feed: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
    classes=st.integers(1, 3),
    count=st.integers(1, 12),
    grid=st.integers(1, 8),
    most=st.integers(-1, 13),
    iou=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    least=st.sampled_from([0.0, 0.25, 0.9]),
    center=st.integers(0, 1),
)
def test_agrees_with_others(
    seed: int, batch: int, classes: int, count: int, grid: int, most: int, iou: float, least: float, center: int
) -> None:
    scalars = {"most": np.array([most]), "iou": np.array([iou], np.float32), "least": np.array([least], np.float32)}
    model = model_of(SCALARS, {} if seed % 2 else scalars, center)
    feed = feed_of(seed, batch, classes, count, grid) | (scalars if seed % 2 else {})
    have = evaluate_graph(load_onnx(model), feed)["found"]
    np.testing.assert_array_equal(have, onnx_runtime(model, feed))
    if most >= 0:  # which the reference fails for
        np.testing.assert_array_equal(
            have, np.asarray(next(iter(ReferenceEvaluator(model).run(None, feed)))).reshape(-1, 3)
        )


@pytest.mark.parametrize("given_scalars", [(), ("iou",), ("most",), ("most", "least"), SCALARS])
def test_native_code_with_inputs_left_out(given_scalars: tuple[str, ...]) -> None:
    scalars = {"most": np.array([3]), "iou": np.array([0.5], np.float32), "least": np.array([0.25], np.float32)}
    model = model_of(given_scalars, {})
    with compile(model).session() as session:
        for batch, classes, count in ((1, 1, 1), (2, 3, 40), (1, 2, 0), (1, 80, 17)):
            feed = feed_of(count, batch, classes, count, 4) | {s: scalars[s] for s in given_scalars}
            want = onnx_runtime(model, feed) if count else np.zeros((0, 3), np.int64)
            np.testing.assert_array_equal(session.run(feed)["found"], want)


def test_there_is_no_more_room_than_is_needed() -> None:
    known = {"most": np.array([7]), "iou": np.array([0.5], np.float32)}
    (node,) = [n for n in load_onnx(model_of(("most", "iou"), known)).nodes() if isinstance(n, NonMaxSuppression)]
    assert str(node.limit) == "min(n, 7)"


def test_a_threshold_out_of_range_is_reported() -> None:
    model = model_of(("most", "iou"), {})
    feed = feed_of(0, 1, 1, 4, 4) | {"most": np.array([3]), "iou": np.array([1.5], np.float32)}
    with pytest.raises(IrError, match="between 0 and 1"):
        evaluate_graph(load_onnx(model), feed)
    with compile(model).session() as session, pytest.raises(RuntimeFault, match="between 0 and 1"):
        session.run(feed)


def test_boxes_of_another_kind_are_refused() -> None:
    model = model_of(("most",), {}, center=2)
    with pytest.raises(ModelError, match="center_point_box"):
        load_onnx(model)
    model = model_of(("most",), {})
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 5
    with pytest.raises(ModelError, match="last extent of 4"):
        load_onnx(model)
