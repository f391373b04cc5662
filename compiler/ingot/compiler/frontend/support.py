"""Which operators of a model are unknown: found all at once, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from ingot.compiler.frontend.dispatch import Dispatch, Functions, Inlined, Key
from ingot.compiler.frontend.errors import ModelError
from ingot.compiler.frontend.functions import Opsets, domain_of
from ingot.compiler.frontend.topology import label, live_order, own_names, producers, subgraphs

CALL_DEPTH = 64  # functions that call functions
LARGEST_INLINED = 100_000  # nodes of function bodies, each counted as often as it is put in


def require_small_calls(nodes: Sequence[onnx.NodeProto], functions: Functions) -> None:
    """ModelError when the bodies put in for calls of the model's own functions would have too many nodes: calls within
    calls multiply, so that a small file could stand for any number of them."""
    count = _inlined(nodes, functions, {}, 0)
    if count > LARGEST_INLINED:
        raise ModelError(
            f"the calls of the model's functions stand for {count} nodes, {LARGEST_INLINED} are the most",
            remedy="export the model without functions, or with fewer calls within calls",
        )


def _inlined(nodes: Sequence[onnx.NodeProto], functions: Functions, sizes: dict[Key, int], depth: int) -> int:
    total = 0
    for node in nodes:
        for graph in subgraphs(node):
            total += _inlined(graph.node, functions, sizes, depth)
        key = domain_of(node.domain), node.op_type, node.overload
        body = functions.get(key)
        if body is None:
            continue
        if key not in sizes:
            sizes[key] = 0  # calls without end, or too deep, are found when they are put in
            if depth < CALL_DEPTH:
                sizes[key] = len(body.node) + _inlined(body.node, functions, sizes, depth + 1)
        total += sizes[key]
    return total


class Survey:
    """A walk over nodes, their sub-graphs and the function bodies they call, noting operators without a meaning."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._found: dict[tuple[str, str, int], list[str]] = {}
        self._visited: set[tuple[str, str, str, int]] = set()

    def unknown(
        self, nodes: Sequence[onnx.NodeProto], outputs: Iterable[str], taken: Iterable[str], opsets: Opsets
    ) -> dict[tuple[str, str, int], list[str]]:
        """Every unknown operator that the outputs need, by (domain, name, opset), and the nodes that use it; `taken`
        are the names of inputs and initialisers."""
        self._walk(nodes, outputs, taken, opsets)
        return self._found

    def _walk(
        self, nodes: Sequence[onnx.NodeProto], outputs: Iterable[str], taken: Iterable[str], opsets: Opsets
    ) -> None:
        for index in live_order(nodes, producers(nodes, taken), outputs):
            node = nodes[index]
            for graph in subgraphs(node):
                self._walk(graph.node, [o.name for o in graph.output], own_names(graph), opsets)
            domain = domain_of(node.domain)
            opset = opsets.get(domain, 0)
            meaning = self._dispatch.meaning(node, opsets)
            if meaning is None:
                self._found.setdefault((domain, node.op_type, opset), []).append(label(node))
            key = (domain, node.op_type, node.overload, opset)
            if isinstance(meaning, Inlined) and key not in self._visited:
                self._visited.add(key)
                self._walk(meaning.function.node, meaning.function.output, meaning.function.input, meaning.opsets)
