"""Programs run by the reference interpreter, with the interface of an artifact and its session."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

from numpy.typing import ArrayLike, NDArray

from ingot.compiler.ir.execute import FaultError, run_program
from ingot.compiler.ir.program import Program
from ingot.compiler.targets.errors import TargetError
from ingot.runtime.errors import InputError, RuntimeFault
from ingot.runtime.inputs import TensorInfo, collect, describe, solve
from ingot.runtime.manifest import Manifest


@dataclass(frozen=True, eq=False)
class Interpreted:
    """A model that the interpreter runs. `manifest` says what an artifact's would, of which there is no code; the
    argument table is empty."""

    manifest: Manifest
    program: Program

    def session(self, *, threads: int | None = None) -> InterpretedSession:
        """The model, ready to run. `threads` is taken as by an artifact and changes nothing."""
        return InterpretedSession(self.manifest, self.program)

    def save(self, path: str | os.PathLike[str]) -> NoReturn:
        """Raises TargetError: there is nothing to be written."""
        raise TargetError(
            f"{os.fspath(path)}: the interpreter runs the program inside the compiler and makes no file; "
            "use ingot run MODEL.onnx --target interpreter, or compile for another target"
        )


class InterpretedSession:
    """What `ingot.runtime.Session` is for an artifact: the same inputs and outputs, the same errors, no machine code.
    Every access of memory is checked and temporaries start as NaN, which takes its time."""

    def __init__(self, manifest: Manifest, program: Program) -> None:
        self.inputs: tuple[TensorInfo, ...] = describe(manifest.inputs)
        """What the model takes."""
        self.outputs: tuple[TensorInfo, ...] = describe(manifest.outputs)
        """What the model gives."""
        self.metadata: Mapping[str, Any] = MappingProxyType(
            {
                "name": manifest.name,
                "producer": manifest.producer,
                "target": manifest.target,
                "threads": 1,
                "provenance": MappingProxyType(dict(manifest.provenance)),
            }
        )
        """Where the model comes from."""
        self._manifest, self._program = manifest, program
        self._closed = False

    def run(self, inputs: Mapping[str, ArrayLike], outputs: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run the model: inputs by name in, new arrays by name out; `outputs` names those wanted (default: all).

        Raises InputError for inputs that do not fit, RuntimeFault when the model finds bad data or the session is
        closed, ExecutionError for a program that is wrong.
        """
        if self._closed:
            raise RuntimeFault("the session is closed")
        names = [info.name for info in self.outputs]
        if isinstance(outputs, str | bytes):
            raise InputError(f"outputs is {outputs!r}; a list of names is needed, such as [{outputs!r}]")
        wanted = names if outputs is None else list(outputs)
        if unknown := [repr(name) for name in wanted if name not in names]:
            raise InputError(f"there is no output {', '.join(unknown)}; the model's outputs are {', '.join(names)}")
        arrays = collect(inputs, self.inputs)
        solve(self._manifest, [array.shape for array in arrays])
        storages = self._program.of_kind("input")
        given = {storage.name: array for storage, array in zip(storages, arrays, strict=True)}
        try:
            made = run_program(self._program, given, check_races=False)
        except FaultError as error:
            raise RuntimeFault(str(error)) from error
        results = zip(names, self._program.of_kind("output"), strict=True)
        by_name = {name: made[storage.name] for name, storage in results}
        return {name: by_name[name] for name in wanted}

    def close(self) -> None:
        """Later runs raise RuntimeFault."""
        self._closed = True

    def __enter__(self) -> InterpretedSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
