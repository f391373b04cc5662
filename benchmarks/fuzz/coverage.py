"""What the random models contain: how often each operator, opset, element type and feature occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx
from onnx import TensorProto

from benchmarks.fuzz.analysis import TRAINING
from benchmarks.fuzz.generate import Sample
from ingot.compiler.frontend.operators import TABLE
from ingot.compiler.frontend.topology import graphs_of

LEFT_OUT = frozenset(
    {"Upsample", "Scatter", "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
     "RandomUniformLike"}
)  # fmt: skip
"""Operators that opset 13 does not have any more, or that give random numbers."""


def functions() -> set[str]:
    """Operators that ONNX defines by others, and the importer takes by that definition."""
    schemas: list[Any] = [*onnx.defs.get_all_schemas()]
    return {s.name for s in schemas if not s.domain and (s.has_function or s.has_context_dependent_function)}


def supported() -> set[str]:
    """All operators of ONNX's own domains that models of opset 13 and later may contain."""
    names = {tuple(name.rpartition(".")[::2]) for name in TABLE.names()}
    defined = {(s.domain, s.name) for s in onnx.defs.get_all_schemas() if s.domain in ("", TRAINING)}
    return ({name for _, name in names & defined} | functions()) - LEFT_OUT


def count(samples: Iterable[Sample]) -> dict[str, Counter[str]]:
    """Counts of operators by node, and of opsets, element types and features by model."""
    found = {kind: Counter[str]() for kind in ("operators", "opsets", "element types", "features")}
    for sample in samples:
        model = sample.model
        graphs = list(graphs_of(model.graph))
        nodes = [node for graph in graphs for node in graph.node]
        found["operators"].update(node.op_type for node in nodes)
        found["opsets"][str(model.opset_import[0].version)] += 1
        found["element types"].update(_types(model))
        found["features"].update(_features(sample, len(nodes), len(graphs)))
    return found


def _types(model: onnx.ModelProto) -> set[str]:
    infos = [*model.graph.input, *model.graph.output, *onnx.shape_inference.infer_shapes(model).graph.value_info]
    codes = {info.type.tensor_type.elem_type for info in infos if info.type.HasField("tensor_type")}
    return {TensorProto.DataType.Name(code).lower() for code in codes | {t.data_type for t in model.graph.initializer}}


def _features(sample: Sample, nodes: int, graphs: int) -> set[str]:
    model = sample.model
    dims = [d for i in model.graph.input for d in i.type.tensor_type.shape.dim]
    extents = [n for array in sample.data.values() for n in array.shape]
    ends = [d for o in model.graph.output for d in o.type.tensor_type.shape.dim]
    conditions = {
        "an open axis": any(d.dim_param for d in dims),
        "a size that data or a computation decide": any(not d.dim_param and not d.HasField("dim_value") for d in ends),
        "an input without elements": 0 in extents,
        "an extent of 1": 1 in extents,
        "NaN, infinities, tiny numbers": sample.special,
        "sub-graphs": graphs > 1,
        "sub-graphs in sub-graphs": any(len(list(graphs_of(g))) > 1 for g in list(graphs_of(model.graph))[1:]),
        "more than 40 nodes": nodes > 40,
        "more than 5 outputs": len(model.graph.output) > 5,
    }
    return {name for name, holds in conditions.items() if holds} | {"all models"}


def report(found: dict[str, Counter[str]]) -> str:
    """The counts as text, and the operators that never occurred."""
    lines: list[str] = []
    for kind, counts in found.items():
        order = sorted(counts.items(), key=(lambda i: int(i[0])) if kind == "opsets" else (lambda i: (-i[1], i[0])))
        lines.append(f"{kind} ({len(counts)}): " + ", ".join(f"{name} {n}" for name, n in order))
    missing = sorted(supported() - set(found["operators"]))
    lines.append(f"never: {', '.join(missing) or 'none'}")
    return "\n".join(lines)
