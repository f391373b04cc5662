"""The nodes between named tensors as a graph of their own; everything else of the model stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx

from ingot.compiler.frontend.cut.errors import CutError, near
from ingot.compiler.frontend.cut.types import Types
from ingot.compiler.frontend.topology import names_read, producers


def extract(
    model: onnx.ModelProto,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    types: Callable[[], Mapping[str, onnx.ValueInfoProto]],
) -> onnx.ModelProto:
    """A model that computes the tensors `outputs` (default: all outputs) from the tensors `inputs` (default: those
    inputs of the model that are needed).

    Functions, opsets, metadata and documentation are kept, of initialisers and type annotations those of tensors that
    are left. `types` infers the types of tensors that the model does not declare; it is called when one is needed.
    Raises CutError.
    """
    graph = model.graph
    initialised = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    declared = [i.name for i in graph.input]
    made = producers(graph.node, {*declared, *initialised})
    known = list(dict.fromkeys((*declared, *made, *initialised)))
    results = list(outputs) if outputs is not None else [o.name for o in graph.output]
    for what, names in (("input", inputs or ()), ("output", results)):
        _require_names(what, names, known)
    if both := [n for n in results if n in (inputs or ())]:
        raise CutError(f"{both[0]!r} is given as an input and as an output")
    live, leaves = _between(graph.node, made, inputs or (), results)
    missing = [n for n in declared if n in leaves and n not in initialised and n not in (inputs or ())]
    if inputs is not None and missing:
        listing = ", ".join(map(repr, missing))
        raise CutError(f"the outputs also need the input(s) {listing} of the model: add them to the inputs")
    if unused := [n for n in inputs or () if n not in leaves]:
        raise CutError(f"no output depends on the input(s) {', '.join(map(repr, unused))}: leave them out")
    start = list(inputs) if inputs is not None else missing
    optional = [n for n in declared if n in leaves and n in initialised and n not in start]  # inputs with a default

    part = onnx.ModelProto()
    part.CopyFrom(model)
    new = part.graph
    for field in ("node", "input", "output", "initializer", "sparse_initializer", "value_info"):
        new.ClearField(field)
    new.ClearField("quantization_annotation")
    new.node.extend(graph.node[i] for i in live)
    infos = Types(graph, types)
    new.input.extend(infos.find(n) for n in (*start, *optional))
    new.output.extend(infos.find(n) for n in results)
    kept = {n for node in new.node for n in (*names_read(node), *node.output)} | {*results, *start}
    new.initializer.extend(t for t in graph.initializer if t.name in kept and t.name not in start)
    new.sparse_initializer.extend(
        s for s in graph.sparse_initializer if s.values.name in kept and s.values.name not in start
    )
    new.value_info.extend(v for v in graph.value_info if v.name in kept - {*start, *optional, *results})
    new.quantization_annotation.extend(q for q in graph.quantization_annotation if q.tensor_name in kept)
    return part


def _require_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    if not names and what == "output":
        raise CutError("give at least one output")
    there = set(known)
    for name in names:
        if name not in there:
            raise CutError(f"there is no tensor {name!r} in the model to be an {what}{near(name, known)}")
        if list(names).count(name) > 1:
            raise CutError(f"{name!r} is given twice as an {what}")


def _between(
    nodes: Sequence[onnx.NodeProto], made: Mapping[str, int], inputs: Iterable[str], outputs: Iterable[str]
) -> tuple[list[int], set[str]]:
    """The nodes that `outputs` need when `inputs` are given, in the model's order, and the names read from outside."""
    given = set(inputs)
    live: set[int] = set()
    leaves: set[str] = set()
    pending = list(outputs)
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in given or name not in made:
            leaves.add(name)
        elif made[name] not in live:
            live.add(made[name])
            pending.extend(names_read(nodes[made[name]]))
    return sorted(live), leaves
