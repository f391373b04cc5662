"""Which dequantised weights stay narrow, however exporters spell them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import compile, default_pipeline
from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.graph import Constant, Graph, Input, Node, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Gather
from ingot.compiler.ops.quantised import Dequantize, DequantizeBlocks, Quantize
from ingot.compiler.pipeline import Pipeline
from ingot.runtime.dtypes import f32, i32, i64, u8

Array = np.ndarray[Any, Any]
DEPTH, COLUMNS = 96, 80
TYPES = {
    "int8": (TensorProto.INT8, -128, 127, 8),
    "uint8": (TensorProto.UINT8, 0, 255, 8),
    "int4": (TensorProto.INT4, -8, 7, 4),
    "uint4": (TensorProto.UINT4, 0, 15, 4),
    "int2": (TensorProto.INT2, -2, 1, 2),
    "uint2": (TensorProto.UINT2, 0, 3, 2),
}


def tensor(name: str, kind: int, data: Array) -> onnx.TensorProto:
    if kind in (TensorProto.INT8, TensorProto.UINT8):
        return numpy_helper.from_array(data.astype(np.int8 if kind == TensorProto.INT8 else np.uint8), name)
    return helper.make_tensor(name, kind, data.shape, data.ravel().tolist())


def model_of(kind: str, block: int, *, zeros: bool, transposed: bool) -> tuple[onnx.ModelProto, Array]:
    """x @ DequantizeLinear(w) of opset 25, and the weights in float64."""
    code, low, high, _ = TYPES[kind]
    rng = np.random.default_rng(block)
    shape = (COLUMNS, DEPTH) if transposed else (DEPTH, COLUMNS)
    along = 1 if transposed else 0
    w = rng.integers(low, high + 1, shape)
    each: list[int] = list(shape)
    each[along] = -(-DEPTH // block) if block else 1
    scale = (0.01 + rng.random(each)).astype(np.float32)
    zero = rng.integers(low, high + 1, each) if zeros else np.zeros(each, np.int64)
    wide = [np.repeat(part, block or DEPTH, along).take(np.arange(DEPTH), along) for part in (scale, zero)]
    numbers = (w - wide[1]) * wide[0].astype(np.float64)
    parameters = {"scale": numpy_helper.from_array(scale if block else scale.reshape(-1), "scale")}
    if zeros:
        parameters["zero"] = tensor("zero", code, zero if block else zero.reshape(-1))
    attributes: dict[str, Any] = {"axis": along, "block_size": block} if block else {"axis": 1 - along}
    nodes = [helper.make_node("DequantizeLinear", ["w", *parameters], ["d"], **attributes)]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", "t" if transposed else "d"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, COLUMNS])],
        [tensor("w", code, w), *parameters.values()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    return made, numbers.T if transposed else numbers


def narrow(graph: Graph) -> list[DequantizeBlocks]:
    return [node for node in graph.nodes() if isinstance(node, DequantizeBlocks)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("block", [0, 16, 64])
def test_dequantize_linear(kind: str, zeros: bool, transposed: bool, block: int) -> None:
    made, numbers = model_of(kind, block, zeros=zeros, transposed=transposed)
    graph = default_pipeline().run(load_onnx(made))
    (node,) = narrow(graph)
    assert (node.bits, node.block) == (TYPES[kind][3], block or DEPTH)
    assert (node.zero_point.shape == (1, 1)) != zeros
    x = np.random.default_rng(1).standard_normal((2, 3, DEPTH)).astype(np.float32)
    np.testing.assert_allclose(evaluate_graph(graph, {"x": x})["y"], x @ numbers, rtol=1e-4, atol=1e-4)


def nbits(bits: int, *, zeros: Any, depth: int = 96, block: int = 32, bias: bool = False) -> onnx.ModelProto:
    """A MatMulNBits of ONNX Runtime's domain."""
    rng = np.random.default_rng(bits)
    blocks = -(-depth // block)
    arrays = {
        "b": rng.integers(0, 256, (COLUMNS, blocks, block * bits // 8), np.uint8),
        "scales": (0.01 + rng.random(COLUMNS * blocks)).astype(np.float32),
    }
    if zeros == "float":
        arrays["zeros"] = rng.random(COLUMNS * blocks).astype(np.float32)
    elif zeros:
        arrays["zeros"] = rng.integers(0, 256, COLUMNS * -(-blocks * bits // 8), np.uint8)
    names = [*arrays] + [""] * (3 - len(arrays))
    if bias:
        arrays["bias"] = rng.standard_normal(COLUMNS).astype(np.float32)
        names += ["", "bias"]
    node = helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", K=depth, N=COLUMNS, bits=bits, block_size=block,
        accuracy_level=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, COLUMNS])],
        [numpy_helper.from_array(data, name) for name, data in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("depth", [96, 112])
def test_mat_mul_n_bits(bits: int, zeros: bool, depth: int) -> None:
    """Beside ONNX Runtime without the rounding of activations that an accuracy level allows."""
    model = nbits(bits, zeros=zeros, depth=depth, bias=True)
    graph = default_pipeline().run(load_onnx(model))
    (node,) = narrow(graph)
    assert (node.bits, node.block) == (bits, 32)
    if bits == 2:  # not all versions of it have those
        return
    model.graph.node[0].attribute.remove(next(a for a in model.graph.node[0].attribute if a.name == "accuracy_level"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).standard_normal((5, depth)).astype(np.float32)
    want: Any = session.run(None, {"x": x})[0]
    close = 2e-4 * float(np.abs(want).max())
    np.testing.assert_allclose(evaluate_graph(graph, {"x": x})["y"], want, rtol=1e-4, atol=close)


@pytest.mark.parametrize(("level", "bits"), [(None, 0), (0, 0), (1, 0), (4, 8)])
def test_accuracy_level(level: int | None, bits: int) -> None:
    """Level 4 lets activations be rounded to 8 bits; what is kept by rewrites."""
    model = nbits(4, zeros=False)
    attributes = model.graph.node[0].attribute
    attributes.remove(next(a for a in attributes if a.name == "accuracy_level"))
    if level is not None:
        attributes.append(helper.make_attribute("accuracy_level", level))
    nodes = default_pipeline().run(load_onnx(model)).nodes()
    inner = [node for fused in nodes if isinstance(fused, Fused) for node in fused.body.nodes()]
    assert [node.a_bits for node in (*nodes, *inner) if isinstance(node, MatMul)] == [bits]


def test_zero_points_that_are_floats_are_computed_with() -> None:
    assert not narrow(default_pipeline().run(load_onnx(nbits(4, zeros="float"))))


X = Input("x", TensorType(f32, (3, DEPTH)))


def dequantised(scale: Array, dtype: Any = np.int8, rows: int = DEPTH) -> Dequantize:
    numbers = np.random.default_rng(3).integers(-100 if dtype == np.int8 else 0, 100, (rows, COLUMNS)).astype(dtype)
    return Dequantize(constant(numbers), constant(scale), None)


def by_blocks(block: int) -> Array:
    """Scales [DEPTH, COLUMNS] that change every `block` rows."""
    scales = np.random.default_rng(4).random((-(-DEPTH // block), COLUMNS), np.float32)
    return np.repeat(scales, block, 0)[:DEPTH]


def optimised(value: Value, *inputs: Input) -> Graph:
    return default_pipeline().run(Graph(inputs or (X,), (("y", value),)))


def test_what_stays_as_it_was() -> None:
    """Blocks that no word begins with, small matrices and products of integers."""
    uneven = optimised(MatMul(X, dequantised(by_blocks(3))))
    assert not narrow(uneven) and narrow(optimised(MatMul(X, dequantised(by_blocks(4)))))
    one = constant(np.float32(0.5))
    assert not narrow(optimised(MatMul(X, Dequantize(constant(np.ones((DEPTH, 8), np.int8)), one, None))))
    rounded = Dequantize(Quantize(X, one, constant(np.uint8(3)), u8), one, constant(np.uint8(3)))
    graph = optimised(MatMul(rounded, dequantised(np.float32(2) * np.ones((1, COLUMNS), np.float32))))
    assert not narrow(graph) and any(node.dtype == i32 for node in all_nodes(graph) if isinstance(node, MatMul))


def all_nodes(graph: Graph) -> list[Node]:
    """Those of groups, too."""
    return [n for node in graph.nodes() for n in (node.body.nodes() if isinstance(node, Fused) else [node])]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block", [1, 32, 96])
def test_tables_are_dequantised_row_by_row(bits: int, block: int) -> None:
    rng, rows = np.random.default_rng(block), 70
    numbers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, DEPTH)).astype(np.int8)
    scale = np.repeat(rng.random((rows, DEPTH // block)), block, 1).astype(np.float32)
    indices = Input("i", TensorType(i64, (2, 3)))
    graph = optimised(Gather(Dequantize(constant(numbers), constant(scale), None), indices, 0), indices)
    tables = [node for node in all_nodes(graph) if isinstance(node, Constant) and node.data.size >= 200]
    assert sorted(table.dtype.name for table in tables) == (["f32", "u8"] if block < 96 else ["u8"])
    assert max(table.data.size for table in tables if table.dtype == u8) == rows * DEPTH * bits // 8
    places = np.array([[0, 69, -1], [5, 5, -70]])
    want = (numbers.astype(np.float64) * scale)[places]
    np.testing.assert_allclose(evaluate_graph(graph, {"i": places})["y"], want, rtol=1e-6)
    with compile(graph, pipeline=Pipeline(()), jobs=1).session(threads=1) as session:
        np.testing.assert_allclose(session.run({"i": places})["y"], want, rtol=1e-6)
