"""What the driver is given for ``--target interpreter``."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.compiler.labels import Labels
from ingot.compiler.lower.machine import AVX2, Machine
from ingot.compiler.packaging import TargetDescription, describe_programs, place_weights
from ingot.compiler.targets.interpreter.session import Interpreted
from ingot.compiler.targets.target import SERIAL, Compilation, Programs

NAME = "interpreter"


@dataclass(frozen=True)
class InterpreterTarget:
    """Programs as they are lowered for `machine`, run by `ir.execute`."""

    machine: Machine = AVX2

    def build(self, programs: Programs, labels: Labels, compilation: Compilation = SERIAL) -> Interpreted:
        """The programs themselves; there are no kernels to compile, to count or to keep."""
        placed, _ = place_weights(*programs.all)
        manifest = describe_programs(
            [(each, ()) for each in programs.all],
            placed,
            labels,
            target=TargetDescription(NAME, NAME, {}),
            closed=programs.closed,
        )
        return Interpreted(manifest, programs.all)
