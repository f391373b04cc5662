"""From a program to one closed shared object: emission, code generation, linking.

Kernels that are structurally equal are compiled once, each as an object of its own, so that the work spreads over
processes and an object depends on its kernel alone, and on whether it has enough to do to be worth optimising.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

from ingot.compiler.cache import Cache
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu.assembly import module_text
from ingot.compiler.targets.cpu.compiled_routines import called_routines, compile_routines
from ingot.compiler.targets.cpu.effort import is_brief
from ingot.compiler.targets.cpu.fastcall import emit_call
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import KernelSymbols, kernel_text, level_text, new_module, object_code
from ingot.compiler.targets.cpu.profile import emit_stamps
from ingot.compiler.targets.cpu.program import declare_run
from ingot.compiler.targets.cpu.team import EXPORTS as TEAM_EXPORTS
from ingot.compiler.targets.cpu.team import emit_team
from ingot.compiler.targets.cpu.variants import emit_walks
from ingot.compiler.targets.cpu.workers import compile_kernels
from ingot.compiler.targets.target import SERIAL, Compilation
from ingot.runtime.manifest import CALL_SYMBOL, PROFILE_SYMBOL, RUN_SYMBOL


def compile_program(
    program: Program,
    level: Level,
    *,
    variants: Sequence[Program] = (),
    compilation: Compilation = SERIAL,
    symbol_of: KernelSymbols | None = None,
) -> bytes:
    """The closed shared object of `program`, and of its `variants`, for `level`; the same bytes however it is compiled.
    `symbol_of` names the kernels.

    It exports ``i32 ingot_run(i64 *args, void *team)``, whose args are `variants.numbered_tables`, its entry for Python
    (`fastcall`), the same with time stamps (`profile`) and the functions of the thread team. Raises IrError naming the
    kernel that is malformed.
    """
    programs = (program, *variants)
    symbol_of = symbol_of or KernelSymbols()
    ordered = kernel_objects(programs, level, compilation, symbol_of)
    cache = compilation.cache
    # The name goes into tables for debuggers only; the model's may hold anything.
    soname = (re.sub(r"[^A-Za-z0-9_.+-]", "-", program.name)[:80] or "model") + ".so"
    exports = (RUN_SYMBOL, CALL_SYMBOL, PROFILE_SYMBOL, *TEAM_EXPORTS)
    fixed = _kept(cache, ("fixed", level_text(level)), lambda: _fixed_object(level))
    return elf.link([fixed, _walk(programs, level, cache, symbol_of), *ordered], soname=soname, exports=exports)


def kernel_objects(
    programs: Sequence[Program],
    level: Level,
    compilation: Compilation = SERIAL,
    symbol_of: KernelSymbols | None = None,
) -> list[bytes]:
    """An object for each different kernel of `programs`, in the order of their names, and for each routine that they
    call. Raises IrError naming the kernel that is malformed, CustomOpError for a routine that cannot be compiled."""
    symbol_of = symbol_of or KernelSymbols()
    routines = compile_routines([r for program in programs for r in called_routines(program)], level)
    kernels: dict[str, Kernel] = {}
    brief: dict[str, bool] = {}
    for program in programs:
        for launch in program.launches():
            name = symbol_of(launch.kernel)
            kernels.setdefault(name, launch.kernel)
            brief[name] = brief.get(name, True) and is_brief(launch, program.ranges)
    target, cache, progress = level_text(level), compilation.cache, compilation.progress
    objects: dict[str, bytes] = {}
    keys: dict[str, str] = {}
    if cache is not None:
        for name, kernel in kernels.items():
            keys[name] = cache.object_key("brief" if brief[name] else "kernel", target, kernel_text(kernel))
            if (found := cache.object(keys[name])) is not None:
                objects[name] = found

    def done(name: str, made: bytes) -> None:
        objects[name] = made
        if cache is not None:
            cache.keep_object(keys[name], made)
        if progress is not None:
            progress(len(objects), len(kernels))

    missing = {name: (kernel, not brief[name]) for name, kernel in kernels.items() if name not in objects}
    compile_kernels(missing, level, compilation.jobs, done)
    return [*(objects[name] for name in sorted(objects)), *routines]


@functools.cache
def _fixed_object(level: Level) -> bytes:
    """The object of what no program changes: the thread team, the entry for Python and the profiler's functions."""
    module = new_module("fixed", level)
    emit_team(module, level)
    emit_call(module, declare_run(module))
    emit_stamps(module, level)
    return object_code(module, level)


def _walk(programs: Sequence[Program], level: Level, cache: Cache | None, symbol_of: KernelSymbols) -> bytes:
    """The object that launches the kernels."""
    module = new_module("program", level)
    emit_walks(module, programs, level, symbol_of)
    text = module_text(module)
    return _kept(cache, ("module", level_text(level), text), lambda: object_code(text, level, optimise=False))


def _kept(cache: Cache | None, parts: tuple[str, ...], make: Callable[[], bytes]) -> bytes:
    """The object that the cache has for `parts`, else the one that `make` makes for it."""
    if cache is None:
        return make()
    key = cache.object_key(*parts)
    found = cache.object(key)
    if found is None:
        found = make()
        cache.keep_object(key, found)
    return found
