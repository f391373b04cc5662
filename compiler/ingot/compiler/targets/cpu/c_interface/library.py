"""A compiled model as files for C programs: a shared object, an object file, a header."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from ingot.compiler.artifact import stream_weights
from ingot.compiler.ir.program import Program
from ingot.compiler.labels import Labels
from ingot.compiler.packaging import place_weights, program_symbols
from ingot.compiler.targets import elf, elf_merge
from ingot.compiler.targets.cpu.c_interface.emit import FUNCTIONS, WEIGHTS_SYMBOL, CFunctions
from ingot.compiler.targets.cpu.c_interface.header import header_text
from ingot.compiler.targets.cpu.c_interface.memory import plan_memory
from ingot.compiler.targets.cpu.c_interface.signature import Signature, describe
from ingot.compiler.targets.cpu.codegen import kernel_objects
from ingot.compiler.targets.cpu.features import Level
from ingot.compiler.targets.cpu.objects import KernelSymbols, new_module, object_code
from ingot.compiler.targets.cpu.program import emit_program
from ingot.compiler.targets.errors import TargetError
from ingot.compiler.targets.target import SERIAL, Compilation
from ingot.runtime.replacement import replaced

SUFFIXES: Final = (".so", ".o", ".h")


@dataclass(frozen=True, eq=False)
class Library:
    """A model for C programs. `header` is the text of its header, which documents everything; `objects` are the
    relocatable objects of its code, `weights` the distinct weight arrays with their offsets."""

    signature: Signature
    header: str
    objects: tuple[bytes, ...]
    weights: tuple[tuple[int, NDArray[Any]], ...]

    @property
    def exports(self) -> tuple[str, ...]:
        """The names that C programs link with."""
        return tuple(f"{self.signature.prefix}_{name}" for name in FUNCTIONS)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file; its suffix says which: ``.so``, a shared object that needs nothing but itself; ``.o``, one
        object file to be linked into a program; ``.h``, the header of both.

        A file already there is replaced at once. Raises TargetError for another suffix, OSError when the file system
        refuses.
        """
        suffix = Path(path).suffix
        match suffix:
            case ".so":
                write(path, self._shared_object(Path(path).name))
            case ".o":
                write(path, self._object_file())
            case ".h":
                write(path, [self.header.encode()])
            case _:
                raise TargetError(f"{os.fspath(path)}: a library is written as {', '.join(SUFFIXES)}")

    def _shared_object(self, soname: str) -> Iterable[bytes | memoryview]:
        tail = elf.Tail(WEIGHTS_SYMBOL, self._weights_bytes) if self.weights else None
        yield elf.link(self.objects, soname=soname, exports=self.exports, tail=tail)
        yield from stream_weights(self.weights)

    def _object_file(self) -> Iterable[bytes | memoryview]:
        tail = elf.Tail(WEIGHTS_SYMBOL, self._weights_bytes) if self.weights else None
        yield elf_merge.merge(self.objects, exports=self.exports, tail=tail)
        yield from stream_weights(self.weights)

    @property
    def _weights_bytes(self) -> int:
        offset, data = self.weights[-1]
        return offset + data.nbytes


def write(path: str | os.PathLike[str], pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file whole: beside its place, then moved there."""
    with replaced(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            file.write(piece)


def build_library(program: Program, level: Level, labels: Labels, compilation: Compilation = SERIAL) -> Library:
    """The library of `program` for `level`; its names begin with the model's, as far as C can spell it.

    Raises TargetError for a model that cannot be a library, IrError naming a kernel that is malformed.
    """
    if host := sorted({step.function for step in program.host_steps()}):
        raise TargetError(
            f"no library for C can be made: the model leaves {', '.join(host)} to the runtime; compile to an .ingot "
            "artifact"
        )
    if program.strings:
        raise TargetError(
            "no library for C can be made: the model works with strings, which the runtime keeps; compile to an .ingot "
            "artifact"
        )
    if bound := program.bound():
        raise TargetError(
            f"no library for C can be made: sizes of this model come from data ({', '.join(sorted(bound))}), and a "
            "library allocates nothing; compile to an .ingot artifact"
        )
    weight_offsets, weights = place_weights(program)
    names: Sequence[str] = program_symbols(program)
    signature = describe(program, names, level, labels)
    module = new_module("program", level)
    symbol_of = KernelSymbols()
    emit_program(module, program, level, symbol_of)
    functions = CFunctions(module, program, signature, plan_memory(program), weight_offsets)
    functions.emit()
    objects = kernel_objects((program,), level, compilation, symbol_of)
    header = header_text(signature, state_bytes=functions.state_bytes)
    return Library(signature, header, (object_code(module, level), *objects), weights)
