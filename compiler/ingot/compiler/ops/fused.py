"""Groups made by fusion."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.ir.graph import Array, Graph, Node, Value, op
from ingot.compiler.ir.interpret import evaluate_results
from ingot.compiler.ir.types import TensorType
from ingot.compiler.ops.control import check_inputs


@op("fused")
class Fused(Node):
    """A group lowered to one kernel: `body` applied to the operands, which pair with its inputs."""

    operands: tuple[Value, ...]
    body: Graph

    def infer(self) -> Sequence[TensorType]:
        check_inputs(self, self.body, [v.type for v in self.operands], "the body")
        return [v.type for v in self.body.results]

    def evaluate(self, *operands: Array) -> Sequence[Array]:
        return evaluate_results(self.body, operands)
