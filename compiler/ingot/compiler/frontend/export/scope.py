"""What rows write into: the nodes of one ONNX graph, the names of values and constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx
from onnx import helper

from ingot.compiler.frontend.export.definitions import definition_of
from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.extents import Extents
from ingot.compiler.frontend.export.kernels import allowed, compute_type
from ingot.compiler.frontend.export.names import Names, node_name, value_name
from ingot.compiler.frontend.export.symbols import AxisSource, ScalarSource, ordered, sources, telling
from ingot.compiler.frontend.export.tensors import tensor, value_info
from ingot.compiler.frontend.weights import CODES
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Node, Origin, Value, describe, node_of, operands_of
from ingot.compiler.ir.types import TensorType
from ingot.runtime.dtypes import DType

SHARED_CONSTANT = 64  # bytes up to which constants of equal contents become one

_PLACEHOLDER = "\0"  # begins the names of values inside one row, until the row's results are known

Written: TypeAlias = "str | Sequence[str] | Value | None"
"""What a row gives: the names of the results where it has added nodes; a value to be written instead, or None for the
node's own definition, where it has added none."""


class Row(Protocol):
    """Writes the nodes of one operator class into a scope."""

    def __call__(self, scope: Scope, node: Any, /) -> Written: ...


class Rows(Protocol):
    """Rows by operator class (`table.Table`)."""

    def find(self, op: type[Node]) -> Row | None:
        """The row of a class, None when it has none."""
        ...


@dataclass
class Export:
    """What all scopes of one export share."""

    rows: Rows
    opset: int
    composite: Row | None  # tried where no row writes a node
    names: Names = field(default_factory=Names)
    node_names: Names = field(default_factory=Names)
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    functions: dict[tuple[object, ...], onnx.FunctionProto] = field(
        default_factory=dict[tuple[object, ...], onnx.FunctionProto]
    )
    domains: dict[str, int] = field(default_factory=dict[str, int])  # versions, of those that are not ONNX's or ours
    types: dict[str, TensorType] = field(default_factory=dict[str, TensorType])  # of the values of the main graph
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    _shared: dict[object, tuple[str, object]] = field(default_factory=dict[object, tuple[str, object]])
    _placeholders: int = 0

    def constant(self, data: Array, wish: str) -> str:
        """The name of an initialiser of the main graph that holds `data`."""
        key: object = (data.dtype.str, data.dtype.name, data.shape)
        if data.nbytes <= SHARED_CONSTANT:
            key = (key, data.tobytes())
        else:
            key = (key, data.strides, data.ctypes.data)
        if key not in self._shared:
            name = self.names.unique(wish)
            self._shared[key] = name, data  # holding the array keeps its memory from being used again
            self.constants[name] = data
        return self._shared[key][0]

    def require_domain(self, domain: str, version: int) -> None:
        """Nodes of a domain of somebody else's need at least this version of it."""
        if domain:
            self.domains[domain] = max(version, self.domains.get(domain, 1))

    def placeholder(self) -> str:
        """A name for a value inside a row."""
        self._placeholders += 1
        return f"{_PLACEHOLDER}{self._placeholders}"


@dataclass
class Scope:
    """One graph that is being written: the main graph, a sub-graph, or a function's body.

    In a body (`closed`) nothing from outside is visible and constants are nodes. Scopes that share `nodes` write into
    the same graph."""

    export: Export
    parent: Scope | None = None
    closed: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    values: dict[Value, str] = field(default_factory=dict[Value, str])
    wanted: dict[Value, str] = field(default_factory=dict[Value, str])
    caller: Origin = ()
    extents: Extents = field(init=False)
    graph: Graph | None = None
    _constants: dict[object, str] = field(default_factory=dict[object, str])

    def __post_init__(self) -> None:
        self.extents = Extents(self, self.parent.extents if self.parent is not None else None)

    # -- values -------------------------------------------------------------------------------------------------------

    @property
    def opset(self) -> int:
        """The opset version of the model."""
        return self.export.opset

    def name(self, value: Value) -> str:
        """The name of an operand."""
        if value not in self.values and isinstance(value, Constant):
            self.values[value] = self.constant(value.data, value.origin[0] if value.origin else "constant")
        return self.values[value]

    def constant(self, data: Array | Sequence[int] | int | float, wish: str, dtype: DType | None = None) -> str:
        """The name of constant data; integers are i64 unless `dtype` says otherwise."""
        array = np.asarray(data, dtype=dtype.to_numpy() if dtype is not None else None)
        is_text = array.dtype.hasobject  # strings are no run of bytes, as initialisers are written
        if not self.closed and not is_text:
            return self.export.constant(array, wish)
        key = (array.dtype.name, array.shape, tuple(array.reshape(-1).tolist()) if is_text else array.tobytes())
        if key not in self._constants:
            name = self.export.names.unique(wish)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor(array)))
            self._constants[key] = name
        return self._constants[key]

    def add(self, op_type: str, *inputs: str | None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one result; gives the result's name. Inputs of None are left out; so are attributes."""
        return self.add_many(op_type, inputs, 1, domain=domain, **attributes)[0]

    def add_many(
        self, op_type: str, inputs: Sequence[str | None], count: int, *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with `count` results; gives their names."""
        outputs = [self.export.placeholder() for _ in range(count)]
        names = [name or "" for name in inputs]
        while names and not names[-1]:
            names.pop()
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op_type, names, outputs, domain=domain or None, **given))
        return outputs

    def cast(self, name: str, have: DType, want: DType) -> str:
        """`name`, of element type `have`, as `want`."""
        return name if have == want else self.add("Cast", name, to=CODES[want])

    def compute_type(self, op_type: str, dtype: DType, node: Node) -> DType:
        """The element type that `op_type` gets operands of `dtype` in; ExportError naming `node` when there is none."""
        found = compute_type(op_type, dtype, self.opset)
        if found is None:
            self.require(op_type, node)
            raise ExportError(f"{describe(node)}: {op_type} of opset {self.opset} takes no {dtype} elements")
        return found

    def require(self, op_type: str, node: Node) -> None:
        """ExportError naming `node` where the opset has no `op_type`."""
        if not allowed(op_type, self.opset):
            raise ExportError(f"{describe(node)}: opset {self.opset} has no {op_type}: export to a newer opset")

    def apply(self, op_type: str, node: Node, *operands: Value | None, **attributes: Any) -> str:
        """A node whose operands and result share one element type, computed in a type that runs."""
        dtype = next(v.dtype for v in operands if v is not None)
        compute = self.compute_type(op_type, dtype, node)
        names = [None if v is None else self.cast(self.name(v), dtype, compute) for v in operands]
        return self.cast(self.add(op_type, *names, **attributes), compute, dtype)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def write(self, graph: Graph) -> None:
        """Write the nodes that the outputs of `graph` need; its inputs have names already."""
        self.graph = graph
        found = self.extents.sources
        found.update(sources(graph.inputs, self.extents.known()))
        found.update((name, ScalarSource(value)) for name, value in graph.sizes().items() if name not in found)
        computed = [value for node in graph.nodes() if not isinstance(node, Input) for value in telling(node)]
        for name, source in sources(computed, self.extents.known()).items():
            if source == AxisSource(source.value, source.axis):
                found[name] = source
        for node in ordered(graph, found):
            if not isinstance(node, Input | Constant):
                self._write_node(node)

    def _write_node(self, node: Node) -> None:
        row, composite = self.export.rows.find(type(node)), self.export.composite
        start = len(self.nodes)
        results = row(self, node) if row is not None else None
        if results is None and composite is not None:
            results = composite(self, node)
        if results is None:
            results = definition_of(node)
            if results is None:
                raise ExportError(f"{describe(node)}: opset {self.opset} has no operator for it: use a newer opset")
            if not isinstance(results, Value):
                self.define(node, tuple(results))
                return
        if isinstance(results, Value):
            self.define(node, (results,))
            return
        self._settle(node, start, [results] if isinstance(results, str) else list(results))

    def define(self, node: Node, definition: Sequence[Value]) -> None:
        """Write `definition`, values over the operands of `node`, as its results."""
        before, self.caller = self.caller, node.origin or self.caller
        for i, value in enumerate(definition):
            wish = self.wanted.get(node.result(i))
            if wish is not None and value not in self.values and not isinstance(value, Constant):
                self.wanted[value] = wish
            for inner in self._unwritten(value):
                self._write_node(inner)
            self.values[node.result(i)] = self.name(value)
            if wish is not None and self.values[node.result(i)] != wish:
                self._identity(self.name(value), wish)
                self.values[node.result(i)] = wish
        self.caller = before

    def readers(self, value: Value) -> list[Node] | None:
        """The nodes of the graph being written that read `value`, None where others do too."""
        graph = self.graph
        if graph is None or value in (*graph.results, *graph.sizes().values()) or node_of(value) not in graph.nodes():
            return None
        return [node for node in graph.nodes() if value in operands_of(node)]

    def _unwritten(self, value: Value) -> list[Node]:
        """The nodes that `value` needs and that are not written yet, operands first."""
        order: list[Node] = []
        done: set[Node] = set()
        stack: list[tuple[Node, bool]] = [(node_of(value), False)]
        while stack:
            node, visited = stack.pop()
            if visited:
                order.append(node)
            elif node not in done and node.result(0) not in self.values and not isinstance(node, Constant):
                done.add(node)
                stack.append((node, True))
                stack.extend((node_of(v), False) for v in reversed(operands_of(node)))
        return order

    def _settle(self, node: Node, start: int, results: Sequence[str]) -> None:
        """Name the nodes that a row has made after the origin, and their results after them."""
        mine = [n for n in self.nodes[start:] if any(o.startswith(_PLACEHOLDER) for o in n.output)]
        label = node_name(node.origin or self.caller)
        if label and mine:
            mine[-1].name = self.export.node_names.unique(label)
            for proto in mine[:-1]:
                proto.name = proto.name or self.export.node_names.unique(f"{label}/{proto.op_type}")
        base = value_name(mine[-1].name) if label and mine else node.name
        final: dict[str, str] = {}
        for i, made in enumerate(results):
            value = node.result(i)
            if made.startswith(_PLACEHOLDER):
                final[made] = self.wanted.get(value) or self.export.names.unique(base if i == 0 else f"{base}_{i}")
            self.values[value] = final.get(made, made)
            if self.root:
                self.export.types[self.values[value]] = value.type
        for proto in mine:
            for position, name in enumerate(proto.output):
                if name.startswith(_PLACEHOLDER) and name not in final:
                    final[name] = self.export.names.unique(f"{base}/{proto.op_type}")
                proto.output[position] = final.get(name, name)
            for position, name in enumerate(proto.input):
                proto.input[position] = final.get(name, name)
        for i, made in enumerate(results):
            wish = self.wanted.get(node.result(i))
            if wish is not None and final.get(made, made) != wish:
                self._identity(self.values[node.result(i)], wish)
                self.values[node.result(i)] = wish

    @property
    def root(self) -> bool:
        """True where the main graph is written."""
        return not self.closed and (self.parent is None or (self.parent.nodes is self.nodes and self.parent.root))

    def _identity(self, name: str, result: str) -> None:
        self.nodes.append(helper.make_node("Identity", [name], [result]))

    # -- graphs -------------------------------------------------------------------------------------------------------

    def inline(self, body: Graph, operands: Sequence[str], wanted: Sequence[str | None]) -> list[str]:
        """Write a body with the values named `operands` for its inputs into this graph; the names of its results, those
        that are wanted where they could be given."""
        values: dict[Value, str] = dict(zip(body.inputs, operands, strict=True))
        inner = Scope(self.export, self, self.closed, self.nodes, values, caller=self.caller)
        for value, wish in zip(body.results, wanted, strict=True):
            if wish is not None and not isinstance(value, Input | Constant):
                inner.wanted.setdefault(value, wish)
        inner.write(body)
        return [inner.name(value) for value in body.results]

    def subgraph(self, body: Graph, formal: Sequence[Input], captures: Mapping[Input, str]) -> onnx.GraphProto:
        """A closed graph as an ONNX sub-graph: `formal` are its inputs, `captures` the outer names of the others."""
        unique = self.export.names.unique
        values: dict[Value, str] = {i: unique(i.label) for i in formal}
        for captured, name in captures.items():
            values[captured] = name
        inner = Scope(self.export, self, values=values)
        outputs = [unique(name) for name, _ in body.outputs]
        inner.want(body.results, outputs)
        inner.write(body)
        inner.finish(body.results, outputs)
        return helper.make_graph(
            inner.nodes,
            body.name,
            [value_info(inner.values[i], i.type) for i in formal],
            [value_info(name, value.type) for name, value in zip(outputs, body.results, strict=True)],
        )

    def function_body(self, formal: Mapping[Value, str], *outputs: str) -> Scope:
        """A scope for the body of a function with these inputs and outputs; its names are its own."""
        export = replace(self.export, composite=None, names=Names(), node_names=Names())
        export.names.reserve((*formal.values(), *outputs))
        return Scope(export, closed=True, values=dict(formal))

    def want(self, results: Iterable[Value], names: Iterable[str]) -> None:
        """The names that values get because they are outputs: each value the first of its names."""
        for value, name in zip(results, names, strict=True):
            if not isinstance(value, Input | Constant):
                self.wanted.setdefault(value, name)

    def finish(self, results: Iterable[Value], names: Iterable[str]) -> None:
        """Copy what is an output under a name that it could not get: inputs, constants, outputs of several names."""
        for value, name in zip(results, names, strict=True):
            have = self.name(value)
            if have != name:
                self._identity(have, name)

    # -- dims ---------------------------------------------------------------------------------------------------------

    def dim(self, dim: Dim) -> str:
        """A dim as a value i64[1]."""
        return self.extents.single(dim)

    def shape(self, shape: Sequence[Dim], wish: str = "shape") -> str:
        """Dims as a value i64[n]."""
        return self.extents.shape(shape, wish)

    def scalar(self, dim: Dim) -> str:
        """A dim as a value i64[]."""
        return self.extents.scalar(dim)

    def size_of(self, dim: Dim) -> Value | None:
        """The scalar that `dim` is, None where it is no size that comes from data."""
        return self.extents.size_of(dim)

    def source_of(self, symbol: str) -> Node | None:
        """The node whose result tells the value of a symbol, None where nothing does."""
        source = self.extents.source_of(symbol)
        return None if source is None else node_of(source.value)

    def range_of(self, dim: Dim) -> tuple[int, int]:
        """Bounds of a dim, both included."""
        return dims.bounds(dim, self.export.ranges)

    def written(self, value: Value) -> str | None:
        """The name of a value, None while it has none."""
        return self.name(value) if isinstance(value, Constant) else self.values.get(value)

    def arithmetic(self, op_type: str, inputs: Sequence[str], wish: str, **attributes: Any) -> str:
        """A node that belongs to no node of the graph: shape arithmetic. Gives the name of its result."""
        name = self.export.names.unique(wish)
        label = self.export.node_names.unique(name)
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=label, **attributes))
        return name
