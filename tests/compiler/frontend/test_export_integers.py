"""Integer products as ONNX: MatMulInteger and ConvInteger are written again as what they were, equal in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler.frontend import load_onnx
from ingot.compiler.frontend.export import export_onnx
from ingot.compiler.ir.graph import Graph
from ingot.compiler.passes.integers import INTEGERS
from ingot.compiler.passes.simplify import simplify
from ingot.compiler.rewrite import rewrite

onnxruntime = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(11)


def integers(graph: Graph) -> Graph:
    return simplify(rewrite(graph, INTEGERS))


def untouched(graph: Graph) -> Graph:
    return graph


def single(
    op: str, shape: Sequence[int], weights: NDArray[Any], zeros: Sequence[Any], **attributes: Any
) -> onnx.ModelProto:
    """One integer product of u8 `x` by constant weights; zero points of None are left out."""
    constants = {"w": weights, **{f"z{i}": z for i, z in enumerate(zeros) if z is not None}}
    names = ["x", "w", *("" if z is None else f"z{i}" for i, z in enumerate(zeros))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "m",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(np.asarray(data), name) for name, data in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(proto: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("zeros", [(None, None), (7, None), (7, 100)])
@pytest.mark.parametrize("stage", [untouched, simplify, integers])
def test_products(kind: str, zeros: tuple[int | None, int | None], stage: Any) -> None:
    limits = np.iinfo(kind)
    points = [None if z is None else np.array(z, k) for z, k in zip(zeros, ("uint8", kind), strict=True)]
    matrices = RNG.integers(limits.min, limits.max + 1, (9, 5), kind)
    filters = RNG.integers(limits.min, limits.max + 1, (4, 3, 3, 3), kind)
    for proto, shape in (
        (single("MatMulInteger", (4, 9), matrices, points), (4, 9)),
        (single("ConvInteger", (1, 3, 6, 5), filters, points, pads=[1, 0, 1, 1]), (1, 3, 6, 5)),
    ):
        x = RNG.integers(0, 256, shape, np.uint8)
        written = export_onnx(stage(load_onnx(proto)))
        onnx.checker.check_model(written)
        (op,) = (n.op_type for n in proto.graph.node)
        kinds = [n.op_type for n in written.graph.node]
        assert op in kinds and not {"MatMul", "Conv"} & set(kinds)
        if stage is not integers:
            assert kinds == [op]
        np.testing.assert_array_equal(run(written, x), run(proto, x))


def test_zero_points_of_columns() -> None:
    """What the operator cannot say, one zero point a column after folding, is still right."""
    weights = RNG.integers(0, 256, (9, 5), np.uint8)
    proto = single("MatMulInteger", (4, 9), weights, [np.array(3, np.uint8), RNG.integers(0, 256, 5, np.uint8)])
    x = RNG.integers(0, 256, (4, 9), np.uint8)
    for stage in (simplify, integers):
        np.testing.assert_array_equal(run(export_onnx(stage(load_onnx(proto))), x), run(proto, x))
