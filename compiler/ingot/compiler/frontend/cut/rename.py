"""New names for inputs and outputs, everywhere they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from ingot.compiler.frontend.cut.errors import CutError, near
from ingot.compiler.frontend.topology import own_names, subgraphs


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename inputs and outputs of `model` in place: old name -> new name. Raises CutError."""
    graph = model.graph
    ends = [v.name for v in (*graph.input, *graph.output)]
    for old, new in names.items():
        if old not in ends:
            raise CutError(f"{old!r} is no input or output, so it cannot be renamed{near(old, ends)}")
        if not new:
            raise CutError(f"the new name of {old!r} is empty")
    if len(set(names.values())) < len(names):
        twice = next(n for n in names.values() if list(names.values()).count(n) > 1)
        raise CutError(f"two tensors would be named {twice!r}")
    taken = set(_all_names(graph)) - names.keys()
    for old, new in names.items():
        if new in taken:
            raise CutError(f"{old!r} cannot be renamed to {new!r}: there is another tensor of that name")
    _rename_in(graph, names)


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from own_names(graph)
    yield from (s.values.name for s in graph.sparse_initializer)
    for node in graph.node:
        yield from node.output
        for inner in subgraphs(node):
            yield from _all_names(inner)


def _rename_in(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        info.name = names.get(info.name, info.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)
        for entry in note.quant_parameter_tensor_names:
            entry.value = names.get(entry.value, entry.value)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        for inner in subgraphs(node):
            own = set(own_names(inner)) | {n for each in inner.node for n in each.output}
            if visible := {old: new for old, new in names.items() if old not in own}:
                _rename_in(inner, visible)
