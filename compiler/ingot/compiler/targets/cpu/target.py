"""The CPU as a target: one instruction set level, code through LLVM."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingot.compiler.artifact import Artifact
from ingot.compiler.labels import Labels
from ingot.compiler.lower.machine import Machine
from ingot.compiler.packaging import TargetDescription, build_artifact
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.c_interface.library import Library, build_library
from ingot.compiler.targets.cpu.checked import checked_program
from ingot.compiler.targets.cpu.codegen import compile_program
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import KernelSymbols
from ingot.compiler.targets.cpu.variants import numbered_tables
from ingot.compiler.targets.errors import TargetError
from ingot.compiler.targets.target import SERIAL, Compilation, Programs


@dataclass(frozen=True)
class CpuTarget:
    """Artifacts of code for one level."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        return features.machine(self.level)

    def build(self, programs: Programs, labels: Labels, compilation: Compilation = SERIAL) -> Artifact:
        """An artifact that holds the shared object of the programs under the level's name."""
        level = self.level
        made = tuple(map(checked_program, programs.all)) if level.checked else programs.all
        general, *others = made
        symbol_of = KernelSymbols()
        code = compile_program(general, level, variants=others, compilation=compilation, symbol_of=symbol_of)
        launches = [launch for each in made for launch in each.launches()]
        table, *tables = numbered_tables(made)
        counts = {"kernels": len({symbol_of(launch.kernel) for launch in launches}), "launches": len(launches)}
        return build_artifact(
            general,
            {level.name: code},
            table,
            replace(labels, provenance={**labels.provenance, **counts}),
            target=TargetDescription(level.arch, level.name, {level.name: sorted(level.required)}),
            checked=level.checked,
            variants=list(zip(others, tables, strict=True)),
            closed=programs.closed,
        )


@dataclass(frozen=True)
class LibraryTarget:
    """A library for C programs, for one level."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        return features.machine(self.level)

    def build(self, programs: Programs, labels: Labels, compilation: Compilation = SERIAL) -> Library:
        """The library; its names begin with the model's. Raises TargetError for a model that cannot be one, and for
        variants: its functions run one program."""
        if programs.variants:
            raise TargetError("a library for C holds one program: leave the variants out")
        return build_library(programs.general, self.level, labels, compilation)
