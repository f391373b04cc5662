"""Sessions: a compiled model, ready to run."""

from __future__ import annotations

import atexit  # noqa: F401  # pyright: ignore[reportUnusedImport]  (weakref.finalize imports it when first used)
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import thread_time_ns
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ingot.runtime.callback import INTERRUPTED
from ingot.runtime.checked import found_by_check
from ingot.runtime.entropy import Entropy
from ingot.runtime.environment import read_environment
from ingot.runtime.errors import InputError, RuntimeFault
from ingot.runtime.fastcall import make_call
from ingot.runtime.inputs import TensorInfo, collect, describe, solve
from ingot.runtime.library import Library, Verify
from ingot.runtime.limits import MemoryLimit, available_cpus
from ingot.runtime.plan import Frame, Lane, Loaded, Plan, Port, decline
from ingot.runtime.threads import Threads, forget_after_fork
from ingot.runtime.variants import Variants, choose, programs

if TYPE_CHECKING:
    from ingot.runtime.profile import Profile

MAX_PLANS: Final = 64
"""Sets of input shapes that a session keeps plans for; the one not used for longest is dropped first."""

_NATIVE: Final = ctypes.CFUNCTYPE(ctypes.c_int)  # without argument types, as both arguments are ready-made pointers
_WHOLE: Final = (int, np.int32, np.int64)
_NOTHING: Final[NDArray[Any]] = np.empty(0)
_Native: TypeAlias = Callable[[ctypes.c_void_p, ctypes.c_void_p | None], int]


class Session:
    """A compiled model, loaded.

    `threads` is the most threads that one run uses, the caller's included; by default INGOT_THREADS, else every CPU
    that this process may use, which is also the upper bound. Results do not depend on it. `verify` says what is
    compared with its digest on loading: the machine code and the constants that are indices (``"code"``), or all
    weights too (``"full"``), which reads them. Digests show damage, not who wrote a
    file: loading an artifact is running its code.

    `seed`, 0 to 2**64 - 1, is where the random numbers of the model's random operators begin: with the same seed every
    session gives the same numbers in its first run, in its second run, and so on. By default it is INGOT_SEED, else the
    system's entropy. A node that has a seed of its own goes by that.

    Threads may share a session. The native threads work for one run at a time; a run that finds them busy is done by
    its own thread alone. The working memory is kept between runs, as much as runs took at the same time. The file must
    not be written while a session is open; replace it by rename.

    Raises ArtifactError for a damaged file, UnsupportedCpuError when it holds no code for this processor, InputError
    for bad options, OSError when the file cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        verify: Verify = "code",
        seed: int | None = None,
    ) -> None:
        environment = read_environment()
        wanted = threads if threads is not None else environment.threads
        if wanted is not None and (type(wanted) not in _WHOLE or wanted < 1):
            raise InputError(f"threads is {wanted!r}; a whole number of at least 1 is needed")
        self._entropy = Entropy(environment.seed if seed is None else seed)
        library = Library(path, verify=verify, environment=environment)
        manifest = library.manifest
        try:
            self.inputs: tuple[TensorInfo, ...] = describe(manifest.inputs)
            """What the model takes."""
            self.outputs: tuple[TensorInfo, ...] = describe(manifest.outputs)
            """What the model gives."""
            limit = MemoryLimit(environment.memory_limit)
            loaded = Loaded(self.inputs, self.outputs, library.weights_address, limit, self._entropy)
            self._planner = Variants(manifest, loaded)
        except BaseException:
            library.close()
            raise
        count = 1 if wanted == 1 else min(available_cpus(), int(wanted)) if wanted is not None else available_cpus()
        metadata = {
            "name": manifest.name,
            "producer": manifest.producer,
            "architecture": manifest.architecture,
            "target": manifest.target,
            "level": library.code.level,
            "threads": count,
            "path": os.fspath(path),
            "provenance": MappingProxyType(dict(manifest.provenance)),
        }
        self.metadata: Mapping[str, Any] = MappingProxyType(metadata)
        """Where the model comes from and how it runs here."""
        self._library = library
        self._threads = Threads(library.team_functions, count)
        self._native: _Native = _NATIVE(library.run)
        self._checked = manifest.checked
        self._poison = environment.poison or manifest.checked
        self._call: int | None = library.call if environment.fastcall and not self._poison else None
        self._plans: dict[tuple[tuple[int, ...], ...], Plan] = {}
        self._idle: list[Lane] = []
        self._lanes = 0
        self._closed = False
        # Re-entrant, because the garbage collector may drop a binding while the lock is held.
        self._lock = threading.RLock()
        # At exit a daemon thread may still be in the code: workers are stopped, but nothing is unmapped.
        weakref.finalize(self, self._threads.close)
        weakref.finalize(self, _release, self._threads, library).atexit = False
        forget_after_fork(self)

    def run(self, inputs: Mapping[str, ArrayLike], outputs: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run the model: inputs by name in, new arrays by name out; `outputs` names those wanted (default: all).

        Arrays must have the dtype and shape of `Session.inputs`; axes with the same symbol have the same extent. Any
        strides, byte order and read-only arrays are fine; Python numbers and lists are converted.

        Raises InputError for inputs that do not fit, RuntimeFault when the model finds bad data (an index out of range,
        say), when the system gives no memory or when the session is closed. Handlers of signals run between the
        iterations of the model's loops, a few times a second, and what they raise ends the run: KeyboardInterrupt,
        where the main thread runs a model and Ctrl-C is pressed.
        """
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = self._open_lane()
        try:
            if outputs is None:
                results = lane.call(inputs)
                if results is None:
                    results = self._repeat(lane, inputs)
                if results is not None:
                    return results
            return self._run(lane, inputs, outputs)
        finally:
            self._idle.append(lane)
            if self._closed:
                self._end()

    def _repeat(self, lane: Lane, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]] | None:
        """The common case, without what it does not need: arrays of the shapes of the last run. None if it is not."""
        frame = lane.current
        if frame is None:
            return None
        if frame.callback is not None and frame.callback.error is not None:
            self._fail(frame, INTERRUPTED)  # ingot_call cannot say so
        if inputs.__class__ is not dict or len(inputs) != len(frame.takes):
            return None
        in_place: list[NDArray[Any]] = []
        for name, dtype, shape, buffer in frame.takes:
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                return None
            if buffer is None:
                in_place.append(array)
            else:
                buffer[...] = array
        started = thread_time_ns() if frame.call is None else 0
        if frame.is_staged and not frame.plan.is_parallel:
            status = self._native(frame.pointer, None)
            if status or (frame.plan.has_status and frame.status.value):
                self._fail(frame, status)
            results: dict[str, NDArray[Any]] = {}
            for name, copy in frame.copies:
                results[name] = copy()
        else:
            results = self._execute(frame, in_place)
        if frame.call is None:
            frame.call = decline
            if self._call is not None and frame.is_staged and frame.plan.is_direct:
                took, alone = thread_time_ns() - started, self._threads.count == 1
                frame.call = make_call(frame, self._call, self._native, alone=alone, took=took)
                if frame.callback is not None and frame.callback.error is not None:
                    self._fail(frame, INTERRUPTED)
            lane.call = frame.call or decline
        return results

    def profile(self, inputs: Mapping[str, ArrayLike], *, runs: int = 20) -> Profile:
        """Where the time of a run goes, kernel launch by kernel launch: `runs` runs with time stamps, after others to
        warm up. A stamp costs some 20 ns; results and other runs are not affected.

        Raises InputError for an artifact without time stamps (compile it again) and what `run` raises.
        """
        from ingot.runtime.profile import WARM_UP, Recorder, check_runs  # here, as few sessions are profiled

        manifest, address = self._library.manifest, self._library.profile
        shapes = tuple(array.shape for array in collect(inputs, self.inputs))
        number = choose(manifest, shapes)
        costs = self._library.costs(number)
        if costs is None or address is None:
            raise InputError("the artifact cannot be profiled: it holds no time stamps; compile the model again")
        check_runs(runs)
        recorder = Recorder(address, costs)
        lane = self._open_lane()
        try:
            for _ in range(WARM_UP):
                self._run(lane, inputs, None, recorder.native)
            for _ in range(runs):
                self._run(lane, inputs, None, recorder.native)
                recorder.keep()
            while not recorder.is_calibrated:
                self._run(lane, inputs, None, recorder.native)
            values = solve(programs(manifest)[number], shapes)
        finally:
            del lane
            self._drop_lane()
        return recorder.profile(programs(manifest)[number].name, self._threads.count, values)

    def _run(
        self,
        lane: Lane,
        inputs: Mapping[str, ArrayLike],
        outputs: Iterable[str] | None,
        native: _Native | None = None,
    ) -> dict[str, NDArray[Any]]:
        """What `run` does, whatever it is given; `native` takes the place of `ingot_run`."""
        wanted = None if outputs is None else _listed(outputs)
        if wanted is not None:
            _check_names(wanted, self.outputs)
        arrays = collect(inputs, self.inputs)
        frame = lane.frame(self._plan(tuple(array.shape for array in arrays)), MAX_PLANS)
        if self._poison or frame.host is not None:
            lane.current = None  # so that the next run comes here too
        if self._poison:
            frame.arena.poison()
        if frame.host is not None:
            arrays = frame.host.begin(arrays)
        in_place: list[NDArray[Any]] = []
        for (_, _, _, buffer), array in zip(frame.takes, arrays, strict=True):
            if buffer is None:
                in_place.append(array)
            else:
                buffer[...] = array
        results = self._execute(frame, in_place, native)
        if frame.host is not None:
            for info in self.outputs:
                if info.dtype.hasobject:
                    results[info.name] = frame.host.strings(results[info.name])
        return results if wanted is None else {name: results[name] for name in wanted}

    def _execute(
        self, frame: Frame, in_place: list[NDArray[Any]], native: _Native | None = None
    ) -> dict[str, NDArray[Any]]:
        """Run with the staged inputs in their places, and these arrays for the others; `native` takes the place of
        `ingot_run`."""
        try:
            for index, port in enumerate(frame.reads):
                array = in_place[index]
                if not (array.flags.c_contiguous and array.flags.aligned):
                    in_place[index] = array = np.array(array, order="C")
                frame.point(port, array)
            results = dict.fromkeys(frame.names, _NOTHING)  # fixes the order
            for port in frame.writes:
                results[port.name] = array = np.empty(port.shape, port.dtype)
                frame.point(port, array)
        except (MemoryError, ValueError) as error:  # numpy raises ValueError for sizes beyond the address space
            raise RuntimeFault(f"there is no memory for an input or output of this size: {error}") from error
        _call(native or self._native, frame, self._threads, self._fail)
        for name, copy in frame.copies:
            results[name] = copy()
        for port in frame.plan.late:
            results[port.name] = frame.give(port)
        return results

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any] | None]
    ) -> Callable[[], None]:
        """A function without arguments that runs the model from these arrays into those, with the least overhead.

        Every input and output is given, C-contiguous, aligned, in native byte order; outputs are writable and overlap
        nothing. None stands for an output whose shape is known only after a run: it is not given back. The arrays are
        kept and must not be resized. Each call reads what the inputs hold then. The function must not be called by two
        threads at once; it works until it is dropped, also after `close`, and raises
        RuntimeFault as `run` does. Raises InputError for arrays that do not fit.
        """
        if not isinstance(outputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"outputs are given by name, as {{name: array}}; this is of type {type(outputs).__name__}")
        _check_names(outputs, self.outputs)
        if missing := [info.name for info in self.outputs if info.name not in outputs]:
            raise InputError(f"bind needs an array for every output; there is none for {', '.join(missing)}")
        sources = collect(inputs, self.inputs)
        if texts := [info.name for info in (*self.inputs, *self.outputs) if info.dtype.hasobject]:
            raise InputError(f"{texts[0]!r} holds strings, which cannot be bound; use run")
        plan = self._planner.plan(tuple(array.shape for array in sources), staged_bytes=-1)
        for port in plan.late:
            if outputs[port.name] is not None:
                raise InputError(
                    f"output {port.name!r} cannot be bound: its shape is known only after a run; give None for it"
                )
        results: list[NDArray[Any]] = []
        for port in plan.outputs:
            if (array := outputs[port.name]) is None:
                raise InputError(f"output {port.name!r} cannot be bound: there is no array for it")
            results.append(array)
        for port, array in zip(plan.inputs, sources, strict=True):
            if array is not inputs[port.name]:
                raise InputError(f"input {port.name!r} cannot be bound: it is no numpy array in native byte order")
        for port, array in zip(plan.outputs, results, strict=True):
            _check_output(port, array)
        _check_places([*plan.inputs, *plan.outputs], [*sources, *results], len(sources))
        self._count_lane()
        try:
            frame = Lane().frame(plan, keep=1)
            for port, array in zip((*plan.inputs, *plan.outputs), (*sources, *results), strict=True):
                frame.point(port, array)
            native: Any = _NATIVE(self._library.run)
            # What the table points to, and what keeps the code mapped, lives as long as what calls the code.
            native.keeps = (self, frame, *sources, *results)
            weakref.finalize(native, self._drop_lane).atexit = False
        except BaseException:
            self._drop_lane()
            raise
        return self._bind(native, frame)

    def _bind(self, native: Any, frame: Frame) -> Callable[[], None]:
        """A function that calls `native`, a ctypes function of its own, with what `frame` holds."""
        fail, threads, arena, host = self._fail, self._threads, frame.arena, frame.host
        if self._poison or host is not None or (frame.plan.is_parallel and threads.count > 1):
            is_poisoned = self._poison

            def run_bound() -> None:
                if is_poisoned:
                    arena.poison()
                if host is not None:
                    host.begin(())
                _call(native, frame, threads, fail)

            return run_bound
        has_status, word, pointer = frame.plan.has_status, frame.status, frame.pointer

        def check(status: int, _function: object, _arguments: object) -> None:
            if status or (has_status and word.value):
                fail(frame, status)

        native.errcheck = check

        def run_bound() -> None:
            native(pointer, None)

        return run_bound

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "a session cannot be copied or pickled, as it owns mapped code and threads: "
            "open the artifact again with Session(path), or share the session between threads"
        )

    def close(self) -> None:
        """Stop the threads and unmap the model once the runs under way have ended. Later runs raise RuntimeFault."""
        # In this order, because a run that ends after the session is closed may be the one to unmap the code.
        self._threads.close()
        self._closed = True
        self._end()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        sides = (", ".join(f"{i.name}: {i.dtype}{list(i.shape)}" for i in side) for side in (self.inputs, self.outputs))
        return f"<Session {self.metadata['name']!r} ({') -> ('.join(sides)}){' closed' if self._closed else ''}>"

    def forget(self) -> None:
        """In a child of fork: replace what threads of the parent may have held. Called by the runtime itself."""
        self._lock = threading.RLock()
        self._threads.forget()
        if self._entropy.renew():
            for lane in self._idle:
                lane.forget()

    def _plan(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        """The plan for inputs of these shapes, made now or kept from one of the last `MAX_PLANS` sets of shapes."""
        with self._lock:
            plan = self._plans.pop(shapes, None)
            if plan is not None:
                self._plans[shapes] = plan
                return plan
        plan = self._planner.plan(shapes)
        with self._lock:
            plan = self._plans.setdefault(shapes, plan)
            while len(self._plans) > MAX_PLANS:
                del self._plans[next(iter(self._plans))]
        return plan

    # Lanes are counted, so that the code stays mapped while one of them may be running it.

    def _open_lane(self) -> Lane:
        self._count_lane()
        return Lane()

    def _count_lane(self) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeFault("the session is closed")
            self._lanes += 1

    def _drop_lane(self) -> None:
        with self._lock:
            self._lanes -= 1
            if self._closed:
                self._end()

    def _end(self) -> None:
        """Drop the idle lanes of a closed session, and unmap the code where no lane is left."""
        with self._lock:
            while self._idle:
                self._idle.pop()
                self._lanes -= 1
            if self._lanes == 0:
                self._library.close()

    def _detail(self, frame: Frame, number: int) -> str:
        """What the block of late storages says about a fault."""
        if frame.late is None:
            return ""
        program = frame.plan.program
        for name, fault in program.bound.items():
            if fault == number:
                return f": it is {frame.late.values()[name]}"
        for index, fault in enumerate(program.late.values()):
            if fault == number:
                return f": {frame.late.wanted(index)} bytes"
        return ""

    def _violation(self, frame: Frame, number: int, element: int) -> str:
        """What a check of a checked build found."""
        faults = frame.plan.program.faults
        if not 0 < number <= len(faults):
            return f"the model's code ended with the unknown fault {number}"
        values = {**frame.plan.values, **({} if frame.late is None else frame.late.values())}
        given = ", ".join(f"{name} is {value}" for name, value in values.items())
        return f"{faults[number - 1]}: element {element}" + (f", where {given}" if given else "")

    def _fail(self, frame: Frame, status: int) -> NoReturn:
        """Raise what the status that a run left, or the `status` that it returned, stands for."""
        number = frame.status.value or status
        frame.status.value = 0
        found = found_by_check(number) if self._checked else None
        if found is not None:
            raise RuntimeFault(self._violation(frame, *found))
        faults = frame.plan.program.faults
        if frame.callback is not None and (cause := frame.callback.take()) is not None:
            if status == INTERRUPTED or not isinstance(cause, Exception):
                raise cause
            known = faults[number - 1] if 0 < number <= len(faults) else "a host function failed"
            raise RuntimeFault(f"{known}: {cause}") from cause
        if 0 < number <= len(faults):
            raise RuntimeFault(faults[number - 1] + self._detail(frame, number))
        raise RuntimeFault(f"the model's code ended with the unknown fault {number}")


_Fail: TypeAlias = Callable[[Frame, int], NoReturn]


def _call(native: _Native, frame: Frame, threads: Threads, fail: _Fail) -> None:
    """Call the code, with the team where there is work for it and it is free."""
    team = threads.lead() if frame.plan.is_parallel else None
    try:
        status = native(frame.pointer, team)
    finally:
        if team is not None:
            threads.release()
    if status or frame.status.value:
        fail(frame, status)


def _release(threads: Threads, library: Library) -> None:
    threads.close()
    library.close()


def _listed(outputs: Iterable[str]) -> list[str]:
    if isinstance(outputs, str | bytes) or not isinstance(outputs, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"outputs is {outputs!r}; a list of names is needed, such as [{outputs!r}]")
    return list(outputs)


def _check_names(names: Iterable[str], known: Sequence[TensorInfo]) -> None:
    unknown = [repr(name) for name in names if all(name != info.name for info in known)]
    if unknown:
        raise InputError(f"there is no output {', '.join(unknown)}; there are {', '.join(repr(i.name) for i in known)}")


def _check_output(port: Port, array: NDArray[Any]) -> None:
    if type(array) is not np.ndarray or not array.flags.writeable:
        raise InputError(f"output {port.name!r} cannot be bound: it is not a writable numpy array")
    if array.dtype != port.dtype or array.shape != port.shape:
        raise InputError(
            f"output {port.name!r} has dtype {array.dtype} and shape {list(array.shape)}, "
            f"the model gives {port.dtype} {list(port.shape)}"
        )


def _check_places(ports: Sequence[Port], arrays: Sequence[NDArray[Any]], inputs: int) -> None:
    for index, (port, array) in enumerate(zip(ports, arrays, strict=True)):
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise InputError(f"{port.name!r} cannot be bound: the array is not C-contiguous and aligned")
        for other in range(max(index + 1, inputs), len(arrays)):
            if np.may_share_memory(array, arrays[other]):
                raise InputError(f"{port.name!r} and output {ports[other].name!r} cannot be bound: they share memory")
