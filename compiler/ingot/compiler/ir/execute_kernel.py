"""Reference interpreter of level 2: kernels over flat numpy arrays.

Grid points are run side by side as *lanes* of numpy arrays: the grid is free of order by contract, so this is one of
its legal orders, and races between points are detected rather than hidden. Loops run one iteration after the other
except where their iterations are independent; those become lanes as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np

from ingot.compiler.ir import dims, scalars
from ingot.compiler.ir.dims import Dim, Opaque, Symbol
from ingot.compiler.ir.graph import Array
from ingot.compiler.ir.loops import (
    Accumulate,
    Call,
    Const,
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
from ingot.compiler.ir.routines import RoutineCall
from ingot.compiler.ir.types import IrError

BufferArgument: TypeAlias = Array | tuple[Array, int]
Number: TypeAlias = Any  # a 0-d value shared by all lanes, or an array that broadcasts to the lanes

_BLOCK = 1 << 16  # grid points run side by side
_EXPANDED = 1 << 20  # lanes after independent loop iterations have joined


class ExecutionError(RuntimeError):
    """A kernel or program did something undefined: an access out of bounds, a race, a wrong type."""


def run_kernel(
    kernel: Kernel,
    buffers: Mapping[str, BufferArgument],
    dims: Mapping[str, int],
    *,
    check_races: bool = True,
) -> None:
    """Run one launch. `buffers` binds each buffer parameter to a flat array, or to (flat array, element offset);
    `dims` gives the kernel's dim parameters. Templates run as their `nest`.

    Raises ExecutionError naming kernel, buffer, offset and size for an access out of bounds, and for two grid points
    of which one writes what the other reads or writes (parameters bound to the same array object are known to alias).
    """
    _Run(kernel, buffers, dims, check_races).run()


def _varies(value: Number) -> bool:
    """True for an array over the lanes."""
    return isinstance(value, np.ndarray) and bool(cast("Array", value).ndim)


@dataclass(eq=False)
class _Frame:
    """Lanes that run the same statements: the points of a box of this shape. Values are 0-d, or arrays of as many
    axes that broadcast to the shape, so that what depends on one grid axis alone is computed once along it.

    An inner frame adds an axis to its parent's, or holds the lanes of its parent at `mask` in one axis."""

    shape: tuple[int, ...]
    parent: _Frame | None = None
    mask: tuple[Array, ...] | None = None
    values: dict[str, Number] = field(default_factory=dict[str, Number])
    borrowed: dict[str, Number] = field(default_factory=dict[str, Number])
    dirty: set[str] = field(default_factory=set[str])

    @property
    def count(self) -> int:
        """Number of lanes."""
        return math.prod(self.shape)

    def whole(self, value: Number) -> Array:
        """`value` as one element a lane."""
        return np.broadcast_to(value, self.shape)

    def get(self, name: str) -> Number:
        if name in self.values:
            return self.values[name]
        if name in self.borrowed:
            return self.borrowed[name]
        if self.parent is None:
            raise KeyError(name)
        value = self.parent.get(name)
        if _varies(value):
            value = value[..., None] if self.mask is None else self.parent.whole(value)[self.mask]
        self.borrowed[name] = value
        return value

    def update(self, name: str, value: Number) -> None:
        """Change a name that is defined here or in an outer frame."""
        if name in self.values:
            self.values[name] = value
        else:
            self.borrowed[name] = value
            self.dirty.add(name)

    def masked(self, lanes: Array) -> _Frame | None:
        """A frame of the lanes where the condition holds: this one for all, None for none."""
        mask = np.nonzero(self.whole(lanes))
        if len(mask[0]) == self.count:
            return self
        return _Frame((len(mask[0]),), self, mask) if len(mask[0]) else None

    def leave(self) -> None:
        """Hand changes of outer names from a masked frame to its parent."""
        for name in self.dirty:
            assert self.parent is not None and self.mask is not None
            changed = self.borrowed[name]
            whole = np.array(self.parent.whole(self.parent.get(name)), dtype=changed.dtype)
            whole[self.mask] = changed
            self.parent.update(name, whole)


@dataclass(eq=False, slots=True)
class _Memory:
    """A bound buffer: `array` from `base` on, and who has touched its elements when races are looked for."""

    array: Array
    base: int
    writer: Array | None = None
    reader: Array | None = None


class _Run:
    def __init__(
        self, kernel: Kernel, buffers: Mapping[str, BufferArgument], values: Mapping[str, int], check_races: bool
    ) -> None:
        self.kernel = kernel
        self.memories: dict[str, _Memory] = {}
        self.scratch_sizes: dict[str, int] = {}
        self.independent: dict[int, dict[str, str] | None] = {}
        missing = [n for n in kernel.dims if n not in values]
        missing += [b.name for b in kernel.buffers if b.name not in buffers]
        if missing:
            raise ExecutionError(f"kernel {kernel.name}: nothing given for {', '.join(missing)}")
        self.dims = {name: int(values[name]) for name in kernel.dims}
        tracked: dict[int, tuple[Array, Array]] = {}
        for parameter in kernel.buffers:
            given = buffers[parameter.name]
            array, base = given if isinstance(given, tuple) else (given, 0)
            if array.ndim != 1 or array.dtype != parameter.dtype.to_numpy():
                raise ExecutionError(
                    f"kernel {kernel.name}: buffer {parameter.name} is a flat {parameter.dtype.name} array, "
                    f"not {array.dtype}{list(array.shape)}"
                )
            self.memories[parameter.name] = _Memory(array, base)
            if check_races and parameter.access != "read":
                tracked.setdefault(id(array), (np.full(array.size, -1), np.full(array.size, -1)))
        for memory in self.memories.values():
            if id(memory.array) in tracked:
                memory.writer, memory.reader = tracked[id(memory.array)]

    def run(self) -> None:
        body = self.kernel.body
        if isinstance(body, RoutineCall):
            self.routine(body)
            return
        grid, statements = (self.kernel.grid, body) if isinstance(body, tuple) else body.nest()
        extents = [dims.evaluate(axis.extent, self.dims) for axis in grid]
        if any(extent <= 0 for extent in extents):
            return
        for block in _blocks(extents):
            shape = tuple(len(part) for part in block)
            frame = _Frame(shape)
            frame.values.update(self.dims)
            point: Any = np.zeros(shape, np.int64)
            for number, (axis, extent, part) in enumerate(zip(grid, extents, block, strict=True)):
                coordinate = part.reshape([-1 if i == number else 1 for i in range(len(shape))])
                frame.values[axis.var] = coordinate
                point = point * extent + coordinate
            frame.values["#point"] = point
            self.statements(statements, frame)

    def routine(self, call: RoutineCall) -> None:
        """The one kind of template whose meaning is not its nest."""
        try:
            call.run({name: (memory.array, memory.base) for name, memory in self.memories.items()}, self.dims)
        except IrError as error:
            raise ExecutionError(f"kernel {self.kernel.name}: {error}") from error

    def statements(self, body: Sequence[Stmt], frame: _Frame) -> None:
        for statement in body:
            match statement:
                case Let(name=name, value=value):
                    frame.values[name] = self.value(value, frame)
                case Accumulate(name=name, fn=fn, value=value):
                    self.accumulate(name, fn, self.value(value, frame), frame)
                case Store():
                    self.store(statement, frame)
                case For():
                    self.loop(statement, frame)
                case When():
                    self.when(statement, frame)
                case Scratch(name=name, dtype=dtype, size=size):
                    poison = poisoned(frame.count * size, dtype.to_numpy())
                    self.memories[name] = _Memory(poison, 0)
                    self.scratch_sizes[name] = size
                    frame.values["#" + name] = np.arange(frame.count).reshape(frame.shape)

    def accumulate(self, name: str, fn: str, value: Number, frame: _Frame) -> None:
        current = frame.get(name)
        with np.errstate(all="ignore"):
            frame.update(name, scalars.REDUCTIONS[fn](current, value).astype(current.dtype, copy=False))

    def when(self, statement: When, frame: _Frame) -> None:
        condition = self.value(statement.condition, frame)
        for body, lanes in ((statement.body, condition), (statement.otherwise, ~condition)):
            inner = frame.masked(lanes) if body else None
            if inner is not None:
                self.statements(body, inner)
            if inner is not None and inner is not frame:
                inner.leave()

    def loop(self, statement: For, frame: _Frame) -> None:
        extent = self.dim(statement.extent, frame)
        if _varies(extent):
            for i in range(int(extent.max(initial=0))):
                inner = frame.masked(extent > i)
                assert inner is not None
                inner.values[statement.var] = i
                self.statements(statement.body, inner)
                if inner is not frame:
                    inner.leave()
            return
        accumulators = self.accumulators(statement)
        if accumulators is None or extent < 2:
            for i in range(extent):
                frame.values[statement.var] = i
                self.statements(statement.body, frame)
            return
        step = max(1, _EXPANDED // max(frame.count, 1))
        for start in range(0, extent, step):
            self.expanded(statement, accumulators, np.arange(start, min(start + step, extent)), frame)

    def accumulators(self, statement: For) -> dict[str, str] | None:
        """The outer names that an independent loop accumulates, with their functions; None for a dependent loop."""
        key = id(statement)
        if key not in self.independent:
            self.independent[key] = _outer_accumulators(statement)
        return self.independent[key]

    def expanded(self, statement: For, accumulators: Mapping[str, str], iterations: Array, frame: _Frame) -> None:
        """Run iterations side by side: every lane becomes one lane an iteration."""
        inner = _Frame((*frame.shape, len(iterations)), frame)
        inner.values[statement.var] = iterations.reshape((*(1 for _ in frame.shape), -1))
        for name, fn in accumulators.items():
            inner.values[name] = scalars.identity(fn, frame.get(name).dtype)
        self.statements(statement.body, inner)
        for name, fn in accumulators.items():
            parts = inner.values.pop(name)
            # what is the same in every lane of an axis is reduced once; all iterations must take part, though
            parts = np.broadcast_to(parts, (*parts.shape[:-1], len(iterations)))
            with np.errstate(all="ignore"):
                self.accumulate(name, fn, scalars.REDUCTIONS[fn].reduce(parts, axis=-1, dtype=parts.dtype), frame)

    def value(self, expression: Expr, frame: _Frame) -> Number:
        match expression:
            case Const(value=value, dtype=dtype) if dtype.kind == "opaque":
                return np.asarray(value, np.uint8).view(dtype.to_numpy())
            case Const(value=value, dtype=dtype):
                return np.asarray(value).astype(dtype.to_numpy())
            case Index(dim=dim):
                return np.asarray(self.dim(dim, frame), np.int64)
            case Local(name=name):
                return np.asarray(self.lookup(name, frame))
            case Call(fn=fn, args=args, dtype=dtype):
                return scalars.apply(fn, tuple(self.value(a, frame) for a in args), dtype)
            case Load(buffer=buffer, offset=offset):
                memory, at = self.place(buffer, offset, frame)
                if memory.reader is not None:
                    self.note_read(buffer, memory, at, frame)
                return np.asarray(memory.array[at])

    def store(self, statement: Store, frame: _Frame) -> None:
        value = self.value(statement.value, frame)
        memory, at = self.place(statement.buffer, statement.offset, frame)
        held = memory.array.dtype
        if value.dtype != held:
            raise ExecutionError(
                f"kernel {self.kernel.name}: {value.dtype} stored to {statement.buffer}, which holds {held}"
            )
        if memory.writer is not None:
            self.note_write(statement.buffer, memory, at, frame)
        if _varies(at):
            memory.array[frame.whole(at)] = value
        else:
            memory.array[at] = value.reshape(-1)[-1]

    def place(self, buffer: str, offset: Dim, frame: _Frame) -> tuple[_Memory, Any]:
        """The memory and the element numbers in it; bounds are checked here."""
        if buffer not in self.memories:
            raise ExecutionError(f"kernel {self.kernel.name}: no buffer {buffer!r}")
        memory = self.memories[buffer]
        local = self.dim(offset, frame)
        size = self.scratch_sizes.get(buffer)
        low, high = (int(local.min()), int(local.max())) if _varies(local) else (local, local)
        limit = memory.array.size if size is None else size
        if memory.base + low < 0 or memory.base + high >= limit:
            bad = low if memory.base + low < 0 else high
            start = f" + {bad} (the buffer starts at {memory.base})" if memory.base else f" {bad}"
            raise ExecutionError(
                f"kernel {self.kernel.name}: offset{start} of buffer {buffer} is outside its {limit} elements; "
                f"the offset is {dims.show(offset)}"
            )
        if size is not None:
            return memory, frame.get("#" + buffer) * size + local
        return memory, memory.base + local

    def note_read(self, buffer: str, memory: _Memory, at: Any, frame: _Frame) -> None:
        assert memory.reader is not None and memory.writer is not None
        points, places = frame.whole(frame.get("#point")), frame.whole(at)
        writers = memory.writer[places]
        self.refuse((writers >= 0) & (writers != points), buffer, places, "reads what another writes")
        known = memory.reader[places]
        memory.reader[places] = np.where((known == -1) | (known == points), points, -2)
        several = memory.reader[places] != points
        memory.reader[places[several]] = -2

    def note_write(self, buffer: str, memory: _Memory, at: Any, frame: _Frame) -> None:
        assert memory.reader is not None and memory.writer is not None
        points, places = frame.whole(frame.get("#point")), frame.whole(at)
        readers, writers = memory.reader[places], memory.writer[places]
        self.refuse((readers != -1) & (readers != points), buffer, places, "writes what another reads")
        memory.writer[places] = points
        clash = ((writers != -1) & (writers != points)) | (memory.writer[places] != points)
        self.refuse(clash, buffer, places, "writes what another writes")

    def refuse(self, clash: Array, buffer: str, places: Array, what: str) -> None:
        if clash.any():
            element = int(places.reshape(-1)[int(np.argmax(clash))])
            raise ExecutionError(
                f"kernel {self.kernel.name}: a race on buffer {buffer}: one grid point {what}, element {element}"
            )

    def lookup(self, name: str, frame: _Frame) -> Number:
        try:
            return frame.get(name)
        except KeyError:
            raise ExecutionError(f"kernel {self.kernel.name}: {name!r} is not defined here") from None

    def dim(self, dim: Dim, frame: _Frame) -> Any:
        """The value of a dim: an int, or an i64 array over the lanes."""
        if isinstance(dim, int):
            return dim
        sums: dict[tuple[int, ...], Any] = {}  # by shape, so that small arrays are added up before they spread
        for monomial, factor in dim.terms:
            term: Any = factor
            for atom in monomial:
                term = term * self.atom(atom, frame)
            shape = term.shape if _varies(term) else ()
            sums[shape] = sums[shape] + term if shape in sums else term
        total: Any = 0
        for part in sums.values():
            total = total + part
        return total

    def atom(self, atom: Symbol | Opaque, frame: _Frame) -> Any:
        if isinstance(atom, Symbol):
            value = self.lookup(atom.name, frame)
            return value if _varies(value) else int(value)
        left, right = self.dim(atom.left, frame), self.dim(atom.right, frame)
        if atom.op in ("//", "%") and np.any(np.asarray(right) == 0):
            raise ExecutionError(f"kernel {self.kernel.name}: division by zero in an offset or extent")
        return _OPERATIONS[atom.op](left, right)


def _either(scalar: Callable[[int, int], int], lanes: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        return lanes(a, b) if _varies(a) or _varies(b) else scalar(a, b)

    return apply


_OPERATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "max": _either(max, np.maximum),
    "min": _either(min, np.minimum),
}


def _blocks(extents: Sequence[int]) -> Iterator[tuple[Array, ...]]:
    """The grid cut into boxes of bounded size, in row-major order: the coordinates along each axis."""
    sizes: list[int] = []
    room = _BLOCK
    for extent in reversed(extents):
        sizes.insert(0, max(1, min(extent, room)))
        room //= sizes[0]
    ranges = [range(0, extent, size) for extent, size in zip(extents, sizes, strict=True)]
    for starts in itertools.product(*ranges):
        yield tuple(
            np.arange(start, min(start + size, extent))
            for start, size, extent in zip(starts, sizes, extents, strict=True)
        )


def _outer_accumulators(statement: For) -> dict[str, str] | None:
    """The names from outside that the loop accumulates if its iterations may run side by side, else None: it is marked
    "vector", or it is innermost and reads nothing that it changes."""
    found: dict[str, str] = {}
    defined: set[str] = set()
    loaded: set[str] = set()
    stored: set[str] = set()
    read: set[str] = set()
    simple = True
    stack: list[Stmt | Expr] = list(statement.body)
    while stack:
        match item := stack.pop():
            case Let(name=name, value=value):
                defined.add(name)
                stack.append(value)
            case Accumulate(name=name, fn=fn, value=value):
                if found.setdefault(name, fn) != fn:
                    return None
                stack.append(value)
            case Store(buffer=buffer, offset=offset, value=value):
                stored.add(buffer)
                read |= dims.symbols(offset)
                stack.append(value)
            case Load(buffer=buffer, offset=offset):
                loaded.add(buffer)
                read |= dims.symbols(offset)
            case Local(name=name):
                read.add(name)
            case Index(dim=dim):
                read |= dims.symbols(dim)
            case Call(args=args):
                stack.extend(args)
            case Const():
                pass
            case For(extent=extent, body=body):
                simple = False
                read |= dims.symbols(extent)
                stack.extend(body)
            case When(condition=condition, body=body, otherwise=otherwise):
                simple = False
                stack.extend((condition, *body, *otherwise))
            case Scratch(name=name):
                simple = False
                defined.add(name)
        del item
    outer = {name: fn for name, fn in found.items() if name not in defined}
    if read & outer.keys():
        return None
    if statement.mode != "vector" and (not simple or loaded & stored or (found.keys() - outer.keys())):
        return None
    return outer


def poisoned(size: int, dtype: np.dtype[Any]) -> Array:
    """Memory nobody has written: NaN, or an unlikely number."""
    if dtype == np.bool_ or np.issubdtype(dtype, np.integer):
        return np.full(size * dtype.itemsize, 1 if dtype == np.bool_ else 0x7B, np.uint8).view(dtype)
    return np.full(size, np.nan).astype(dtype)
