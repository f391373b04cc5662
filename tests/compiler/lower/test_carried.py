"""What a loop carries is computed where it lies, only where nothing reads the old value afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from ingot.compiler.frontend import load_onnx
from ingot.compiler.ir.execute import run_program
from ingot.compiler.ir.interpret import evaluate_graph
from ingot.compiler.ir.program import Launch, Program, Repeat
from ingot.compiler.ir.verify import verify_program
from ingot.compiler.lower.lowering import lower
from ingot.compiler.passes.default import default_pipeline
from ingot.compiler.targets.registry import find_target

LOOP = """<ir_version: 8, opset_import: ["" : 17]>
net (float[8, 8] x, float[8, 8] w) => (float[8, 8] y, float[8, 8] z) {
  n = Constant<value = int64 {3}>()
  yes = Constant<value = bool {1}>()
  y, z = Loop(n, yes, x, w) <body = b (int64 i, bool c, float[8, 8] p, float[8, 8] q) => (
      bool co, float[8, 8] s, float[8, 8] t) {
    co = Identity(c)
    STEP
  }>
}"""


def body_of(step: str) -> tuple[Program, list[str]]:
    """The lowered loop, checked against the graph, and the names of the kernels of its body."""
    graph = load_onnx(parser.parse_model(LOOP.replace("STEP", step)))
    program = lower(default_pipeline().run(graph), find_target("cpu").machine)
    verify_program(program)
    rng = np.random.default_rng(3)
    feed = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in ("x", "w")}
    want = evaluate_graph(graph, feed)
    for name, have in run_program(program, feed).items():
        np.testing.assert_allclose(have, want[name], rtol=1e-4, atol=1e-5)
    (loop,) = [s for s in program.steps if isinstance(s, Repeat)]
    return program, [s.kernel.name for s in loop.body if isinstance(s, Launch)]


@pytest.mark.parametrize(
    ("step", "copies"),
    [
        ("s = Tanh(p) t = Add(q, p)", 1),  # one kernel, which reads p again after writing s
        ("s = Add(p, q) t = Tanh(q)", 0),
        ("s = Tanh(p) t = Identity(q)", 0),  # q stays where it is
        ("a = Transpose(p) s = Add(a, p) t = Identity(q)", 1),  # another point reads what one has overwritten
        ("s = MatMul(p, q) t = Identity(q)", 1),
        ("s = MatMul(q, q) a = Tanh(p) t = Add(a, q)", 1),  # s is there before p is read for the last time
    ],
)
def test_copies_at_the_end_of_a_body(step: str, copies: int) -> None:
    _, kernels = body_of(step)
    assert sum(name.startswith("carry") for name in kernels) <= copies


@pytest.mark.parametrize(
    "step", ["s = Identity(q) t = Identity(p)", "s = Tanh(q) t = Tanh(p)", "s = Identity(q) t = Exp(q)"]
)
def test_values_that_change_places(step: str) -> None:
    body_of(step)


def test_a_condition_that_never_changes_is_not_looked_at() -> None:
    program, kernels = body_of("s = Tanh(p) t = Tanh(q)")
    (loop,) = [s for s in program.steps if isinstance(s, Repeat)]
    assert loop.condition is None and not any(name.startswith("running") for name in kernels)
