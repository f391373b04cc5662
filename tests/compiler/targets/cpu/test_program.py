"""Whole programs: launches, branches, loops, the argument table and the thread team."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir import dims, execute
from ingot.compiler.ir.dims import Dim, ceil_divide, minimum, symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, Const, Expr, For, Kernel, Load, Store
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Repeat, Storage
from ingot.compiler.ir.types import IrError, TensorType
from ingot.compiler.targets.cpu import codegen, features, workers
from ingot.compiler.targets.cpu.program import argument_table
from ingot.compiler.targets.cpu.team import EXPORTS
from ingot.compiler.targets.cpu.team_memory import SIZE
from ingot.compiler.targets.target import Compilation
from ingot.runtime.callback import Callback
from ingot.runtime.dtypes import boolean, f32, i64
from ingot.runtime.image import Image

Array = NDArray[Any]
LIBC = ctypes.CDLL(None, use_errno=True)
COUNT = 2003
CALLBACK = Callback()
i, c, g, n = (symbol(name) for name in "icgn")


def blockwise(name: str, step: Any) -> Kernel:
    """x = step(x) in blocks of g elements, one a chunk."""
    place = c * g + i
    loop = For("i", minimum(g, n - c * g), (Store("x", place, step(Load("x", place))),), "vector")
    return Kernel(name, (Buffer("x", f32, "readwrite"),), ("n", "g"), (Axis("c", ceil_divide(n, g)),), (loop,))


def plus_one(value: Expr) -> Expr:
    return Call("add", (value, Const(1.0, f32)), f32)


def doubled(value: Expr) -> Expr:
    return Call("mul", (value, Const(2.0, f32)), f32)


class Case:
    """A program with every kind of step over one vector, and what it computes."""

    def __init__(self) -> None:
        scalar = TensorType(i64, ())
        self.x = Storage("x", "output", f32, COUNT, TensorType(f32, (COUNT,)))
        self.counter = Storage("counter", "temp", i64, 1)
        self.going = Storage("going", "temp", boolean, 1)
        self.trip = Storage("trip", "input", i64, 1, scalar)
        self.flag = Storage("flag", "input", boolean, 1, TensorType(boolean, ()))
        block = symbol("block")
        self.block = Storage("like", "input", boolean, block, TensorType(boolean, (block,)))  # its length is the symbol
        zero, one, two = (
            blockwise("zero", lambda v: Const(0.0, f32)),
            blockwise("plus_one", plus_one),
            blockwise("doubled", doubled),
        )
        twin = replace(one, name="plus_one_again")
        below = Store("y", 0, Call("lt", (Load("k", 0), Const(4, i64)), boolean))
        go_on = Kernel("go_on", (Buffer("k", i64), Buffer("y", boolean, "write")), (), (Axis("p", 1),), (below,))
        truth = Store("y", 0, Const(True, boolean))
        start = Kernel("start", (Buffer("y", boolean, "write"),), (), (Axis("p", 1),), (truth,))
        counter, going = Argument(self.counter), Argument(self.going)

        def launch(kernel: Kernel) -> Launch:
            return Launch(kernel, (Argument(self.x),), (COUNT, symbol("block")))

        self.program = Program(
            "case",
            (self.x, self.counter, self.going, self.trip, self.flag, self.block),
            (
                launch(zero),
                launch(one),
                Launch(start, (going,), ()),
                Branch(Argument(self.flag), (launch(two),), (launch(one), launch(twin))),
                Repeat(
                    counter,
                    Argument(self.trip),
                    going,
                    (launch(two), launch(one), Launch(go_on, (counter, going), ())),
                ),
                Repeat(counter, Argument(self.trip), None, (launch(one),)),
            ),
            {"block": (1, COUNT)},
        )

    def expected(self, flag: bool, trip: int) -> float:
        value, going = (2.0 if flag else 3.0), True
        for k in range(trip):
            if going:
                value, going = value * 2 + 1, k < 4
        return value + max(trip, 0)


def bound(program: Program, memory: Mapping[str, Array], values: Mapping[str, int]) -> Array:
    """The args of `ingot_run`, made from the argument table as the runtime does."""

    def value(serial: Any) -> int:
        if isinstance(serial, int):
            return serial
        if isinstance(serial, str):
            return values[serial]
        result = dims.apply(serial[0], value(serial[1]), value(serial[2]))
        assert isinstance(result, int)
        return result

    words: list[int] = []
    for entry in argument_table(program):
        if entry[0] == "d":
            words.append(value(entry[1]))
        elif entry == ["host"]:
            words.append(CALLBACK.address)
        else:
            array = memory[program.storages[int(str(entry[1]))].name]
            words.append(array.ctypes.data + value(entry[2]) * array.itemsize)
    return np.array(words, np.int64)


class Team:
    """Native threads around a loaded program."""

    def __init__(self, image: Image, threads: int) -> None:
        self.image = image
        size = ctypes.CFUNCTYPE(ctypes.c_int64)(image.symbol("ingot_team_size"))()
        assert size == SIZE
        self.memory = np.full(size + 64, 0xAB, np.uint8)
        self.address = self.memory.ctypes.data + 63 & ~63
        init = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(image.symbol("ingot_team_init"))
        init(self.address, threads - 1, ctypes.cast(LIBC.syscall, ctypes.c_void_p))
        self.threads: list[ctypes.c_ulong] = []
        for _ in range(threads - 1):
            thread = ctypes.c_ulong()
            routine = ctypes.c_void_p(image.symbol("ingot_worker"))
            assert LIBC.pthread_create(ctypes.byref(thread), None, routine, ctypes.c_void_p(self.address)) == 0
            self.threads.append(thread)

    def stop(self) -> None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.image.symbol("ingot_stop"))(self.address)
        for thread in self.threads:
            assert LIBC.pthread_join(thread, None) == 0


class Loaded:
    def __init__(self) -> None:
        self.case = Case()
        self.code = codegen.compile_program(self.case.program, features.host_level())
        self.image = Image.from_bytes(self.code, name="case")
        self.function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(
            self.image.symbol("ingot_run")
        )

    def memory(self, flag: bool, trip: int) -> dict[str, Array]:
        return {
            "x": np.full(COUNT, 5, np.float32),
            "counter": np.zeros(1, np.int64),
            "going": np.zeros(1, bool),
            "trip": np.array([trip]),
            "flag": np.array([flag]),
        }

    def run(self, team: int | None, block: int, flag: bool = True, trip: int = 3, times: int = 1) -> None:
        memory = self.memory(flag, trip)
        arguments = bound(self.case.program, memory, {"block": block})
        for _ in range(times):
            memory["x"][:] = 5
            assert self.function(arguments.ctypes.data, team) == 0
            np.testing.assert_array_equal(memory["x"], np.float32(self.case.expected(flag, trip)))


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    made = Loaded()
    yield made
    made.image.close()


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("trip", [-1, 0, 1, 3, 9])
def test_branches_and_loops(flag: bool, trip: int, loaded: Loaded) -> None:
    loaded.run(None, 1000, flag, trip)
    if trip == 1:
        inputs = {"trip": np.array(trip), "flag": np.array(flag), "like": np.zeros(1000, bool)}
        results = execute.run_program(loaded.case.program, inputs)
        np.testing.assert_array_equal(results["x"], np.float32(loaded.case.expected(flag, trip)))


def test_while_and_endless_conditions(first_level: features.Level) -> None:
    """A loop with a condition and no trip count, inside a branch inside a loop."""
    counter, inner = Storage("counter", "temp", i64, 1), Storage("inner", "temp", i64, 1)
    going = Storage("going", "temp", boolean, 1)
    total = Storage("total", "output", i64, 1, TensorType(i64, (1,)))
    trip = Storage("trip", "input", i64, 1, TensorType(i64, (1,)))
    point = (Axis("p", 1),)
    buffers = (Buffer("k", i64), Buffer("y", boolean, "write"))
    less = Store("y", 0, Call("lt", (Load("k", 0), Const(2, i64)), boolean))
    test = Kernel("test", buffers, (), point, (less,))
    odd = Store("y", 0, Call("eq", (Call("mod", (Load("k", 0), Const(2, i64)), i64), Const(1, i64)), boolean))
    parity = Kernel("parity", buffers, (), point, (odd,))
    summed = Store("t", 0, Call("add", (Load("t", 0), Load("k", 0)), i64))
    accumulate = Kernel("sum", (Buffer("k", i64), Buffer("t", i64, "readwrite")), (), point, (summed,))
    nested = Repeat(
        Argument(inner),
        None,
        Argument(going),
        (
            Launch(accumulate, (Argument(inner), Argument(total)), ()),
            Launch(test, (Argument(inner), Argument(going)), ()),
        ),
    )
    body = (
        Launch(parity, (Argument(counter), Argument(going)), ()),
        Branch(Argument(going), (nested,), (Launch(accumulate, (Argument(counter), Argument(total)), ()),)),
    )
    program = Program(
        "while", (counter, inner, going, total, trip), (Repeat(Argument(counter), Argument(trip), None, body),)
    )
    memory: dict[str, Array] = {name: np.zeros(1, np.int64) for name in ("counter", "inner", "total", "trip")}
    memory["going"] = np.zeros(1, bool)
    memory["trip"][0] = 6
    with Image.from_bytes(codegen.compile_program(program, first_level)) as image:
        arguments = bound(program, memory, {})
        ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(image.symbol("ingot_run"))(
            arguments.ctypes.data, None
        )
    assert memory["total"][0] == (0 + 2 + 4) + 3 * (0 + 1 + 2)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 9])
def test_team(threads: int, loaded: Loaded) -> None:
    """Fewer and more threads than processors; blocks of all sizes; many regions one after the other."""
    team = Team(loaded.image, threads)
    for block in (COUNT, COUNT - 1, 1000, 199, 20):
        loaded.run(team.address, block, times=60)
    team.stop()


def test_team_wakes_from_sleep(loaded: Loaded) -> None:
    """Workers that have gone to sleep between runs come back."""
    team = Team(loaded.image, 3)
    pause = ctypes.c_uint(2000)
    for _ in range(30):
        LIBC.usleep(pause)
        loaded.run(team.address, 500)
    team.stop()


def test_team_starts_and_stops(loaded: Loaded) -> None:
    for round_ in range(40):
        team = Team(loaded.image, 4)
        if round_ % 2:
            loaded.run(team.address, 1000)
        team.stop()


def test_results_do_not_depend_on_threads(loaded: Loaded) -> None:
    digests: set[str] = set()
    for threads in (1, 2, 4):
        team = Team(loaded.image, threads)
        memory = loaded.memory(True, 9)
        memory["x"][:] = np.random.default_rng(0).standard_normal(COUNT)
        arguments = bound(loaded.case.program, memory, {"block": 321})
        loaded.function(arguments.ctypes.data, team.address)
        digests.add(hashlib.sha256(memory["x"].tobytes()).hexdigest())
        team.stop()
    assert len(digests) == 1


# -- compilation ------------------------------------------------------------------------------------------------------


def test_equal_kernels_are_compiled_once(loaded: Loaded) -> None:
    seen: list[tuple[int, int]] = []
    compilation = Compilation(progress=lambda done, total: seen.append((done, total)))
    code = codegen.compile_program(loaded.case.program, features.host_level(), compilation=compilation)
    assert seen == [(k + 1, 5) for k in range(5)]  # plus_one and its twin are one
    assert code == loaded.code
    assert set(loaded.image.symbols) == {"ingot_run", "ingot_call", "ingot_profile", *EXPORTS}


def many_kernels() -> Program:
    """Kernels for several processes."""
    x = Storage("x", "output", f32, COUNT, TensorType(f32, (COUNT,)))

    def scaled(k: int) -> Kernel:
        return blockwise(f"scale_{k}", lambda v: Call("mul", (v, Const(k + 0.5, f32)), f32))

    def launch(kernel: Kernel) -> Launch:
        block: Dim = 100
        return Launch(kernel, (Argument(x),), (COUNT, block))

    return Program("many", (x,), tuple(launch(scaled(k)) for k in range(8)))


def test_bytes_do_not_depend_on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes from this process and from others, whose hash seeds differ."""
    monkeypatch.setattr(workers, "KERNELS_A_CHILD", 4)
    program, level = many_kernels(), features.host_level()
    progress: list[int] = []
    several = codegen.compile_program(program, level, compilation=Compilation(2, lambda done, _: progress.append(done)))
    assert several == codegen.compile_program(program, level)
    assert progress == list(range(1, 9))


def test_other_processes_report_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed kernel among good ones."""
    monkeypatch.setattr(workers, "KERNELS_A_CHILD", 4)
    program = many_kernels()
    x = program.storages[0]
    lost = (Store("x", symbol("lost"), Const(1.0, f32)),)
    broken = Kernel("broken", (Buffer("x", f32, "write"),), (), (Axis("p", 1),), lost)
    bad = replace(program, steps=(*program.steps, Launch(broken, (Argument(x),), ())))
    with pytest.raises(IrError, match=r"kernel broken: .*'lost'"):
        codegen.compile_program(bad, features.host_level(), compilation=Compilation(2))


def test_a_dead_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "KERNELS_A_CHILD", 4)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(workers.WorkerError, match="a process that compiles kernels ended"):
        codegen.compile_program(many_kernels(), features.host_level(), compilation=Compilation(2))


def test_error_names_the_kernel() -> None:
    x = Storage("x", "output", f32, 1, TensorType(f32, (1,)))
    broken = Kernel(
        "broken", (Buffer("x", f32, "write"),), (), (Axis("p", 1),), (Store("x", symbol("lost"), Const(1.0, f32)),)
    )
    program = Program("p", (x,), (Launch(broken, (Argument(x),), ()),))
    with pytest.raises(IrError, match=r"kernel broken: .*'lost'"):
        codegen.compile_program(program, features.host_level())
