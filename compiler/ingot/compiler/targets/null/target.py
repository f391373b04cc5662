"""What the driver is given for ``--target null``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ingot.compiler.artifact import TargetDescription, describe_program, place_weights
from ingot.compiler.cache import Cache
from ingot.compiler.ir.program import Program
from ingot.compiler.lower.machine import Machine
from ingot.compiler.targets.cpu import features
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.program import argument_table
from ingot.compiler.targets.null.outline import Outline, kernel_uses
from ingot.compiler.targets.target import Labels

NAME = "null"


@dataclass(frozen=True)
class NullTarget:
    """All that is decided for `level`, and no code."""

    level: Level

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        return features.machine(self.level)

    @property
    def text(self) -> str:
        """All of the target that its product depends on."""
        return f"{NAME} {self.level.name} {self.machine}"

    def build(
        self,
        program: Program,
        labels: Labels,
        *,
        jobs: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cache: Cache | None = None,
    ) -> Outline:
        """What an artifact for the level would hold; no kernel is compiled."""
        placed, weights = place_weights(program)
        manifest = describe_program(
            program,
            argument_table(program),
            placed,
            target=TargetDescription(self.level.arch, NAME, {}),
            name=labels.name,
            provenance=labels.provenance,
            inputs=labels.inputs,
            outputs=labels.outputs,
        )
        end = max((offset + data.nbytes for offset, data in weights), default=0)
        return Outline(manifest, kernel_uses(program), end)
