"""Faults of Ingot itself, told apart from what is wrong with a model, a pass or a call."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from ingot.compiler.ir.types import IrError
from ingot.compiler.targets.elf_object import LinkError


class DefectError(RuntimeError):
    """Ingot is wrong, not the model: a later stage was given something malformed by an earlier one. Please report it
    with the model; the cause is chained."""


@contextmanager
def defects_of(stage: str) -> Generator[None]:
    """Malformed IR and objects that do not link are nobody's fault but Ingot's once a graph has been verified."""
    try:
        yield
    except (IrError, LinkError) as error:
        raise DefectError(
            f"{stage} failed: {error}; this is a defect of Ingot, please report it with the model"
        ) from error
