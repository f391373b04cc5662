"""What can be wrong with a model: every failure of the import is a `ModelError` that says where and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ModelError(ValueError):
    """The model cannot be imported.

    `problem` says what is wrong and `remedy` what to do; `file`, `node` (its name and operator) and `opset` say where,
    as far as they are known.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str | None = None,
        file: str | None = None,
        node: str | None = None,
        opset: int | None = None,
    ) -> None:
        self.problem = problem
        self.remedy = remedy
        self.file = file
        self.node = node
        self.opset = opset
        super().__init__(self._text())

    def _text(self) -> str:
        place = [self.file] if self.file else []
        if self.node:
            place.append(f"node {self.node}" + (f", opset {self.opset}" if self.opset is not None else ""))
        joint = "\n" if self.problem.endswith("\n") else "; "
        return ": ".join([*place, self.problem.rstrip("\n")]) + (f"{joint}{self.remedy}" if self.remedy else "")

    def __str__(self) -> str:
        return self._text()

    def at(self, *, file: str | None = None, node: str | None = None, opset: int | None = None) -> ModelError:
        """This error with the places filled in that were not known where it was raised."""
        self.file = self.file or file
        if self.node is None:
            self.node, self.opset = node, opset
        return self


class DeclarationError(ModelError):
    """The shape that the model declares for a value contradicts the one that follows from its operands."""


class ModelWarning(UserWarning):
    """The model says something wrong that does no harm."""


class StructureError(ModelError):
    """The model is malformed whatever its shapes and values: names that are missing or defined twice, cycles."""


@dataclass(frozen=True, slots=True)
class UnsupportedOperator:
    """One operator of the model that the importer does not know: how often it occurs and the first nodes' names.
    `is_known_domain`: there are other operators of its domain that the importer knows."""

    domain: str
    op_type: str
    opset: int
    count: int
    nodes: tuple[str, ...]
    is_known_domain: bool = True

    def __str__(self) -> str:
        spelling = f"{self.domain}.{self.op_type}" if self.domain else self.op_type
        more = ", ..." if self.count > len(self.nodes) else ""
        return f"{spelling} (opset {self.opset}, {self.count} node(s): {', '.join(self.nodes)}{more})"


@dataclass(frozen=True, slots=True)
class UnsupportedUse:
    """A known operator that one node uses in a way that the importer does not support. `types` are those of its
    operands, "-" where one is left out."""

    node: str
    domain: str
    op_type: str
    opset: int
    types: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        spelling = f"{self.domain}.{self.op_type}" if self.domain else self.op_type
        on = f" on {', '.join(self.types)}" if self.types else ""
        return f"{self.node!r} ({spelling}, opset {self.opset}{on}): {self.reason}"


class UnsupportedError(ModelError):
    """The model is valid but uses something that the importer does not support.

    `operators` lists every unknown operator of the model at once, `uses` every node that uses a known one in a way that
    is not supported. `unexamined` counts, by operator, the nodes behind those whose types are then not known.
    """

    def __init__(
        self,
        problem: str,
        *,
        operators: Sequence[UnsupportedOperator] = (),
        uses: Sequence[UnsupportedUse] = (),
        unexamined: Mapping[str, int] | None = None,
        remedy: str | None = None,
        file: str | None = None,
        node: str | None = None,
        opset: int | None = None,
    ) -> None:
        self.operators = tuple(operators)
        self.uses = tuple(uses)
        self.unexamined = dict(unexamined or {})
        super().__init__(problem, remedy=remedy, file=file, node=node, opset=opset)
