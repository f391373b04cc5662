"""Import of one graph, sub-graph or function body: its nodes in order through the rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from ingot.compiler.frontend.assumptions import Refinement
from ingot.compiler.frontend.context import Context
from ingot.compiler.frontend.dispatch import Dispatch, Inlined, TypedBody
from ingot.compiler.frontend.errors import DeclarationError, ModelError, StructureError, UnsupportedError
from ingot.compiler.frontend.functions import Opsets, domain_of, schema_defaults, typed_body
from ingot.compiler.frontend.hypotheses import Split
from ingot.compiler.frontend.operators.bodies import choice
from ingot.compiler.frontend.refusals import BlockedError, Refusals, stand_in_types
from ingot.compiler.frontend.schemas import (
    require_attributes,
    require_outputs,
    type_variables,
    widened,
    with_result_types,
)
from ingot.compiler.frontend.scope import Absent, Body, Scope, Sizes
from ingot.compiler.frontend.sequences import ITEMS, Item, Optional, RaggedSequence, Results, TensorSequence
from ingot.compiler.frontend.signature import declared_dims
from ingot.compiler.frontend.support import CALL_DEPTH, Survey
from ingot.compiler.frontend.topology import label, live_order, producers
from ingot.compiler.frontend.weights import DTYPES
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.graph import Input, Origin, Value
from ingot.compiler.ir.types import IrError, TensorType

LARGEST_IMPORT = 4_000_000  # nodes, after function bodies have been put in

# What a row raises on malformed attributes and inputs that no schema check caught before.
_MALFORMED = (
    IrError,
    ArithmeticError,
    LookupError,
    ValueError,
    TypeError,
    RecursionError,
    MemoryError,  # tables for sizes that nobody has the memory for
    NotImplementedError,
)


@dataclass
class GraphImport(Scope):
    """A scope whose names get their values from the nodes of a graph, by what `dispatch` says that these mean. With
    `widens` nodes may mix floats, which are cast to the widest."""

    dispatch: Dispatch = field(kw_only=True)
    widens: bool = field(default=False, kw_only=True)

    # -- graphs ------------------------------------------------------------------------------------------------------

    def run(self, graph: onnx.GraphProto, inputs: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
        """Import the nodes that the outputs of the model's `graph` need; the tensors of these by name."""
        self._fill(graph, inputs)
        return tuple(pair for o in graph.output for pair in self._listed(o.name, self.find(o.name)))

    def _listed(self, name: str, item: Item) -> tuple[tuple[str, Value], ...]:
        """The tensors that an output of the model is made of: those of a sequence are `name[0]`, `name[1]`, .., where
        its length depends on data `name/data` and `name/shapes`; `name/present` says whether an optional is there."""
        match item:
            case TensorSequence(elements):
                pairs = (self._listed(f"{name}[{i}]", e) for i, e in enumerate(elements))
                return tuple(pair for each in pairs for pair in each)
            case RaggedSequence(data, shapes):
                return (f"{name}/data", data), (f"{name}/shapes", shapes)
            case Optional(content, present):
                bit = () if present is None else ((f"{name}/present", present),)
                return bit if content is None else (*bit, *self._listed(name, content))
            case _:
                return ((name, item),)

    def _inner(self, captures: dict[Value, Input] | None) -> GraphImport:
        """The scope of a sub-graph, closed where `captures` takes what it uses from outside."""
        return GraphImport(
            self.importer, self.opsets, self, captures, self.bindings, self.caller, self.depth, dispatch=self.dispatch
        )

    def _fill(self, graph: onnx.GraphProto, inputs: Mapping[str, Item]) -> None:
        """Give the names of `graph` that its outputs need their values."""
        self.values.update(inputs)
        for tensor in graph.initializer:
            if tensor.name in self.tensors:
                raise StructureError(f"two initialisers are named {tensor.name!r}", remedy="names must be unique")
            self.tensors[tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            if name in self.tensors or name in self.sparse:
                raise StructureError(f"two initialisers are named {name!r}", remedy="names must be unique")
            self.sparse[name] = sparse
        self.declared = {v.name: v for v in (*graph.value_info, *graph.output)}
        outputs = [o.name for o in graph.output]
        self.import_nodes(graph.node, outputs, {*inputs, *self.tensors, *self.sparse})

    def body(
        self,
        graph: onnx.GraphProto,
        formal: tuple[Input, ...],
        values: Sequence[Item],
        captures: dict[Value, Input] | None = None,
        bound: Mapping[str, Value] | None = None,
    ) -> Body:
        """Import a sub-graph that will be closed: `formal` are its inputs, `values` what its ONNX inputs stand for
        and `captures` what is passed to it already; symbols may be bound already, too."""
        _require_inputs(graph, len(values))
        given = {} if captures is None else captures

        def attempt() -> Body:
            captured = dict(given)
            inner = self._inner(captured)
            inner.sizes = Sizes(self.sizes, dict(bound or {}))
            inner.iteration = formal[0] if formal else None
            inner._fill(graph, {i.name: v for i, v in zip(graph.input, values, strict=True)})
            outputs = tuple((o.name, inner.find(o.name)) for o in graph.output)
            return Body(formal, outputs, captured, inner.sizes.bound)

        return self.importer.settled(attempt)

    def inline(
        self,
        graph: onnx.GraphProto,
        inputs: Sequence[Item | None] = (),
        instead: Mapping[str, Item] | None = None,
    ) -> tuple[Item, ...]:
        """Import a sub-graph, whose inputs are `inputs`, as a part of this graph; its outputs. `instead` are values
        that names from outside have in it."""
        inner = self._inner(None)
        inner.sizes = self.sizes
        _require_inputs(graph, len(inputs))
        inner.values.update(instead or {})
        inner._fill(graph, {i.name: v for i, v in zip(graph.input, inputs, strict=True) if v is not None})
        return tuple(inner.find(o.name) for o in graph.output)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def import_nodes(self, nodes: Sequence[onnx.NodeProto], outputs: Iterable[str], taken: Iterable[str]) -> None:
        """Import the nodes that `outputs` need, in order; `taken` are names that no node may make."""
        wanted = tuple(outputs)
        self._import_all([nodes[i] for i in live_order(nodes, producers(nodes, taken), wanted)], wanted)

    def _import_all(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> None:
        """Import all of `nodes`, which are in order; `outputs` are what the graph gives."""
        for index, node in enumerate(nodes):
            before = self.importer.nodes
            domain = domain_of(node.domain)
            opset = self.opsets.get(domain)
            place = f"{label(node)!r} ({node.op_type})"
            try:
                self.importer.nodes += 1
                if self.importer.nodes > LARGEST_IMPORT:
                    raise ModelError(f"the model has more than {LARGEST_IMPORT} nodes once its functions are put in")
                if self.importer.refusals.is_unknown(node, opset or 0):
                    raise BlockedError(f"{node.op_type} is unknown")
                if opset is None:
                    raise ModelError(
                        f"domain {domain or 'ai.onnx'!r} has no opset version", remedy="add it to the opset imports"
                    )
                self._bind(node, self._import(node, domain, opset))
            except Refinement:
                raise
            except Split as split:
                if self.captures is None and (self.parent is not None or self.depth):
                    raise  # these nodes are a part of a graph, all of which is to be split
                self.importer.nodes = before
                return self._go_on_in_branches(split, nodes[index:], outputs)
            except BlockedError:
                self._go_on_behind(node, opset or 0)
            except UnsupportedError as error:
                self._refuse(error.at(node=place, opset=opset), node, opset or 0)
            except ModelError as error:
                if not self._may_skip:
                    raise error.at(node=place, opset=opset) from error.__cause__
                self._go_on_behind(node, opset or 0)
            except _MALFORMED as error:
                if not self._may_skip:
                    raise ModelError(str(error) or type(error).__name__, node=place, opset=opset) from error
                self._go_on_behind(node, opset or 0)

    def _go_on_in_branches(self, split: Split, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> None:
        """Import `nodes` twice, with either value of a condition, as the branches of an If that gives what is still
        missing of `outputs`."""
        missing = [name for name in dict.fromkeys(outputs) if name not in self.values and name not in self.tensors]
        before = self.importer.nodes
        bodies: list[Body] = []

        def attempt() -> Body:
            captured: dict[Value, Input] = {}
            inner = self._inner(captured)
            inner.sizes, inner.declared = Sizes(self.sizes), self.declared
            inner.iteration = self.iteration
            inner._import_all(nodes, missing)
            return Body((), tuple((name, inner.find(name)) for name in missing), captured, inner.sizes.bound)

        with self.importer.hypotheses.both(split.place) as values:
            for _ in values:
                self.importer.nodes = before
                bodies.append(self.importer.settled(attempt))
        opset = self.opsets.get(domain_of(nodes[0].domain), 0)
        context = Context(nodes[0], opset, self.caller or (label(nodes[0]),), self, {}, ())
        joined = context.guarded(choice(context, split.condition, *bodies))
        found = (joined,) if isinstance(joined, ITEMS) else tuple(joined)
        self.values.update((name, item) for name, item in zip(missing, found, strict=True) if item is not None)

    def _import(self, node: onnx.NodeProto, domain: str, opset: int) -> Results:
        operands = tuple(self.find(name) if name and not self.is_left_out(name) else None for name in node.input)
        attributes = self._attributes(node)
        origin = self.caller or (label(node),)
        meaning = self.dispatch.meaning(node, self.opsets)
        if isinstance(meaning, Inlined) and meaning.is_local:
            function = meaning.function
            unknown = attributes.keys() - set(function.attribute) - _defaults(function).keys()
            if unknown:
                raise ModelError(f"function {function.name!r} has no attribute {', '.join(map(repr, sorted(unknown)))}")
            return self._call(function, meaning.opsets, operands, attributes, origin)
        require_outputs(domain, node, opset)
        if not isinstance(meaning, Inlined | TypedBody | None):
            context = Context(node, opset, origin, self, attributes, operands)
            if self.widens:
                context = replace(context, operands=widened(context, domain))
            results = context.guarded(meaning(context))
            unread = context.unread()
            if unread:
                raise UnsupportedError(f"{', '.join(unread)} of {node.op_type} is not supported")
            return results
        attributes = {**schema_defaults(domain, node.op_type, opset), **attributes}
        require_attributes(domain, node.op_type, opset, attributes, operands)
        variables = type_variables(domain, node.op_type, opset, operands, in_body=bool(self.caller))
        if isinstance(meaning, TypedBody):
            meaning = self._typed(node, domain, opset, operands, attributes)
        if meaning is None:
            raise UnsupportedError(f"operator {node.op_type} is not supported with these types or attributes")
        self._require_supported(meaning)
        if len({dtype for dtype in variables.values() if dtype.is_float}) < 2:
            return self._call(meaning.function, meaning.opsets, operands, attributes, origin)
        # The standard's bodies are written for one type of floats where their schemas allow two.
        results = self._call(meaning.function, meaning.opsets, operands, attributes, origin, widens=True)
        context = Context(node, opset, origin, self, attributes, operands)
        return with_result_types(context, domain, results, variables)

    def _typed(
        self,
        node: onnx.NodeProto,
        domain: str,
        opset: int,
        operands: Sequence[Item | None],
        attributes: Mapping[str, onnx.AttributeProto],
    ) -> Inlined | None:
        """The standard's body for the types and attributes of `node`."""
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        del plain.attribute[:]
        plain.attribute.extend(attributes.values())
        values = [x for x in operands if isinstance(x, Value | None)]
        if len(values) != len(operands):
            raise UnsupportedError(f"operator {node.op_type} is not supported with sequences")
        body = typed_body(domain, plain, opset, values)
        return None if body is None else Inlined.standard(body, self.opsets)

    def _require_supported(self, body: Inlined) -> None:
        """UnsupportedError where a body of the standard's has operators that are unknown."""
        function = body.function
        found = Survey(self.dispatch).unknown(function.node, function.output, function.input, body.opsets)
        if found:
            raise Refusals(found).error(self.dispatch.table.domains(), body.opsets)

    @property
    def _may_skip(self) -> bool:
        """Whether a node that is wrong is left out: where the model is refused already, and no branch is asked if it
        may run at all."""
        return bool(self.importer.refusals) and self.parent is None and self.depth == 0

    def _refuse(self, error: ModelError, node: onnx.NodeProto, opset: int) -> None:
        """Note why `node` is not supported, and go on behind it."""
        assert isinstance(error, UnsupportedError)
        operands = self._operands_known(node)
        self.importer.refusals.add(error, node, self.caller, operands)
        self._stand_in(node, opset, operands)

    def _go_on_behind(self, node: onnx.NodeProto, opset: int) -> None:
        """Leave out a node that reads what nobody knows, or that does not go with a stand-in."""
        operands = self._operands_known(node)
        if not self.importer.refusals.is_unknown(node, opset):
            self.importer.refusals.leave_out(node, self.caller)
        self._stand_in(node, opset, operands)

    def _operands_known(self, node: onnx.NodeProto) -> list[Item | None]:
        found: list[Item | None] = []
        for name in node.input:
            try:
                found.append(self.find(name) if name else None)
            except ModelError:
                found.append(None)
        return found

    def _stand_in(self, node: onnx.NodeProto, opset: int, operands: Sequence[Item | None]) -> None:
        """Give the results of a node that is left out values of their types; those without a type block others."""
        types = stand_in_types(node, opset, operands, self.declared)
        for name in node.output:
            if not name:
                continue
            kind = types.get(name)
            shape = declared_dims(kind) if kind is not None and kind.type.HasField("tensor_type") else None
            code = kind.type.tensor_type.elem_type if kind is not None else 0
            if shape is None or code not in DTYPES:
                self.values[name] = Absent(BlockedError(f"the type of {name!r} is not known"))
                continue
            found = tuple(self._declared_dim(d) for d in shape)
            if None in found:
                self.values[name] = Absent(BlockedError(f"the shape of {name!r} is not known"))
                continue
            known = TensorType(DTYPES[code], tuple(d for d in found if d is not None))
            self.values[name] = Input(name, known, origin=(name,))

    def _declared_dim(self, declared: int | str | None) -> Dim | None:
        """A dim as declared, None where nothing else tells what it is."""
        if declared is None or isinstance(declared, int):
            return declared
        names = self.importer.symbols.names
        return self.importer.assumptions.resolve(dims.symbol(names[declared])) if declared in names else None

    def _call(
        self,
        function: onnx.FunctionProto,
        opsets: Opsets,
        operands: Sequence[Item | None],
        attributes: Mapping[str, onnx.AttributeProto],
        origin: Origin,
        *,
        widens: bool = False,
    ) -> list[Item | None]:
        """Put the body of `function` in place of a call; with `widens` its nodes may mix floats."""
        if self.depth >= CALL_DEPTH:
            raise ModelError(f"functions call each other more than {CALL_DEPTH} deep, or without end")
        if len(operands) > len(function.input):
            raise ModelError(f"function {function.name!r} has {len(function.input)} inputs, {len(operands)} are passed")
        bindings = {**_defaults(function), **attributes}
        inner = GraphImport(
            self.importer, opsets, None, None, bindings, origin, self.depth + 1, self.is_closed, self,
            sizes=self.sizes, dispatch=self.dispatch, widens=widens,
        )  # fmt: skip
        for position, name in enumerate(function.input):
            value = operands[position] if position < len(operands) else None
            missing = ModelError(f"function {function.name!r} uses its input {name!r}, which is left out")
            inner.values[name] = value if value is not None else Absent(missing, is_left_out=True)
        inner.import_nodes(function.node, function.output, function.input)
        return [inner.find(name) if name in inner.values else None for name in function.output]

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
        values = (results,) if isinstance(results, ITEMS) else tuple(results)
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
                if isinstance(value, Value):
                    try:
                        self.check_declared(name, value)
                    except DeclarationError as error:  # exporters write wrong shapes, and other runtimes accept them
                        self.importer.ignored += (f"{error}: that declaration is ignored",)
                self.values[name] = value


def _require_inputs(graph: onnx.GraphProto, passed: int) -> None:
    if len(graph.input) != passed:
        raise ModelError(
            f"sub-graph {graph.name!r} has {len(graph.input)} inputs where the operator passes {passed}",
            remedy="run onnx.checker on the model",
        )


def _defaults(function: onnx.FunctionProto) -> dict[str, onnx.AttributeProto]:
    return {a.name: a for a in function.attribute_proto}
