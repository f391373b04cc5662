"""The CPU as a target: one instruction set level, code through LLVM."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ingot.compiler.ir.program import Program
from ingot.compiler.lower.machine import Machine
from ingot.compiler.targets.cpu.features import Level


@dataclass(frozen=True)
class CpuTarget:
    """Code for one level."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        level = self.level
        return Machine(
            lanes_f32=level.lanes(4),
            vector_registers=level.vector_registers,
            l1=level.l1,
            l2=level.l2,
            l3=level.l3,
        )

    @property
    def description(self) -> Mapping[str, object]:
        """The manifest's ``target`` entry."""
        return {"arch": self.level.arch, "level": self.level.name, "features": sorted(self.level.required)}

    def generate(
        self, program: Program, *, jobs: int | None = None, progress: Callable[[str], None] | None = None
    ) -> Mapping[str, bytes]:
        """The program's shared object under the level's name."""
        from ingot.compiler.targets.cpu.codegen import compile_program

        workers = jobs if jobs is not None else len(os.sched_getaffinity(0))
        return {self.level.name: compile_program(program, self.level, jobs=workers, progress=None)}
