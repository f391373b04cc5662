"""The CPU as a target: one instruction set level, code through LLVM."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ingot.compiler.artifact import TargetDescription
from ingot.compiler.ir.program import Program
from ingot.compiler.lower.machine import Machine
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import kernel_symbol
from ingot.compiler.targets.cpu.program import argument_table
from ingot.compiler.targets.target import Generated


@dataclass(frozen=True)
class CpuTarget:
    """Code for one level."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        return features.machine(self.level)

    def generate(
        self, program: Program, *, jobs: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Generated:
        """The program's shared object under the level's name."""
        level = self.level
        workers = jobs if jobs is not None else len(os.sched_getaffinity(0))
        code = compile_program(program, level, jobs=workers, progress=progress)
        description = TargetDescription(level.arch, level.name, {level.name: sorted(level.required)})
        kernels = {kernel_symbol(launch.kernel) for launch in program.launches()}
        return Generated({level.name: code}, argument_table(program), description, len(kernels))
