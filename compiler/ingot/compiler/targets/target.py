"""What the driver asks of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from ingot.compiler.cache import Cache
from ingot.compiler.ir.graph import Graph
from ingot.compiler.ir.program import Program, Storage
from ingot.compiler.ir.types import IrError
from ingot.compiler.lower.machine import Machine

Denormals: TypeAlias = Literal["keep", "flush"]


@dataclass(frozen=True)
class Labels:
    """What a model is called, as it came: `inputs` and `outputs` are in the order of the program's, None where they are
    called as its storages are. `provenance` says how it was made, as JSON can hold it, `schedules` what was chosen for
    its kernels (empty, or a member's bytes)."""

    name: str
    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schedules: bytes = b""

    @staticmethod
    def of(graph: Graph, name: str | None = None) -> Labels:
        """Those of a graph, which may be called otherwise."""
        inputs, outputs = [x.label for x in graph.inputs], [label for label, _ in graph.outputs]
        return Labels(graph.name if name is None else name, inputs, outputs)

    def labelled(self, program: Program, kind: Literal["input", "output"]) -> list[tuple[str, Storage]]:
        """The inputs or outputs of `program`, each with its label. Raises IrError where it has more or fewer."""
        storages = program.of_kind(kind)
        labels = self.inputs if kind == "input" else self.outputs
        if labels is None:
            labels = [storage.name for storage in storages]
        if len(labels) != len(storages):
            raise IrError(f"{len(labels)} names are given for the program's {len(storages)} {kind}s")
        return list(zip(labels, storages, strict=True))


@dataclass(frozen=True)
class Variants:
    """More programs of a model, each for some of its shapes, in the order in which they are tried; their names say for
    which. With `closed` there is no other: the program that they are variants of only tells inputs and outputs."""

    programs: tuple[Program, ...] = ()
    closed: bool = False


NO_VARIANTS = Variants()


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

    @property
    def text(self) -> str:
        """All of the target that its product depends on, besides the compiler's sources: part of the cache's keys."""
        ...

    def build(
        self,
        program: Program,
        labels: Labels,
        *,
        variants: Variants = NO_VARIANTS,
        compilation: Compilation = SERIAL,
    ) -> P:
        """What is made of `program` and its `variants`. Raises TargetError for a program that the target cannot
        hold."""
        ...
