"""The graph's meaning: evaluation on numpy arrays, operator by operator.

Before a node is evaluated its symbolic dims become ints and its operands stand-ins of concrete type, so its type rule
runs once more on concrete shapes and every result is checked against it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Expr, show
from ingot.compiler.ir.graph import (
    Array,
    Graph,
    Input,
    Node,
    Value,
    describe,
    fields_of,
    operands_of,
)
from ingot.compiler.ir.types import IrError, TensorType, type_of
from ingot.runtime import dtypes


class BindingError(ValueError):
    """The inputs given do not fit the graph's declared inputs."""


def bind(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, int]:
    """The values of the graph's symbols, from the shapes of the arrays given for its inputs.

    A dim that is a symbol alone gives that symbol's value; all other dims are checked, and so are the graph's ranges.
    Raises BindingError naming input, axis, what was expected and what was got.
    """
    labels = [i.label for i in graph.inputs]
    unknown, missing = sorted(inputs.keys() - set(labels)), [x for x in labels if x not in inputs]
    if unknown or missing:
        raise BindingError(f"inputs are {labels}; missing: {missing}, unknown: {unknown}")
    values: dict[str, int] = {}
    for node in graph.inputs:
        array = np.asarray(inputs[node.label])
        declared = node.declared
        if array.ndim != declared.rank or dtypes.from_numpy(array.dtype) != declared.dtype:
            raise BindingError(f"input {node.label!r}: expected {declared}, got {type_of(array)}")
        for dim, extent in zip(declared.shape, array.shape, strict=True):
            name = dims.symbol_name(dim)
            if name is not None:
                values.setdefault(name, int(extent))
    for node in graph.inputs:
        shape = np.asarray(inputs[node.label]).shape
        for axis, (dim, extent) in enumerate(zip(node.declared.shape, shape, strict=True)):
            _solve(dim, int(extent), values)
            unknown = sorted(dims.symbols(dim) - values.keys())
            if unknown:
                raise BindingError(f"input {node.label!r} axis {axis}: {show(dim)} does not tell {', '.join(unknown)}")
            expected = dims.evaluate(dim, values)
            if expected != extent:
                known = ", ".join(f"{s} = {values[s]}" for s in sorted(dims.symbols(dim)))
                where = f" = {expected} (with {known})" if known else ""
                raise BindingError(f"input {node.label!r} axis {axis}: expected {show(dim)}{where}, got {extent}")
    for name, (low, high) in graph.ranges.items():
        if name in values and not low <= values[name] <= high:
            raise BindingError(f"{name} = {values[name]} is outside its range {low}..{high}")
    return values


def _solve(dim: Dim, extent: int, values: dict[str, int]) -> None:
    """Add the one unknown of `dim` to `values` where stride * unknown + rest = extent has a whole solution."""
    unknown = sorted(dims.symbols(dim) - values.keys())
    if len(unknown) != 1:
        return
    parts = dims.coefficient(dim, unknown[0])
    if parts is None:
        return
    stride, rest = dims.evaluate(parts[0], values), dims.evaluate(parts[1], values)
    if stride and (extent - rest) % stride == 0:
        values[unknown[0]] = (extent - rest) // stride


def evaluate_graph(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's outputs by name for arrays by input label. Raises BindingError, or IrError naming a node."""
    values = bind(graph, inputs)
    arrays = [np.asarray(inputs[i.label]) for i in graph.inputs]
    results = _run(graph, arrays, values)
    return {name: array for (name, _), array in zip(graph.outputs, results, strict=True)}


def evaluate_results(graph: Graph, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The results of a sub-graph for arrays in the order of its inputs."""
    values: dict[str, int] = {}
    for node, array in zip(graph.inputs, arrays, strict=True):
        _learn(node.declared, array, values)
    return _run(graph, arrays, values)


def evaluate_expansion(node: Node, operands: Sequence[Array]) -> tuple[Array, ...]:
    """The results of ``node.expand()``, which must be one, on these operand arrays."""
    inputs, concrete = _concrete(node, operands, {})
    expansion = concrete.expand()
    if expansion is None:
        raise IrError(f"{describe(node)} has neither evaluate nor expand: define one of them")
    results = (expansion,) if isinstance(expansion, Value) else tuple(expansion)
    unique = tuple(dict.fromkeys(inputs))
    graph = Graph(unique, tuple((f"result_{i}", v) for i, v in enumerate(results)), node.name)
    given = dict(zip(inputs, operands, strict=True))
    return _run(graph, [given[i] for i in unique], {})


def _learn(declared: TensorType, array: Array, values: dict[str, int]) -> None:
    """Bind symbols that stand alone in `declared` and have no value yet."""
    for dim, extent in zip(declared.shape, array.shape, strict=False):
        name = dims.symbol_name(dim)
        if name is not None:
            values.setdefault(name, int(extent))


def _run(graph: Graph, arrays: Sequence[Array], values: dict[str, int]) -> tuple[Array, ...]:
    left = dict(graph.uses())
    held: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
    names: dict[Value, list[str]] = {}
    for name, value in graph.sizes().items():
        names.setdefault(value, []).append(name)
    for node in graph.nodes():
        if isinstance(node, Input):
            if node not in held:
                raise IrError(f"input {node.label!r} is used but is not among the inputs of graph {graph.name!r}")
            _take_size(graph, names.get(node, ()), held[node], values)
            continue
        sources = operands_of(node)
        operands = [held[v] for v in sources]
        results = _evaluate(node, operands, values)
        for i, array in enumerate(results):
            result = node.result(i)
            _take_size(graph, names.get(result, ()), array, values)
            _learn(result.type, array, values)
            if left.get(result):
                held[result] = array
        for source in sources:
            left[source] -= 1
            if not left[source]:
                held.pop(source, None)
    return tuple(held[v] for v in graph.results)


def _take_size(graph: Graph, names: Sequence[str], array: Array, values: dict[str, int]) -> None:
    """Let the symbols `names` of `graph` have the value of `array`."""
    for name in names:
        value = int(array.reshape(()))
        low, high = graph.ranges.get(name, (0, dims.UNBOUNDED))
        if not low <= value <= high:
            raise IrError(f"graph {graph.name!r}: the size {name} = {value} is outside {low}..{high}")
        if values.setdefault(name, value) != value:
            raise IrError(f"graph {graph.name!r}: {name} is {values[name]} in a shape, but {value} by its definition")


def _evaluate(node: Node, operands: Sequence[Array], values: Mapping[str, Dim]) -> tuple[Array, ...]:
    _, concrete = _concrete(node, operands, values)
    results = tuple(map(_as_array, concrete.evaluate(*operands)))
    if len(results) != len(concrete.types):
        raise IrError(f"{describe(node)} evaluates to {len(results)} results, its type says {len(concrete.types)}")
    for i, (array, declared) in enumerate(zip(results, concrete.types, strict=True)):
        got = type_of(array)
        shape_fits = got.rank == declared.rank and all(
            not isinstance(want, int) or want == have for want, have in zip(declared.shape, got.shape, strict=True)
        )
        if got.dtype != declared.dtype or not shape_fits:
            raise IrError(f"{describe(node)}: result {i} is declared {declared} but evaluates to {got}")
    return results


def _as_array(result: Any) -> Array:
    """A result as an array; numpy takes a single string out of an array of objects."""
    return np.asarray(result, object) if isinstance(result, str) else np.asarray(result)


def _concrete(node: Node, operands: Sequence[Array], values: Mapping[str, Dim]) -> tuple[tuple[Input, ...], Node]:
    """`node` with inputs of the arrays' types as operands and known symbols replaced, and those inputs."""
    sources = operands_of(node)
    stand_ins: dict[Value, Value] = {}
    for i, (source, array) in enumerate(zip(sources, operands, strict=True)):
        stand_ins.setdefault(source, Input(f"operand_{i}", type_of(array)))
    replaced = _replace(node, stand_ins, values)
    inputs = tuple(stand_ins[s] for s in sources)
    return tuple(i for i in inputs if isinstance(i, Input)), replaced


def _replace(node: Node, operands: Mapping[Value, Value], values: Mapping[str, Dim]) -> Node:
    """`node` with operands and dims replaced at once (one type check)."""
    if not operands and not values:
        return node
    changes: dict[str, Any] = {}
    for f in fields_of(node):
        item = getattr(node, f.name)
        new = _replaced_field(item, operands, values)
        if new is not item:
            changes[f.name] = new
    return dataclasses.replace(node, **changes) if changes else node


def _replaced_field(item: Any, operands: Mapping[Value, Value], values: Mapping[str, Dim]) -> Any:
    match item:
        case Value():
            return operands.get(item, item)
        case Expr():
            return dims.substitute(item, values)
        case TensorType():
            shape = tuple(dims.substitute(d, values) for d in item.shape)
            return item if shape == item.shape else TensorType(item.dtype, shape)
        case Graph():
            return specialise(item, values)
        case tuple():
            parts: list[Any] = [_replaced_field(x, operands, values) for x in item]  # pyright: ignore[reportUnknownVariableType]
            same = all(a is b for a, b in zip(parts, item, strict=True))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            return item if same else tuple(parts)  # pyright: ignore[reportUnknownVariableType]
        case _:
            return item


def specialise(graph: Graph, values: Mapping[str, Dim]) -> Graph:
    """`graph` with the symbols named in `values` replaced, in its sub-graphs too.

    Raises IrError when a value lies outside the symbol's range or a node does not fit the concrete shapes.
    """
    for name, (low, high) in graph.ranges.items():
        value = values.get(name)
        if isinstance(value, int) and not low <= value <= high:
            raise IrError(f"{name} = {value} is outside its range {low}..{high}")
    if not values:
        return graph
    mapping: dict[Value, Value] = {}
    for node in graph.nodes():
        new = _replace(node, mapping, values)
        if new is not node:
            for i in range(len(node.types)):
                mapping[node.result(i)] = new.result(i)
    if not mapping and not values.keys() & graph.bound.keys():
        return graph
    ranges = {name: r for name, r in graph.ranges.items() if name not in values}
    return Graph(
        tuple(_as_input(mapping.get(i, i)) for i in graph.inputs),
        tuple((name, mapping.get(v, v)) for name, v in graph.outputs),
        graph.name,
        ranges,
        {name: mapping.get(v, v) for name, v in graph.sizes().items() if name not in values},
    )


def _as_input(value: Value) -> Input:
    assert isinstance(value, Input)
    return value
