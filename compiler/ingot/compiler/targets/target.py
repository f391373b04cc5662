"""What the driver asks of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ingot.compiler.artifact import TargetDescription
from ingot.compiler.ir.dims import Serial
from ingot.compiler.ir.program import Program
from ingot.compiler.lower.machine import Machine


class TargetError(ValueError):
    """There is no such target, or it cannot do what was asked. The message lists what there is."""


@dataclass(frozen=True)
class Generated:
    """Machine code: a closed shared object per level, what it is called with, and where it runs. `kernels` are the
    different functions that the launches call."""

    code: Mapping[str, bytes]
    arguments: Sequence[Sequence[Serial]]
    description: TargetDescription
    kernels: int


class Target(Protocol):
    """A kind of machine that programs are compiled for."""

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        ...

    def generate(
        self, program: Program, *, jobs: int | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Generated:
        """The machine code of `program`. `jobs`: processes to use (default: one a core); `progress` is told how many
        kernels are done of how many."""
        ...
