"""Lifetimes of storages over branches and loops."""

from __future__ import annotations

import numpy as np

from ingot.compiler.ir.lifetimes import lifetimes
from ingot.compiler.ir.loops import Buffer, Kernel
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Repeat, Step, Storage
from ingot.compiler.ir.types import TensorType
from ingot.runtime.dtypes import boolean, f32, i64

IN = Storage("in", "input", f32, 8, TensorType(f32, (8,)))
OUT = Storage("out", "output", f32, 8, TensorType(f32, (8,)))
A, B, C, D = (Storage(name, "temp", f32, 8) for name in "abcd")
FLAG, COUNTER = Storage("flag", "temp", boolean, 1), Storage("counter", "temp", i64, 1)
TRIP = Storage("trip", "weight", i64, 1, data=np.array([3]))
COPY = Kernel("copy", (Buffer("x", f32), Buffer("y", f32, "write")), (), (), ())
UPDATE = Kernel("update", (Buffer("x", f32), Buffer("y", f32, "readwrite")), (), (), ())
SET = Kernel("set", (Buffer("x", f32), Buffer("y", boolean, "write")), (), (), ())


def copy(source: Storage, target: Storage) -> Launch:
    return Launch(COPY, (Argument(source), Argument(target)), ())


def update(source: Storage, target: Storage) -> Launch:
    return Launch(UPDATE, (Argument(source), Argument(target)), ())


def decide(source: Storage) -> Launch:
    return Launch(SET, (Argument(source), Argument(FLAG)), ())


def repeat(*body: Step) -> Repeat:
    return Repeat(Argument(COUNTER), Argument(TRIP), None, body)


def live(*steps: Step) -> dict[str, tuple[int, int]]:
    found = lifetimes(Program("p", (IN, OUT, A, B, C, D, FLAG, COUNTER, TRIP), steps))
    return {storage.name: span for storage, span in found.items()}


def test_straight_line() -> None:
    spans = live(copy(IN, A), copy(A, B), copy(B, C), copy(A, OUT))
    assert spans == {"in": (0, 0), "a": (0, 3), "b": (1, 2), "c": (2, 2), "out": (3, 3)}
    assert live() == {}


def test_branch_arms_are_numbered_one_after_the_other() -> None:
    spans = live(
        copy(IN, A),  # 0
        decide(A),  # 1
        Branch(Argument(FLAG), (copy(A, B), copy(B, C)), (copy(A, C),)),  # condition 2; 3, 4; 5
        copy(C, OUT),  # 6
    )
    assert spans["flag"] == (1, 2) and spans["a"] == (0, 5) and spans["b"] == (3, 4) and spans["c"] == (4, 6)


def test_loop_local_storage_keeps_its_span() -> None:
    spans = live(copy(IN, A), repeat(copy(A, B), copy(B, C), copy(C, D)), copy(IN, OUT))
    # 0; start 1, body 2 3 4, end 5; 6
    assert spans["b"] == (2, 3) and spans["c"] == (3, 4) and spans["d"] == (4, 4)
    assert spans["a"] == (0, 5)  # read in every iteration
    assert spans["counter"] == (1, 5)
    assert spans["trip"] == (1, 1)


def test_live_out_of_a_loop() -> None:
    spans = live(copy(IN, A), repeat(copy(A, B), copy(B, C)), copy(B, OUT))
    assert spans["b"] == (1, 5)  # a zero-trip loop must not find it overwritten either
    assert spans["c"] == (3, 3)


def test_carried_storage_spans_the_loop() -> None:
    body = (copy(B, C), copy(C, B), copy(C, D))
    assert live(repeat(*body))["b"] == (0, 4)
    assert live(repeat(*body))["c"] == (1, 3)
    assert live(repeat(update(A, B)))["b"] == (0, 2)


def test_written_on_one_path_only_is_carried() -> None:
    one = Branch(Argument(FLAG), (copy(IN, B),), ())
    both = Branch(Argument(FLAG), (copy(IN, B),), (copy(A, B),))
    # start 0, flag 1, condition 2, arm 3 (4), read after
    assert live(repeat(decide(IN), one, copy(B, C)))["b"] == (0, 5)
    assert live(repeat(decide(IN), both, copy(B, C)))["b"] == (3, 5)


def test_condition_spans_its_loop() -> None:
    loop = Repeat(Argument(COUNTER), None, Argument(FLAG), (copy(IN, A), decide(A)))
    spans = live(decide(IN), loop, copy(IN, OUT))
    assert spans["flag"] == (0, 4) and spans["a"] == (2, 3)


def test_nested_loops() -> None:
    counter = Storage("inner", "temp", i64, 1)
    inner = Repeat(Argument(counter), Argument(TRIP), None, (copy(A, B), copy(B, C), update(C, D)))
    # start 0; 1; inner start 2, 3 4 5, end 6; 7; end 8
    spans = live(repeat(copy(IN, A), inner, copy(D, OUT)))
    assert spans["a"] == (1, 6)  # needed by all inner iterations, written anew by each outer one
    assert spans["b"] == (3, 4) and spans["c"] == (4, 5)
    assert spans["d"] == (0, 8)  # the inner loop may not run: it is carried by the outer one
    assert spans["inner"] == (2, 6)
    assert spans["in"] == (0, 8)


def test_storage_of_two_loops() -> None:
    spans = live(repeat(copy(IN, A)), copy(IN, B), repeat(copy(A, C)))
    # start 0, 1, end 2; 3; start 4, 5, end 6
    assert spans["a"] == (0, 6) and spans["c"] == (5, 5)
