"""A model with the inputs it fails on, and the parts it can be cut to."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import onnx

from ingot.compiler.frontend.cut.errors import CutError
from ingot.compiler.frontend.cut.extract import extract
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.onnx import load_onnx
from ingot.compiler.frontend.topology import graphs_of
from ingot.compiler.ir.graph import Array
from ingot.compiler.ir.interpret import evaluate_graph


@dataclass(frozen=True, eq=False)
class Case:
    """A model that is being reduced. `data` are its inputs by name, None where they are made up each time."""

    model: onnx.ModelProto
    data: Mapping[str, Array] | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Nodes, with those of sub-graphs; inputs and outputs; elements of initialisers."""
        graphs = list(graphs_of(self.model.graph))
        elements = sum(int(np.prod(t.dims, dtype=np.int64)) for g in graphs for t in g.initializer)
        ends = len(self.model.graph.input) + len(self.model.graph.output)
        return sum(len(g.node) for g in graphs), ends, elements


Mutation: TypeAlias = Callable[[Case], Generator[Case, bool, None]]
"""Yields smaller cases one by one; what is sent back says whether the case still fails, so that the next is made of
it, and not of the one before."""


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def infer(model: onnx.ModelProto) -> Mapping[str, onnx.ValueInfoProto]:
    """The types of the tensors of the main graph, as far as they follow from those declared."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        graph = model.graph
    return {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}


def part(case: Case, outputs: Sequence[str] | None = None, cut: Iterable[str] = ()) -> Case | None:
    """The part of `case` that computes `outputs` (default: its own), with the tensors `cut` as inputs where they are
    still needed; None where that cannot be had. Data of new inputs are what the tensors were."""
    model = copied(case.model)
    graph = model.graph
    wanted = list(outputs) if outputs is not None else [o.name for o in graph.output]
    gone = set(cut)
    if gone & set(wanted):
        return None

    @lru_cache(maxsize=1)
    def types() -> Mapping[str, onnx.ValueInfoProto]:
        return infer(case.model)

    try:
        for name in sorted(gone):
            if not types()[name].type.WhichOneof("value") or name in {i.name for i in graph.input}:
                return None
            graph.input.append(types()[name])
        kept = [node for node in graph.node if not gone & set(node.output)]
        left = [name for node in graph.node if gone & set(node.output) for name in node.output if name]
        if set(left) - gone & {name for node in kept for name in node.input}:
            return None
        del graph.node[:]
        graph.node.extend(kept)
        smaller = extract(model, None, wanted, types)
    except (CutError, ModelError, KeyError):
        return None
    return _with_data(case, smaller)


def _with_data(case: Case, smaller: onnx.ModelProto) -> Case | None:
    """`smaller`, a part of the model of `case`, with the data that belong to it."""
    if case.data is None:
        return Case(smaller)
    names = [i.name for i in smaller.graph.input]
    missing = [name for name in names if name not in case.data]
    try:
        known = dict(values(case, missing)) if missing else dict[str, Array]()
    except Exception:  # the reference cannot tell: without data this is no case
        return None
    return Case(smaller, {name: case.data[name] if name in case.data else known[name] for name in names})


def values(case: Case, names: Sequence[str]) -> Mapping[str, Array]:
    """What the tensors `names` are for the data of `case`, by the reference interpreter. Raises what that raises."""
    assert case.data is not None
    model = copied(case.model)
    types = infer(model)
    del model.graph.output[:]
    model.graph.output.extend(types[name] for name in names)
    graph = load_onnx(model)
    with np.errstate(all="ignore"):
        return evaluate_graph(graph, {i.label: case.data[i.label] for i in graph.inputs})


def chunked(
    case: Case, items: Callable[[Case], Sequence[str]], without: Callable[[Case, Sequence[str]], Case | None]
) -> Generator[Case, bool, Case]:
    """`case` with ever smaller runs of `items` taken away (ddmin without complements; Zeller and Hildebrandt 2002)."""
    names = items(case)
    size = len(names)
    while size:
        position = 0
        while position < len(names):
            candidate = without(case, names[position : position + size])
            if candidate is not None and (yield candidate):
                case = candidate
                still = set(items(case))
                before = names[:position]
                rest = names[position + size :]
                names = [name for name in (*before, *rest) if name in still]
                position = sum(name in still for name in before)
            else:
                position += size
        size = min(size // 2, len(names))
    return case
