"""Simpler contents: constants of zeros and ones, fewer attributes and optional operands, nothing that is not used."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from ingot.compiler.debug.reduction.case import Case, chunked, copied, part
from ingot.compiler.frontend.topology import graphs_of
from ingot.compiler.ir.graph import Array


def simpler_constants(case: Case) -> Generator[Case, bool, None]:
    """Initialisers of floats as zeros, ones, or rounded to few digits."""
    for name in _initialisers(case):
        for fill in (np.zeros_like, np.ones_like, _rounded):
            model = copied(case.model)
            tensor = next(t for t in model.graph.initializer if t.name == name)
            array = numpy_helper.to_array(tensor)
            if array.dtype.kind != "f":
                break
            simple = fill(array)
            if np.array_equal(simple, array, equal_nan=True):
                break
            tensor.CopyFrom(numpy_helper.from_array(simple, name))
            if (yield Case(model, case.data)):
                case = Case(model, case.data)
                break


def fewer_attributes(case: Case) -> Generator[Case, bool, None]:
    """Without attributes and without trailing or named-empty operands of nodes; what is required is kept by the check
    of the model."""
    for number, graph in enumerate(graphs_of(case.model.graph)):
        for index in range(len(graph.node)):
            position = 0
            while position < len(_node(case.model, number, index).attribute):
                model = copied(case.model)
                del _node(model, number, index).attribute[position]
                candidate = part(Case(model, case.data))
                if candidate is not None and _same_nodes(candidate, case) and (yield candidate):
                    case = candidate
                else:
                    position += 1
            for position in reversed(range(1, len(_node(case.model, number, index).input))):
                model = copied(case.model)
                node = _node(model, number, index)
                if not node.input[position]:
                    continue
                if position == len(node.input) - 1:
                    del node.input[position]
                else:
                    node.input[position] = ""
                candidate = part(Case(model, case.data))
                if candidate is not None and _same_nodes(candidate, case) and (yield candidate):
                    case = candidate


def without_clutter(case: Case) -> Generator[Case, bool, None]:
    """Without documentation, metadata, declared types inside, functions and opsets that nothing uses."""
    model = copied(case.model)
    for field in ("doc_string", "metadata_props", "producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    used = {n.domain for g in graphs_of(model.graph) for n in g.node}
    for graph in graphs_of(model.graph):
        for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
            graph.ClearField(field)
        for node in graph.node:
            for field in ("doc_string", "metadata_props"):
                node.ClearField(field)
    called = {(n.domain, n.op_type) for g in graphs_of(model.graph) for n in g.node}
    if not any((f.domain, f.name) in called for f in model.functions):
        del model.functions[:]
        opsets = [o for o in model.opset_import if o.domain in ("", "ai.onnx") or o.domain in used]
        del model.opset_import[:]
        model.opset_import.extend(opsets)
    if model.SerializeToString(deterministic=True) != case.model.SerializeToString(deterministic=True):
        yield Case(model, case.data)


def constants_for_inputs(case: Case) -> Generator[Case, bool, None]:
    """Initialisers as inputs where data are made up anyway, so that what is left does not hang on their values."""

    def without(case: Case, names: Sequence[str]) -> Case | None:
        model = copied(case.model)
        kept: list[onnx.TensorProto] = []
        for tensor in model.graph.initializer:
            if tensor.name in names:
                info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                model.graph.input.append(info)
            else:
                kept.append(tensor)
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        return Case(model)

    def floats(case: Case) -> list[str]:
        declared = {i.name for i in case.model.graph.input}
        return [n for n in _initialisers(case) if n not in declared and _array(case, n).dtype.kind == "f"]

    if case.data is None:
        yield from chunked(case, floats, without)


def _initialisers(case: Case) -> list[str]:
    return [t.name for t in case.model.graph.initializer]


def _array(case: Case, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in case.model.graph.initializer if t.name == name))


def _rounded(array: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.rint(array * 4).astype(array.dtype) / array.dtype.type(4)


def _node(model: onnx.ModelProto, number: int, index: int) -> onnx.NodeProto:
    return list(graphs_of(model.graph))[number].node[index]


def _same_nodes(candidate: Case, case: Case) -> bool:
    """True where no node was lost, so that the positions of nodes still mean the same."""
    return candidate.size[0] == case.size[0]
