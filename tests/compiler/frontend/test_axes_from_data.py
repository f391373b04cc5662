"""Axes, starts, steps, pads and scales that are inputs of the model: native code against numpy and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper, numpy_helper

from ingot.compiler import compile
from ingot.compiler.onnx_backend import Prepared, prepare
from ingot.runtime import RuntimeFault

RNG = np.random.default_rng(9)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)


def prepared(op: str, inputs: list[np.ndarray], opset: int = 18, **attributes: Any) -> Prepared:
    """A node all of whose inputs are the model's."""
    names = [f"x{i}" for i in range(len(inputs))]
    code = helper.np_dtype_to_tensor_dtype
    declared = [helper.make_tensor_value_info(n, code(x.dtype), x.shape) for n, x in zip(names, inputs, strict=True)]
    output = onnx.ValueInfoProto(name="y")
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attributes)], "g", declared, [output])
    return prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(keepdims: int) -> None:
    ready = prepared("ReduceSum", [X, whole(0, 0)], keepdims=keepdims)
    for axes in ((0, 1), (-1, 0), (2, 1)):
        (found,) = ready.run([X, whole(*axes)])
        assert_allclose(found, X.sum(axes, keepdims=bool(keepdims)), rtol=1e-5, atol=1e-6)


def test_reduction_of_all_axes_and_of_nothing() -> None:
    every = whole(2, 0, 1)
    assert_allclose(prepared("ReduceProd", [X, every], keepdims=0).run([X, every])[0], X.prod(), rtol=1e-5)
    empty = np.zeros((0, 3), np.float32)
    ready = prepared("ReduceMax", [empty, whole(0)], opset=20)
    (found,) = ready.run([empty, whole(0)])
    assert_array_equal(found, np.full((1, 3), -np.inf, np.float32))
    (found,) = ready.run([empty, whole(1)])
    assert found.shape == (0, 1)


def test_bools_are_reduced() -> None:
    flags = np.array([[True, False], [False, False], [True, True]])
    for op, expected in (("ReduceMax", np.any), ("ReduceMin", np.all)):
        ready = prepared(op, [flags, whole(0)], opset=20, keepdims=0)
        for axis in (0, 1):
            assert_array_equal(ready.run([flags, whole(axis)])[0], expected(flags, axis=axis))


def test_axes_that_are_none_end_the_run() -> None:
    ready = prepared("Squeeze", [X[:, :1, :1], whole(0, 1)])
    for axes in ((1, 1), (1, 3), (-4, 1), (1, -2)):
        with pytest.raises(RuntimeFault, match="out of range or named twice"):
            ready.run([X[:, :1, :1], whole(*axes)])


def test_cumulative_sums() -> None:
    ready = prepared("CumSum", [X, np.array(0, np.int32)])
    for axis in range(-3, 3):
        assert_allclose(ready.run([X, np.array(axis, np.int32)])[0], X.cumsum(axis), rtol=1e-5, atol=1e-6)


def test_unsqueeze_and_squeeze() -> None:
    up = prepared("Unsqueeze", [X, whole(0, 1)])
    for axes in ((0, 1), (4, 2), (-1, 0), (1, 3)):
        assert_array_equal(up.run([X, whole(*axes)])[0], np.expand_dims(X, axes))
    assert prepared("Unsqueeze", [X[0, 0, 0], whole(0)]).run([X[0, 0, 0], whole(-1)])[0].shape == (1,)
    ones = X.reshape(1, 6, 1, 4)
    down = prepared("Squeeze", [ones, whole(0)])
    for axis in (0, 2, -2):
        assert_array_equal(down.run([ones, whole(axis)])[0], np.squeeze(ones, axis))
    with pytest.raises(RuntimeFault):
        down.run([ones, whole(1)])


SLICES = (
    ((0, 2), (0, 1), (2, 4), (1, 2)),
    ((2, 1), (-1, 2), (-(2**63), -9), (-1, -2)),
    ((1, -1), (5, 0), (9, 2**63 - 1), (1, 2**63 - 1)),
    ((0, 1), (1, -9), (0, 9), (-(2**62), 3)),
    ((2, 0), (3, 1), (1, 1), (1, 1)),
)


def test_slices() -> None:
    ready = prepared("Slice", [X, *[whole(0, 0)] * 4])
    for axes, starts, ends, steps in SLICES:
        index = [slice(None)] * 3
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            index[axis] = slice(start, end, step)
        (found,) = ready.run([X, *(whole(*values) for values in (starts, ends, axes, steps))])
        assert_array_equal(found, X[tuple(index)])
    with pytest.raises(RuntimeFault, match="step is 0"):
        ready.run([X, whole(0, 0), whole(1, 1), whole(0, 1), whole(1, 0)])


@pytest.mark.parametrize("step", [3, -3, 2**31, 2**63 - 1, -(2**63)])
def test_slices_in_steps_that_are_known(step: int) -> None:
    line = np.arange(7, dtype=np.float32)
    names = {"x": line, "start": whole(0), "end": whole(0)}
    code = helper.np_dtype_to_tensor_dtype
    declared = [helper.make_tensor_value_info(n, code(x.dtype), x.shape) for n, x in names.items()]
    fixed = [numpy_helper.from_array(whole(0), "axis"), numpy_helper.from_array(whole(step), "step")]
    nodes = [helper.make_node("Slice", [*names, "axis", "step"], ["y"])]
    graph = helper.make_graph(nodes, "g", declared, [onnx.ValueInfoProto(name="y")], fixed)
    ready = prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    for start, end in ((5, 1), (-100, 100), (100, -100), (3, -1)):
        assert_array_equal(ready.run([line, whole(start), whole(end)])[0], line[start:end:step])


def test_pads() -> None:
    ready = prepared("Pad", [X, whole(0, 0, 0, 0), np.array(7, np.float32), whole(0, 1)])
    for axes in ((0, 2), (-1, 1)):
        (found,) = ready.run([X, whole(1, 0, 2, 3), np.array(7, np.float32), whole(*axes)])
        widths = [(0, 0)] * 3
        widths[axes[0]], widths[axes[1]] = (1, 2), (0, 3)
        assert_array_equal(found, np.pad(X, widths, constant_values=7))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_scales(mode: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    image = RNG.standard_normal((1, 2, 4, 5)).astype(np.float32)
    names = ["x", "", "scales"]
    declared = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [4]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Resize", names, ["y"], mode=mode)],
        "g",
        declared,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ready = prepare(model)
    for scales in ([1, 1, 2, 3], [1, 1, 0.6, 1.5], [1, 1, 1, 1]):
        given = {"x": image, "scales": np.array(scales, np.float32)}
        assert_allclose(ready.run(given)[0], peer.run(None, given)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeFault, match="not greater than 0"):
        ready.run({"x": image, "scales": np.array([1, 1, -1, 1], np.float32)})


@pytest.mark.parametrize("flags", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("dtype", "axis", "bound"), [("float", 0, 1e-6), ("float16", 1, 1e-3), ("uint64", 2, 0)])
def test_products_along_an_axis_of_any_length(dtype: str, axis: int, bound: float, flags: tuple[int, int]) -> None:
    reverse, exclusive = flags
    shape = ", ".join("n" if a == axis else str(d) for a, d in enumerate((2, 3, 4)))
    text = f"""<ir_version: 10, opset_import: ["" : 26]> m ({dtype}[{shape}] x) => ({dtype}[{shape}] y)
        <int64 a = {{{axis}}}> {{ y = CumProd <reverse = {reverse}, exclusive = {exclusive}> (x, a) }}"""
    with compile(onnx.parser.parse_model(text), jobs=1).session(threads=1) as session:
        for length in (0, 1, 5):
            sizes = [length if a == axis else d for a, d in enumerate((2, 3, 4))]
            kind = {"float": np.float32, "float16": np.float16, "uint64": np.uint64}[dtype]
            x = (RNG.uniform(0.5, 1.5, sizes) * (1 if bound else 2**33)).astype(kind)  # integers wrap
            wide = x.astype(np.float64) if bound else x
            if reverse:
                wide = np.flip(wide, axis)
            wanted = np.cumprod(wide, axis, dtype=wide.dtype)
            if exclusive:
                ones = np.ones_like(np.take(wanted, range(min(length, 1)), axis))
                wanted = np.concatenate((ones, np.take(wanted, range(max(length - 1, 0)), axis)), axis)
            wanted = np.flip(wanted, axis) if reverse else wanted
            assert_allclose(session.run({"x": x})["y"], wanted.astype(x.dtype), rtol=bound, strict=True)
