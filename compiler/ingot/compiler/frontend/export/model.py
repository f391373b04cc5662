"""`export_onnx`: a graph as an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from ingot.compiler.frontend.export.blocks import whole_blocks
from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.functions import DOMAIN, VERSION, call
from ingot.compiler.frontend.export.rows import TABLE
from ingot.compiler.frontend.export.scope import Export, Scope
from ingot.compiler.frontend.export.tensors import little_endian, packed, tensor_header, value_info
from ingot.compiler.frontend.topology import names_read
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Node, describe, subgraphs_of
from ingot.runtime import __version__

OLDEST = 13
"""The oldest opset that can be written: since then axes of Squeeze and ReduceSum are inputs."""
LARGEST = 2**31 - 2**20
"""Bytes of constants that fit into one protobuf message, with room for the nodes."""
RANGES = "ingot.ranges"
"""The key of the model's metadata that keeps the ranges of symbolic dims, which ONNX has no place for."""


@dataclass(frozen=True)
class Written:
    """A model without the data of its initialisers, and that data, in the same order, as it lies in a file."""

    model: onnx.ModelProto
    constants: tuple[Array, ...]

    @property
    def bytes(self) -> int:
        """The size of the data."""
        return sum(data.nbytes for data in self.constants)


def export_onnx(graph: Graph, *, opset: int = 21, name: str | None = None, functions: bool = True) -> onnx.ModelProto:
    """`graph` as an ONNX model that computes the same.

    Fused groups are written out; composites become the standard's operator where `opset` has one that ONNX Runtime
    runs, else a function of the model (with `functions` False: their definition). Symbolic dims are dim_params, and
    what is computed from them is computed from the shapes of the inputs. Nodes are named after their origin. The same
    graph gives the same bytes. Element types that ONNX Runtime has no CPU kernel for are cast to wider ones.

    Sizes that come from data are read from the scalars that they are. ONNX has no checks: a `Require`, and a size that
    may come out negative, which shapes and slices would take for something else, become a Gather whose index is out of
    range when they fail, named after the message. The upper ends of ranges are not checked: the model is defined
    beyond them. Custom operators over arrays become nodes of their own domain, for runtimes that know them.

    The ranges of symbolic dims, which ONNX cannot say, are kept as metadata under ``ingot.ranges``.

    Raises ExportError listing all operators that ONNX has no counterpart of, and when the constants exceed what one
    protobuf message holds (2 GB): `save_onnx` writes those beside the model.
    """
    written = write(graph, opset=opset, name=name, functions=functions)
    if written.bytes > LARGEST:
        raise ExportError(
            f"the constants are {written.bytes / 1e9:.1f} GB, an ONNX message holds 2: use save_onnx, which writes "
            "them to a file of their own"
        )
    for proto, data in zip(written.model.graph.initializer, written.constants, strict=True):
        proto.raw_data = little_endian(data).tobytes()
    return written.model


def write(graph: Graph, *, opset: int, name: str | None, functions: bool) -> Written:
    """The model of `export_onnx` with its initialisers' data aside. Raises ExportError."""
    require_opset(opset)
    labels, outputs = [i.label for i in graph.inputs], [n for n, _ in graph.outputs]
    _require_names(graph, labels, outputs)
    graph = whole_blocks(graph, opset)
    _require_rows(graph)
    export = Export(TABLE, opset, call if functions else None, ranges=graph.ranges)
    export.names.reserve((*labels, *outputs))
    scope = Scope(export, values=dict(zip(graph.inputs, labels, strict=True)))
    scope.want(graph.results, outputs)
    scope.write(graph)
    scope.finish(graph.results, outputs)
    nodes = _live(scope.nodes, outputs)
    read = {n for node in nodes for n in names_read(node)} | set(outputs)
    for unused in [n for n in export.constants if n not in read]:
        del export.constants[unused]
    typed = {n for node in nodes for n in node.output} - set(outputs)
    proto = helper.make_graph(
        nodes,
        name or graph.name,
        [value_info(i.label, i.type) for i in graph.inputs],
        [value_info(n, v.type) for n, v in graph.outputs],
        [tensor_header(data, n) for n, data in export.constants.items()],
        value_info=[value_info(n, t) for n, t in export.types.items() if n in typed],
    )
    return Written(_model(proto, export), tuple(map(packed, export.constants.values())))


def require_opset(opset: int) -> None:
    """Raise ExportError where models of this opset cannot be written."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ExportError(f"opset {opset} cannot be written: opsets {OLDEST} to {newest} can")


def _live(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs need: a row may do without the value that an operand was made from."""
    needed = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= names_read(node)
    return kept[::-1]


def _model(graph: onnx.GraphProto, export: Export) -> onnx.ModelProto:
    if export.functions and DOMAIN in export.domains:
        raise ExportError(f"a custom operator has the domain {DOMAIN!r}, that of the model's functions: export without")
    versions = {"": export.opset, **({DOMAIN: VERSION} if export.functions else {}), **export.domains}
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(
        graph,
        opset_imports=imports,
        functions=list(export.functions.values()),
        producer_name="ingot",
        producer_version=__version__,
        ir_version=max(helper.find_min_ir_version_for(imports, ignore_unknown=True), 8),
    )
    if export.ranges:
        text = " ".join(f"{symbol}={low}..{high}" for symbol, (low, high) in sorted(export.ranges.items()))
        model.metadata_props.add(key=RANGES, value=text)
    return model


def _require_names(graph: Graph, labels: Sequence[str], outputs: Sequence[str]) -> None:
    for what, names in (("inputs", labels), ("outputs", outputs)):
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ExportError(f"two {what} are named {twice!r}: ONNX needs different names")
    given = dict(zip(labels, graph.inputs, strict=True))
    for name, value in graph.outputs:
        if name in given and value is not given[name]:
            raise ExportError(f"an input and an output are named {name!r}: rename one of them")


def _require_rows(graph: Graph) -> None:
    """All operators that cannot be written, in one error."""
    missing: dict[str, list[str]] = {}
    graphs = [graph]
    while graphs:
        for node in graphs.pop().nodes():
            graphs.extend(subgraphs_of(node))
            defined = type(node).expand is not Node.expand
            if not isinstance(node, Input | Constant) and TABLE.find(type(node)) is None and not defined:
                missing.setdefault(node.name, []).append(describe(node))
    if missing:
        listing = "; ".join(f"{len(where)} {name}: {', '.join(where[:3])}" for name, where in sorted(missing.items()))
        raise ExportError(f"ONNX has no counterpart of {listing}")
