"""The text form of graphs: one node a line, sub-graphs as indented blocks.

    graph "main" {
      dims {batch: 1..64}
      %x = input("x") : f32[batch, 3, 32, 32]
      %w = constant(f32[16, 3, 3, 3]@0123456789abcdef)  ; "conv.weight"
      %Conv_0 = conv(%x, %w, bias=none, ..., channels_last=false) : f32[batch, 16, 30, 30]  ; "Conv_0"
      %split:2 = split(%Conv_0, axis=1, sizes=(8, 8)) : (f32[batch, 8, 30, 30], f32[batch, 8, 30, 30])
      return %split#1 as "y"
    }

A line ``bind n = %count`` before the return says which value a symbol is bound to.

A node is named after its first origin, or after its op; what follows the semicolon is its whole origin. Leading
operands stand without a field name. Types after the colon are checked against what the op infers.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import numpy as np

from ingot.compiler.ir.graph import OPS, Array, Constant, Graph, Input, Node, Result, Value, describe, node_of
from ingot.compiler.ir.text.arrays import parse_array, show_array
from ingot.compiler.ir.text.fields import Fields, Form, field_hints, parse_ranges, show_ranges
from ingot.compiler.ir.text.scanner import Scanner, parse_origin, show_origin
from ingot.compiler.ir.types import IrError, TensorType

_VALUE = re.compile(r"%([\w./$-]+)")


def show_graph(graph: Graph, resources: MutableMapping[str, Array] | None = None) -> str:
    """`graph` as text. Constants of more than 16 elements are put into `resources` under their hash; without
    `resources` the text still names the hash but cannot be parsed. Raises IrError where a field has no text form."""
    return _Writer(resources).graph(graph, 0) + "\n"


def parse_graph(
    text: str,
    resources: Mapping[str, Array] | None = None,
    *,
    ops: Mapping[str, type[Node]] | None = None,
    source: str = "text",
) -> Graph:
    """The graph that `show_graph` wrote as `text`. `ops` are the operators by spelling (default: those of all
    modules imported so far; import ``ingot.compiler.ops`` for the built-in ones), `source` names the text in messages.
    Raises TextError with line and column."""
    scanner = Scanner(text, source)
    graph = _Reader(resources or {}, OPS if ops is None else ops).graph(scanner)
    if not scanner.done:
        scanner.fail("the end")
    return graph


def value_names(graph: Graph) -> dict[Node, str]:
    """The unique name of each node in the text form (without ``%``)."""
    names: dict[Node, str] = {}
    taken: set[str] = set()
    counters: dict[str, int] = {}
    for node in graph.nodes():
        wish = node.label if isinstance(node, Input) else node.origin[0] if node.origin else node.name
        stem = re.sub(r"[^\w./$-]", "_", wish).strip("./") or node.name
        name, count = stem, counters.get(stem, 0)
        while name in taken:
            count += 1
            name = f"{stem}.{count}"
        counters[stem] = count
        taken.add(name)
        names[node] = name
    return names


def _positional(cls: type[Node]) -> tuple[str, ...]:
    """The leading fields that are written without their names: operands, an input's label, a constant's data."""
    names: list[str] = []
    for name, hint in field_hints(cls).items():
        plain = hint is Value or typing.get_origin(hint) is np.ndarray or (cls is Input and name == "label")
        if not plain:
            break
        names.append(name)
    return tuple(names)


class _Writer:
    def __init__(self, resources: MutableMapping[str, Array] | None) -> None:
        self.resources = resources

    def graph(self, graph: Graph, indent: int) -> str:
        names = value_names(graph)
        margin = "  " * (indent + 1)

        def show_value(value: Value, _: int = 0) -> str:
            node = node_of(value)
            if node not in names:
                raise IrError(f"{describe(node)} is used in graph {graph.name!r} but is not part of it")
            return f"%{names[node]}" + (f"#{value.index}" if isinstance(value, Result) else "")

        lines = [f"graph {json.dumps(graph.name, ensure_ascii=False)} {{"]
        if graph.ranges:
            lines.append(f"{margin}dims {show_ranges(graph.ranges)}")
        known = set(graph.inputs)
        for node in graph.nodes():
            if isinstance(node, Input) and node not in known:
                raise IrError(f"input {node.label!r} is used in graph {graph.name!r} but is not one of its inputs")
            lines.append(margin + self.node(node, names[node], show_value, indent + 1))
        lines += [f"{margin}bind {name} = {show_value(value)}" for name, value in graph.sizes().items()]
        results = ", ".join(f"{show_value(v)} as {json.dumps(n, ensure_ascii=False)}" for n, v in graph.outputs)
        lines.append(f"{margin}return {results}".rstrip())
        return "\n".join(lines) + "\n" + "  " * indent + "}"

    def node(self, node: Node, name: str, show_value: Callable[[Value, int], str], indent: int) -> str:
        fields = Fields(
            {
                Value: Form(show_value, _unreadable),
                Graph: Form(self.graph, _unreadable),
                np.ndarray: Form(lambda a, _: show_array(a, self.resources, node.__dict__), _unreadable),
            }
        )
        positional = _positional(type(node))
        parts: list[str] = []
        for field, hint in field_hints(type(node)).items():
            if isinstance(node, Input) and field == "declared":
                continue
            shown = fields.show(getattr(node, field), hint, indent)
            parts.append(shown if field in positional else f"{field}={shown}")
        count = f":{len(node.types)}" if len(node.types) != 1 else ""
        line = f"%{name}{count} = {node.name}({', '.join(parts)})"
        if not isinstance(node, Constant):
            types = ", ".join(map(str, node.types))
            line += f" : {types if len(node.types) == 1 else f'({types})'}"
        return line + show_origin(node.origin)


def _unreadable(scanner: Scanner) -> Any:
    raise IrError("this form only writes")


class _Reader:
    def __init__(self, resources: Mapping[str, Array], ops: Mapping[str, type[Node]]) -> None:
        self.resources = resources
        self.ops = ops

    def graph(self, scanner: Scanner) -> Graph:
        values: dict[str, Node] = {}
        inputs: list[Input] = []
        ranges: dict[str, tuple[int, int]] = {}

        def parse_value(s: Scanner) -> Value:
            start = s.at
            name = s.match(_VALUE, "a value (%name)")[1:]
            if name not in values:
                s.fail("a value defined above", start)
            node = values[name]
            if s.accept("#"):
                index = s.integer()
                if index >= len(node.types):
                    s.fail(f"a result below {len(node.types)} of %{name}", start)
                return Result(node, index)
            if len(node.types) != 1:
                s.fail(f"%{name}#<index> (it has {len(node.types)} results)", start)
            return node

        fields = Fields(
            {
                Value: Form(lambda v, _: str(v), parse_value),
                Graph: Form(lambda g, _: str(g), self.graph),
                np.ndarray: Form(lambda a, _: str(a), lambda s: parse_array(s, self.resources)),
            }
        )
        scanner.expect("graph")
        name = scanner.string("the graph's name in quotes")
        scanner.expect("{")
        if scanner.accept("dims"):
            ranges = parse_ranges(scanner)
        while not scanner.sees("return") and not scanner.sees("bind"):
            start = scanner.at
            label = scanner.match(_VALUE, "%name = ... or return")[1:]
            if label in values:
                scanner.fail("a name that is not taken", start)
            node = self.node(scanner, fields)
            values[label] = node
            if isinstance(node, Input):
                inputs.append(node)
        bound: dict[str, Value] = {}
        while scanner.accept("bind"):
            start = scanner.at
            symbol = scanner.word("a dim's name")
            if symbol in bound:
                scanner.fail("a dim that is not bound yet", start)
            scanner.expect("=")
            bound[symbol] = parse_value(scanner)
        scanner.expect("return")
        outputs: list[tuple[str, Value]] = []
        while not scanner.accept("}"):
            if outputs:
                scanner.expect(",")
            value = parse_value(scanner)
            scanner.expect("as")
            outputs.append((scanner.string("the output's name in quotes"), value))
        return Graph(tuple(inputs), tuple(outputs), name, ranges, bound)

    def node(self, scanner: Scanner, fields: Fields) -> Node:
        """``[:count] = op(fields) [: types] [; origin]`` after the name."""
        count = scanner.integer() if scanner.accept(":") else 1
        scanner.expect("=")
        start = scanner.at
        spelled = scanner.word("an operator")
        if spelled not in self.ops:
            scanner.fail(f"one of the {len(self.ops)} known operators", start)
        cls = self.ops[spelled]
        arguments = self.arguments(scanner, cls, fields)
        declared: list[TensorType] | None = None
        at = scanner.at
        if scanner.accept(":"):
            at = scanner.at
            declared = self.types(scanner, count)
        elif cls is not Constant:
            scanner.fail("':' and the type")
        if cls is Input and declared is not None:
            arguments["declared"] = declared[0]
        origin = parse_origin(scanner)
        try:
            node = cls(**arguments, origin=origin)
        except (TypeError, ValueError) as error:
            scanner.fail(f"a valid {spelled}: {error};", start)
        if len(node.types) != count:
            scanner.fail(f"%name:{len(node.types)} before the operator (it has {len(node.types)} results)", start)
        if declared is not None and tuple(declared) != node.types:
            scanner.fail(f"the inferred type {', '.join(map(str, node.types))}", at)
        return node

    def arguments(self, scanner: Scanner, cls: type[Node], fields: Fields) -> dict[str, Any]:
        hints = field_hints(cls)
        positional = list(_positional(cls))
        arguments: dict[str, Any] = {}
        start = scanner.at
        scanner.expect("(")
        while not scanner.accept(")"):
            if arguments:
                scanner.expect(",")
            at = scanner.at
            named = re.compile(r"([^\W\d]\w*)\s*=").match(scanner.text, scanner.at)
            if named is None and positional:
                field = positional.pop(0)
            else:
                field = scanner.word("a field name")
                if field not in hints or field in arguments or (cls is Input and field == "declared"):
                    scanner.fail(f"a field of {cls.name} ({', '.join(f for f in hints if f not in arguments)})", at)
                scanner.expect("=")
                positional = []
            arguments[field] = fields.parse(scanner, hints[field])
        for f in dataclasses.fields(cls):
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if required and f.name not in arguments and not (cls is Input and f.name == "declared"):
                scanner.fail(f"field {f.name} among the arguments of {cls.name}", start)
        return arguments

    def types(self, scanner: Scanner, count: int) -> list[TensorType]:
        if count == 1:
            return [scanner.tensor_type()]
        scanner.expect("(")
        types: list[TensorType] = []
        while not scanner.accept(")"):
            if types:
                scanner.expect(",")
            types.append(scanner.tensor_type())
        return types
