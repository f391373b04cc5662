"""What a model and its tensors are called, and what is told of how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ingot.compiler.ir.program import Program, Storage
from ingot.compiler.ir.types import IrError

if TYPE_CHECKING:
    from ingot.compiler.ir.graph import Graph


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
