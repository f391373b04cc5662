"""What a kernel launch costs, as expressions of the program's dims: chunks, operations, bytes moved.

Bytes are those of the elements that the loads and stores of a kernel may touch, each once however often it is read:
what memory has to deliver if nothing is evicted meanwhile. Accesses that overlap in part are counted apart, but never
more than the buffer holds; conditions are not looked at, so that borders count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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
from ingot.compiler.ir.loops import (
    COMPARISONS,
    Accumulate,
    Call,
    Expr,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Local,
    Stmt,
    Store,
    When,
)
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
            expression = _expression_of(item)
            parts = [] if expression is None else list(_parts(expression))
            steps = sum(map(_arithmetic, parts)) + isinstance(item, Accumulate)
            self.done[around] = self.done.get(around, 0) + steps
            reads = self._reads(parts)
            match item:
                case For(var=var, extent=extent, body=inner):
                    # The extent of a loop over a block may follow the block's number; the first block is the largest.
                    self.extents[var], self.first[var] = extent, 0
                    self.statements(inner, around | {var})
                case Let(name=name):
                    self.locals[name], self.first[name] = reads, 0
                case Store(buffer=buffer, offset=offset):
                    self._touch(self.stores, buffer, offset)
                case When(body=inner, otherwise=otherwise):
                    self.statements(inner, around)
                    self.statements(otherwise, around)
                case _:
                    pass

    def operations(self) -> Dim:
        """All operations of one launch."""
        total: Dim = 0
        for around, count in self.done.items():
            total = add(total, multiply(count, self._points(around)))
        return total

    def _reads(self, parts: Iterable[Expr | Dim]) -> frozenset[str]:
        """Count the loads in the parts of an expression; the loop variables that it follows."""
        follows: frozenset[str] = frozenset()
        for part in parts:
            if isinstance(part, Load):
                self._touch(self.loads, part.buffer, part.offset)
            elif isinstance(part, DimExpr):
                follows |= self._variables(part)
            elif isinstance(part, Local):
                follows |= self.locals.get(part.name, frozenset())
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


def _expression_of(item: Stmt) -> Expr | None:
    """What a statement evaluates, without the statements in it."""
    match item:
        case Let(value=value) | Accumulate(value=value) | Store(value=value) | When(condition=value):
            return value
        case _:
            return None


def _arithmetic(part: Expr | Dim) -> int:
    """The operations of one part of an expression alone."""
    if not isinstance(part, Call) or not part.dtype.is_float or part.fn in _NOT_ARITHMETIC:
        return 0
    return 2 if part.fn == "fma" else 1


def _parts(expression: Expr) -> Iterator[Expr | Dim]:
    """All parts of an expression, itself included."""
    stack: list[Expr | Dim] = [expression]
    while stack:
        part = stack.pop()
        yield part
        if isinstance(part, Call):
            stack.extend(part.args)
        elif isinstance(part, Load):
            stack.append(part.offset)
        elif isinstance(part, Index):
            stack.append(part.dim)
