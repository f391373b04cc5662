"""Programs run by the reference interpreter, with the interface of an artifact and its session."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

from numpy.typing import ArrayLike, NDArray

from ingot.compiler.ir.execute import FaultError, run_program
from ingot.compiler.ir.program import Program
from ingot.compiler.targets.errors import TargetError
from ingot.runtime.entropy import Entropy
from ingot.runtime.environment import read_environment
from ingot.runtime.errors import InputError, RuntimeFault
from ingot.runtime.inputs import TensorInfo, collect, describe, solve
from ingot.runtime.manifest import Manifest
from ingot.runtime.variants import choose, programs


@dataclass(frozen=True, eq=False)
class Interpreted:
    """A model that the interpreter runs. `manifest` says what an artifact's would, of which there is no code; the
    argument tables are empty. `programs` are the general one and the variants."""

    manifest: Manifest
    programs: tuple[Program, ...]

    def session(self, *, threads: int | None = None, seed: int | None = None) -> InterpretedSession:
        """The model, ready to run. `threads` is taken as by an artifact and changes nothing."""
        return InterpretedSession(self.manifest, self.programs, seed)

    def save(self, path: str | os.PathLike[str]) -> NoReturn:
        """Raises TargetError: there is nothing to be written."""
        raise TargetError(
            f"{os.fspath(path)}: the interpreter runs the program inside the compiler and makes no file; "
            "use ingot run MODEL.onnx --target interpreter, or compile for another target"
        )


def count_runs(seed: int | None) -> Iterator[tuple[int, int]]:
    """The entropy of one run after the other."""
    key, first = Entropy(read_environment().seed if seed is None else seed).stream()
    return ((key, run) for run in itertools.count(first))


class InterpretedSession:
    """What `ingot.runtime.Session` is for an artifact: the same inputs and outputs, the same errors, no machine code.
    Every access of memory is checked and temporaries start as NaN, which takes its time."""

    def __init__(self, manifest: Manifest, programs: tuple[Program, ...], seed: int | None = None) -> None:
        self._entropy = count_runs(seed)
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
        self._manifest, self._programs = manifest, programs
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
        shapes = tuple(array.shape for array in arrays)
        number = choose(self._manifest, shapes)
        solve(programs(self._manifest)[number], shapes)
        program = self._programs[number]
        storages = program.of_kind("input")
        given = {storage.name: array for storage, array in zip(storages, arrays, strict=True)}
        try:
            made = run_program(program, given, check_races=False, entropy=next(self._entropy))
        except FaultError as error:
            raise RuntimeFault(str(error)) from error
        results = zip(names, program.of_kind("output"), strict=True)
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
