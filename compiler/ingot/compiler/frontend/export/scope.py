"""What rows write into: the nodes of one ONNX graph, the names of values, constants, and symbolic dims as values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.functions import call, definition_of
from ingot.compiler.frontend.export.kernels import allowed, compute_type
from ingot.compiler.frontend.export.names import Names, node_name, value_name
from ingot.compiler.frontend.export.symbols import Source, ordered, sources, symbol_of, telling
from ingot.compiler.frontend.export.table import Table
from ingot.compiler.frontend.weights import CODES
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Opaque, Symbol, show
from ingot.compiler.ir.graph import Array, Constant, Graph, Input, Node, Origin, Value, describe, node_of, operands_of
from ingot.compiler.ir.types import TensorType
from ingot.runtime.dtypes import DType, from_numpy

SHARED_CONSTANT = 64  # bytes up to which constants of equal contents become one

_PLACEHOLDER = "\0"  # begins the names of values inside one row, until the row's results are known


@dataclass
class Export:
    """What all scopes of one export share."""

    table: Table
    opset: int
    use_functions: bool
    names: Names = field(default_factory=Names)
    node_names: Names = field(default_factory=Names)
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    functions: dict[tuple[object, ...], onnx.FunctionProto] = field(
        default_factory=dict[tuple[object, ...], onnx.FunctionProto]
    )
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
    sources: dict[str, Source] = field(default_factory=dict[str, Source])
    caller: Origin = ()
    _dims: dict[object, str] = field(default_factory=dict[object, str])

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
        if not self.closed:
            return self.export.constant(array, wish)
        key = ("constant", array.dtype.name, array.shape, array.tobytes())
        if key not in self._dims:
            name = self.export.names.unique(wish)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor(array)))
            self._dims[key] = name
        return self._dims[key]

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
            self._require(op_type, node)
            raise ExportError(f"{describe(node)}: {op_type} of opset {self.opset} takes no {dtype} elements")
        return found

    def _require(self, op_type: str, node: Node) -> None:
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
        known = self._known_symbols()
        self.sources.update(sources(graph.inputs, known))
        computed = [value for node in graph.nodes() if not isinstance(node, Input) for value in telling(node)]
        for name, source in sources(computed, {*known, *self.sources}).items():
            if source.stride == 1 and source.rest == 0:
                self.sources[name] = source
        for node in ordered(graph, self.sources):
            if not isinstance(node, Input | Constant):
                self._write_node(node)

    def _known_symbols(self) -> set[str]:
        return {*self.sources, *(self.parent._known_symbols() if self.parent is not None else ())}

    def _write_node(self, node: Node) -> None:
        row = self.export.table.find(type(node))
        start = len(self.nodes)
        results = row(self, node) if row is not None else None
        if results is None:
            results = call(self, node)
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
        export = replace(self.export, use_functions=False, names=Names(), node_names=Names())
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
        if isinstance(dim, int):
            return self.constant([dim], "dim")
        owner = self._owner(dims.symbols(dim))
        if dim not in owner._dims:
            owner._dims[dim] = owner._compute(dim)
        return owner._dims[dim]

    def shape(self, shape: Sequence[Dim], wish: str = "shape") -> str:
        """Dims as a value i64[n]."""
        if all(isinstance(d, int) for d in shape):
            return self.constant(np.array(shape, np.int64), wish)
        owner = self._owner({s for d in shape for s in dims.symbols(d)})
        key = ("shape", *shape)
        if key not in owner._dims:
            parts: list[str] = []
            run: list[int] = []
            for d in (*shape, None):
                if isinstance(d, int):
                    run.append(d)
                    continue
                if run:
                    parts.append(self.constant(run, "dims"))
                    run = []
                if d is not None:
                    parts.append(self.dim(d))
            owner._dims[key] = parts[0] if len(parts) == 1 else owner._named("Concat", parts, wish, axis=0)
        return owner._dims[key]

    def scalar(self, dim: Dim) -> str:
        """A dim as a value i64[]."""
        if isinstance(dim, int):
            return self.constant(np.array(dim, np.int64), "dim")
        owner = self._owner(dims.symbols(dim))
        key = ("scalar", dim)
        if key not in owner._dims:
            axes = self.constant([0], "dim")
            owner._dims[key] = owner._named("Squeeze", [self.dim(dim), axes], _spell(dim))
        return owner._dims[key]

    def _named(self, op_type: str, inputs: Sequence[str], wish: str, **attributes: Any) -> str:
        """A node that belongs to no node of the graph: shape arithmetic."""
        name = self.export.names.unique(wish)
        label = self.export.node_names.unique(name)
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=label, **attributes))
        return name

    def _owner(self, symbols: Iterable[str]) -> Scope:
        """The outermost scope in which all symbols have values."""
        chain = list(self._chain())[::-1]
        return chain[max((self._depth(chain, s) for s in symbols), default=0)]

    def _chain(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def _depth(self, chain: Sequence[Scope], symbol: str) -> int:
        for depth, scope in enumerate(chain):
            if symbol in scope.sources:
                return depth
        raise ExportError(
            f"the dim {symbol} cannot be computed: no input has an axis that tells it; pin it when importing"
        )

    def _compute(self, dim: dims.Expr) -> str:
        """The sum of the terms of `dim`, those with positive coefficients first."""
        name = symbol_of(dim)
        if name is not None:
            return self._read(name, self.sources[name])
        total: str | None = None
        wish = _spell(dim)
        for monomial, c in sorted(dim.terms, key=lambda item: (item[1] < 0, not item[0])):
            size = c if total is None else abs(c)
            factors = [self._atom(atom) for atom in monomial]
            if size != 1 or not factors:
                factors.append(self.dim(size))
            term = factors[0]
            for factor in factors[1:]:
                term = self._named("Mul", [term, factor], wish)
            if total is not None:
                term = self._named("Add" if c > 0 else "Sub", [total, term], wish)
            total = term
        assert total is not None
        return total

    def _atom(self, atom: Symbol | Opaque) -> str:
        if isinstance(atom, Symbol):
            return self.dim(dims.symbol(atom.name))
        wish = _spell(dims.apply(atom.op, atom.left, atom.right))
        left, right = self.dim(atom.left), self.dim(atom.right)
        match atom.op:
            case "max":
                return self._named("Max", [left, right], wish)
            case "min":
                return self._named("Min", [left, right], wish)
            case "%":
                return self._named("Mod", [left, right], wish)
            case "//":
                ranges = self.export.ranges
                if dims.bounds(atom.left, ranges)[0] < 0 or dims.bounds(atom.right, ranges)[0] < 0:
                    # ONNX divides towards 0; what is left after taking the remainder away divides exactly
                    left = self._named("Sub", [left, self._named("Mod", [left, right], wish)], wish)
                return self._named("Div", [left, right], wish)

    def _read(self, name: str, source: Source) -> str:
        """symbol = (extent - rest) / stride"""
        if source.value not in self.values:
            raise ExportError(f"the dim {name} is needed before {describe(node_of(source.value))}, which tells it")
        operand = self.values[source.value]
        key = ("extents", operand)
        if key not in self._dims:
            self._dims[key] = self._named("Shape", [operand], f"{operand}_shape")
        places = self.constant([source.axis], "axis")
        extent = self._named("Gather", [self._dims[key], places], f"dim_{name}", axis=0)
        if source.rest != 0:
            extent = self._named("Sub", [extent, self.dim(source.rest)], f"dim_{name}")
        if source.stride != 1:
            extent = self._named("Div", [extent, self.dim(source.stride)], f"dim_{name}")
        return extent


def _spell(dim: Dim) -> str:
    return "dim_" + re.sub(r"\W+", "_", show(dim)).strip("_")


def value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    """A name with its type; symbolic dims as dim_params."""
    shape = [d if isinstance(d, int) else show(d) for d in type_.shape]
    return helper.make_tensor_value_info(name, CODES[type_.dtype], shape)


def tensor(data: Array, name: str = "") -> onnx.TensorProto:
    """`data` as a TensorProto with raw_data."""
    proto = tensor_header(data, name)
    proto.raw_data = little_endian(data).tobytes()
    return proto


def tensor_header(data: Array, name: str) -> onnx.TensorProto:
    """A TensorProto with everything but the data."""
    return onnx.TensorProto(name=name, data_type=CODES[from_numpy(data.dtype)], dims=data.shape)


def little_endian(data: Array) -> Array:
    """`data` in the byte order of raw_data, without a copy where it has it already."""
    return data.astype(data.dtype.newbyteorder("<"), copy=False) if data.dtype.byteorder == ">" else data
