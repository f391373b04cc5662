"""Results take the storage of operands that die, only where every element is read by the point that overwrites it."""

from __future__ import annotations

import numpy as np

from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.graph import Graph, Input, Value, constant
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.ops.fused import Fused
from ingot.compiler.ops.linear import MatMul
from ingot.compiler.ops.movement import Transpose
from ingot.compiler.ops.pointwise import Add, Exp, Mul, Relu
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import f32

X = Input("x", TensorType(f32, (8, 8)))
W = constant(np.eye(8, dtype=np.float32)[::-1].copy())


def lowered(result: Value) -> tuple[Graph, Program]:
    graph = Graph((X,), (("y", result),))
    program = lower(graph, find_target("cpu").machine)
    verify_program(program)
    return graph, program


def check(graph: Graph, program: Program) -> None:
    feed = {"x": np.arange(64, dtype=np.float32).reshape(8, 8) / 64}
    np.testing.assert_allclose(run_program(program, feed)["y"], evaluate_graph(graph, feed)["y"], rtol=1e-5)


def test_a_chain_of_pointwise_kernels_uses_one_temp() -> None:
    graph, program = lowered(MatMul(Exp(Relu(Exp(Relu(X)))), W))
    assert len(program.of_kind("temp")) == 1
    check(graph, program)


def test_an_operand_read_later_keeps_its_storage() -> None:
    a = Relu(X)
    graph, program = lowered(MatMul(Add(Exp(a), a), W))
    assert len(program.of_kind("temp")) == 2
    check(graph, program)


def test_an_operand_that_a_second_result_reads_keeps_its_storage() -> None:
    a = MatMul(Relu(X), W)
    x = Input("x0", a.type)
    group = Fused((a,), Graph((x,), (("p", Exp(x)), ("q", Mul(x, x))), "group"))
    graph, program = lowered(Add(MatMul(group.result(0), W), MatMul(group.result(1), W)))
    check(graph, program)


def test_a_transposed_operand_keeps_its_storage() -> None:
    a = Relu(X)
    graph, program = lowered(MatMul(Mul(Transpose(a, (1, 0)), constant(np.float32(2))), W))
    assert len(program.of_kind("temp")) == 2
    check(graph, program)


def test_a_matmul_does_not_overwrite_what_it_multiplies() -> None:
    graph, program = lowered(MatMul(MatMul(Relu(X), W), W))
    assert len(program.of_kind("temp")) == 2
    check(graph, program)


def test_inputs_are_never_overwritten() -> None:
    graph, program = lowered(MatMul(Relu(X), W))
    assert len(program.of_kind("temp")) == 1
    check(graph, program)
