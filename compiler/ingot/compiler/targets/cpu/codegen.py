"""From a program to one closed shared object: emission, code generation, linking.

Kernels that are structurally equal are compiled once, each as an object of its own, so that the work spreads over
processes and an object depends on its kernel alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import compile_kernel, kernel_symbol, new_module, object_code
from ingot.compiler.targets.cpu.program import emit_program
from ingot.compiler.targets.cpu.team import EXPORTS as TEAM_EXPORTS
from ingot.compiler.targets.cpu.workers import compile_in_processes
from ingot.runtime.manifest import CALL_SYMBOL, RUN_SYMBOL

Progress = Callable[[int, int], None]  # kernels done, kernels in all

PARALLEL = 64  # fewer kernels than this are compiled in this process: starting others costs as much


def compile_program(program: Program, level: Level, *, jobs: int = 1, progress: Progress | None = None) -> bytes:
    """The closed shared object of `program` for `level`; the same bytes for every number of `jobs`.

    It exports ``i32 ingot_run(i64 *args, void *team)``, whose args are `program.argument_table`, its entry for Python
    (`fastcall`) and the functions of the thread team. Up to `jobs` processes compile the kernels. Raises IrError naming
    the kernel that is malformed.
    """
    kernels: dict[str, Kernel] = {}
    for launch in program.launches():
        kernels.setdefault(kernel_symbol(launch.kernel), launch.kernel)
    ordered = [kernels[name] for name in sorted(kernels)]
    finished = 0

    def done() -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress(finished, len(ordered))

    module = new_module("program", level)
    emit_program(module, program, level, kernel_symbol)
    objects = [object_code(module, level)]
    if jobs > 1 and len(ordered) >= PARALLEL:
        objects += compile_in_processes(ordered, level, jobs, done)
    else:
        for kernel in ordered:
            objects.append(compile_kernel(kernel, level))
            done()
    # The name goes into tables for debuggers only; the model's may hold anything.
    soname = (re.sub(r"[^A-Za-z0-9_.+-]", "-", program.name)[:80] or "model") + ".so"
    return elf.link(objects, soname=soname, exports=(RUN_SYMBOL, CALL_SYMBOL, *TEAM_EXPORTS))
