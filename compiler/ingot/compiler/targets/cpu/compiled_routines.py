# pyright: basic
# llvmlite and numba are untyped.
"""Routines compiled: a Python function over arrays, through Numba's LLVM IR, to an object for a level.

Numba types the function and emits IR for the machine that it runs on. Neither machine nor vector width is in that IR as
long as it is not optimised, so it is taken before, given the target's layout, joined with definitions of the functions
of the C library that it calls, and optimised for the level. What is left undefined then is refused: it would be Python,
or memory of the routine's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import FunctionType
from typing import Any, cast

from llvmlite import binding as llvm
from llvmlite import ir

from ingot.compiler.ir.program import Program
from ingot.compiler.ir.routines import Routine, RoutineCall
from ingot.compiler.ops.custom import CustomOpError
from ingot.compiler.ops.custom.reference import rebound
from ingot.compiler.targets.cpu import c_library
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import emitted, new_module, target_machine
from ingot.compiler.targets.cpu.routine import routine_symbol
from ingot.compiler.targets.elf_object import SHN_UNDEF, read_object

ROUNDS = 3  # code generation may call functions of its own accord, and those others
KINDS = ("float", "signed", "unsigned", "bool")  # of elements that Numba knows
_INSTALL = "custom operators over arrays need numba: pip install 'ingot[custom]'"
_DECLARED = re.compile(r'^declare .*?@("[^"]*"|[\w.$-]+)\(', re.MULTILINE)
_DEFINED = re.compile(r"^(define .*) \{$", re.MULTILINE)
_COUNTED = re.compile(r"(call void )@NRT_(?:in|de)cref(?=\()")
_HEADER = re.compile(r"^target (?:triple|datalayout) = .*\n", re.MULTILINE)


def called_routines(program: Program) -> list[Routine]:
    """The routines that the kernels of a program call."""
    bodies = (launch.kernel.body for launch in program.launches())
    return [body.routine for body in bodies if isinstance(body, RoutineCall)]


def compile_routines(routines: Iterable[Routine], level: Level) -> list[bytes]:
    """An object for each different routine, in an order that depends on them alone. Raises CustomOpError."""
    found: dict[str, Routine] = {}
    for routine in routines:
        known = found.setdefault(routine_symbol(routine), routine)
        if known.source.function is not routine.source.function:
            raise CustomOpError(f"two custom operators are called {routine.name}")
    return [_compile(found[name], level) for name in sorted(found)]


def _compile(routine: Routine, level: Level) -> bytes:
    symbol = routine_symbol(routine)
    module = _module(routine, symbol, level)
    support: set[str] = set()
    for _ in range(ROUNDS):
        try:
            made = _object(module, symbol, support, level)
        except RuntimeError as error:  # LLVM's
            raise CustomOpError(f"{routine.name} cannot be compiled for {level.name}: {error}") from error
        missing = undefined_symbols(made)
        if not missing - {"_GLOBAL_OFFSET_TABLE_"}:
            return made
        unknown = sorted(missing - c_library.NAMES - {"_GLOBAL_OFFSET_TABLE_"})
        if unknown:
            raise CustomOpError(f"{routine.name}: {_reason(unknown)}")
        support |= missing
    raise CustomOpError(f"{routine.name}: it calls {', '.join(sorted(support))} without end")


def undefined_symbols(data: bytes) -> set[str]:
    """The names that an object uses and does not define."""
    problems: list[str] = []
    return {s.name for s in read_object("routine", data, problems).symbols if s.index == SHN_UNDEF and s.name}


def _reason(unknown: list[str]) -> str:
    if any(name.startswith("NRT_MemInfo") for name in unknown):
        return (
            "it needs memory of its own (a list, a new array, one slice assigned to another): write element by "
            "element, or add a result as room to work in"
        )
    if any(name.startswith(("NRT", "Py", "_Py", "numba_gil")) for name in unknown):
        return "it needs Python objects (a print, a text, an exception made at run time): use numbers and arrays only"
    return f"it calls {', '.join(unknown)}, which an artifact does not have"


# -- Numba ------------------------------------------------------------------------------------------------------------


def _module(routine: Routine, symbol: str, level: Level) -> str:
    """The routine as IR for the level, not optimised, under its symbol; all other definitions are internal."""
    try:
        from numba.core import errors
        from numba.core.compiler import Flags, compile_extra
        from numba.core.registry import cpu_target as host
    except ModuleNotFoundError as error:
        raise CustomOpError(f"{routine.name}: {_INSTALL}") from error
    flags, cpu = cast(Any, Flags()), cast(Any, host)
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
    flags.error_model, flags.nrt = "numpy", True  # for views; memory is refused
    cpu.typing_context.refresh()
    cpu.target_context.refresh()
    flags.boundscheck = routine.checked or level.checked
    types, function = _types(routine), _prepared(routine)
    try:
        made = compile_extra(cpu.typing_context, cpu.target_context, function, types, None, flags, {})
    except errors.NumbaError as error:
        raise CustomOpError(f"{routine.name} cannot be compiled: {_short(str(error))}") from error
    except (NotImplementedError, AssertionError, TypeError, ValueError, KeyError, RecursionError) as error:
        raise CustomOpError(f"{routine.name} cannot be compiled: {type(error).__name__}: {error}") from error
    if str(made.signature.return_type) != "none":
        raise CustomOpError(f"{routine.name} returns a value: it must fill the arrays of its results")
    return _linked(made.library, made.fndesc.llvm_func_name, symbol)


def _types(routine: Routine) -> tuple[Any, ...]:
    from numba.core import types
    from numba.np.numpy_support import from_dtype

    found: list[Any] = []
    for parameter in routine.parameters:
        if parameter is None:
            found.append(types.Omitted(None))
            continue
        if parameter.dtype.name in ("f16", "bf16") or parameter.dtype.kind not in KINDS:
            raise CustomOpError(
                f"{routine.name}: arrays of {parameter.dtype.name} cannot be compiled: cast them in the model, or make "
                f"the operator a scalar one"
            )
        element = from_dtype(parameter.dtype.to_numpy())
        found.append(types.Array(element, parameter.rank, "C", readonly=not parameter.written))
    found += [types.Omitted(value) for value in routine.source.attributes.values()]
    return tuple(found)


def _prepared(routine: Routine) -> Any:
    """The function, with functions of the user's that it calls compiled into it."""
    import numba

    def compiled(copy: FunctionType) -> Any:
        again = copy.__globals__.get(copy.__name__)
        if isinstance(again, FunctionType) and again.__code__ is copy.__code__:
            raise CustomOpError(f"{routine.name}: {copy.__name__!r} calls itself: write it as a loop")
        return numba.njit(copy, inline="always", error_model="numpy")

    return rebound(routine.source.function, {}, compiled)


def _short(message: str) -> str:
    """What Numba says, without its excerpts of the source."""
    if "setitem(readonly" in message:
        return "it writes into an operand, which it may only read"
    lines = [line.strip() for line in message.splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(("Failed in", "During", "<source", "File ", "^", "- ", ">>>", "There are"))
    ]
    where = next((line for line in lines if line.startswith('File "')), "")
    return "; ".join(kept[:2])[:300] + (f" ({where.rstrip(':')})" if where else "")


def _linked(library: Any, function: str, symbol: str) -> str:
    """The text of a library that is not finalised, and of those that it uses."""
    module = llvm.parse_assembly(str(library._final_module))
    waiting, seen = list(library._linking_libraries), set()
    while waiting:
        dependency = waiting.pop()
        if id(dependency) in seen or dependency.name == "nrt":
            continue
        seen.add(id(dependency))
        # As it is while not finalised: what is finalised has been optimised for this machine.
        module.link_in(dependency._get_module_for_linking().clone())
        waiting += dependency._linking_libraries
    for each in (*module.functions, *module.global_variables):
        if not each.is_declaration and each.name != function:
            each.linkage = "internal"
    module.get_function(function).name = symbol
    return str(module)


# -- LLVM -------------------------------------------------------------------------------------------------------------


def _object(module: str, symbol: str, support: set[str], level: Level) -> bytes:
    """The object of a routine's IR together with the functions of the C library that it declares or that `support`
    names."""
    called = {name.strip('"') for name in _DECLARED.findall(module)}
    renamed = {name: c_library.symbol_of(name) for name in called if c_library.symbol_of(name) is not None}
    for name, other in renamed.items():
        module = re.sub(rf"@{re.escape(name)}(?=\()", f"@{other}", module)
    module = _COUNTED.sub(rf"\1@{c_library.COUNT}", _HEADER.sub("", module))
    # Nothing may become a call of the C library's.
    module = _DEFINED.sub(r'\1 "no-builtins" {', module) + f"\ndeclare void @{c_library.COUNT}(ptr)\n"
    empty = new_module("routine", level)
    parsed = llvm.parse_assembly(str(empty))
    body = llvm.parse_assembly(f'target triple = "{level.triple}"\ntarget datalayout = "{empty.data_layout}"\n{module}')
    parsed.link_in(body)
    wanted = {other for other in renamed.values() if other is not None} | support | {c_library.COUNT}
    parsed.link_in(llvm.parse_assembly(str(_library(wanted, level))))
    parsed.verify()
    machine = target_machine(level)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    parsed.get_function(symbol).visibility = "hidden"
    return emitted(parsed, machine)


def _library(names: Iterable[str], level: Level) -> ir.Module:
    module = new_module("c_library", level)
    for name in sorted(names):
        c_library.define(module, name, level)
    return module
