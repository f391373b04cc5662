"""Import of one graph, sub-graph or function body: its names, and its nodes in order through the rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from ingot.compiler.frontend.assumptions import Assumptions, Ranges, Refinement, spell
from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.errors import ModelError, UnsupportedError
from ingot.compiler.frontend.functions import Opsets, domain_of, opsets_of, schema_defaults, static_body, typed_body
from ingot.compiler.frontend.operators.table import Results, Table
from ingot.compiler.frontend.signature import Symbols, declared_dims
from ingot.compiler.frontend.support import CALL_DEPTH, Functions, Survey
from ingot.compiler.frontend.topology import label, live_order, producers
from ingot.compiler.frontend.weights import ModelData, dtype_of
from ingot.compiler.ir import dims
from ingot.compiler.ir.graph import Constant, Input, Origin, Value
from ingot.compiler.ir.types import IrError
from ingot.compiler.ops.movement import DimValues
from ingot.compiler.ops.shape_arithmetic import known_dims
from ingot.runtime.dtypes import i64

LARGEST_IMPORT = 4_000_000  # nodes, after function bodies have been put in

# What a row raises on malformed attributes and inputs that no schema check caught before.
_MALFORMED = (IrError, ArithmeticError, LookupError, ValueError, TypeError, RecursionError, NotImplementedError)


@dataclass
class Importer:
    """What all scopes of one import share."""

    model: ModelData
    table: Table
    functions: Functions
    symbols: Symbols
    assumptions: Assumptions
    nodes: int = 0
    narrowed: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Ranges that the nodes need and that the assumptions do not have yet; they change no type."""

    def narrow(self, ranges: Ranges) -> None:
        """Note where `ranges` are narrower than those assumed."""
        for name, (low, high) in ranges.items():
            first, last = self.narrowed.get(name) or self.assumptions.ranges.get(name, (0, dims.UNBOUNDED))
            if first < low or high < last:
                self.narrowed[name] = max(first, low), min(last, high)

    def require_supported(self, function: onnx.FunctionProto, opsets: Opsets) -> None:
        """UnsupportedError listing all unknown operators of a function body."""
        Survey(self.table, self.functions).require_supported(function.node, function.output, function.input, opsets)


@dataclass(frozen=True)
class Absent:
    """A name that exists but has no value here; using it is an error."""

    error: ModelError


@dataclass(frozen=True)
class Body:
    """An imported sub-graph before it is closed: its formal inputs, its outputs and, for each outer value that it uses,
    the input that stands for it."""

    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, Value], ...]
    captures: Mapping[Value, Input]


@dataclass
class Scope:
    """The names of one graph.

    `parent` is the graph around a sub-graph. With `captures` the sub-graph is closed over what it uses from outside
    (If, Loop); without, outer values are used as they are. `bindings` are the attributes of the call that a function
    body is put in for, `caller` its name and `depth` how many calls are around it.
    """

    importer: Importer
    opsets: Opsets
    parent: Scope | None = None
    captures: dict[Value, Input] | None = None
    bindings: Mapping[str, onnx.AttributeProto] | None = None
    caller: Origin = ()
    depth: int = 0
    is_called_in_closed: bool = False
    values: dict[str, Value | Absent] = field(default_factory=dict[str, Value | Absent])
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict[str, onnx.TensorProto])
    declared: dict[str, onnx.ValueInfoProto] = field(default_factory=dict[str, onnx.ValueInfoProto])

    @property
    def is_closed(self) -> bool:
        """True inside a sub-graph that may not run, at any depth."""
        around = self.parent.is_closed if self.parent is not None else self.is_called_in_closed
        return self.captures is not None or around

    # -- names -------------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> Value:
        """The value of `name`, here or in the graphs around; ModelError when there is none."""
        if name in self.values:
            found = self.values[name]
            if isinstance(found, Absent):
                raise found.error
            return found
        if name in self.tensors:
            value: Value = Constant(self.importer.model.array(self.tensors[name]), origin=(name,))
        elif self.parent is None:
            raise ModelError(
                f"the name {name!r} is used but never defined", remedy="run onnx.checker or export the model again"
            )
        else:
            value = self._capture(name, self.parent.lookup(name))
        self.values[name] = value
        return value

    def _capture(self, name: str, outer: Value) -> Value:
        """What stands for `outer` in this sub-graph: constants and dims are the same everywhere, the rest is passed."""
        if self.captures is None or isinstance(outer, Constant):
            return outer
        known = known_dims(outer) if outer.dtype == i64 and outer.rank <= 1 else None
        if known is not None:
            return DimValues(known, outer.rank == 0, origin=(name,))
        if outer not in self.captures:
            self.captures[outer] = Input(name, outer.type, origin=(name,))
        return self.captures[outer]

    # -- graphs ------------------------------------------------------------------------------------------------------

    def run(self, graph: onnx.GraphProto, inputs: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
        """Import the nodes that the outputs of `graph` need; its outputs by name."""
        self.values.update(inputs)
        for tensor in graph.initializer:
            if tensor.name in self.tensors:
                raise ModelError(f"two initialisers are named {tensor.name!r}", remedy="names must be unique")
            self.tensors[tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            self.values[name] = Absent(
                UnsupportedError(f"initialiser {name!r} is sparse", remedy="export the model with dense weights")
            )
        self.declared = {v.name: v for v in (*graph.value_info, *graph.output)}
        outputs = [o.name for o in graph.output]
        self.import_nodes(graph.node, outputs, {*inputs, *self.tensors})
        return tuple((name, self.lookup(name)) for name in outputs)

    def body(
        self,
        graph: onnx.GraphProto,
        formal: tuple[Input, ...],
        values: Sequence[Value],
        captures: dict[Value, Input] | None = None,
    ) -> Body:
        """Import a sub-graph that will be closed: `formal` are its inputs, `values` what its ONNX inputs stand for
        and `captures` what is passed to it already."""
        if len(graph.input) != len(values):
            raise ModelError(
                f"sub-graph {graph.name!r} has {len(graph.input)} inputs where the operator passes {len(values)}",
                remedy="run onnx.checker on the model",
            )
        captures = {} if captures is None else captures
        inner = Scope(self.importer, self.opsets, self, captures, self.bindings, self.caller, self.depth)
        outputs = inner.run(graph, {i.name: v for i, v in zip(graph.input, values, strict=True)})
        return Body(formal, outputs, captures)

    def inline(self, graph: onnx.GraphProto) -> tuple[Value, ...]:
        """Import a sub-graph without inputs as a part of this graph; its outputs."""
        inner = Scope(self.importer, self.opsets, self, None, self.bindings, self.caller, self.depth)
        return tuple(value for _, value in inner.run(graph, {}))

    # -- nodes -------------------------------------------------------------------------------------------------------

    def import_nodes(self, nodes: Sequence[onnx.NodeProto], outputs: Iterable[str], taken: Iterable[str]) -> None:
        """Import the nodes that `outputs` need, in order; `taken` are names that no node may make."""
        for index in live_order(nodes, producers(nodes, taken), outputs):
            node = nodes[index]
            domain = domain_of(node.domain)
            opset = self.opsets.get(domain)
            place = f"{label(node)!r} ({node.op_type})"
            try:
                self.importer.nodes += 1
                if self.importer.nodes > LARGEST_IMPORT:
                    raise ModelError(f"the model has more than {LARGEST_IMPORT} nodes once its functions are put in")
                if opset is None:
                    raise ModelError(
                        f"domain {domain or 'ai.onnx'!r} has no opset version", remedy="add it to the opset imports"
                    )
                self._bind(node, self._import(node, domain, opset))
            except Refinement:
                raise
            except ModelError as error:
                raise error.at(node=place, opset=opset) from error.__cause__
            except _MALFORMED as error:
                raise ModelError(str(error) or type(error).__name__, node=place, opset=opset) from error

    def _import(self, node: onnx.NodeProto, domain: str, opset: int) -> Results:
        operands = tuple(self.lookup(name) if name else None for name in node.input)
        attributes = self._attributes(node)
        origin = self.caller or (label(node),)
        function = self.importer.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            opsets = opsets_of(function.opset_import)
            unknown = attributes.keys() - set(function.attribute) - _defaults(function).keys()
            if unknown:
                raise ModelError(f"function {function.name!r} has no attribute {', '.join(map(repr, sorted(unknown)))}")
            return self._call(function, opsets, operands, attributes, origin)
        row = self.importer.table.find(domain, node.op_type, opset)
        if row is not None:
            context = Context(node, opset, origin, self, attributes, operands)
            results = row(context)
            unread = context.unread()
            if unread:
                raise UnsupportedError(f"{', '.join(unread)} of {node.op_type} is not supported")
            return results
        attributes = {**schema_defaults(domain, node.op_type, opset), **attributes}
        body = static_body(domain, node.op_type, opset)
        if body is None:
            plain = onnx.NodeProto()
            plain.CopyFrom(node)
            del plain.attribute[:]
            plain.attribute.extend(attributes.values())
            body = typed_body(domain, plain, opset, operands)
        if body is None:
            raise UnsupportedError(f"operator {node.op_type} is not supported with these types or attributes")
        opsets = {**self.opsets, **opsets_of(body.opset_import)}
        self.importer.require_supported(body, opsets)
        return self._call(body, opsets, operands, attributes, origin)

    def _call(
        self,
        function: onnx.FunctionProto,
        opsets: Opsets,
        operands: Sequence[Value | None],
        attributes: Mapping[str, onnx.AttributeProto],
        origin: Origin,
    ) -> Results:
        """Put the body of `function` in place of a call."""
        if self.depth >= CALL_DEPTH:
            raise ModelError(f"functions call each other more than {CALL_DEPTH} deep, or without end")
        if len(operands) > len(function.input):
            raise ModelError(f"function {function.name!r} has {len(function.input)} inputs, {len(operands)} are passed")
        bindings = {**_defaults(function), **attributes}
        inner = Scope(self.importer, opsets, None, None, bindings, origin, self.depth + 1, self.is_closed)
        for position, name in enumerate(function.input):
            value = operands[position] if position < len(operands) else None
            missing = Absent(ModelError(f"function {function.name!r} uses its input {name!r}, which is left out"))
            inner.values[name] = value if value is not None else missing
        inner.import_nodes(function.node, function.output, function.input)
        return [inner.lookup(name) if name in inner.values else None for name in function.output]

    def _attributes(self, node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
        """A node's attributes by name, with references to the attributes of the function call replaced."""
        found: dict[str, onnx.AttributeProto] = {}
        for attribute in node.attribute:
            if attribute.name in found:
                raise ModelError(f"attribute {attribute.name!r} is given twice", remedy="run onnx.checker on the model")
            if not attribute.ref_attr_name:
                found[attribute.name] = attribute
            elif self.bindings is None:
                raise ModelError(f"attribute {attribute.name!r} refers to a function's attribute outside a function")
            elif attribute.ref_attr_name in self.bindings:
                bound = onnx.AttributeProto()
                bound.CopyFrom(self.bindings[attribute.ref_attr_name])
                bound.name = attribute.name
                found[attribute.name] = bound
        return found

    def _bind(self, node: onnx.NodeProto, results: Results) -> None:
        values = (results,) if isinstance(results, Value) else tuple(results)
        for position, name in enumerate(node.output):
            if not name:
                continue
            value = values[position] if position < len(values) else None
            if value is None:
                self.values[name] = Absent(
                    UnsupportedError(
                        f"output {position} ({name!r}) of {node.op_type} is not supported", node=f"{label(node)!r}"
                    )
                )
            else:
                self.check_declared(name, value)
                self.values[name] = value

    def check_declared(self, name: str, value: Value) -> None:
        """The model's own type for `name` must not contradict the inferred one; it may say which dims are equal."""
        declared = self.declared.get(name)
        if declared is None or declared.type.WhichOneof("value") != "tensor_type":
            return
        said = f"the model declares {name!r}"
        if declared.type.tensor_type.elem_type:
            dtype = dtype_of(declared.type.tensor_type.elem_type, repr(name))
            if dtype != value.dtype:
                raise ModelError(f"{said} as {dtype.name}, but it is {value.type}", remedy="export the model again")
        shape = declared_dims(declared)
        if shape is None:
            return
        remedy = "correct the declared shape or run onnx.shape_inference on the model"
        if len(shape) != value.rank:
            raise ModelError(f"{said} with {len(shape)} axes, but it is {value.type}", remedy=remedy)
        for axis, (wanted, dim) in enumerate(zip(shape, value.shape, strict=True)):
            if isinstance(wanted, int):
                if self.importer.assumptions.differ(dim, wanted):
                    raise ModelError(
                        f"{said} with axis {axis} = {wanted}, but its shape is {spell(value.shape)}", remedy=remedy
                    )
            elif wanted in self.importer.symbols.names and self.parent is None and not self.caller:
                known = self.importer.assumptions.resolve(dims.symbol(self.importer.symbols.names[wanted]))
                self.importer.assumptions.suggest_equal(dim, known)


def _defaults(function: onnx.FunctionProto) -> dict[str, onnx.AttributeProto]:
    return {a.name: a for a in function.attribute_proto}
