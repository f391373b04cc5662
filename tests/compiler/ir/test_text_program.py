"""The programs' text form: a golden, exact round trips, errors with positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.loops import Axis, Buffer, Const, Kernel, Load, Store
from ingot.compiler.ir.program import Argument, Branch, Launch, Program, Repeat, Storage
from ingot.compiler.ir.text.arrays import content_hash
from ingot.compiler.ir.text.program import parse_program, show_program
from ingot.compiler.ir.text.scanner import TextError
from ingot.compiler.ir.types import IrError, TensorType
from ingot.runtime.dtypes import boolean, f32, i64

BATCH, N = symbol("batch"), symbol("n")
COPY = Kernel(
    "copy",
    (Buffer("x", f32), Buffer("y", f32, "write")),
    ("n",),
    (Axis("i", N, 64),),
    (Store("y", symbol("i"), Load("x", symbol("i"))),),
)
SET = Kernel("set", (Buffer("c", boolean, "write"),), (), (), (Store("c", 0, Const(True, boolean)),))
BIG = np.linspace(0, 1, 40, dtype=np.float32)


def example() -> Program:
    x = Storage("x", "input", f32, 4 * BATCH, TensorType(f32, (BATCH, 4)), origin=("data", "x 0"))
    y = Storage("y 1", "output", f32, 4 * BATCH, TensorType(f32, (4, BATCH)))
    t = Storage("temp", "temp", f32, 4 * BATCH + 8, origin=("Conv_0",))
    w = Storage("w", "weight", f32, 40, data=BIG, origin=("weight",))
    trip = Storage("trip_count", "weight", i64, 1, data=np.array([3]))
    c, i = Storage("c", "temp", boolean, 1), Storage("i", "temp", i64, 1)
    status = Storage("fault", "status", i64, 1)
    into = Launch(COPY, (Argument(x), Argument(t, 8)), (4 * BATCH,), ("Conv_0",))
    out = Launch(COPY, (Argument(t, BATCH), Argument(y)), (4 * BATCH - 1,))
    decide = Launch(SET, (Argument(c),), ())
    steps = (
        into,
        decide,
        Branch(Argument(c), (out,), (), ("If_1",)),
        Branch(Argument(c), (), (out, into)),
        Repeat(Argument(i), Argument(trip), Argument(c), (into, Repeat(Argument(i), None, Argument(c), ()))),
        Repeat(Argument(i), Argument(trip), None, (decide,), ("Loop_2",)),
        out,
    )
    return Program("net", (x, y, t, w, trip, c, i, status), steps, {"batch": (1, 64)}, ("bad index", 'say "no"'))


GOLDEN = """program "net" {
  dims {batch: 1..64}
  faults ("bad index", "say \\"no\\"")
  input x: f32[4*batch] as f32[batch, 4]  ; "data", "x 0"
  output "y 1": f32[4*batch] as f32[4, batch]
  temp "temp": f32[4*batch + 8]  ; "Conv_0"
  weight w = f32[40]@HASH  ; "weight"
  weight trip_count = i64[1]{3}
  temp c: bool[1]
  temp i: i64[1]
  status fault: i64[1]
  kernel copy(x: f32 read, y: f32 write; n) {
    grid i in n by 64
    y[i] = x[i]
  }
  kernel set(c: bool write) {
    c[0] = true:bool
  }
  launch copy(x, "temp"[8]; 4*batch)  ; "Conv_0"
  launch set(c)
  if c {
    launch copy("temp"[batch], "y 1"; 4*batch - 1)
  }  ; "If_1"
  if c {
  } else {
    launch copy("temp"[batch], "y 1"; 4*batch - 1)
    launch copy(x, "temp"[8]; 4*batch)  ; "Conv_0"
  }
  repeat i trip trip_count while c {
    launch copy(x, "temp"[8]; 4*batch)  ; "Conv_0"
    repeat i while c {
    }
  }
  repeat i trip trip_count {
    launch set(c)
  }  ; "Loop_2"
  launch copy("temp"[batch], "y 1"; 4*batch - 1)
}
"""


def test_golden() -> None:
    resources: dict[str, NDArray[Any]] = {}
    text = show_program(example(), resources)
    assert text == GOLDEN.replace("HASH", content_hash(BIG))
    made = parse_program(text, resources)
    assert show_program(made) == text
    (w,) = [s for s in made.storages if s.name == "w"]
    assert w.data is not None and w.data.tobytes() == BIG.tobytes() and w.size == 40
    assert made.faults == example().faults and made.name == "net" and dict(made.ranges) == {"batch": (1, 64)}


def test_parsed_launches_share_storages_and_kernels() -> None:
    resources: dict[str, NDArray[Any]] = {}
    made = parse_program(show_program(example(), resources), resources)
    launches = list(made.launches())
    copies = [launch for launch in launches if launch.kernel.name == "copy"]
    assert len({id(launch.kernel) for launch in copies}) == 1
    assert all(a.storage in made.storages for launch in launches for a in launch.buffers)
    assert copies[0].kernel == COPY and copies[0].dims == (4 * BATCH,)


def test_empty_program() -> None:
    text = show_program(Program("", (), ()))
    assert text == 'program "" {\n}\n'
    assert show_program(parse_program(text)) == text


def test_kernels_with_one_name() -> None:
    other = Kernel("set", SET.buffers, (), (), ())
    c = Storage("c", "temp", boolean, 1)
    steps = tuple(Launch(kernel, (Argument(c),), ()) for kernel in (SET, other))
    with pytest.raises(IrError, match="two different kernels are named 'set'"):
        show_program(Program("p", (c,), steps))


@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        ("launch gone(c)", 8, "a kernel defined above, found gone"),
        ("launch set(d)", 12, "a storage defined above, found d"),
        ("launch set(c; 4)", 8, "1 buffers and 0 dims for set, found set"),
        ("launch set(c, c)", 8, "1 buffers and 0 dims"),
        ("jump c", 1, "launch, if, repeat, bind, host, stop or '}', found jump"),
        ("if c launch", 6, "'{', found launch"),
        ("temp late: f32[1]", 1, "launch, if, repeat, bind, host, stop or '}', found temp"),
    ],
)
def test_errors_in_steps(line: str, column: int, expected: str) -> None:
    head = 'program "p" {\n  temp c: bool[1]\n  kernel set(c: bool write) {\n  }\n'
    with pytest.raises(TextError, match=expected) as error:
        parse_program(f"{head}{line}\n}}\n", source="p.ir")
    assert (error.value.line, error.value.column) == (5, column)


@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        ("input x: f32[1]", 1, "'as' and the type of the input"),
        ("temp c: f32[1]\ntemp c: f32[1]", 6, "a storage's name that is not taken, found c"),
        ("weight w = f32[1, 1]{0.0}", 12, "an array with one axis"),
        ("weight w = f32[99]@0123456789abcdef", 20, "the hash of an array among the resources"),
        ("temp c: f33[1]", 9, "an element type"),
        ("kernel k() {\n}\nkernel k() {\n}", 1, "a kernel's name that is not taken"),
    ],
)
def test_errors_in_declarations(line: str, column: int, expected: str) -> None:
    with pytest.raises(TextError, match=expected) as error:
        parse_program(f'program "p" {{\n{line}\n}}\n')
    assert error.value.column == column
