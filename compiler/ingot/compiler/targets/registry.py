"""Targets by name."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ingot.compiler.targets.errors import TargetError
from ingot.compiler.targets.target import Denormals, Target

if TYPE_CHECKING:
    from ingot.compiler.artifact import Artifact
    from ingot.compiler.ir.program import Program
    from ingot.compiler.targets.cpu.c_interface.library import Library
    from ingot.compiler.targets.cpu.features import Level
    from ingot.compiler.targets.interpreter.session import Interpreted
    from ingot.compiler.targets.null.outline import Outline

# The level that "cpu" stands for: what nearly every machine of the architecture in use today runs.
PORTABLE: Mapping[str, str] = {"x86-64": "x86-64-v3", "aarch64": "aarch64"}


Product: TypeAlias = "Artifact | Interpreted | Outline"


def target_names() -> tuple[str, ...]:
    """What `find_target` takes."""
    from ingot.compiler.targets.cpu import features

    return ("cpu", *features.names(), "interpreter", "null")


def find_target(name: str, *, checked: bool = False, denormals: Denormals = "keep") -> Target[Product]:
    """The target called `name`: "cpu" is the portable level of this machine's architecture, the others are levels,
    "interpreter", which runs programs without code, and "null", which says what would be made. `checked`: code
    that checks each access of memory; the interpreter always does. `denormals`: whether code keeps or flushes them; the
    interpreter keeps them. Raises TargetError."""
    match name:
        case "interpreter":
            if denormals == "flush":
                raise TargetError("the interpreter keeps denormals: name a level, or cpu")
            from ingot.compiler.targets.interpreter.target import InterpreterTarget

            return InterpreterTarget()
        case "null":
            if checked:
                raise TargetError("the target null makes no code that could be checked: name a level, or cpu")
            from ingot.compiler.targets.null.target import NullTarget

            return NullTarget(_level("cpu"))
        case _:
            from ingot.compiler.targets.cpu.target import CpuTarget

            return CpuTarget(replace(_level(name), checked=checked, flushes=denormals == "flush"))


def find_library_target(
    name: str, *, checked: bool = False, variants: bool = False, denormals: Denormals = "keep"
) -> Target[Library]:
    """The target that makes libraries for C for the level called `name`, or "cpu"; they hold one program, whose
    functions have one interface; `denormals` as in `find_target`. Raises TargetError, also where `variants` or a
    `checked` build are asked for."""
    from ingot.compiler.targets.cpu.target import LibraryTarget

    if variants:
        raise TargetError("a library for C holds one program: leave the variants out, or make one for each shape")
    if checked:
        raise TargetError("libraries for C have no checks: compile an artifact, which runs the same kernels")
    if name in ("interpreter", "null"):
        raise TargetError(f"no library for C can be made for the target {name}: name a level, or cpu")
    return LibraryTarget(replace(_level(name), flushes=denormals == "flush"))


def machine_text(name: str) -> str:
    """What code for the target called `name` takes from the machine that compiles: its processor for native, its
    architecture for cpu, nothing for levels, which are spelt out. Part of the cache's keys, and found without LLVM."""
    from ingot.runtime.cpu import kernel_flags, processor_name

    if name == "native":
        return " ".join([processor_name(), *sorted(kernel_flags())])
    return platform.machine() if name == "cpu" else ""


def require_runnable(name: str) -> None:
    """Raise TargetError where what is made for the target called `name` cannot be run on this machine, or where there
    is no such target."""
    if name == "null":
        raise TargetError("the target null makes no code to run: name another target, such as cpu")
    if name == "interpreter":
        return
    from ingot.runtime.cpu import host_architecture, kernel_flags, missing_features

    level, here = _level(name), host_architecture()
    if level.arch != here:
        raise TargetError(f"the target {name} is code for {level.arch}, which this machine ({here}) cannot run")
    if missing := missing_features(level.required, here, kernel_flags()):
        raise TargetError(f"the target {name} needs {', '.join(missing)}, which this machine has not: it cannot run it")


def check_routines(name: str, program: Program) -> None:
    """Compile the routines of custom operators in `program` for the target called `name`. Raises CustomOpError, for
    what would be refused when the program is built."""
    if name != "interpreter":
        from ingot.compiler.targets.cpu.compiled_routines import called_routines, compile_routines

        compile_routines(called_routines(program), _level("cpu" if name == "null" else name))


def find_level(name: str, *, checked: bool = False, denormals: Denormals = "keep") -> Level | None:
    """The level that code for the target called `name` is made for, with the arguments of `find_target`; None for
    targets that make no code. Raises TargetError where there is no such target."""
    if name in ("interpreter", "null"):
        return None
    return replace(_level(name), checked=checked, flushes=denormals == "flush")


def _level(name: str) -> Level:
    from ingot.compiler.ir.types import IrError
    from ingot.compiler.targets.cpu import features

    if name.partition("+")[0] not in target_names():
        raise TargetError(f"no target {name!r}; there are {', '.join(target_names())}")
    try:
        return features.level(PORTABLE[features.host_arch()] if name == "cpu" else name)
    except IrError as error:
        raise TargetError(str(error)) from None
