"""A program's rules: what launches bind, what is written when, and that no launch races with itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from ingot.compiler.ir import dims
from ingot.compiler.ir.dims import Dim
from ingot.compiler.ir.loops import Accumulate, Axis, Expr, For, Kernel, Let, Load, Stmt, Store, When
from ingot.compiler.ir.program import (
    Argument,
    Bind,
    Branch,
    Host,
    HostTensor,
    Launch,
    Program,
    Repeat,
    Step,
    Stop,
    Storage,
)
from ingot.compiler.ir.types import IrError
from ingot.compiler.ir.verify.expressions import interval, stride_of, walk
from ingot.compiler.ir.verify.kernel import verify_kernel
from ingot.runtime.dtypes import DType, boolean, i64, stored_dtype, string, u64
from ingot.runtime.host.functions import FUNCTIONS, check_attributes


def verify_program(program: Program) -> None:
    """Check a program and all its kernels.

    Storages have unique names and fit their kind; launches bind every parameter to a storage of its dtype; inputs and
    weights are never written; every other storage is written before it is read, on every path, and so are all outputs
    by the end; dims use symbols that the inputs' shapes tell; a launch that writes a storage touches it nowhere else,
    except in place or provably apart. Raises IrError naming program, kernel and storage.
    """
    _Checker(program).run()


class _Checker:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.known = set(program.storages)
        self.kernels: dict[str, Kernel] = {}
        inputs = [s.type for s in program.storages if s.kind == "input" and s.type is not None]
        self.symbols = {name for t in inputs for d in t.shape for name in dims.symbols(d)}
        self.bound = program.bound()

    def fail(self, message: str) -> NoReturn:
        raise IrError(f"program {self.program.name}: {message}")

    def run(self) -> None:
        names = [s.name for s in self.program.storages]
        for name in names:
            if names.count(name) > 1:
                self.fail(f"two storages are named {name!r}")
        for storage in self.program.storages:
            self.storage(storage)
        for kind in ("status", "entropy"):
            if len(self.program.of_kind(kind)) > 1:
                self.fail(f"there is more than one {kind} storage")
        written = {s for s in self.program.storages if s.kind in ("input", "weight", "status", "entropy")}
        written = self.steps(self.program.steps, written)
        for storage in self.program.of_kind("output"):
            if storage not in written:
                self.fail(f"output {storage.name} is not written on every path")

    def storage(self, s: Storage) -> None:
        what = f"{s.kind} {s.name}"
        for dim in (s.size, *(s.type.shape if s.type is not None else ())):
            unknown = sorted(dims.symbols(dim) - self.symbols - self.bound.keys())
            if unknown:
                self.fail(f"the size of {what}, {dims.show(dim)}, uses {', '.join(unknown)}, which nothing tells")
            if s.kind not in ("temp", "output") and dims.symbols(dim) & self.bound.keys():
                self.fail(f"the size of {what}, {dims.show(dim)}, is known during the run only")
        if s.kind in ("input", "output"):
            if s.type is None:
                self.fail(f"{what} has no type")
            if stored_dtype(s.type.dtype) != s.dtype or s.type.size != s.size:
                self.fail(f"{what} holds {dims.show(s.size)} elements of {s.dtype.name}, its type is {s.type}")
        if s.kind == "weight":
            if s.data is None:
                self.fail(f"{what} has no data")
            if s.data.ndim != 1 or s.data.dtype != s.dtype.to_numpy() or s.data.size != s.size:
                self.fail(
                    f"{what} is declared {dims.show(s.size)} elements of {s.dtype.name}, "
                    f"its data is {s.data.dtype}{list(s.data.shape)}"
                )
        elif s.data is not None:
            self.fail(f"{what} has data; only weights do")
        if s.dtype == string:
            self.fail(f"{what} holds strings; handles, which are i64, are needed")
        if s.kind == "status" and (s.dtype != i64 or s.size != 1):
            self.fail(f"{what} must be one i64")
        if s.kind == "entropy" and (s.dtype != u64 or s.size != 2):
            self.fail(f"{what} must be two u64")

    def dim(self, dim: Dim, what: str) -> None:
        unknown = sorted(dims.symbols(dim) - self.symbols)
        if unknown:
            self.fail(f"{what}, {dims.show(dim)}, uses {', '.join(unknown)}, which nothing tells before")

    def steps(self, steps: Sequence[Step], written: set[Storage]) -> set[Storage]:
        """Check `steps` given what is surely written before; what is surely written after."""
        for step in steps:
            match step:
                case Launch():
                    written = self.launch(step, written)
                case Branch(condition=condition, then=then, otherwise=otherwise):
                    self.element(condition, boolean, "a branch's condition", written)
                    before = set(self.symbols)
                    written, other = self.steps(then, set(written)), set(written)
                    after_then, self.symbols = self.symbols, before
                    written &= self.steps(otherwise, other)
                    self.symbols &= after_then
                case Repeat(counter=counter, trip=trip, condition=condition, body=body):
                    if trip is not None:
                        self.element(trip, i64, "a loop's trip count", written)
                    if condition is not None:
                        self.element(condition, boolean, "a loop's condition", written)
                    if trip is None and condition is None:
                        self.fail("a loop without trip count and condition never ends")
                    inside = written | {counter.storage}
                    self.element(counter, i64, "a loop's counter", inside)
                    self.writable(counter.storage, "a loop's counter")
                    before = set(self.symbols)
                    written &= self.steps(body, inside)  # a storage that is enlarged loses what it held
                    self.symbols = before
                case Bind(symbol=symbol, value=value, fault=fault):
                    self.element(value, i64, f"the size {symbol}", written)
                    if not self.program.of_kind("status") or not 0 < fault <= len(self.program.faults):
                        self.fail(f"the size {symbol} has fault {fault}, which cannot be reported")
                    if any(symbol in dims.symbols(d) for s in self.program.of_kind("input") for d in _shape(s)):
                        self.fail(f"the size {symbol} is bound, but an input's shape tells it")
                    if self.bound[symbol] != fault:
                        self.fail(f"the size {symbol} has two different faults")
                    self.symbols.add(symbol)
                    written = {s for s in written if symbol not in dims.symbols(s.size)}
                case Host():
                    written = self.host(step, written)
                case Stop():
                    pass
        return written

    def host(self, step: Host, written: set[Storage]) -> set[Storage]:
        function = FUNCTIONS.get(step.function)
        if function is None:
            self.fail(f"there is no host function {step.function!r}")
        what = f"host function {step.function}" + (f" (from {', '.join(step.origin)})" if step.origin else "")
        for side, given, wanted in (
            ("operands", step.operands, function.operands),
            ("results", step.results, function.results),
        ):
            if len(given) != len(wanted):
                self.fail(f"{what} has {len(wanted)} {side}, {len(given)} are given")
            for tensor, allowed in zip(given, wanted, strict=True):
                if tensor.type.dtype not in allowed:
                    self.fail(f"{what} takes no {tensor.type.dtype.name} among its {side}")
                self.host_tensor(tensor, what)
        if (problem := check_attributes(step.function, step.attributes)) is not None:
            self.fail(f"{what}: {problem}")
        if not self.program.of_kind("status") or not 0 < step.fault <= len(self.program.faults):
            self.fail(f"{what} has fault {step.fault}, which cannot be reported")
        for tensor in step.operands:
            self.readable(tensor.argument, what, written)
        stored = {tensor.storage for tensor in step.results}
        for storage in stored:
            self.writable(storage, what)
        if len(stored) < len(step.results) or stored & {tensor.storage for tensor in step.operands}:
            self.fail(f"{what} writes a storage that it uses in another place, too")
        return written | stored

    def host_tensor(self, tensor: HostTensor, what: str) -> None:
        storage = tensor.storage
        if storage.dtype != stored_dtype(tensor.type.dtype):
            self.fail(f"{what}: {storage.name} is {storage.dtype.name}, not {tensor.type}")
        for dim in (tensor.offset, *tensor.type.shape):
            self.dim(dim, f"{what}: a dim of {storage.name}")
        beyond = tensor.offset + tensor.type.size - storage.size
        if dims.bounds(beyond, self.program.ranges)[0] > 0:
            self.fail(f"{what}: {tensor.type} from {dims.show(tensor.offset)} on is beyond the end of {storage.name}")

    def element(self, argument: Argument, dtype: DType, what: str, written: set[Storage]) -> None:
        if argument.storage.dtype != dtype:
            self.fail(f"{what} {argument.storage.name} is {argument.storage.dtype.name}, not {dtype.name}")
        self.readable(argument, what, written)

    def readable(self, argument: Argument, what: str, written: set[Storage]) -> None:
        storage = argument.storage
        if storage not in self.known:
            self.fail(f"{what} uses {storage.name}, which is not among the program's storages")
        self.dim(argument.offset, f"{what}: the offset into {storage.name}")
        self.dim(storage.size, f"{what}: the size of {storage.name}")
        if storage not in written:
            self.fail(f"{what} reads {storage.kind} {storage.name}, which is not written before on every path")

    def writable(self, storage: Storage, what: str) -> None:
        if storage not in self.known:
            self.fail(f"{what} uses {storage.name}, which is not among the program's storages")
        self.dim(storage.size, f"{what}: the size of {storage.name}")
        if storage.kind in ("input", "weight"):
            self.fail(f"{what} writes {storage.kind} {storage.name}")

    def launch(self, step: Launch, written: set[Storage]) -> set[Storage]:
        kernel = step.kernel
        what = f"kernel {kernel.name}" + (f" (from {', '.join(step.origin)})" if step.origin else "")
        if kernel.name not in self.kernels:
            verify_kernel(kernel)
        known = self.kernels.setdefault(kernel.name, kernel)
        if known is not kernel and known != kernel:
            self.fail(f"two different kernels are named {kernel.name!r}")
        if len(step.buffers) != len(kernel.buffers) or len(step.dims) != len(kernel.dims):
            self.fail(
                f"{what} takes {len(kernel.buffers)} buffers and {len(kernel.dims)} dims, "
                f"{len(step.buffers)} and {len(step.dims)} are given"
            )
        for name, dim in zip(kernel.dims, step.dims, strict=True):
            self.dim(dim, f"{what}: dim {name}")
        pairs = list(zip(kernel.buffers, step.buffers, strict=True))
        for parameter, argument in pairs:
            if parameter.dtype != argument.storage.dtype:
                self.fail(
                    f"{what}: buffer {parameter.name} is {parameter.dtype.name}, "
                    f"{argument.storage.name} is {argument.storage.dtype.name}"
                )
            if parameter.access != "write":
                self.readable(argument, what, written)
        stored = {argument.storage for parameter, argument in pairs if parameter.access != "read"}
        for parameter, argument in pairs:
            if parameter.access != "read":
                self.writable(argument.storage, what)
                self.dim(argument.offset, f"{what}: the offset into {argument.storage.name}")
        for storage in stored:
            if storage.kind != "status" and sum(argument.storage is storage for _, argument in pairs) > 1:
                self.races(step, storage, what)
        return written | stored

    def races(self, step: Launch, storage: Storage, what: str) -> None:
        """A storage bound several times and written: every two accesses must coincide or lie apart."""
        pairs = zip(step.kernel.buffers, step.buffers, strict=True)
        bound = {parameter.name: a.offset for parameter, a in pairs if a.storage is storage}
        found = [a for a in accesses(step.kernel) if a.buffer in bound]
        touched = [_unblocked(_in_program(a, step, bound[a.buffer])) for a in found]
        for i, one in enumerate(touched):
            for other in touched[i + 1 :]:
                if one.buffer == other.buffer or not (one.writes or other.writes):
                    continue
                ranges = self.program.ranges
                apart = _apart(one, other, ranges) or _interleaved(one, other, ranges) or _in_order(one, other, ranges)
                if not apart and not _coincide(one, other):
                    self.fail(
                        f"{what} races on {storage.name}: element {one.place} through {one.buffer} and "
                        f"element {other.place} through {other.buffer}"
                    )


def _shape(storage: Storage) -> Sequence[Dim]:
    return () if storage.type is None else storage.type.shape


@dataclass(frozen=True, slots=True)
class _Access:
    buffer: str
    offset: Dim
    writes: bool
    grid: tuple[Axis, ...]
    loops: tuple[Axis, ...]  # the enclosing loops

    @property
    def place(self) -> str:
        """The offset as the kernel writes it."""
        return dims.show(self.offset).replace("$", "")


def accesses(kernel: Kernel) -> Iterator[_Access]:
    """Every load and store of a kernel (of its nest, where it is a template) with the axes its offset runs over."""
    grid, body = (kernel.grid, kernel.body) if isinstance(kernel.body, tuple) else kernel.body.nest()
    stack: list[tuple[Stmt, tuple[Axis, ...]]] = [(s, ()) for s in reversed(body)]
    while stack:
        statement, loops = stack.pop()
        read: Sequence[Expr] = ()
        match statement:
            case Let(value=value) | Accumulate(value=value):
                read = (value,)
            case Store(buffer=buffer, offset=offset, value=value):
                read = (value,)
                yield _Access(buffer, offset, True, grid, loops)
            case For(var=var, extent=extent, body=inner):
                stack.extend((s, (*loops, Axis(var, extent))) for s in reversed(inner))
            case When(condition=condition, body=inner, otherwise=otherwise):
                read = (condition,)
                stack.extend((s, loops) for s in reversed((*inner, *otherwise)))
            case _:
                pass
        loads: list[Load] = []
        for expression in read:
            walk(expression, lambda e, found=loads: found.append(e) if isinstance(e, Load) else None)
        for load in loads:
            yield _Access(load.buffer, load.offset, False, grid, loops)


def _in_program(access: _Access, step: Launch, base: Dim) -> _Access:
    """An access in terms of the program's symbols; the kernel's own variables get names that cannot clash."""
    values = dict(zip(step.kernel.dims, step.dims, strict=True))
    for axis in (*access.grid, *access.loops):
        values[axis.var] = dims.symbol(f"${axis.var}")

    def renamed(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(Axis(f"${a.var}", dims.substitute(a.extent, values)) for a in axes)

    offset = dims.substitute(access.offset, values) + base
    return _Access(access.buffer, offset, access.writes, renamed(access.grid), renamed(access.loops))


def _unblocked(access: _Access) -> _Access:
    """The access with a grid axis of blocks and the loop over the elements of a block joined to one axis of the grid,
    where its offset goes on from block to block."""
    for loop in access.loops:
        match loop.extent:
            case dims.Expr(terms=(((dims.Opaque(op="min", left=left, right=right),), 1),)):
                sides = ((left, right), (right, left))
            case _:
                continue
        for axis in access.grid:
            for block, rest in sides:
                stride = stride_of(access.offset, loop.var)
                if not isinstance(block, int) or stride is None or stride_of(rest, axis.var) != -block:
                    continue
                if stride_of(access.offset, axis.var) != dims.multiply(stride, block):
                    continue
                whole = Axis(loop.var, dims.substitute(rest, {axis.var: 0}))
                joined = replace(
                    access,
                    offset=dims.substitute(access.offset, {axis.var: 0}),
                    grid=tuple(whole if a is axis else a for a in access.grid),
                    loops=tuple(a for a in access.loops if a is not loop),
                )
                return _unblocked(joined)
    return access


def _ranges(axes: Sequence[Axis], outer: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    ranges = dict(outer)
    for axis in axes:
        ranges[axis.var] = (0, max(dims.bounds(axis.extent, ranges)[1] - 1, 0))
    return ranges


def _coincide(one: _Access, other: _Access) -> bool:
    """The same element at the same grid point: in place. Holds for equal offsets that tell grid points apart."""
    if one.offset != other.offset:
        return False
    parallel = {axis.var for axis in one.grid if axis.extent != 1}
    return parallel <= dims.symbols(one.offset)


def _apart(one: _Access, other: _Access, outer: Mapping[str, tuple[int, int]]) -> bool:
    """No two different grid points touch the same element through these accesses, by intervals: either all of their
    elements lie apart, or each grid point keeps to a window of its own."""
    first = interval(one.offset, _ranges((*one.grid, *one.loops), outer))
    second = interval(other.offset, _ranges((*other.grid, *other.loops), outer))
    if first is not None and second is not None and (first[1] < second[0] or second[1] < first[0]):
        return True
    parallel = [axis for axis in one.grid if axis.extent != 1]
    rest_one, rest_other = one.offset, other.offset
    strides: list[tuple[int, int]] = []
    for axis in parallel:
        stride = stride_of(one.offset, axis.var)
        extent = dims.bounds(axis.extent, outer)[1]
        if not isinstance(stride, int) or stride == 0 or stride_of(other.offset, axis.var) != stride:
            return False
        rest_one = rest_one - stride * dims.symbol(axis.var)
        rest_other = rest_other - stride * dims.symbol(axis.var)
        strides.append((abs(stride), extent))
    inner_one = interval(rest_one, _ranges(one.loops, outer))
    inner_other = interval(rest_other, _ranges(other.loops, outer))
    if inner_one is None or inner_other is None:
        return False
    window = max(inner_one[1], inner_other[1]) - min(inner_one[0], inner_other[0]) + 1
    for stride, extent in sorted(strides):
        if stride < window:
            return False
        window = stride * extent
    return True


def _in_order(one: _Access, other: _Access, outer: Mapping[str, tuple[int, int]]) -> bool:
    """All elements of one access lie before all of the other, whatever the symbols are: parts of a concatenation, one
    after the other."""
    return _precedes(one, other, outer) or _precedes(other, one, outer)


def _precedes(one: _Access, other: _Access, outer: Mapping[str, tuple[int, int]]) -> bool:
    start = other.offset
    for axis in (*other.loops, *other.grid):
        stride = stride_of(start, axis.var)
        if stride is None or dims.bounds(stride, outer)[0] < 0:
            return False
        start = dims.substitute(start, {axis.var: 0})
    return any(_positive(start - end, outer) for end in _ends(one, outer))


def _ends(access: _Access, outer: Mapping[str, tuple[int, int]]) -> list[Dim]:
    """Dims over the program's symbols that no offset of `access` is larger than."""
    ends = [access.offset]
    for axis in (*reversed(access.loops), *reversed(access.grid)):
        found: list[Dim] = []
        for end in ends:
            stride = stride_of(end, axis.var)
            if stride is not None and dims.bounds(stride, outer)[0] >= 0:
                found += [dims.substitute(end, {axis.var: extent - 1}) for extent in _at_most(axis.extent)]
        ends = found
    return ends


def _at_most(extent: Dim) -> list[Dim]:
    """`extent`, and what it cannot exceed where it is a minimum."""
    match extent:
        case dims.Expr(terms=(((dims.Opaque(op="min", left=left, right=right),), 1),)):
            return [extent, *_at_most(left), *_at_most(right)]
        case _:
            return [extent]


def _interleaved(one: _Access, other: _Access, outer: Mapping[str, tuple[int, int]]) -> bool:
    """No element is touched through both accesses, because their places differ modulo a stride: parts of one
    concatenation, written side by side."""
    variables = {axis.var: axis.extent for access in (one, other) for axis in (*access.grid, *access.loops)}
    strides = {s for access in (one, other) for var in variables if (s := stride_of(access.offset, var)) is not None}
    return any(_differ_modulo(stride, one.offset, other.offset, variables, outer) for stride in strides - {0, 1})


def _differ_modulo(
    period: Dim, one: Dim, other: Dim, variables: Mapping[str, Dim], outer: Mapping[str, tuple[int, int]]
) -> bool:
    first, second = _window(period, one, variables, outer), _window(period, other, variables, outer)
    if first is None or second is None:
        return False
    return _positive(second[0] - first[1], outer) or _positive(first[0] - second[1], outer)


def _window(
    period: Dim, offset: Dim, variables: Mapping[str, Dim], outer: Mapping[str, tuple[int, int]]
) -> tuple[Dim, Dim] | None:
    """The least and largest value of `offset` modulo `period`, None where it may wrap around."""
    low = high = offset
    for var, extent in variables.items():
        stride = stride_of(offset, var)
        if stride is None:
            return None
        whole = dims.divide_exact(stride, period) is not None
        if not whole and dims.bounds(stride, outer)[0] < 0:
            return None
        low = dims.substitute(low, {var: 0})
        high = dims.substitute(high, {var: 0 if whole else extent - 1})
    return (low, high) if dims.bounds(low, outer)[0] >= 0 and _positive(period - high, outer) else None


def _positive(dim: Dim, outer: Mapping[str, tuple[int, int]]) -> bool:
    return dims.bounds(dim, outer)[0] > 0
