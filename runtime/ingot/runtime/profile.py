"""Where the time of a run goes: one line for each kernel launch of a model.

An artifact may hold ``i32 ingot_profile(i64 *args, void *team, i64 *record)``, which does what ingot_run does and
stores time stamps in `record`; ingot_run itself knows nothing of it. Here is the layout of the record, the member that
says what each launch is and costs, and what becomes of both. The code is made by the compiler's
``targets/cpu/profile.py``.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ingot.runtime import records
from ingot.runtime.dims import Dim, compile_dims, parse_dim, symbols_of
from ingot.runtime.errors import ArtifactError, InputError, RuntimeFault
from ingot.runtime.manifest import MAX_PROFILE_BYTES, MAX_SYMBOL

# The record in 64-bit words: the header, then `LAUNCH` for each launch in program order, then `EVENT` after `EVENT`.
HEADER: Final = ("started", "ended", "thread", "launches", "capacity", "events")
"""Time stamps of the whole run, the thread that led it; how many launches the record has entries for and how many
events it has room for, as the caller says; how many events there were."""
LAUNCH: Final = ("count", "ticks", "busy")
"""How often it was launched, how long that took, and how long its chunks took on all threads together (0 for launches
that are never cut)."""
EVENT: Final = ("launch", "chunk", "thread", "started", "ended")
"""One chunk, or with chunk -1 the launch as the leader saw it. Threads are told apart by their thread pointers."""

MISMATCH: Final = -1
"""What the code returns, having done nothing, when the record has entries for another number of launches."""
MAX_EVENTS: Final = 1 << 16
WARM_UP: Final = 3
"""Runs before those that count."""
_CALIBRATION_NS: Final = 20_000_000
_MAX_RUNS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class LaunchCost:
    """What is known of a launch before it runs: the kernel's name, the names that the user knows its nodes by, and for
    one launch the number of chunks, of useful floating-point (or integer) operations and of bytes read and written."""

    kernel: str
    origin: tuple[str, ...]
    chunks: Dim
    flops: Dim
    bytes: Dim


@dataclass(frozen=True, slots=True)
class LaunchProfile:
    """One launch of the program. `seconds` is the median over runs, `best` the least, of all its `calls` in one run (a
    loop calls it more than once); `busy` the median time its chunks took on all threads together. `share` is its part
    of the faster half of the runs: shares add up, medians do not. `chunks`, `flops` and `bytes` are those of one call,
    None where they depend on data."""

    number: int
    kernel: str
    origin: tuple[str, ...]
    calls: int
    seconds: float
    best: float
    busy: float
    share: float
    chunks: int | None
    flops: int | None
    bytes: int | None

    @property
    def flops_rate(self) -> float | None:
        """Operations a second, None where there are none or their number is not known."""
        return self.flops * self.calls / self.seconds if self.flops and self.seconds > 0 else None

    @property
    def bytes_rate(self) -> float | None:
        """Bytes moved a second, None where their number is not known."""
        return self.bytes * self.calls / self.seconds if self.bytes and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a thread did in the fastest run: a chunk, or a whole launch (`chunk` None). Thread 0 is the one
    that called. `started` counts in seconds from the start of the run."""

    launch: int
    chunk: int | None
    thread: int
    started: float
    seconds: float


@dataclass(frozen=True)
class Profile:
    """`runs` runs of a model. `seconds` is the median of a run inside the code, `best` the fastest, `between` the
    median of what is spent outside of all launches, `between_share` the rest that their shares leave. `events` are
    those of the fastest run; `lost` did not fit."""

    name: str
    threads: int
    runs: int
    seconds: float
    best: float
    between: float
    between_share: float
    launches: tuple[LaunchProfile, ...]
    events: tuple[Event, ...]
    lost: int = 0

    def trace(self) -> dict[str, Any]:
        """The fastest run in the Trace Event Format of Chrome: complete events, times in microseconds. The thread that
        called has a row of its launches; every thread has one of the chunks it worked on."""
        threads = sorted({event.thread for event in self.events} | {0})
        records: list[dict[str, Any]] = [_name("process_name", 0, f"{self.name}, {self.threads} thread(s)")]
        records.append(_name("thread_name", 0, "launches"))
        records += [_name("thread_name", 1 + t, f"thread {t}: chunks") for t in threads]
        for event in self.events:
            launch = self.launches[event.launch]
            details: dict[str, Any] = {"launch": event.launch, "nodes": list(launch.origin)}
            if event.chunk is not None:
                details["chunk"] = event.chunk
            else:
                details |= {"flops": launch.flops, "bytes": launch.bytes, "chunks": launch.chunks}
            records.append(
                {
                    "name": launch.kernel,
                    "cat": "launch" if event.chunk is None else "chunk",
                    "ph": "X",
                    "pid": 0,
                    "tid": 0 if event.chunk is None else 1 + event.thread,
                    "ts": event.started * 1e6,
                    "dur": event.seconds * 1e6,
                    "args": details,
                }
            )
        return {"traceEvents": records, "displayTimeUnit": "ns"}


def _name(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": thread, "args": {"name": name}}


# -- the member -------------------------------------------------------------------------------------------------------


def encode_costs(costs: Sequence[LaunchCost]) -> bytes:
    """The member's bytes: a JSON array with ``[kernel, [node ...], chunks, flops, bytes]`` for each launch."""
    rows = [[cost.kernel, cost.origin, cost.chunks, cost.flops, cost.bytes] for cost in costs]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()


def parse_costs(data: bytes) -> tuple[LaunchCost, ...]:
    """Read the member. Raises ArtifactError for anything that `encode_costs` does not write."""
    what = "the list of launches"
    rows = records.sequence(records.decode(data, what, MAX_PROFILE_BYTES), what)
    costs: list[LaunchCost] = []
    for index, row in enumerate(rows):
        match row:
            case [str(kernel), [*names], chunks, flops, moved] if all(isinstance(name, str) for name in names):  # pyright: ignore[reportUnknownVariableType]
                try:
                    dims = [parse_dim(dim, _ANY) for dim in cast("tuple[object, ...]", (chunks, flops, moved))]
                except ArtifactError as error:
                    raise ArtifactError(f"launch {index}: {error}") from None
                costs.append(LaunchCost(kernel, tuple(cast("list[str]", names)), *dims))
            case _:
                raise ArtifactError(f"launch {index} is not [kernel, nodes, chunks, flops, bytes]")
    return tuple(costs)


class _AnySymbol(frozenset[str]):
    """Costs may be counted in sizes that only a run knows: every name is a symbol here."""

    def __contains__(self, item: object, /) -> bool:
        return isinstance(item, str) and len(item) <= MAX_SYMBOL


_ANY: Final = _AnySymbol()


def _evaluate(dims: Sequence[Dim], values: Mapping[str, int]) -> list[int | None]:
    known = [dim if symbols_of(dim) <= values.keys() else None for dim in dims]
    try:
        found = iter(compile_dims([dim for dim in known if dim is not None]).evaluate(values))
    except InputError:
        return [None] * len(dims)
    return [None if dim is None else next(found) for dim in known]


# -- measuring --------------------------------------------------------------------------------------------------------

Native: TypeAlias = Callable[[ctypes.c_void_p, "ctypes.c_void_p | None"], int]


@dataclass(frozen=True, slots=True)
class _Run:
    """One run in ticks: the whole, and (count, ticks, busy) for each launch."""

    whole: int
    launches: NDArray[np.int64]


class Recorder:
    """Calls ingot_profile and keeps what it stores. `native` stands for ingot_run where a run is profiled."""

    def __init__(self, address: int, costs: Sequence[LaunchCost], events: int = MAX_EVENTS) -> None:
        self._costs = costs
        self._function: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_int)(address)
        self._fixed = len(HEADER) + len(LAUNCH) * len(costs)
        self._record = np.zeros(self._fixed + len(EVENT) * events, np.int64)
        self._capacity = events
        self._runs: list[_Run] = []
        self._events: NDArray[np.int64] = np.empty((0, len(EVENT)), np.int64)
        self._lost = self._leader = self._began = 0
        self._first: tuple[int, int] | None = None
        self._last = (0, 0)

    def native(self, arguments: ctypes.c_void_p, team: ctypes.c_void_p | None) -> int:
        """One run; what it did is kept by `keep`."""
        self._record[: self._fixed] = 0
        self._record[HEADER.index("launches")] = len(self._costs)
        self._record[HEADER.index("capacity")] = self._capacity
        before = time.perf_counter_ns()
        status = self._function(arguments, team, ctypes.c_void_p(self._record.ctypes.data))
        after = time.perf_counter_ns()
        if status == MISMATCH:
            raise ArtifactError("the list of launches does not belong to the artifact's code: compile the model again")
        started, ended = int(self._record[0]), int(self._record[1])
        self._first = self._first or (before, started)
        self._last = (after, ended)
        return status

    def keep(self) -> None:
        """Count the run before among those measured."""
        header = dict(zip(HEADER, self._record[: len(HEADER)].tolist(), strict=True))
        whole = header["ended"] - header["started"]
        launches = self._record[len(HEADER) : self._fixed].reshape(-1, len(LAUNCH)).copy()
        if not self._runs or whole < min(run.whole for run in self._runs):
            stored = min(header["events"], self._capacity)
            self._events = self._record[self._fixed :].reshape(-1, len(EVENT))[:stored].copy()
            self._lost = header["events"] - stored
            self._leader, self._began = header["thread"], header["started"]
        self._runs.append(_Run(whole, launches))

    def seconds_per_tick(self) -> float:
        """The counter's unit, from the clock before the first run and after the last. Raises RuntimeFault for a counter
        that does not run."""
        assert self._first is not None
        clock, ticks = (last - first for last, first in zip(self._last, self._first, strict=True))
        if ticks <= 0 or clock <= 0:
            raise RuntimeFault("the processor's time stamp counter does not advance here: the model cannot be profiled")
        return clock / ticks * 1e-9

    @property
    def is_calibrated(self) -> bool:
        """Whether enough time has passed to know the counter's unit."""
        return self._first is not None and self._last[0] - self._first[0] >= _CALIBRATION_NS

    def profile(self, name: str, threads: int, values: Mapping[str, int]) -> Profile:
        """All runs kept; `values` are those of the symbolic dims."""
        unit = self.seconds_per_tick()
        wholes = np.array([run.whole for run in self._runs])
        table = np.stack([run.launches for run in self._runs])  # [runs, launches, LAUNCH]
        counts, ticks, busy = (table[:, :, column] for column in range(len(LAUNCH)))
        faster = wholes <= np.median(wholes)
        shares = ticks[faster].sum(axis=0) / max(wholes[faster].sum(), 1)
        dims = _evaluate([dim for cost in self._costs for dim in (cost.chunks, cost.flops, cost.bytes)], values)
        launches = tuple(
            LaunchProfile(
                number=index,
                kernel=cost.kernel,
                origin=cost.origin,
                calls=int(np.median(counts[:, index])),
                seconds=float(np.median(ticks[:, index])) * unit,
                best=float(ticks[:, index].min()) * unit,
                busy=float(np.median(np.where(busy[:, index] > 0, busy[:, index], ticks[:, index]))) * unit,
                share=float(shares[index]),
                chunks=dims[3 * index],
                flops=dims[3 * index + 1],
                bytes=dims[3 * index + 2],
            )
            for index, cost in enumerate(self._costs)
        )
        return Profile(
            name=name,
            threads=threads,
            runs=len(self._runs),
            seconds=float(np.median(wholes)) * unit,
            best=float(wholes.min()) * unit,
            between=float(np.median(wholes - ticks.sum(axis=1))) * unit,
            between_share=float(1 - shares.sum()),
            launches=launches,
            events=self._event_list(unit),
            lost=self._lost,
        )

    def _event_list(self, unit: float) -> tuple[Event, ...]:
        numbers: dict[int, int] = {self._leader: 0}
        events: list[Event] = []
        rows: list[list[int]] = self._events.tolist()
        for launch, chunk, thread, started, ended in sorted(rows, key=lambda row: (row[3], row[1])):
            number = numbers.setdefault(thread, len(numbers))
            begin = (started - self._began) * unit
            events.append(Event(launch, None if chunk < 0 else chunk, number, begin, (ended - started) * unit))
        return tuple(events)


def check_runs(runs: object) -> int:
    """A number of runs to measure. Raises InputError."""
    if type(runs) is not int or not 1 <= runs <= _MAX_RUNS:
        raise InputError(f"runs is {runs!r}; a whole number of 1 to {_MAX_RUNS} is needed")
    return runs
