"""The entropy of a run in programs: one storage, taken once a run, kept between runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from ingot.compiler import default_pipeline, load_onnx
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Program, Storage
from ingot.compiler.ir.text.program import parse_program, show_program
from ingot.compiler.ir.types import IrError
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.targets.registry import find_target
from ingot.runtime.dtypes import u64

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] a, float[n] b)
    { a = RandomUniformLike (x) b = RandomNormalLike <seed = 2.0> (x) }"""


@pytest.fixture(scope="module")
def program() -> Program:
    graph = default_pipeline().run(load_onnx(onnx.parser.parse_model(TEXT)))
    return lower(graph, find_target("interpreter").machine)


def test_program(program: Program) -> None:
    verify_program(program)
    assert len(program.of_kind("entropy")) == 1
    assert sum("entropy" in launch.kernel.name for launch in program.launches()) == 1
    x = np.zeros(7, np.float32)
    made = run_program(program, {"x": x})
    expected = evaluate_graph(load_onnx(onnx.parser.parse_model(TEXT)), {"x": x})
    for name, array in expected.items():
        np.testing.assert_allclose(made[name], array, rtol=1e-6, atol=1e-6)


def test_text(program: Program) -> None:
    text = show_program(program)
    assert "entropy" in text
    assert show_program(parse_program(text)) == text


def test_verifier_notices(program: Program) -> None:
    (found,) = program.of_kind("entropy")
    with pytest.raises(IrError, match="two u64"):
        verify_program(replace(program, storages=(*program.storages, Storage("e", "entropy", u64, 3))))
    with pytest.raises(IrError, match="more than one entropy"):
        verify_program(replace(program, storages=(*program.storages, replace(found, name="e"))))
