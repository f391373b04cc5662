"""A kernel's rules: names, types, access, independence of parallel iterations."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.loops import (
    Accumulate,
    Axis,
    Buffer,
    Expr,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Local,
    Scratch,
    Stmt,
    Store,
    When,
)
from ingot.compiler.ir.verify.expressions import Scope, stride_of, walk
from ingot.runtime.dtypes import boolean, i64

SCRATCH_BYTES = 64 * 1024
_ACCESS = ("read", "write", "readwrite")


def verify_kernel(kernel: Kernel) -> None:
    """Check one kernel; a template is checked as its nest.

    Names are unique (in a template's nest: do not hide each other) and in scope; calls have the right number and
    types of arguments; stores fit their buffers, which may be written; offsets and extents use visible symbols only;
    `Accumulate` changes a `Let`; scratch memory fits the stack; iterations of "vector" loops, and grid points, do not
    touch each other's elements as far as their offsets tell. Raises IrError naming the kernel.
    """
    scope = Scope(kernel.name)
    names = [*(b.name for b in kernel.buffers), *kernel.dims]
    if len(set(names)) != len(names):
        scope.fail(f"names are not unique: {', '.join(n for n in sorted(set(names)) if names.count(n) > 1)}")
    for buffer in kernel.buffers:
        if buffer.access not in _ACCESS:
            scope.fail(f"buffer {buffer.name} has access {buffer.access!r}, not one of {', '.join(_ACCESS)}")
    scope.buffers.update((b.name, b) for b in kernel.buffers)
    scope.symbols.update(kernel.dims)
    scope.check_dim(kernel.flops, "the work")
    _check_grid(kernel.grid, scope)
    if isinstance(kernel.body, tuple):
        grid, body, unique = kernel.grid, kernel.body, True
    else:
        (grid, body), unique = kernel.body.nest(), False
        _check_grid(grid, scope)
        if kernel.grid != kernel.body.grid:
            scope.fail(f"its grid is not that of its {type(kernel.body).__name__} template")
    checker = _Checker(scope, set(names), unique, grid)
    for axis in grid:
        checker.define(axis.var)
        scope.symbols.add(axis.var)
    checker.statements(body, scope.inner(), guarded=False)
    if checker.scratch > SCRATCH_BYTES:
        scope.fail(f"{checker.scratch} bytes of scratch memory; at most {SCRATCH_BYTES} fit the stack")


def _check_grid(grid: Sequence[Axis], scope: Scope) -> None:
    for axis in grid:
        scope.check_dim(axis.extent, f"the extent of grid axis {axis.var}")
        scope.check_dim(axis.grain, f"the grain of grid axis {axis.var}")
        if isinstance(axis.grain, int) and axis.grain < 1:
            scope.fail(f"the grain of grid axis {axis.var} is {axis.grain}")


class _Checker:
    def __init__(self, scope: Scope, taken: set[str], unique: bool, grid: Sequence[Axis]) -> None:
        self.scope = scope
        self.taken = taken
        self.unique = unique
        self.grid = grid
        self.scratch = 0

    def define(self, name: str, scope: Scope | None = None) -> None:
        """A new name: unused so far, or at least not visible here."""
        scope = scope or self.scope
        visible = name in scope.symbols or name in scope.locals or name in scope.buffers
        if visible or (self.unique and name in self.taken):
            scope.fail(f"the name {name!r} is defined twice")
        self.taken.add(name)

    def statements(self, body: Sequence[Stmt], scope: Scope, guarded: bool) -> None:
        for statement in body:
            match statement:
                case Let(name=name, value=value):
                    dtype = scope.dtype(value)
                    self.define(name, scope)
                    scope.locals[name] = dtype
                    if dtype == i64:
                        scope.symbols.add(name)
                case Accumulate():
                    self.accumulate(statement, scope)
                case Store():
                    self.store(statement, scope, guarded)
                case For():
                    self.loop(statement, scope, guarded)
                case When(condition=condition, body=then, otherwise=otherwise):
                    if scope.dtype(condition) != boolean:
                        scope.fail("the condition of a When is not bool")
                    self.statements(then, scope.inner(), guarded=True)
                    self.statements(otherwise, scope.inner(), guarded=True)
                case Scratch(name=name, dtype=dtype, size=size):
                    self.define(name, scope)
                    if not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                        scope.fail(f"scratch {name} has size {size!r}: a positive int is needed")
                    scope.buffers[name] = Buffer(name, dtype, "readwrite")
                    self.scratch += size * dtype.bytes

    def accumulate(self, statement: Accumulate, scope: Scope) -> None:
        name, fn = statement.name, statement.fn
        if name not in scope.locals:
            scope.fail(f"accumulation into {name!r}, which no Let defines here")
        held, given = scope.locals[name], scope.dtype(statement.value)
        if held != given:
            scope.fail(f"accumulation of {given.name} into {name!r}, which is {held.name}")
        if fn not in ("add", "mul", "max", "min", "and", "or"):
            scope.fail(f"unknown reduction {fn!r}")
        if (fn in ("and", "or")) != (held == boolean):
            scope.fail(f"reduction {fn} of {held.name}")

    def store(self, statement: Store, scope: Scope, guarded: bool) -> None:
        name = statement.buffer
        if name not in scope.buffers:
            scope.fail(f"store to unknown buffer {name!r}")
        buffer = scope.buffers[name]
        if buffer.access == "read":
            scope.fail(f"store to {name!r}, which may only be read")
        given = scope.dtype(statement.value)
        if given != buffer.dtype:
            scope.fail(f"store of {given.name} to {name!r}, which holds {buffer.dtype.name}")
        scope.check_dim(statement.offset, f"the offset into {name}")
        if guarded or name not in self.scope.buffers or dims.symbols(statement.offset) & self._computed(scope):
            return
        for axis in self.grid:
            if dims.bounds(axis.extent, {})[1] > 1 and axis.var not in dims.symbols(statement.offset):
                scope.fail(f"all points of grid axis {axis.var} store to the same element of {name}")

    def _computed(self, scope: Scope) -> set[str]:
        """Symbols that are locals: what they depend on is not looked into."""
        return scope.symbols & scope.locals.keys()

    def loop(self, statement: For, scope: Scope, guarded: bool) -> None:
        scope.check_dim(statement.extent, f"the extent of loop {statement.var}")
        if statement.mode not in ("serial", "vector", "unroll"):
            scope.fail(f"loop {statement.var} has unknown mode {statement.mode!r}")
        if statement.mode == "unroll" and not isinstance(statement.extent, int):
            scope.fail(f"loop {statement.var} is to be unrolled but its extent is {dims.show(statement.extent)}")
        self.define(statement.var, scope)
        inner = scope.inner()
        inner.symbols.add(statement.var)
        self.statements(statement.body, inner, guarded)
        if statement.mode == "vector":
            _check_independent(statement, scope)


def _check_independent(loop: For, scope: Scope) -> None:
    """Iterations of a vector loop do not see each other, as far as that can be decided."""
    stores: list[tuple[str, Dim]] = []
    loads: list[tuple[str, Dim]] = []
    accumulated: set[str] = set()
    defined: set[str] = set()
    private: set[str] = set()
    read: set[str] = set()

    def visit(expression: Expr) -> None:
        if isinstance(expression, Load):
            loads.append((expression.buffer, expression.offset))
            read.update(dims.symbols(expression.offset))
        elif isinstance(expression, Local):
            read.add(expression.name)
        elif isinstance(expression, Index):
            read.update(dims.symbols(expression.dim))

    guarded = False
    stack: list[Stmt] = list(loop.body)
    while stack:
        match statement := stack.pop():
            case Let(name=name, value=value):
                defined.add(name)
                walk(value, visit)
            case Accumulate(name=name, value=value):
                accumulated.add(name)
                walk(value, visit)
            case Store(buffer=buffer, offset=offset, value=value):
                stores.append((buffer, offset))
                walk(value, visit)
            case For(var=var, body=body):
                defined.add(var)
                stack.extend(body)
            case When(condition=condition, body=body, otherwise=otherwise):
                guarded = True
                walk(condition, visit)
                stack.extend((*body, *otherwise))
            case Scratch(name=name):
                private.add(name)
        del statement
    seen = accumulated & read - defined
    if seen:
        scope.fail(f"vector loop {loop.var} reads {', '.join(sorted(seen))} while it accumulates")
    for buffer, offset in stores:
        if buffer in private or dims.symbols(offset) & defined:
            continue
        stride = stride_of(offset, loop.var)
        if stride == 0 and loop.extent != 1 and not guarded:
            scope.fail(f"all iterations of vector loop {loop.var} store to the same element of {buffer}")
        for other, at in [*loads, *stores]:
            distance = at - offset
            if other != buffer or not isinstance(stride, int) or not isinstance(distance, int) or not stride:
                continue
            steps, rest = divmod(distance, stride)
            within = not isinstance(loop.extent, int) or abs(steps) < loop.extent
            if distance and not rest and within:
                scope.fail(
                    f"iterations of vector loop {loop.var} are not independent: {buffer}[{dims.show(offset)}] and "
                    f"{buffer}[{dims.show(at)}]"
                )
