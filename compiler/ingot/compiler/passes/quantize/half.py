"""Weights stored as halves: f16, or bf16, which has the range of f32."""

from __future__ import annotations

from typing import Literal

from ingot.compiler.ir.graph import Constant, Graph, Value, constant
from ingot.compiler.lower.rounding import round_weights
from ingot.compiler.lower.weight_forms import LARGE, exact_type
from ingot.compiler.ops.pointwise import Cast
from ingot.compiler.rewrite import rebuild
from ingot.runtime.dtypes import BY_NAME, f32


def store_half(graph: Graph, name: Literal["f16", "bf16"]) -> tuple[Graph, float]:
    """`graph` with the large weights of its main graph rounded to f16 or bf16 and cast where they are used, and the
    largest error of an element relative to the largest of its weight. All arithmetic stays in f32.

    Raises ModelError for a weight that the type cannot hold.
    """
    graph, error = round_weights(graph, name)
    dtype = BY_NAME[name]
    mapping: dict[Value, Value] = {}
    for node in graph.nodes():
        if not isinstance(node, Constant) or node.dtype != f32 or node.data.size < LARGE:
            continue
        if exact_type(node.data, (dtype,)) == dtype:
            mapping[node] = Cast(constant(node.data.astype(dtype.to_numpy()), origin=node.origin), f32)
    return (rebuild(graph, mapping) if mapping else graph), error
