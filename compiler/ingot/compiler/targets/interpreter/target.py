"""What the driver is given for ``--target interpreter``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ingot.compiler.artifact import TargetDescription, describe_program, place_weights
from ingot.compiler.cache import Cache
from ingot.compiler.ir.program import Program
from ingot.compiler.lower.machine import AVX2, Machine
from ingot.compiler.targets.interpreter.session import Interpreted
from ingot.compiler.targets.target import Labels

NAME = "interpreter"


@dataclass(frozen=True)
class InterpreterTarget:
    """Programs as they are lowered for `machine`, run by `ir.execute`."""

    machine: Machine = AVX2

    @property
    def text(self) -> str:
        """All of the target that its product depends on."""
        return f"{NAME} {self.machine}"

    def build(
        self,
        program: Program,
        labels: Labels,
        *,
        jobs: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cache: Cache | None = None,
    ) -> Interpreted:
        """The program itself; there are no kernels to compile, to count or to keep."""
        placed, _ = place_weights(program)
        manifest = describe_program(
            program,
            (),
            placed,
            target=TargetDescription(NAME, NAME, {}),
            name=labels.name,
            provenance=labels.provenance,
            inputs=labels.inputs,
            outputs=labels.outputs,
        )
        return Interpreted(manifest, program)
