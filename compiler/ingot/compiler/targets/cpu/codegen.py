"""From a program to one closed shared object: emission, code generation, linking.

Kernels that are structurally equal are compiled once, each as an object of its own, so that the work spreads over
processes and an object depends on its kernel alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from ingot.compiler.cache import Cache
from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.targets import elf
from ingot.compiler.targets.cpu.compiled_routines import called_routines, compile_routines
from ingot.compiler.targets.cpu.fastcall import emit_call
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import kernel_symbol, kernel_text, level_text, new_module, object_code
from ingot.compiler.targets.cpu.profile import emit_profile, emit_stamps
from ingot.compiler.targets.cpu.program import declare_run, emit_run
from ingot.compiler.targets.cpu.team import EXPORTS as TEAM_EXPORTS
from ingot.compiler.targets.cpu.team import declare_region, emit_team
from ingot.compiler.targets.cpu.workers import compile_kernels
from ingot.runtime.manifest import CALL_SYMBOL, PROFILE_SYMBOL, RUN_SYMBOL

Progress = Callable[[int, int], None]  # kernels done, kernels in all


def compile_program(
    program: Program,
    level: Level,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    cache: Cache | None = None,
) -> bytes:
    """The closed shared object of `program` for `level`; the same bytes for every number of `jobs`.

    It exports ``i32 ingot_run(i64 *args, void *team)``, whose args are `program.argument_table`, its entry for Python
    (`fastcall`), the same with time stamps (`profile`) and the functions of the thread team. Up to `jobs` processes
    compile the kernels that are not in `cache`. Raises IrError naming the kernel that is malformed.
    """
    ordered = kernel_objects(program, level, jobs=jobs, progress=progress, cache=cache)
    # The name goes into tables for debuggers only; the model's may hold anything.
    soname = (re.sub(r"[^A-Za-z0-9_.+-]", "-", program.name)[:80] or "model") + ".so"
    exports = (RUN_SYMBOL, CALL_SYMBOL, PROFILE_SYMBOL, *TEAM_EXPORTS)
    fixed = _kept(cache, ("fixed", level_text(level)), lambda: _fixed_object(level))
    return elf.link([fixed, _walk(program, level, cache), *ordered], soname=soname, exports=exports)


def kernel_objects(
    program: Program,
    level: Level,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    cache: Cache | None = None,
) -> list[bytes]:
    """An object for each different kernel of `program`, in the order of their names, from up to `jobs` processes or
    from `cache`, and for each routine that they call. Raises IrError naming the kernel that is malformed, CustomOpError
    for a routine that cannot be compiled."""
    routines = compile_routines(called_routines(program), level)
    kernels: dict[str, Kernel] = {}
    for launch in program.launches():
        kernels.setdefault(kernel_symbol(launch.kernel), launch.kernel)
    target = level_text(level)
    objects: dict[str, bytes] = {}
    keys: dict[str, str] = {}
    if cache is not None:
        for name, kernel in kernels.items():
            keys[name] = cache.object_key("kernel", target, kernel_text(kernel))
            if (found := cache.object(keys[name])) is not None:
                objects[name] = found

    def done(name: str, made: bytes) -> None:
        objects[name] = made
        if cache is not None:
            cache.keep_object(keys[name], made)
        if progress is not None:
            progress(len(objects), len(kernels))

    missing = {name: kernel for name, kernel in kernels.items() if name not in objects}
    compile_kernels(missing, level, jobs, done)
    return [*(objects[name] for name in sorted(objects)), *routines]


@functools.cache
def _fixed_object(level: Level) -> bytes:
    """The object of what no program changes: the thread team, the entry for Python and the profiler's functions."""
    module = new_module("fixed", level)
    emit_team(module, level)
    emit_call(module, declare_run(module))
    emit_stamps(module, level)
    return object_code(module, level)


def _walk(program: Program, level: Level, cache: Cache | None) -> bytes:
    """The object that launches the kernels."""
    module = new_module("program", level)
    emit_run(module, program, declare_region(module), kernel_symbol)
    emit_profile(module, program, level, kernel_symbol)
    text = str(module)
    return _kept(cache, ("module", level_text(level), text), lambda: object_code(text, level))


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
