"""The order of a graph's nodes, which of them matter, and what its names refer to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import cast

import onnx
from google.protobuf.message import Message

from ingot.compiler.frontend.errors import ModelError, StructureError


def require_text(message: Message) -> None:
    """ModelError when a string anywhere in `message` is not UTF-8: protobuf hands such strings out as bytes."""
    if isinstance(message, onnx.TensorProto):  # reading its other fields would copy the data
        _require_utf8("name", message.name)
        return
    for descriptor, value in message.ListFields():
        many = not isinstance(value, Message | str | bytes | int | float)
        items = cast(Iterable[object], value if many else (value,))
        if descriptor.type == descriptor.TYPE_STRING:
            for item in items:
                _require_utf8(descriptor.name, item)
        elif descriptor.type == descriptor.TYPE_MESSAGE:
            for item in items:
                require_text(cast(Message, item))


def _require_utf8(what: str, text: object) -> None:
    if isinstance(text, bytes):
        raise ModelError(f"the {what} {text[:40]!r} is not UTF-8 text", remedy="the file is damaged: export it again")


def tensors_in(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor in `message`, however deep."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for item in (value,) if isinstance(value, Message) else cast("tuple[Message, ...]", value):
                yield from tensors_in(item)


def label(node: onnx.NodeProto) -> str:
    """The name that the user knows a node by: its own, else ``Conv:first_output``."""
    if node.name:
        return node.name
    return f"{node.op_type}:{next((o for o in node.output if o), '')}"


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs_of(inner)


def own_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph has before any node runs: inputs and initialisers."""
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return {i.name for i in graph.input} | stored


def free_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a sub-graph uses from outside."""
    used = {o.name for o in graph.output}
    defined = own_names(graph)
    for node in graph.node:
        used |= names_read(node)
        defined.update(node.output)
    return used - defined


def names_read(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those of its sub-graphs included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= free_names(graph)
    return names


def unused_names(taken: Collection[str], stem: str, count: int) -> list[str]:
    """The first `count` of the names ``<stem>_0``, ``<stem>_1``, .. that are not taken."""
    wishes = (f"{stem}_{i}" for i in range(len(taken) + count))
    return [name for name in wishes if name not in taken][:count]


def producers(nodes: Sequence[onnx.NodeProto], taken: Iterable[str]) -> dict[str, int]:
    """Which node makes each name; ModelError when a name is made twice or is already `taken`."""
    made: dict[str, int] = {}
    others = set(taken)
    for index, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in made or name in others:
                first = f"node {label(nodes[made[name]])!r}" if name in made else "an input or initialiser"
                raise StructureError(
                    f"the name {name!r} is defined twice: by {first} and by node {label(node)!r}",
                    remedy="names must be unique (static single assignment): run onnx.checker on the model",
                )
            made[name] = index
    return made


def live_order(nodes: Sequence[onnx.NodeProto], made: dict[str, int], outputs: Iterable[str]) -> list[int]:
    """Indices of the nodes that the outputs need, each after the nodes it reads from.

    ModelError names the nodes of a cycle, whether the outputs need it or not. Iterative: chains may be very long.
    """
    reads = [[made[n] for n in sorted(names_read(node)) if n in made] for node in nodes]
    order: list[int] = []
    state = [0] * len(nodes)  # 0 new, 1 on the path, 2 done
    for root in range(len(nodes)):
        path: list[tuple[int, int]] = [(root, 0)]
        while path:
            index, position = path.pop()
            if position == 0:
                if state[index] == 2:
                    continue
                if state[index] == 1:
                    on_path = [i for i, _ in path]
                    cycle = on_path[on_path.index(index) :]
                    shown = " -> ".join(repr(label(nodes[i])) for i in reversed([*cycle[:8], index]))
                    raise StructureError(
                        f"the graph has a cycle of {len(cycle)} node(s): {shown}", remedy="ONNX graphs must be acyclic"
                    )
                state[index] = 1
            if position < len(reads[index]):
                path.append((index, position + 1))
                path.append((reads[index][position], 0))
            else:
                state[index] = 2
                order.append(index)
    live: set[int] = set()
    pending = [made[name] for name in outputs if name in made]
    while pending:
        index = pending.pop()
        if index not in live:
            live.add(index)
            pending.extend(reads[index])
    return [index for index in order if index in live]
