"""Building level-2 kernels: parameters, free symbols, substitution and merging of loop axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ingot.compiler.ir.dims import Dim, coefficient, maximum, multiply, substitute, symbol, symbols
from ingot.compiler.ir.dims import Expr as DimExpr
from ingot.compiler.ir.loops import (
    Axis,
    Buffer,
    Const,
    Expr,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Scratch,
    Stmt,
    Store,
    Template,
    field_names,
    parts_of,
)
from ingot.compiler.ir.program import Argument, Launch, Storage
from ingot.compiler.lower.views import View
from ingot.runtime.dtypes import DType, i64

# Elements of a cheap pointwise kernel that make a chunk: some 5 us of work.
CHUNK = 16384


class KernelBuilder:
    """Collects the buffer parameters of one kernel while its body is written.

    Parameters are bound to (storage, launch-time offset), so that kernels that differ only in where their operands
    lie are structurally identical.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._parameters: dict[tuple[Storage, Dim], str] = {}
        self._access: dict[str, str] = {}
        self._locals = 0
        self._fresh = 0

    def local(self) -> str:
        """A fresh name for a local of the kernel."""
        self._locals += 1
        return f"v{self._locals}"

    def parameter(self, view: View, access: str) -> str:
        """The name of the buffer parameter for `view`'s storage and base offset."""
        key = (view.storage, view.offset)
        if key not in self._parameters:
            self._parameters[key] = f"b{self._fresh}"
            self._fresh += 1
        name = self._parameters[key]
        before = self._access.get(name, access)
        self._access[name] = access if before == access else "readwrite"
        return name

    def forked(self, name: str, keep: Callable[[str], bool]) -> KernelBuilder:
        """A builder of another kernel with those of this one's parameters that `keep` wants, under the same names."""
        other = KernelBuilder(name)
        other._parameters = {place: label for place, label in self._parameters.items() if keep(label)}
        other._access = {label: self._access[label] for label in other._parameters.values()}
        other._fresh = self._fresh
        return other

    def load(self, view: View, offset: Dim) -> Load:
        """The load of `view` at `offset`, an offset that includes the view's own."""
        return Load(self.parameter(view, "read"), offset - view.offset)

    def store(self, view: View, offset: Dim, value: Expr) -> Store:
        """The store to `view` at `offset`, an offset that includes the view's own."""
        return Store(self.parameter(view, "write"), offset - view.offset, value)

    def launch(
        self,
        grid: Sequence[Axis],
        body: Sequence[Stmt] | Template,
        *,
        origin: tuple[str, ...] = (),
        flops: Dim = 0,
    ) -> Launch:
        """The finished kernel, bound."""
        statements = tuple(cast(Sequence[Stmt], body)) if isinstance(body, (list, tuple)) else cast(Template, body)
        names = tuple(sorted(free_symbols((tuple(grid), statements))))
        parameters = list(self._parameters.items())
        buffers = tuple(Buffer(n, s.dtype, cast(Any, self._access[n])) for (s, _), n in parameters)
        kernel = Kernel(self.name, buffers, names, tuple(grid), statements, flops)
        arguments = tuple(Argument(storage, offset) for (storage, offset), _ in parameters)
        return Launch(kernel, arguments, tuple(symbol(n) for n in names), origin)


def free_symbols(item: Any) -> set[str]:
    """Symbols in the dims of a piece of level-2 IR that it does not itself define."""
    used: set[str] = set()
    bound: set[str] = set()
    stack: list[Any] = [item]
    while stack:
        thing = stack.pop()
        if isinstance(thing, DimExpr):
            used |= symbols(thing)
        elif isinstance(thing, (tuple, list)):
            stack.extend(cast(Sequence[Any], thing))
        else:
            if isinstance(thing, (For, Axis)):
                bound.add(thing.var)
            elif isinstance(thing, (Let, Scratch)):
                bound.add(thing.name)
            stack.extend(parts_of(thing))
    return used - bound


def map_dims(item: Any, change: Callable[[Dim], Dim]) -> Any:
    """A piece of level-2 IR with `change` applied to every symbolic dim in it."""
    if isinstance(item, DimExpr):
        return change(item)
    if isinstance(item, tuple):
        return tuple(map_dims(x, change) for x in cast(tuple[Any, ...], item))
    if names := field_names(type(cast("object", item))):
        values = {name: getattr(item, name) for name in names}
        changed = {name: map_dims(value, change) for name, value in values.items()}
        if all(changed[name] is values[name] for name in values):
            return item
        return dataclasses.replace(item, **changed)
    return item


def _offsets(item: Any) -> list[Dim]:
    found: list[Dim] = []
    stack: list[Any] = [item]
    while stack:
        thing = stack.pop()
        if isinstance(thing, (Load, Store)):
            found.append(thing.offset)
        elif isinstance(thing, Index):
            found.append(thing.dim)
        if isinstance(thing, (tuple, list)):
            stack.extend(cast(Sequence[Any], thing))
        else:
            stack.extend(parts_of(thing))
    return found


def merge_axes(axes: Sequence[Axis], item: Any) -> tuple[tuple[Axis, ...], Any]:
    """Merge neighbouring axes that every load and store of `item` walks with one stride; drop axes of extent 1.

    Keeps at least one axis. Returns the axes and `item` rewritten for them.
    """
    merged: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            zero: Mapping[str, Dim] = {axis.var: 0}
            item = map_dims(item, lambda d, zero=zero: substitute(d, zero))
            continue
        if merged and _walks_as_one(merged[-1], axis, _offsets(item)):
            outer = merged.pop()
            joined: Mapping[str, Dim] = {outer.var: 0, axis.var: symbol(axis.var)}
            item = map_dims(item, lambda d, joined=joined: substitute(d, joined))
            merged.append(Axis(axis.var, multiply(outer.extent, axis.extent)))
        else:
            merged.append(axis)
    return tuple(merged) or (Axis(axes[-1].var, 1),), item


def _walks_as_one(outer: Axis, inner: Axis, offsets: Sequence[Dim]) -> bool:
    for offset in offsets:
        a, b = coefficient(offset, outer.var), coefficient(offset, inner.var)
        if a is None or b is None or a[0] != multiply(b[0], inner.extent):
            return False
    return True


def grain_for(inside: Dim, elements: int) -> Dim:
    """Iterations a chunk when each covers `inside` elements."""
    return max(1, elements // max(inside, 1)) if isinstance(inside, int) else maximum(1, elements // maximum(inside, 1))


def zero(dtype: DType) -> Const:
    """The literal zero (or False) of a type."""
    return Const(0.0 if dtype.is_float else False if dtype.kind == "bool" else 0, dtype)


def index_value(dim: Dim) -> Expr:
    """A dim as an i64 expression: a literal where it is constant."""
    return Const(dim, i64) if isinstance(dim, int) else Index(dim)


def loop_names(rank: int, stem: str = "i") -> tuple[str, ...]:
    """Names of loop variables; the leading underscore keeps them apart from the model's symbols."""
    return tuple(f"_{stem}{axis}" for axis in range(rank))
