# pyright: basic
# llvmlite is untyped.
"""From a program to one closed shared object: emission, code generation, linking.

Kernels that are structurally equal are compiled once, each as a module of its own, so that the work spreads over
processes (llvmlite holds one lock around LLVM: threads gain nothing) and an object depends on its kernel alone. LLVM's
mid-level passes are skipped: the emitters write what they would leave.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from llvmlite import binding as llvm
from llvmlite import ir

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.ir.types import IrError
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu.emit import emit_kernel
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.program import emit_program
from ingot.compiler.targets.cpu.team import EXPORTS as TEAM_EXPORTS

Progress = Callable[[int, int], None]  # kernels done, kernels in all

PARALLEL = 10  # fewer kernels than this are compiled in this process: starting others costs more


def kernel_symbol(kernel: Kernel) -> str:
    """The name of the function that structurally equal kernels share."""
    text = repr(replace(kernel, name="", flops=0))
    return "k" + hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def target_machine(level: Level) -> llvm.TargetMachine:
    """LLVM's code generator for a level: position-independent, small code model."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(level.triple)
    return target.create_target_machine(
        cpu=level.cpu, features=level.feature_string, opt=2, reloc="pic", codemodel="small"
    )


def new_module(name: str, level: Level) -> ir.Module:
    """An empty module for `level`."""
    module = ir.Module(name)
    module.triple = level.triple
    module.data_layout = str(target_machine(level).target_data)
    return module


def object_code(module: ir.Module, level: Level) -> bytes:
    """A relocatable ELF object. Raises RuntimeError with LLVM's message when the module is malformed."""
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return target_machine(level).emit_object(parsed)


def compile_kernel(kernel: Kernel, level: Level) -> bytes:
    """The object that defines `kernel` under its symbol. Raises IrError naming the kernel when it is malformed."""
    name = kernel_symbol(kernel)
    module = new_module(name, level)
    try:
        emit_kernel(module, kernel, level, name)
    except IrError as error:
        raise IrError(f"kernel {kernel.name}: {error}") from error
    return object_code(module, level)


def compile_program(program: Program, level: Level, *, jobs: int = 1, progress: Progress | None = None) -> bytes:
    """The closed shared object of `program` for `level`; the same bytes for every number of `jobs`.

    It exports ``i32 ingot_run(i64 *args, void *team)``, whose args are `program.argument_table`, and the functions of
    the thread team. With jobs > 1 kernels are compiled in that many spawned processes, so the main module of the
    calling process must be importable. Raises IrError naming the kernel that cannot be compiled.
    """
    kernels: dict[str, Kernel] = {}
    for launch in program.launches():
        kernels.setdefault(kernel_symbol(launch.kernel), launch.kernel)
    ordered = [kernels[name] for name in sorted(kernels)]
    module = new_module("program", level)
    emit_program(module, program, level, kernel_symbol)
    objects = [object_code(module, level), *_compile_all(ordered, level, jobs, progress)]
    return elf.link(objects, soname=f"{program.name}.so", exports=("ingot_run", *TEAM_EXPORTS))


def _compile_all(kernels: Sequence[Kernel], level: Level, jobs: int, progress: Progress | None) -> list[bytes]:
    objects: list[bytes] = []

    def done(code: bytes) -> None:
        objects.append(code)
        if progress is not None:
            progress(len(objects), len(kernels))

    if jobs <= 1 or len(kernels) < PARALLEL:
        for kernel in kernels:
            done(compile_kernel(kernel, level))
        return objects
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside a thread team
    with ProcessPoolExecutor(min(jobs, len(kernels)), mp_context=context) as pool:
        for code in pool.map(compile_kernel, kernels, [level] * len(kernels), chunksize=4):
            done(code)
    return objects
