"""Symbolic dims as values of an ONNX graph: read from the extents of values and from sizes that come from data, and
computed from those."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ingot.compiler.frontend.export.errors import ExportError
from ingot.compiler.frontend.export.signs import never_negative
from ingot.compiler.frontend.export.symbols import AxisSource, ScalarSource, Source
from ingot.compiler.frontend.weights import CODES
from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim, Opaque, Symbol, show
from ingot.compiler.ir.graph import Array, Value, describe, node_of
from ingot.runtime.dtypes import i64


class Host(Protocol):
    """The graph into which dims are written."""

    def constant(self, data: Array | Sequence[int], wish: str) -> str:
        """The name of constant data; integers are i64."""
        ...

    def written(self, value: Value) -> str | None:
        """The name of a value, None while it has none."""
        ...

    def arithmetic(self, op_type: str, inputs: Sequence[str], wish: str, **attributes: Any) -> str:
        """Add a node that belongs to no node of the graph; the name of its result."""
        ...

    def range_of(self, dim: Dim) -> tuple[int, int]:
        """Bounds of a dim, both included."""
        ...


class Extents:
    """The dims of one graph as i64 values. What a sub-graph shares with the graph around it is computed there, once."""

    def __init__(self, host: Host, parent: Extents | None) -> None:
        self.host, self.parent = host, parent
        self.sources: dict[str, Source] = {}
        self._values: dict[object, str] = {}

    def known(self) -> set[str]:
        """The symbols that have a source here or in a graph around."""
        return {name for each in self._chain() for name in each.sources}

    def single(self, dim: Dim) -> str:
        """A dim as a value i64[1]."""
        if isinstance(dim, int):
            return self.host.constant([dim], "dim")
        owner = self._owner(dims.symbols(dim))
        if dim not in owner._values:
            owner._values[dim] = owner._compute(dim)
        return owner._values[dim]

    def shape(self, shape: Sequence[Dim], wish: str) -> str:
        """Dims as a value i64[n]."""
        if all(isinstance(d, int) for d in shape):
            return self.host.constant(np.array(shape, np.int64), wish)
        owner = self._owner({s for d in shape for s in dims.symbols(d)})
        key = ("shape", *shape)
        if key not in owner._values:
            parts: list[str] = []
            run: list[int] = []
            for d in (*shape, None):
                if isinstance(d, int):
                    run.append(d)
                    continue
                if run:
                    parts.append(self.host.constant(run, "dims"))
                    run = []
                if d is not None:
                    parts.append(self.single(d))
            owner._values[key] = parts[0] if len(parts) == 1 else owner._join(parts, wish)
        return owner._values[key]

    def scalar(self, dim: Dim) -> str:
        """A dim as a value i64[]."""
        if isinstance(dim, int):
            return self.host.constant(np.array(dim, np.int64), "dim")
        owner = self._owner(dims.symbols(dim))
        key = ("scalar", dim)
        if key not in owner._values:
            owner._values[key] = owner._scalar(dim)
        return owner._values[key]

    def _join(self, parts: Sequence[str], wish: str) -> str:
        return self.host.arithmetic("Concat", parts, wish, axis=0)

    def _scalar(self, dim: Dim) -> str:
        name = dims.symbol_name(dim)
        source = self.sources.get(name) if name is not None else None
        if name is not None and isinstance(source, ScalarSource) and not source.value.rank:
            return self._size(name, source.value)
        return self.host.arithmetic("Squeeze", [self.single(dim), self.host.constant([0], "dim")], _spell(dim))

    def size_of(self, dim: Dim) -> Value | None:
        """The scalar that `dim` is, None where it is no size that comes from data."""
        name = dims.symbol_name(dim)
        source = self.source_of(name) if name is not None else None
        return source.value if isinstance(source, ScalarSource) else None

    def source_of(self, symbol: str) -> Source | None:
        """Where the value of a symbol comes from, None where nothing tells it."""
        return next((each.sources[symbol] for each in self._chain() if symbol in each.sources), None)

    # -- symbols ------------------------------------------------------------------------------------------------------

    def _chain(self) -> Iterator[Extents]:
        here: Extents | None = self
        while here is not None:
            yield here
            here = here.parent

    def _owner(self, symbols: Iterable[str]) -> Extents:
        """The outermost graph in which all symbols have values."""
        chain = list(self._chain())
        return chain[min((_place(chain, s) for s in symbols), default=len(chain) - 1)]

    def _read(self, name: str, source: Source) -> str:
        match source:
            case ScalarSource(value=value):
                one = self.host.constant([1], "one")
                return self.host.arithmetic("Reshape", [self._size(name, value), one], f"dim_{name}")
            case AxisSource(value=value, axis=axis, stride=stride, rest=rest):
                return self._read_axis(self._operand(name, value), axis, stride, rest, f"dim_{name}")

    def _size(self, name: str, value: Value) -> str:
        """A size as it comes from data. A negative one ends the run, as here: shapes and slices would take it for
        something else. Where it could be negative, index 1 of a table of one entry is added then."""
        operand = self._operand(name, value)
        if never_negative(value):
            return operand
        key = ("size", operand)
        if key not in self._values:
            wish = f"dim_{name}"
            negative = self.host.arithmetic("Less", [operand, self.host.constant(np.array(0, np.int64), "dim")], wish)
            index = self.host.arithmetic("Cast", [negative], wish, to=CODES[i64])
            table = self.host.constant([0], "guard")
            nothing = self.host.arithmetic("Gather", [table, index], f"require: {name} is not negative", axis=0)
            self._values[key] = self.host.arithmetic("Add", [operand, nothing], wish)
        return self._values[key]

    def _read_axis(self, operand: str, axis: int, stride: Dim, rest: Dim, wish: str) -> str:
        """symbol = (extent - rest) / stride"""
        key = ("extents", operand)
        if key not in self._values:
            self._values[key] = self.host.arithmetic("Shape", [operand], f"{operand}_shape")
        places = self.host.constant([axis], "axis")
        extent = self.host.arithmetic("Gather", [self._values[key], places], wish, axis=0)
        if rest != 0:
            extent = self.host.arithmetic("Sub", [extent, self.single(rest)], wish)
        if stride != 1:
            extent = self.host.arithmetic("Div", [extent, self.single(stride)], wish)
        return extent

    def _operand(self, name: str, value: Value) -> str:
        operand = self.host.written(value)
        if operand is None:
            raise ExportError(f"the dim {name} is needed before {describe(node_of(value))}, which tells it")
        return operand

    # -- arithmetic ---------------------------------------------------------------------------------------------------

    def _compute(self, dim: dims.Expr) -> str:
        """The sum of the terms of `dim`, those with positive coefficients first."""
        name = dims.symbol_name(dim)
        if name is not None:
            return self._read(name, self.sources[name])
        total: str | None = None
        wish = _spell(dim)
        for monomial, c in sorted(dim.terms, key=lambda item: (item[1] < 0, not item[0])):
            size = c if total is None else abs(c)
            factors = [self._atom(atom) for atom in monomial]
            if size != 1 or not factors:
                factors.append(self.single(size))
            term = factors[0]
            for factor in factors[1:]:
                term = self.host.arithmetic("Mul", [term, factor], wish)
            if total is not None:
                term = self.host.arithmetic("Add" if c > 0 else "Sub", [total, term], wish)
            total = term
        assert total is not None
        return total

    def _atom(self, atom: Symbol | Opaque) -> str:
        if isinstance(atom, Symbol):
            return self.single(dims.symbol(atom.name))
        wish = _spell(dims.apply(atom.op, atom.left, atom.right))
        left, right = self.single(atom.left), self.single(atom.right)
        match atom.op:
            case "max":
                return self.host.arithmetic("Max", [left, right], wish)
            case "min":
                return self.host.arithmetic("Min", [left, right], wish)
            case "%":
                return self.host.arithmetic("Mod", [left, right], wish)
            case "//":
                if self.host.range_of(atom.left)[0] < 0 or self.host.range_of(atom.right)[0] < 0:
                    # ONNX divides towards 0; what is left after taking the remainder away divides exactly
                    rest = self.host.arithmetic("Mod", [left, right], wish)
                    left = self.host.arithmetic("Sub", [left, rest], wish)
                return self.host.arithmetic("Div", [left, right], wish)


def _place(chain: Sequence[Extents], symbol: str) -> int:
    for place, each in enumerate(chain):
        if symbol in each.sources:
            return place
    raise ExportError(f"the dim {symbol} cannot be computed: no input has an axis that tells it; pin it when importing")


def _spell(dim: Dim) -> str:
    return "dim_" + re.sub(r"\W+", "_", show(dim)).strip("_")
