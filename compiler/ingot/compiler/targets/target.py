"""What the driver asks of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ingot.compiler.ir.program import Program
from ingot.compiler.lower.machine import Machine


class TargetError(ValueError):
    """There is no such target, or it cannot do what was asked. The message lists what there is."""


class Target(Protocol):
    """A kind of machine that programs are compiled for."""

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        ...

    @property
    def description(self) -> Mapping[str, object]:
        """The manifest's ``target`` entry: architecture, level, features."""
        ...

    def generate(
        self, program: Program, *, jobs: int | None = None, progress: Callable[[str], None] | None = None
    ) -> Mapping[str, bytes]:
        """Machine code per level: closed shared objects by the level's name."""
        ...
