"""What a library for C tells of its model: names that C can spell, types, shapes, codes and messages of errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ingot.compiler.ir.dims import UNBOUNDED, Dim, show
from ingot.compiler.ir.program import Program, Storage
from ingot.compiler.ir.types import IrError
from ingot.compiler.labels import Labels
from ingot.compiler.targets.cpu.features import Level

# Numbers of element types: ONNX's TensorProto.DataType.
TYPE_NUMBERS: Final = MappingProxyType({
    "f32": 1, "u8": 2, "i8": 3, "u16": 4, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11, "u32": 12,
    "u64": 13, "bf16": 16, "f8e4m3fn": 17, "f8e4m3fnuz": 18, "f8e5m2": 19, "f8e5m2fnuz": 20, "u4": 21, "i4": 22,
    "f4e2m1": 23, "f8e8m0": 24, "u2": 25, "i2": 26,
})  # fmt: skip


@dataclass(frozen=True)
class Error:
    """A code that functions of the library return, the end of its name and what it means."""

    code: int
    name: str
    message: str


ERRORS: Final = (
    Error(-1, "ERROR_ARGUMENT", "an argument is NULL, misaligned or out of range"),
    Error(-2, "ERROR_SYMBOL", "the value of a symbolic dim is outside its range"),
    Error(-3, "ERROR_SHAPE", "the model cannot run with these symbolic dims: a size is negative or beyond 64 bits"),
    Error(-4, "ERROR_MEMORY", "the memory given is too small or there is none"),
    Error(-5, "ERROR_STATE", "the state was not made by init, or was moved since"),
    Error(-6, "ERROR_CPU", "this processor lacks instructions that the code needs"),
)
CODES: Final = MappingProxyType({error.name: error.code for error in ERRORS})
OK_MESSAGE: Final = "no error"
UNKNOWN_MESSAGE: Final = "unknown error code"


@dataclass(frozen=True)
class Port:
    """An input or output: its label, its storage and its shape."""

    name: str
    storage: Storage
    shape: tuple[Dim, ...]

    @property
    def shape_text(self) -> str:
        """The shape as people write it: ``[batch, 10]``."""
        return f"[{', '.join(show(dim) for dim in self.shape)}]"


@dataclass(frozen=True)
class SymbolRange:
    """A symbolic dim and the values that it may have, both ends included."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Signature:
    """The model as C callers see it; `prefix` begins every name. A positive code n means ``faults[n - 1]``."""

    prefix: str
    model: str
    level: Level
    symbols: tuple[SymbolRange, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    faults: tuple[str, ...]

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs


def describe(program: Program, names: Sequence[str], level: Level, labels: Labels) -> Signature:
    """The signature of `program`, whose symbols are `names`."""
    return Signature(
        prefix=prefix_of(labels.name),
        model=labels.name,
        level=level,
        symbols=tuple(SymbolRange(symbol, *program.ranges.get(symbol, (0, UNBOUNDED))) for symbol in names),
        inputs=tuple(_port(*each) for each in labels.labelled(program, "input")),
        outputs=tuple(_port(*each) for each in labels.labelled(program, "output")),
        faults=program.faults,
    )


def _port(name: str, storage: Storage) -> Port:
    if storage.type is None:
        raise IrError(f"{storage.kind} storage {storage.name} has no type")
    return Port(name, storage, storage.type.shape)


def prefix_of(name: str) -> str:
    """A C identifier made of a model's name: every other character becomes an underscore."""
    text = re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_")[:60]
    return text if text and not text[0].isdigit() else f"model_{text}".rstrip("_")


def identifiers(names: Sequence[str]) -> list[str]:
    """Ends of C identifiers for `names`, all different, and none that is COUNT, which macros of the header end in."""
    taken = {"COUNT"}
    found: list[str] = []
    for number, name in enumerate(names):
        text = re.sub(r"[^A-Za-z0-9_]", "_", name)[:60] or "_"
        if text in taken:
            text = f"{text}_{number}"
        while text in taken:
            text += "_"
        taken.add(text)
        found.append(text)
    return found
