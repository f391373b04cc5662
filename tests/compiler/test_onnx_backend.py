"""ONNX's backend interface: tensors, sequences and optionals in and out, single nodes, and onnx's own runner."""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper
from onnx.backend.base import Backend

import ingot.compiler.onnx_backend as backend
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.onnx_backend import IngotBackend, flat, restored

FLOAT = TensorProto.FLOAT
TENSOR = helper.make_tensor_type_proto(FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(TENSOR)
OPTIONAL = helper.make_optional_type_proto(TENSOR)
RNG = np.random.default_rng(5)


def vector(name: str, *shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, list(shape))


def model(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], opset: int = 18) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", opset)]
    )


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_is_a_backend_for_the_cpu() -> None:
    assert issubclass(IngotBackend, Backend)
    assert backend.supports_device("CPU") and backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(ValueError, match="CUDA"):
        backend.prepare(onnx.ModelProto(), "CUDA")


def test_tensors_by_position_by_name_and_alone() -> None:
    two = model([helper.make_node("Sub", ["a", "b"], ["y"])], [vector("a", "n"), vector("b", "n")], [vector("y", "n")])
    prepared = backend.prepare(two)
    a, b = real(3), real(3)
    for given in ([a, b], (a, b), {"b": b, "a": a}):
        (found,) = prepared.run(given)
        assert_array_equal(found, a - b)
    (found,) = prepared.run([a[:0], b[:0]])
    assert found.shape == (0,)
    one = model([helper.make_node("Neg", ["a"], ["y"])], [vector("a", 2)], [vector("y", 2)])
    assert_array_equal(backend.run_model(one, a[:2])[0], -a[:2])


def test_wrong_number_of_inputs_is_told() -> None:
    prepared = backend.prepare(model([helper.make_node("Neg", ["a"], ["y"])], [vector("a", 2)], [vector("y", 2)]))
    with pytest.raises(ValueError, match="2 inputs are given, 1 are needed: a"):
        prepared.run([real(2), real(2)])
    with pytest.raises(ValueError, match="'b'"):
        prepared.run({"b": real(2)})


def test_initialisers_are_no_inputs() -> None:
    graph = model([helper.make_node("Add", ["a", "w"], ["y"])], [vector("a", 2), vector("w", 2)], [vector("y", 2)])
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    a = real(2)
    assert_array_equal(backend.run_model(graph, [a])[0], a + np.array([1, 2], np.float32))


def test_inputs_without_a_rank_are_compiled_for_the_ranks_that_come() -> None:
    unranked = helper.make_tensor_value_info("a", FLOAT, None)
    nodes = [helper.make_node("Relu", ["a"], ["y"])]
    prepared = backend.prepare(model(nodes, [unranked], [onnx.ValueInfoProto(name="y")]))
    for shape in ((), (3,), (2, 1, 2)):
        a = real(*shape)
        assert_array_equal(prepared.run([a])[0], np.maximum(a, 0))


def test_sequences_of_any_length() -> None:
    nodes = [helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    prepared = backend.prepare(model(nodes, [helper.make_value_info("s", SEQUENCE)], [vector("y", None)]))
    for lengths in ((1,), (2, 0, 3)):
        parts = [real(n) for n in lengths]
        assert_array_equal(prepared.run([parts])[0], np.concatenate(parts))


def test_sequences_as_results() -> None:
    nodes = [helper.make_node("SequenceInsert", ["s", "a"], ["t"])]
    inputs = [helper.make_value_info("s", SEQUENCE), vector("a", 2)]
    prepared = backend.prepare(model(nodes, inputs, [helper.make_value_info("t", SEQUENCE)]))
    a = real(2)
    for given in ([], [real(3), real(1, 1)]):
        (found,) = prepared.run([given, a])
        assert isinstance(found, list) and len(found) == len(given) + 1
        for mine, other in zip(found, [*given, a], strict=True):
            assert_array_equal(mine, other)


def test_optionals_with_and_without_content() -> None:
    nodes = [helper.make_node("OptionalHasElement", ["o"], ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.BOOL, [])
    prepared = backend.prepare(model(nodes, [helper.make_value_info("o", OPTIONAL)], [output]))
    for item in (None, real(2), real(2, 2)):
        assert prepared.run([item])[0] == (item is not None)


def test_single_nodes() -> None:
    a, b = real(2, 3), real(3, 2)
    assert_array_equal(backend.run_node(helper.make_node("Transpose", ["x"], ["y"]), [a])[0], a.T)
    clip = helper.make_node("Clip", ["x", "", "high"], ["y"])
    assert_array_equal(backend.run_node(clip, [a, np.float32(0)])[0], np.minimum(a, 0))
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"])
    np.testing.assert_allclose(backend.run_node(gemm, {"x": a, "w": b})[0], a @ b, rtol=1e-5, atol=1e-6)
    axes = helper.make_node("ReduceSum", ["x"], ["y"], axes=[1])
    np.testing.assert_allclose(backend.run_node(axes, [a], opset_version=11)[0], a.sum(1, keepdims=True), rtol=1e-5)
    with pytest.raises(ValueError, match="no type"):
        backend.run_node(helper.make_node("SequenceLength", ["s"], ["y"]), [[]])


def test_what_is_not_supported_is_refused() -> None:
    pair = helper.make_tensor_value_info("a", TensorProto.COMPLEX64, [2])
    refused = model([helper.make_node("Identity", ["a"], ["y"])], [pair], [pair])
    assert not backend.is_compatible(refused)
    with pytest.raises(UnsupportedError, match="complex64"):
        backend.prepare(refused)
    broken = model([helper.make_node("Relu", ["nothing"], ["y"])], [vector("a", 2)], [vector("y", 2)])
    with pytest.raises(ModelError):
        backend.prepare(broken)


def test_items_are_taken_apart_and_put_together() -> None:
    nested = helper.make_sequence_type_proto(SEQUENCE)
    item = [[real(1)], [real(2), real(3)]]
    parts = flat(item, "x")
    assert list(parts) == ["x[0][0]", "x[1][0]", "x[1][1]"]
    again = restored(nested, parts, "x")
    assert isinstance(again, list) and [len(part) for part in again if isinstance(part, list)] == [1, 2]
    many = [real(1) for _ in range(12)]  # x[1] is no beginning of x[10]
    assert len(restored(SEQUENCE, flat(many, "x"), "x") or []) == 12
    assert restored(OPTIONAL, {"other": real(1)}, "x") is None


def test_onnx_runner_takes_it() -> None:
    from onnx.backend.test.case.test_case import TestCase
    from onnx.backend.test.runner import Runner

    a = real(4)
    relu = model([helper.make_node("Relu", ["a"], ["y"])], [vector("a", 4)], [vector("y", 4)])
    case = TestCase("test_relu", "relu", None, None, relu, [([a], [np.maximum(a, 0)])], "node", 1e-3, 1e-7)
    runner = Runner.__new__(Runner)  # without the thousands of cases that its constructor makes
    runner.backend, runner._test_kwargs = IngotBackend, {}
    runner._test_items = {"NodeModel": {}}
    runner._add_model_test(case, "Node")
    result = unittest.TestResult()
    suite = type("Suite", (unittest.TestCase,), {n: item.func for n, item in runner._test_items["NodeModel"].items()})
    unittest.defaultTestLoader.loadTestsFromTestCase(suite).run(result)
    assert result.testsRun == 2 and not result.errors and not result.failures
    assert len(result.skipped) == 1  # CUDA
