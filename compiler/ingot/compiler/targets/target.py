"""What the driver asks of a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ingot.compiler.cache import Cache
    from ingot.compiler.ir.program import Program
    from ingot.compiler.labels import Labels
    from ingot.compiler.lower.machine import Machine

Denormals: TypeAlias = Literal["keep", "flush"]


@dataclass(frozen=True)
class Programs:
    """The programs of a model: the general one, and `variants` for some of its shapes each, in the order in which they
    are tried; their names say for which. With `closed` the general one is not run: it only tells inputs and outputs."""

    general: Program
    variants: tuple[Program, ...] = ()
    closed: bool = False

    @property
    def all(self) -> tuple[Program, ...]:
        """By their numbers."""
        return (self.general, *self.variants)


@dataclass(frozen=True)
class Compilation:
    """How kernels are compiled, on which no product depends: by up to `jobs` processes. `progress` is told how many are
    done of how many; `cache` gives those that were compiled before and keeps the others."""

    jobs: int = 1
    progress: Callable[[int, int], None] | None = None
    cache: Cache | None = None


SERIAL = Compilation()

P = TypeVar("P", covariant=True)


class Target(Protocol[P]):
    """A kind of machine that programs are compiled for, and what is made for it: a P, such as an `Artifact`."""

    @property
    def machine(self) -> Machine:
        """What schedules are chosen for."""
        ...

    def build(self, programs: Programs, labels: Labels, compilation: Compilation = SERIAL) -> P:
        """What is made of `programs`. Raises TargetError for one that the target cannot hold."""
        ...
