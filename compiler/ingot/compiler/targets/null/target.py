"""What the driver is given for ``--target null``."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.compiler.labels import Labels
from ingot.compiler.lower.machine import Machine
from ingot.compiler.packaging import TargetDescription, describe_programs, place_weights
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.variants import numbered_tables
from ingot.compiler.targets.null.outline import Outline, kernel_uses
from ingot.compiler.targets.target import SERIAL, Compilation, Programs

NAME = "null"


@dataclass(frozen=True)
class NullTarget:
    """All that is decided for `level`, and no code."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        return features.machine(self.level)

    def build(self, programs: Programs, labels: Labels, compilation: Compilation = SERIAL) -> Outline:
        """What an artifact for the level would hold; no kernel is compiled."""
        placed, weights = place_weights(*programs.all)
        manifest = describe_programs(
            list(zip(programs.all, numbered_tables(programs.all), strict=True)),
            placed,
            labels,
            target=TargetDescription(self.level.arch, NAME, {}),
            closed=programs.closed,
        )
        end = max((offset + data.nbytes for offset, data in weights), default=0)
        return Outline(manifest, tuple(map(kernel_uses, programs.all)), end)
