"""The CPU as a target: one instruction set level, code through LLVM."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ingot.compiler.artifact import Artifact, TargetDescription, build_artifact
from ingot.compiler.cache import Cache
from ingot.compiler.ir.program import Program
from ingot.compiler.lower.machine import Machine
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.c_interface.library import Library, build_library
from ingot.compiler.targets.cpu.checked import checked_program
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import kernel_symbol, level_text
from ingot.compiler.targets.cpu.program import argument_table
from ingot.compiler.targets.target import Labels


@dataclass(frozen=True)
class CpuTarget:
    """Artifacts of code for one level."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        return features.machine(self.level)

    @property
    def text(self) -> str:
        """All of the target that code depends on, besides the compiler's sources."""
        return f"{level_text(self.level)} {sorted(self.level.required)} {self.machine}"

    def build(
        self,
        program: Program,
        labels: Labels,
        *,
        jobs: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cache: Cache | None = None,
    ) -> Artifact:
        """An artifact that holds the program's shared object under the level's name."""
        level = self.level
        if level.checked:
            program = checked_program(program)
        code = compile_program(program, level, jobs=_processes(jobs), progress=progress, cache=cache)
        launches = list(program.launches())
        counts = {"kernels": len({kernel_symbol(launch.kernel) for launch in launches}), "launches": len(launches)}
        return build_artifact(
            program,
            {level.name: code},
            argument_table(program),
            target=TargetDescription(level.arch, level.name, {level.name: sorted(level.required)}),
            name=labels.name,
            provenance={**labels.provenance, **counts},
            inputs=labels.inputs,
            outputs=labels.outputs,
            checked=level.checked,
        )


@dataclass(frozen=True)
class LibraryTarget:
    """A library for C programs, for one level."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        return features.machine(self.level)

    @property
    def text(self) -> str:
        """All of the target that code depends on, besides the compiler's sources."""
        return f"library {CpuTarget(self.level).text}"

    def build(
        self,
        program: Program,
        labels: Labels,
        *,
        jobs: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cache: Cache | None = None,
    ) -> Library:
        """The library; its names begin with the model's. Raises TargetError for a model that cannot be one."""
        workers = _processes(jobs)
        return build_library(program, self.level, labels, jobs=workers, progress=progress, cache=cache)


def _processes(asked: int | None) -> int:
    return asked if asked is not None else len(os.sched_getaffinity(0))
