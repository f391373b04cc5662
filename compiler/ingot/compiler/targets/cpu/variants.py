# pyright: basic
# llvmlite is untyped: strict checking would report every builder call.
"""Several programs in one object: what is called runs the program whose number the first word of its args is.

Each program's own words follow on that number. Kernels that are structurally equal are one function for all programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from ingot.compiler.ir.loops import Kernel
from ingot.compiler.ir.program import Program
from ingot.compiler.targets.cpu.emit import forbid_libraries
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.functions import I32, I64
from ingot.compiler.targets.cpu.profile import emit_profile
from ingot.compiler.targets.cpu.program import Entry, argument_table, emit_run
from ingot.compiler.targets.cpu.team import declare_region
from ingot.runtime.manifest import PROFILE_SYMBOL, RUN_SYMBOL

Symbols: TypeAlias = Callable[[Kernel], str]

_UNKNOWN = -1  # what the code returns for a number that is no program's


def numbered_tables(programs: Sequence[Program]) -> list[list[Entry]]:
    """The argument table of each program, with its number in front where there are several."""
    tables = [argument_table(program) for program in programs]
    return tables if len(tables) == 1 else [[["d", number], *table] for number, table in enumerate(tables)]


def emit_walks(module: ir.Module, programs: Sequence[Program], level: Level, symbol_of: Symbols) -> None:
    """Define `ingot_run` and `ingot_profile` in `module` for one program, or for several by their numbers."""
    region = declare_region(module)
    if len(programs) == 1:
        emit_run(module, programs[0], region, level, symbol_of)
        emit_profile(module, programs[0], level, symbol_of)
        return
    runs = [emit_run(module, p, region, level, symbol_of, f"{RUN_SYMBOL}.{i}") for i, p in enumerate(programs)]
    _emit_choice(module, RUN_SYMBOL, runs)
    profiles = [emit_profile(module, p, level, symbol_of, f"{PROFILE_SYMBOL}.{i}") for i, p in enumerate(programs)]
    _emit_choice(module, PROFILE_SYMBOL, profiles)


def _emit_choice(module: ir.Module, name: str, functions: Sequence[ir.Function]) -> None:
    """Define `name`, which passes its arguments on to one of `functions`, the first of them behind the number."""
    choice = ir.Function(module, functions[0].function_type, name)
    forbid_libraries(choice)
    arguments, *others = choice.args
    b = ir.IRBuilder(choice.append_basic_block("entry"))
    unknown = b.append_basic_block("unknown")
    own = b.gep(arguments, [I64(1)], source_etype=I64)
    chosen = b.switch(b.load(arguments, typ=I64, align=8), unknown)
    for number, function in enumerate(functions):
        function.linkage = "internal"
        block = b.append_basic_block("program")
        chosen.add_case(I64(number), block)
        b.position_at_end(block)
        b.ret(b.call(function, [own, *others]))
    b.position_at_end(unknown)
    b.ret(I32(_UNKNOWN))
