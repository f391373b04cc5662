"""What a call costs beyond the native code, in nanoseconds: `python benchmarks/calls.py [rounds]`.

Every row is measured once a round, rounds are interleaved, minimum and median over rounds are shown. The native time is
that of a bound call less that of an empty native function called the same way; "over native" is what is left of a row.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import timeit
from collections.abc import Callable
from functools import partial

import numpy as np

from ingot.compiler.artifact import Artifact
from ingot.compiler.ir.dims import symbol
from ingot.compiler.ir.loops import Axis, Buffer, Call, For, Kernel, Load, Store
from ingot.compiler.ir.program import Argument, Launch, Program, Storage
from ingot.compiler.ir.types import TensorType
from ingot.compiler.labels import Labels
from ingot.compiler.packaging import TargetDescription, build_artifact
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import host_level
from ingot.compiler.targets.cpu.program import argument_table
from ingot.runtime.dtypes import f32
from ingot.runtime.session import Session


def sum_model(inputs: int, width: int, grain: int) -> Artifact:
    """y[n, width] = the sum of `inputs` inputs, one launch after the other, `grain` rows a chunk."""
    n, rows, at = symbol("n"), symbol("rows"), symbol("i") * width + symbol("j")
    made = TensorType(f32, (n, width))
    sources = [Storage(f"x{k}", "input", f32, made.size, made) for k in range(inputs)]
    y = Storage("y", "output", f32, made.size, made)
    add = Store("c", at, Call("add", (Load("a", at), Load("b", at)), f32))
    buffers = (Buffer("a", f32), Buffer("b", f32), Buffer("c", f32, "write"))
    kernel = Kernel("sum", buffers, ("rows",), (Axis("i", rows, grain),), (For("j", width, (add,), "vector"),))
    steps = [Launch(kernel, (Argument(sources[0]), Argument(sources[-1]), Argument(y)), (n,))]
    steps += [Launch(kernel, (Argument(y), Argument(x), Argument(y)), (n,)) for x in sources[1:-1]]
    program = Program("sum", (*sources, y), tuple(steps))
    level = host_level()
    target = TargetDescription(level.arch, "cpu", {level.name: level.required})
    code = {level.name: compile_program(program, level)}
    return build_artifact(program, code, argument_table(program), Labels("sum"), target=target)


def arrays(session: Session, rows: int) -> dict[str, np.ndarray]:
    return {info.name: np.ones((rows, info.shape[1]), np.float32) for info in session.inputs}  # type: ignore


def without_entry(artifact: Artifact, threads: int) -> Session:
    """A session that does not use the native entry for Python."""
    os.environ["INGOT_FASTCALL"] = "0"
    try:
        return artifact.session(threads=threads)
    finally:
        del os.environ["INGOT_FASTCALL"]


def main(rounds: int) -> None:
    one, four, parallel = sum_model(1, 64, 1024), sum_model(4, 64, 1024), sum_model(2, 64, 256)
    cases: dict[str, tuple[Callable[[], object], str]] = {}

    def add(name: str, artifact: Artifact, rows: int, threads: int = 1) -> None:
        session = artifact.session(threads=threads)
        feeds = arrays(session, rows)
        outputs = {"y": np.empty((rows, 64), np.float32)}
        cases[f"{name}: bind"] = session.bind(feeds, outputs), name
        cases[f"{name}: run"] = partial(session.run, feeds), name
        if rows == 1:
            cases[f"{name}: run, INGOT_FASTCALL=0"] = partial(without_entry(artifact, threads).run, feeds), name

    session = one.session(threads=1)
    empty = ctypes.CFUNCTYPE(ctypes.c_int)(session._library.team_functions.size)  # pyright: ignore[reportPrivateUsage]
    cases["empty native function"] = partial(empty, ctypes.c_void_p(0), None), ""
    add("1 input of 1x64", one, 1)
    add("4 inputs of 1x64", four, 1)
    add("1 input of 1024x64 (256 KB, in place)", one, 1024)
    add("2 inputs of 1024x64, 2 threads", parallel, 1024, threads=2)
    few, many = arrays(session, 1), arrays(session, 2)
    cases["two shapes in turn: run, each"] = (lambda: (session.run(few), session.run(many))), "1 input of 1x64"
    lists = {"x0": few["x0"].tolist()}
    cases["a list of 64 numbers: run"] = partial(session.run, lists), "1 input of 1x64"

    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (call, _) in cases.items():
            number = 2000
            times[name].append(timeit.timeit(call, number=number) / number * 1e9)
    floor = min(times["empty native function"])
    print(f"{'':44}{'min ns':>10}{'median ns':>12}{'over native':>14}")
    for name, (_, base) in cases.items():
        calls = 2 if "each" in name else 1
        least, median = min(times[name]) / calls, statistics.median(times[name]) / calls
        native = min(times[f"{base}: bind"]) - floor if base else 0.0
        print(f"{name:44}{least:10.0f}{median:12.0f}{least - native:14.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
