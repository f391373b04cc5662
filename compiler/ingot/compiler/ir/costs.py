"""What a kernel launch costs, as expressions of the program's dims: chunks, operations, bytes moved.

Bytes are those of the elements that the loads and stores of a kernel may touch, each once however often it is read:
what memory has to deliver if nothing is evicted meanwhile. Accesses that overlap in part are counted apart, but never
more than the buffer holds; conditions are not looked at, so that borders count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, cast

from ingot.compiler.ir.dims import (
    Dim,
    Opaque,
    add,
    ceil_divide,
    coefficient,
    minimum,
    multiply,
    product,
    serialise,
    show,
    substitute,
    symbols,
)
from ingot.compiler.ir.dims import Expr as DimExpr
from ingot.compiler.ir.loops import COMPARISONS, Accumulate, Call, Const, For, Kernel, Let, Load, Local, Stmt, Store
from ingot.compiler.ir.program import Host, Launch, Storage
from ingot.runtime.dims import INT64_MAX, parse_dim
from ingot.runtime.dims import Dim as StoredDim
from ingot.runtime.errors import ArtifactError
from ingot.runtime.profile import LaunchCost

_NOT_ARITHMETIC = COMPARISONS | {"and", "or", "xor", "not", "select", "cast", "isnan", "isinf", "copysign"}


def launch_cost(launch: Launch | Host) -> LaunchCost:
    """What an artifact says of a launch or host step; numbers beyond 64 bits are the largest that it can hold. What the
    host computes is no arithmetic, and what it moves is not known."""
    if isinstance(launch, Host):
        return LaunchCost(f"host {launch.function}", launch.origin, 1, 0, 0)
    survey = _survey(launch.kernel)
    wanted = (launch.chunks, _operations(launch, survey), _bytes_moved(launch, survey))
    return LaunchCost(launch.kernel.name, launch.origin, *map(_stored, wanted))


def _stored(dim: Dim) -> StoredDim:
    try:
        return parse_dim(serialise(dim), symbols(dim))
    except ArtifactError:
        return INT64_MAX


def operations(launch: Launch) -> Dim:
    """Arithmetic of one launch: for templates the useful work that lowering states (two for each multiply-add), else
    one for every scalar function of floats and every step of a sum, whatever it costs."""
    return _operations(launch, _survey(launch.kernel))


def _operations(launch: Launch, survey: _Survey) -> Dim:
    kernel = launch.kernel
    work = survey.operations() if isinstance(kernel.body, tuple) else kernel.flops
    return substitute(work, dict(zip(kernel.dims, launch.dims, strict=True)))


def bytes_moved(launch: Launch) -> Dim:
    """Bytes read plus bytes written by one launch. A buffer that is read and written counts twice."""
    return _bytes_moved(launch, _survey(launch.kernel))


def _bytes_moved(launch: Launch, survey: _Survey) -> Dim:
    total: Dim = 0
    for touched in (survey.loads, survey.stores):
        for buffer, (_, elements) in zip(launch.kernel.buffers, _elements(launch, touched), strict=True):
            total = add(total, multiply(elements, buffer.dtype.bytes))
    return total


def elements_read(launch: Launch) -> tuple[tuple[Storage, Dim], ...]:
    """For each buffer of a launch its storage and the number of its elements that are read."""
    return _elements(launch, _survey(launch.kernel).loads)


def _elements(launch: Launch, touched: Mapping[str, Mapping[object, Dim]]) -> tuple[tuple[Storage, Dim], ...]:
    bound = dict(zip(launch.kernel.dims, launch.dims, strict=True))
    found: list[tuple[Storage, Dim]] = []
    for buffer, argument in zip(launch.kernel.buffers, launch.buffers, strict=True):
        elements: Dim = 0
        for count in touched.get(buffer.name, {}).values():
            elements = add(elements, substitute(count, bound))
        found.append((argument.storage, minimum(elements, argument.storage.size)))
    return tuple(found)


def _survey(kernel: Kernel) -> _Survey:
    grid, body = (kernel.grid, kernel.body) if isinstance(kernel.body, tuple) else kernel.body.nest()
    survey = _Survey({axis.var: axis.extent for axis in grid})
    survey.statements(body, frozenset(survey.extents))
    return survey


class _Survey:
    """What a kernel does: the number of its operations, and for each buffer the number of elements of every different
    pattern of offsets."""

    def __init__(self, extents: Mapping[str, Dim]) -> None:
        self.extents = dict(extents)
        self.done: dict[frozenset[str], int] = {}  # operations by the variables of the loops around them
        self.first: dict[str, Dim] = dict.fromkeys(extents, 0)
        self.locals: dict[str, frozenset[str]] = {}  # the loop variables that a local's value follows
        self.loads: dict[str, dict[object, Dim]] = {}
        self.stores: dict[str, dict[object, Dim]] = {}

    def statements(self, body: tuple[Stmt, ...], around: frozenset[str]) -> None:
        """Look at statements in order; `around` are the variables of the loops around them."""
        for item in body:
            self.done[around] = self.done.get(around, 0) + _operations_of(item)
            match item:
                case For(var=var, extent=extent, body=inner):
                    # The extent of a loop over a block may follow the block's number; the first block is the largest.
                    self.extents[var], self.first[var] = extent, 0
                    self.statements(inner, around | {var})
                case Let(name=name, value=value):
                    self.locals[name], self.first[name] = self._reads(value), 0
                case Store(buffer=buffer, offset=offset, value=value):
                    self._reads(value)
                    self._touch(self.stores, buffer, offset)
                case _:
                    for field in dataclasses.fields(item):
                        part = getattr(item, field.name)
                        if field.name in ("body", "otherwise"):
                            self.statements(part, around)
                        else:
                            self._reads(part)

    def operations(self) -> Dim:
        """All operations of one launch."""
        total: Dim = 0
        for around, count in self.done.items():
            total = add(total, multiply(count, self._points(around)))
        return total

    def _reads(self, expression: Any) -> frozenset[str]:
        """Count the loads of an expression; the loop variables that it follows."""
        follows: frozenset[str] = frozenset()
        for part in _parts(expression):
            if isinstance(part, Load):
                self._touch(self.loads, part.buffer, part.offset)
            if isinstance(part, DimExpr):
                follows |= self._variables(part)
            elif name := getattr(part, "name", None):
                follows |= self.locals.get(name, frozenset())
        return follows

    def _variables(self, dim: Dim) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for name in symbols(dim):
            found |= frozenset((name,)) if name in self.extents else self.locals.get(name, frozenset())
        return found

    def _touch(self, table: dict[str, dict[object, Dim]], buffer: str, offset: Dim) -> None:
        variables = self._variables(offset)
        table.setdefault(buffer, {})[self._pattern(offset, variables)] = self._points(variables)

    def _points(self, variables: frozenset[str]) -> Dim:
        """In how many ways these loop variables can stand together."""
        extents: dict[str, Dim] = {}
        for name in sorted(variables):
            outer = self._outer_of(name)
            if outer is not None and outer[0] in variables:
                extents[outer[0]], extents[name] = outer[1], 1
            else:
                extents.setdefault(name, substitute(self.extents[name], self.first))
        return product(extents.values())

    def _outer_of(self, name: str) -> tuple[str, Dim] | None:
        """For a loop over one block of many, ``min(size, total - outer * size)``: the variable of the block's number,
        and the total, which both loops go through together."""
        match self.extents[name]:
            case DimExpr(terms=(((Opaque(op="min", left=left, right=right),), 1),)):
                pass
            case _:
                return None
        for size, rest in ((left, right), (right, left)):
            for outer in symbols(rest) & self.extents.keys():
                parts = coefficient(rest, outer)
                if parts is None or parts[0] != multiply(-1, size):
                    continue
                if self.extents[outer] == ceil_divide(parts[1], size):
                    return outer, parts[1]
        return None

    def _pattern(self, offset: Dim, variables: frozenset[str]) -> object:
        """Equal for offsets that are the same but for the names of their variables."""
        strides: list[tuple[str, str]] = []
        rest = offset
        for name in variables:
            parts = coefficient(rest, name)
            if parts is None:
                return show(offset)
            strides.append((show(parts[0]), show(self.extents[name])))
            rest = parts[1]
        return tuple(sorted(strides)), show(rest)


def _operations_of(item: Stmt) -> int:
    """Operations of one statement, without those of the statements in it."""
    names = [field.name for field in dataclasses.fields(item) if field.name not in ("body", "otherwise")]
    count = int(isinstance(item, Accumulate))
    for part in _parts(tuple(getattr(item, name) for name in names)):
        if isinstance(part, Call) and part.dtype.is_float and part.fn not in _NOT_ARITHMETIC:
            count += 2 if part.fn == "fma" else 1
    return count


def _parts(item: Any) -> Iterator[Any]:
    """All parts of an expression, itself included."""
    stack = [item]
    while stack:
        part = stack.pop()
        yield part
        if isinstance(part, Call):
            stack.extend(part.args)
        elif isinstance(part, Load):
            stack.append(part.offset)
        elif isinstance(part, (Const, Local, DimExpr, int)):
            pass
        elif isinstance(part, tuple):
            stack.extend(cast("tuple[Any, ...]", part))
        elif dataclasses.is_dataclass(part) and not isinstance(part, (type, DimExpr)):
            stack.extend(getattr(part, field.name) for field in dataclasses.fields(part))
