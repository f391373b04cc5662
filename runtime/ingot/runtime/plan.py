"""Plans and frames: the argument table of a model for concrete shapes, and the memory it points into.

A plan belongs to one set of input shapes and holds everything that does not depend on addresses. A frame is a plan
bound to the working memory of one lane; a lane is what one run needs for itself while it lasts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.callback import Callback
from ingot.runtime.dims import CompiledDims, DimTable, compile_dims, symbols_of
from ingot.runtime.entropy import Entropy
from ingot.runtime.errors import InputError
from ingot.runtime.inputs import TensorInfo, describe, solve
from ingot.runtime.late import LateMemory
from ingot.runtime.limits import MemoryLimit
from ingot.runtime.manifest import Manifest
from ingot.runtime.memory import ALIGNMENT, Arena, Placer, check_limit
from ingot.runtime.tables import BLOCK, ENTROPY, HOST, MAX_SIZE, STATUS, TEMP, WEIGHT

if TYPE_CHECKING:
    from ingot.runtime.host.lane import HostLane
    from ingot.runtime.host.pool import Constants

STAGED_BYTES: Final = 64 << 10
"""Inputs and outputs up to this size are copied to and from fixed places, larger ones are read and written in place."""

_ARENA: Final = 0
_FIXED: Final = 1
_STATUS: Final = 2
_CALLER: Final = 3
_LATE: Final = 4
_ENTROPY: Final = 5
_REGIONS: Final = np.array([_CALLER, _CALLER, _FIXED, _ARENA, _STATUS, _ENTROPY])  # by kind of storage


class Port(NamedTuple):
    """An input or output at concrete shapes: staged `offset` bytes into the arena, or, where that is None, in memory
    of the caller whose address + bytes goes into the table words `patches` (word, bytes)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int | None
    patches: tuple[tuple[int, int], ...]


class LatePort(NamedTuple):
    """An output whose shape is known after a run: what late storage number `storage` holds, None where it is empty
    whatever the sizes are."""

    name: str
    dtype: np.dtype[Any]
    shape: CompiledDims
    storage: int | None


Call: TypeAlias = "Callable[[Any], dict[str, NDArray[Any]] | None]"
"""Results by name; None when the inputs are not simple enough or the code meets a fault: `Session.run` tells which."""


def decline(inputs: Any) -> None:
    """The call of a frame that has no better one."""


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """The argument table for concrete shapes. `template` needs the arena's address added at `arena_words`, that of the
    status at `status_words`, that of the block that `block` makes at `block_words`, that of what `entropy` gives at
    `entropy_words`, and that of the callback at `host_words`: the one of what `host` makes, or one for loops alone.
    `names` are the outputs in order, those of `late` among them, `values` the symbols that the inputs tell, `program`
    is the one that runs."""

    program: Manifest
    shapes: tuple[tuple[int, ...], ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    template: NDArray[np.int64]
    arena_words: NDArray[np.intp]
    status_words: NDArray[np.intp]
    arena_size: int
    is_parallel: bool
    has_status: bool
    names: tuple[str, ...]
    late: tuple[LatePort, ...]
    block: Callable[[], LateMemory] | None
    block_words: tuple[int, ...]
    values: Mapping[str, int]
    entropy: Entropy | None = None
    entropy_words: tuple[int, ...] = ()
    host: Callable[[], HostLane] | None = None
    host_words: tuple[int, ...] = ()

    @property
    def is_direct(self) -> bool:
        """Whether runs need no more than the argument table, and give the same for the same inputs."""
        return self.block is None and self.entropy is None and self.host is None


@dataclass(frozen=True, eq=False, slots=True)
class Loaded:
    """What all programs of a loaded model share, whose plans are made from it: the model's inputs and outputs, the
    address of its weights, the most memory that a run may take, and where random numbers come from."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    weights_address: int
    memory_limit: MemoryLimit
    entropy: Entropy | None = None

    @staticmethod
    def described(manifest: Manifest) -> Loaded:
        """A model that is only looked at: its plans say how much memory runs would take, and no limit stops them."""
        return Loaded(describe(manifest.inputs), describe(manifest.outputs), 0, MemoryLimit(MAX_SIZE))


class Planner:
    """Makes plans for one program of a loaded model."""

    def __init__(self, manifest: Manifest, loaded: Loaded) -> None:
        self._manifest = manifest
        self._entropy = loaded.entropy if ENTROPY in manifest.storages.kind else None
        self._inputs = [_in_memory(info) for info in loaded.inputs]
        self._outputs = outputs = [_in_memory(info) for info in loaded.outputs]
        self._limit = loaded.memory_limit
        args, storages = manifest.args, manifest.storages
        bound = manifest.bound.keys()
        self._zeros = dict.fromkeys(bound, 0)  # what depends on bound symbols is 0 here: the code fills it in
        self._shapes = compile_dims(dim for signature in manifest.outputs for dim in signature.shape)
        tables = (args.dims, storages.dims, manifest.chunks.table, self._shapes.table)
        self._tables: dict[DimTable, DimTable] = {each: each.without(bound) if bound else each for each in tables}
        late = {storage: number for number, storage in enumerate(manifest.late)}
        self._late_chunks = any(symbols_of(dim) & bound for dim in manifest.chunks) if bound else False
        self._late = {
            index: LatePort(info.name, info.dtype, compile_dims(signature.shape), late.get(signature.storage))
            for index, (signature, info) in enumerate(zip(manifest.outputs, outputs, strict=True))
            if bound and any(symbols_of(dim) & bound for dim in signature.shape)
        }
        self._blocks = tuple(args.numbers(BLOCK))
        self._host_words = tuple(args.numbers(HOST))
        self._constants = _constants(manifest)
        pointed = np.array(args.storage, np.int64)
        self._pointers = (pointed >= 0).nonzero()[0]
        self._targets = pointed[self._pointers]
        self._words = np.array(args.dim, np.int64)
        self._sizes = np.array(storages.size, np.int64)
        self._lengths = set(storages.size)
        self._elements = {dim for dim, storage in zip(args.dim, args.storage, strict=True) if storage >= 0}
        kinds = np.array(storages.kind, np.int64)
        self._itemsizes = np.array([dtype.bytes for dtype in storages.dtypes], np.int64)[storages.dtype]
        self._bases = np.zeros(len(storages), np.int64)
        self._bases[kinds == WEIGHT] = np.array(storages.offset, np.int64) + loaded.weights_address
        self._temps = (kinds == TEMP).nonzero()[0]
        self._regions = _REGIONS[kinds]
        if late:
            self._regions[list(late)] = _LATE
        self._ports = (self._regions == _CALLER).nonzero()[0]
        self._placer = Placer(storages.live)

    def plan(self, shapes: tuple[tuple[int, ...], ...], *, staged_bytes: int = STAGED_BYTES) -> Plan:
        """The plan for inputs of these shapes, in the order of the model's inputs.

        Raises InputError for shapes that the model does not take or that need more memory than the limit.
        """
        manifest = self._manifest
        known = solve(manifest, shapes)
        args, storages = manifest.args, manifest.storages
        given = {**self._zeros, **known} if self._zeros else known
        values = {table: dims.evaluate(given) for table, dims in self._tables.items()}
        elements, places = values[storages.dims], values[args.dims]
        counts, extents = values[manifest.chunks.table], values[self._shapes.table]
        if wrong := [elements[number] for number in self._lengths if not 0 <= elements[number] <= MAX_SIZE]:
            raise InputError(
                f"with these shapes a buffer of the model would have {wrong[0]} elements; the model cannot run so"
            )
        if any(not -MAX_SIZE <= places[number] <= MAX_SIZE for number in self._elements):
            raise InputError("the shapes of the inputs are too large: an address is beyond 2**56 elements")
        words = np.array(places, np.int64)[self._words]
        sizes = np.array(elements, np.int64)[self._sizes] * self._itemsizes

        bases, regions, arena_size = self._place(sizes, staged_bytes)
        words[self._pointers] = words[self._pointers] * self._itemsizes[self._targets] + bases[self._targets]
        pointed = regions[self._targets]
        numbers = iter(self._shapes.numbers)
        shapes_out = [tuple([extents[next(numbers)] for _ in each.shape]) for each in manifest.outputs]
        ports: list[Port] = []
        for signature, info, shape in zip(
            (*manifest.inputs, *manifest.outputs), (*self._inputs, *self._outputs), (*shapes, *shapes_out), strict=True
        ):
            storage = signature.storage
            staged = int(bases[storage]) if regions[storage] == _ARENA else None
            patches = self._patches(words, storage) if regions[storage] == _CALLER else ()
            port = Port(info.name, info.dtype, shape, staged, patches)
            if len(ports) - len(shapes) not in self._late:
                _check_port(port, int(sizes[storage]))
            ports.append(port)
        outputs = ports[len(shapes) :]
        words.setflags(write=False)
        return Plan(
            program=manifest,
            shapes=shapes,
            inputs=tuple(ports[: len(shapes)]),
            outputs=tuple(port for i, port in enumerate(outputs) if i not in self._late),
            template=words,
            arena_words=self._pointers[pointed == _ARENA],
            status_words=self._pointers[pointed == _STATUS],
            arena_size=arena_size,
            is_parallel=self._late_chunks or any(counts[number] > 1 for number in manifest.chunks.numbers),
            has_status=STATUS in storages.kind,
            names=tuple(port.name for port in outputs),
            late=tuple(self._late.values()),
            block=self._make_block if manifest.bound else None,
            block_words=self._blocks,
            values=known,
            entropy=self._entropy,
            entropy_words=tuple(self._pointers[pointed == _ENTROPY].tolist()),
            host=self._make_host if self._constants is not None else None,
            host_words=self._host_words,
        )

    def _place(self, sizes: NDArray[np.int64], staged_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Where storages of these `sizes` in bytes lie: the offset in its region and the region of each, and the size
        of the arena, in which the inputs and outputs that are staged come first. Raises InputError beyond the limit."""
        bases, regions = self._bases.copy(), self._regions.copy()
        arena_size = 0
        for index in self._ports.tolist():
            if sizes[index] <= staged_bytes:
                regions[index] = _ARENA
                bases[index] = arena_size
                arena_size += (int(sizes[index]) + ALIGNMENT - 1) & -ALIGNMENT
        temps: list[int] = sizes[self._temps].tolist()
        limit = self._limit.for_size(arena_size + sum(temps) + ALIGNMENT * len(temps))
        placement = self._placer.place(temps, limit=limit)
        bases[self._temps] = np.array(placement.offsets, np.int64) + arena_size
        arena_size += placement.total
        check_limit(arena_size, limit)
        return bases, regions, arena_size

    def _make_host(self) -> HostLane:
        from ingot.runtime.host.lane import HostLane

        assert self._constants is not None
        return HostLane(self._constants, self._manifest.host)

    def _make_block(self) -> LateMemory:
        return LateMemory(len(self._manifest.late), tuple(self._manifest.bound), self._limit.bytes)

    def _patches(self, words: NDArray[np.int64], storage: int) -> tuple[tuple[int, int], ...]:
        return tuple((int(word), int(words[word])) for word in self._pointers[self._targets == storage])


def _in_memory(info: TensorInfo) -> TensorInfo:
    """What is told of a tensor, with the element type that it has in memory: handles for strings."""
    return replace(info, dtype=np.dtype(np.int64)) if info.dtype.hasobject else info


def _constants(manifest: Manifest) -> Constants | None:
    if not manifest.strings and not manifest.host:
        return None
    from ingot.runtime.host.pool import Constants  # here, as few models need the host

    return Constants(manifest.strings)


def _check_port(port: Port, size: int) -> None:
    """An array of the port's shape must be all of its storage: the code reads or writes that many bytes."""
    bytes_needed = port.dtype.itemsize
    for extent in port.shape:
        bytes_needed *= extent
    if min(port.shape, default=0) < 0 or bytes_needed != size:
        raise InputError(f"with these shapes {port.name!r} would be {list(port.shape)}; the model cannot run so")


class Frame:
    """A plan bound to memory: a table that the code can be called with, arrays over the staged inputs and outputs.

    `takes` has (name, dtype, shape, array) for each input. The array is the place that it is copied to; it is None for
    the inputs `reads`. For those and for the outputs `writes`, `point` puts the caller's arrays into the table before
    the call. `copies` gives each other output's name and a function that copies it. With `is_staged` there are no
    arrays of the caller. `names` are all outputs, in order. `host` is there for models with strings or host steps: its
    arrays are handles in the place of strings. `callback` is there where the code calls it. `call` is the quickest way
    to run it, None until that is known.
    """

    __slots__ = (
        "_table", "_words", "arena", "call", "callback", "copies", "host", "is_staged", "late", "names", "plan",
        "pointer", "reads", "slow_runs", "status", "takes", "writes",
    )  # fmt: skip

    def __init__(self, plan: Plan, arena: Arena, late: LateMemory | None = None) -> None:
        self.plan = plan
        self.arena = arena
        self.late = late
        count = plan.template.size
        self._table = np.zeros(count + 3, np.int64)  # the last words are the status and the entropy
        address = self._table.ctypes.data
        self._table[:count] = plan.template
        self._table[plan.arena_words] += arena.address
        self._table[plan.status_words] += address + 8 * count
        if late is not None:
            self._table[list(plan.block_words)] = late.address
        if plan.entropy is not None:
            self._table[list(plan.entropy_words)] += address + 8 * (count + 1)
            self._table[count + 1 :].view(np.uint64)[:] = plan.entropy.stream()
        self.host = None if plan.host is None else plan.host()
        self.callback = self._callback()
        self._words: memoryview[int] = self._table.data.cast("B").cast("q")
        self.status = ctypes.c_int64.from_buffer(self._table.data, 8 * count)
        self.pointer = ctypes.c_void_p(address)
        self.takes = tuple((port.name, port.dtype, port.shape, self._view(port)) for port in plan.inputs)
        staged = [(port.name, self._view(port)) for port in plan.outputs]
        self.copies: tuple[tuple[str, Callable[[], NDArray[Any]]], ...] = tuple(
            (name, view.copy) for name, view in staged if view is not None
        )
        self.reads = tuple(port for port in plan.inputs if port.offset is None)
        self.writes = tuple(port for port in plan.outputs if port.offset is None)
        self.names = plan.names
        self.call: Call | None = None
        self.slow_runs: int = 0
        self.is_staged = not (self.reads or self.writes or plan.late)

    def _callback(self) -> Callback | None:
        """What the code calls on its way; None where it calls nothing."""
        if not self.plan.host_words:
            return None
        callback = Callback() if self.host is None else self.host.callback
        self._table[list(self.plan.host_words)] = callback.address
        return callback

    def _view(self, port: Port) -> NDArray[Any] | None:
        return None if port.offset is None else self.arena.view(port.offset, port.dtype, port.shape)

    def give(self, port: LatePort) -> NDArray[Any]:
        """A new array of an output whose shape follows from the run that has just ended."""
        assert self.late is not None
        shape = tuple(port.shape.evaluate({**self.plan.values, **self.late.values()}))
        if port.storage is None:
            return np.empty(shape, port.dtype)
        return self.late.copy(port.storage, port.dtype, shape)

    def point(self, port: Port, array: NDArray[Any]) -> None:
        """Let the port's table words point into `array`, which the caller keeps alive during the call."""
        address = array.ctypes.data
        for word, offset in port.patches:
            self._words[word] = address + offset


class Lane:
    """The memory of one run at a time: an arena that all shapes share, and frames over it. `call` is that of the
    current frame, or declines."""

    __slots__ = ("arena", "call", "current", "frames", "late")

    def __init__(self) -> None:
        self.arena: Arena | None = None
        self.late: dict[Callable[[], LateMemory], LateMemory] = {}
        self.frames: dict[Plan, Frame] = {}
        self.current: Frame | None = None
        self.call: Call = decline

    def forget(self) -> None:
        """Drop all frames: what they hold is not to be used again."""
        self.frames.clear()
        self.current = None
        self.call = decline

    def frame(self, plan: Plan, keep: int) -> Frame:
        """The frame for `plan`, made current; at most `keep` frames are held. Raises RuntimeFault without memory."""
        frame = self.frames.get(plan)
        if frame is None:
            if self.arena is None or self.arena.size < plan.arena_size:
                # The old memory goes first: both together may be more than there is.
                self.arena = self.current = None
                self.call = decline
                self.frames.clear()
                self.arena = Arena(plan.arena_size)
            while len(self.frames) >= keep:
                del self.frames[next(iter(self.frames))]
            late = None
            if plan.block is not None:  # one for each program
                late = self.late.get(plan.block) or plan.block()
                self.late[plan.block] = late
            frame = self.frames[plan] = Frame(plan, self.arena, late)
        self.current = frame
        self.call = frame.call or decline
        return frame
